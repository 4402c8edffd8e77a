-- The one gate: every change of a job passes here, whole or not at all.
--
-- KEYS[1] is the job's record (a hash) and the name of its channel. ARGV[1] says what is asked:
--   report    the fields of REPORTED  -> when it is accepted, the sum of CANCEL, WATCHED and PUBLISHED that hold;
--                                        when not, {why, whether a cancel is requested}
--   progress  the fields of PROGRESS  -> the same; kind may be null
--   cancel    the fields of GRANTED   -> the snapshot
--   read                              -> the snapshot, or nil
-- What a watcher sees is kept as JSON text, opaque to this script (cjson turns [] into {} and cuts long numbers).

local FIELDS = {'id', 'kind', 'status', 'version', 'generation', 'attempt', 'max_attempts', 'progress', 'result',
  'error', 'cancel_requested', 'submitted_at', 'started_at', 'updated_at', 'finished_at', 'due_at', 'lease_until', 'expires_at',
  'message_id', 'delivery', 'sequence', 'lease_ms', 'due_ms', 'expires_ms'}
local SHOWN = 18  -- so many of them are what a watcher sees; the others are for the fence
local REPORTED = {'kind', 'status', 'generation', 'attempt', 'max_attempts', 'progress', 'result', 'error',
  'submitted_at', 'due_at', 'lease_until', 'expires_at', 'message_id', 'delivery', 'sequence', 'lease_ms', 'due_ms',
  'expires_ms'}
local PROGRESS = {'kind', 'status', 'max_attempts', 'progress', 'sequence', 'submitted_at', 'expires_at', 'expires_ms'}
local GRANTED = {'kind', 'max_attempts', 'submitted_at', 'due_at', 'expires_at', 'expires_ms'}
local NUMBERS = {'version', 'generation', 'delivery', 'sequence', 'lease_ms', 'due_ms', 'expires_ms'}
local TEXT, TIME, COUNT = '^".+"$', '^"[%d:.TZ-]+"$', '^%d+$'
local KEPT = {cancel_requested = '^[tf]%l+$', started_at = TIME}  -- by a report
local TOLD = {id = TEXT, kind = TEXT, attempt = COUNT, max_attempts = COUNT, submitted_at = TIME, due_at = TIME,
  lease_until = TIME, expires_at = TIME}  -- by all else, too
local ENDED = {['"succeeded"'] = true, ['"failed"'] = true, ['"cancelled"'] = true}
local CANCEL, WATCHED, PUBLISHED = 1, 2, 4
local TAKEOVER_MS = 10 * 60 * 1000  -- how long a quiet record still refuses another message
local KEEP_MS = 60 * 60 * 1000      -- how long a record outlives its job's time, and its own last change

local SHARDED = false               -- whether publications stay within a cluster's shard; who loads this may say so
local PUBLISH, NUMSUB = SHARDED and 'SPUBLISH' or 'PUBLISH', SHARDED and 'SHARDNUMSUB' or 'NUMSUB'

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local foreign = false  -- whether the key holds no hash at all
local stored           -- what the hash holds, in the order of FIELDS; nil when that is no record of ours

-- Tells whether fields are null, or spelt as the gate spells them.
local function spelt(record, patterns)
  for name, pattern in pairs(patterns) do
    if record[name] ~= 'null' and not string.find(record[name], pattern) then return false end
  end
  return true
end

-- Tells whether a change may keep what it keeps of a record; an ending is kept whatever it says.
local function sound(record)
  if not spelt(record, KEPT) then return false end
  return ARGV[1] == 'report' or spelt(record, TOLD) and (ENDED[record.status] or
    pcall(cjson.decode, '[' .. record.progress .. ',' .. record.result .. ',' .. record.error .. ']'))
end

-- Returns the record, or nil when there is none; what is no record of ours is as good as none.
local function load()
  local values = redis.pcall('HMGET', key, unpack(FIELDS))
  if values.err then
    foreign = true
    return nil
  end
  local record = {}
  for i = 1, #FIELDS do
    if not values[i] then return nil end
    record[FIELDS[i]] = values[i]
  end
  for i = 1, #NUMBERS do
    local number = record[NUMBERS[i]]
    if not string.find(number, '^-?%d+$') or #number > 17 then return nil end
  end
  if ARGV[1] ~= 'read' and not sound(record) then return nil end  -- who reads sees for himself
  stored = values
  return record
end

-- Names what came; which job it is about stands in the braces of its key.
local function named(names)
  local values = {id = '"' .. string.match(key, '{(.*)}') .. '"'}
  for i = 1, #names do values[names[i]] = ARGV[i + 1] end
  return values
end

-- Spells what a watcher sees; joined once, since Lua hashes every string that it makes.
local function snapshot(record)
  local parts, count = {}, 0
  for i = 1, SHOWN do
    local name = FIELDS[i]
    parts[count + 1], parts[count + 2], parts[count + 3], parts[count + 4] = '"', name, '":', record[name]
    parts[count + 5] = ','
    count = count + 5
  end
  parts[count] = '}'
  return '{' .. table.concat(parts)
end

-- Tells whether a watcher sees the same of both.
local function alike(one, other)
  for i = 1, SHOWN do
    if one[FIELDS[i]] ~= other[FIELDS[i]] then return false end
  end
  return true
end

-- Spells a time as JSON (https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
local function rfc3339(ms)
  local floor = math.floor
  local days, rest = floor(ms / 86400000) + 719468, ms % 86400000
  local era = floor(days / 146097)
  local doe = days - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return string.format('"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ"', yoe + era * 400 + (month <= 2 and 1 or 0), month,
    doy - floor((153 * mp + 2) / 5) + 1, floor(rest / 3600000), floor(rest / 60000) % 60, floor(rest / 1000) % 60,
    rest % 1000)
end

local function expire(record)
  redis.call('PEXPIREAT', key, string.format('%.0f', math.max(tonumber(record.expires_ms), now) + KEEP_MS))
end

-- Makes the record the job's new version; returns its snapshot and how many replicas heard of it.
local function store(record, old)
  record.version = string.format('%.0f', math.max(old and old.version + 1 or 0, now))
  record.updated_at = rfc3339(now)
  record.finished_at = ENDED[record.status] and rfc3339(now) or 'null'
  local changed, count = {}, 0
  for i = 1, #FIELDS do
    local name = FIELDS[i]
    if not stored or record[name] ~= stored[i] then
      changed[count + 1], changed[count + 2] = name, record[name]
      count = count + 2
    end
  end
  if foreign then redis.call('DEL', key) end  -- only then: a full Redis refuses a script's first write, and DEL is none
  redis.call('HSET', key, unpack(changed))
  expire(record)
  local shown = snapshot(record)
  return shown, redis.call(PUBLISH, key, shown)
end

-- The fence: says why a report comes too late, or nil.
local function refusal(old, new)
  local function compare(name) return tonumber(new[name]) - tonumber(old[name]) end
  if compare('generation') < 0 then return 'superseded' end
  if compare('generation') > 0 then return nil end
  if ENDED[old.status] then return 'finished' end
  if new.message_id ~= old.message_id then
    local quiet_since = math.max(old.version, old.lease_ms, old.due_ms)
    return now < quiet_since + TAKEOVER_MS and 'duplicate' or nil
  end
  if compare('delivery') < 0 then return 'superseded' end
  if compare('delivery') > 0 then return nil end
  return compare('sequence') <= 0 and 'stale' or nil
end

local function flag(value, weight) return value and weight or 0 end

local function report(old, new)
  local reason = old and refusal(old, new)
  if reason then return {reason, flag(old.cancel_requested == 'true', 1)} end
  local same_generation = old and old.generation == new.generation
  local same_run = same_generation and old.message_id == new.message_id and old.delivery == new.delivery
  new.cancel_requested = same_generation and old.cancel_requested or 'false'
  new.started_at = same_run and old.started_at or 'null'
  if new.status == '"running"' and new.started_at == 'null' then new.started_at = rfc3339(now) end
  local watchers, published
  if old then new.version, new.updated_at, new.finished_at = old.version, old.updated_at, old.finished_at end
  if old and alike(new, old) then  -- nothing that a watcher sees
    redis.call('HSET', key, 'message_id', new.message_id, 'delivery', new.delivery, 'sequence', new.sequence)
    expire(new)
    watchers, published = redis.call('PUBSUB', NUMSUB, key)[2], false
  else
    watchers, published = select(2, store(new, old)), true
  end
  return flag(new.cancel_requested == 'true', CANCEL) + flag(watchers > 0, WATCHED) + flag(published, PUBLISHED)
end

-- Makes a report of a bare progress: what that does not know, the record does.
local function progress(old, new)
  local blank = {generation = '0', attempt = '1', result = 'null', error = 'null', due_at = 'null', due_ms = '0',
    lease_until = 'null', lease_ms = '0', message_id = 'progress', delivery = '1'}
  for name, value in pairs(blank) do new[name] = value end
  if new.kind == 'null' then new.kind = old and old.kind or '"countdown"' end
  for _, name in ipairs({'generation', 'attempt', 'max_attempts', 'submitted_at', 'expires_at', 'expires_ms'}) do
    if old then new[name] = old[name] end
  end
  return report(old, new)
end

local function cancel(old, granted)
  if old and ENDED[old.status] then return snapshot(old) end
  local record = old or granted
  if not old then
    local blank = {generation = '0', attempt = '1', progress = 'null', result = 'null', error = 'null',
      started_at = 'null', message_id = '', delivery = '0', sequence = '0'}
    for name, value in pairs(blank) do record[name] = value end
  end
  local held = old and old.status == '"running"' and tonumber(old.lease_ms) > now
  if held and old.cancel_requested == 'true' then return snapshot(old) end
  record.cancel_requested = 'true'
  if not held then
    record.status, record.due_at, record.due_ms = '"cancelled"', 'null', '0'
    record.lease_until, record.lease_ms = 'null', '0'
  end
  return (store(record, old))
end

local record = load()
if ARGV[1] == 'report' then return report(record, named(REPORTED)) end
if ARGV[1] == 'progress' then return progress(record, named(PROGRESS)) end
if ARGV[1] == 'cancel' then return cancel(record, named(GRANTED)) end
return record and snapshot(record) or false
