-- The record script: every change of a job's record, atomically.
--
-- KEYS[1] is the job's record (a hash) and the name of its channel. ARGV[1] is the operation, the fields follow:
--   report    REPORT_FIELDS    accepted -> the sum of the bits CANCEL_REQUESTED, WATCHED and PUBLISHED;
--                              refused  -> {reason, whether a cancellation is requested}
--   progress  PROGRESS_FIELDS  the same; kind may be null
--   cancel    CANCEL_FIELDS    -> the snapshot
-- The fields of a snapshot are stored as JSON text and never decoded here: cjson turns [] into {} and rounds long
-- numbers. The times of a record are by the clock of Redis, apart from those of the submission.

local RECORD_FIELDS = {'id', 'kind', 'status', 'version', 'generation', 'attempt', 'max_attempts', 'progress',
  'result', 'error', 'cancel_requested', 'submitted_at', 'started_at', 'updated_at', 'finished_at', 'due_at',
  'lease_until', 'expires_at',
  'message_id', 'delivery', 'sequence', 'lease_ms', 'due_ms', 'expires_ms'}
local SNAPSHOT_FIELDS = 18  -- the first ones make the snapshot; the others serve the fence
local REQUIRED_FIELDS = 24  -- those of version 0.1; a field that a later version adds may be missing in a record
local REPORT_FIELDS = {'kind', 'status', 'generation', 'attempt', 'max_attempts', 'progress', 'result', 'error',
  'submitted_at', 'expires_at', 'message_id', 'delivery', 'sequence', 'lease_ms', 'due_ms', 'expires_ms', 'sent_ms'}
local INTEGER_FIELDS = {'version', 'generation', 'delivery', 'sequence', 'lease_ms', 'due_ms', 'expires_ms'}
local TEXT, TIME, COUNT = '^".+"$', '^"[%d:.TZ-]+"$', '^%d+$'
local RETAINED_PATTERNS = {cancel_requested = '^[tf]%l+$', started_at = TIME}  -- fields that a report retains
local RECORD_PATTERNS = {id = TEXT, kind = TEXT, attempt = COUNT, max_attempts = COUNT, submitted_at = TIME,
  due_at = TIME, lease_until = TIME, expires_at = TIME}  -- fields that the other operations retain, too
local ENDED = {['"succeeded"'] = true, ['"failed"'] = true, ['"cancelled"'] = true}
local CANCEL_REQUESTED, WATCHED, PUBLISHED = 1, 2, 4
local TAKEOVER_MS = 10 * 60 * 1000  -- how long after its last sign of life a record refuses another message
local KEEP_MS = 60 * 60 * 1000      -- how long a record outlives the job's expiry, and its own last change
local SAME_TIME_MS = 2000           -- a worker's time this close to the stored one keeps the stored one
local MIN_TIME_MS, MAX_TIME_MS = -62135596800000, 253402300799999  -- the years 1 to 9999

local SHARDED = false               -- the loader sets it on a cluster, where publications stay in their shard
local PUBLISH, NUMSUB = SHARDED and 'SPUBLISH' or 'PUBLISH', SHARDED and 'SHARDNUMSUB' or 'NUMSUB'

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local wrong_type = false  -- whether the key holds something other than a hash
local stored              -- the values of RECORD_FIELDS as they are in the hash; nil without a valid record

-- Returns whether each field is null or matches its pattern.
local function matches(record, patterns)
  for name, pattern in pairs(patterns) do
    if record[name] ~= 'null' and not string.find(record[name], pattern) then return false end
  end
  return true
end

-- Returns whether the fields that a change retains are valid. An ending is retained unchecked.
local function is_valid(record)
  if not matches(record, RETAINED_PATTERNS) then return false end
  return ARGV[1] == 'report' or matches(record, RECORD_PATTERNS) and (ENDED[record.status] or
    pcall(cjson.decode, '[' .. record.progress .. ',' .. record.result .. ',' .. record.error .. ']'))
end

-- Returns the record, or nil if there is none or it is not valid.
local function load()
  local values = redis.pcall('HMGET', key, unpack(RECORD_FIELDS))
  if values.err then
    wrong_type = true
    return nil
  end
  local record = {}
  for i = 1, REQUIRED_FIELDS do
    if not values[i] then return nil end
    record[RECORD_FIELDS[i]] = values[i]
  end
  for i = REQUIRED_FIELDS + 1, #RECORD_FIELDS do record[RECORD_FIELDS[i]] = values[i] or 'null' end
  for i = 1, #INTEGER_FIELDS do
    local number = record[INTEGER_FIELDS[i]]
    if not string.find(number, '^-?%d+$') or #number > 17 then return nil end
  end
  if not is_valid(record) then return nil end
  stored = values
  return record
end

-- Returns the arguments by name, and the job's id from the braces of its key.
local function from_args(names)
  local values = {id = '"' .. string.match(key, '{(.*)}') .. '"'}
  for i = 1, #names do values[names[i]] = ARGV[i + 1] end
  return values
end

-- Returns the snapshot as JSON. Concatenated once, since Lua hashes every string that it creates.
local function snapshot(record)
  local parts, count = {}, 0
  for i = 1, SNAPSHOT_FIELDS do
    local name = RECORD_FIELDS[i]
    parts[count + 1], parts[count + 2], parts[count + 3], parts[count + 4] = '"', name, '":', record[name]
    parts[count + 5] = ','
    count = count + 5
  end
  parts[count] = '}'
  return '{' .. table.concat(parts)
end

-- Returns whether two records have the same snapshot.
local function same_snapshot(one, other)
  for i = 1, SNAPSHOT_FIELDS do
    if one[RECORD_FIELDS[i]] ~= other[RECORD_FIELDS[i]] then return false end
  end
  return true
end

-- Formats a time as JSON, RFC 3339 in UTC with milliseconds
-- (https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
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

-- Stores the record as a new version and publishes it; returns its snapshot and the number of subscribed replicas.
local function store(record, old)
  record.version = string.format('%.0f', math.max(old and old.version + 1 or 0, now))
  record.updated_at = rfc3339(now)
  record.finished_at = ENDED[record.status] and rfc3339(now) or 'null'
  local changed, count = {}, 0
  for i = 1, #RECORD_FIELDS do
    local name = RECORD_FIELDS[i]
    if not stored or record[name] ~= stored[i] then
      changed[count + 1], changed[count + 2] = name, record[name]
      count = count + 2
    end
  end
  -- Only then: Redis at its memory limit refuses a script whose first write needs memory, and DEL needs none.
  if wrong_type then redis.call('DEL', key) end
  redis.call('HSET', key, unpack(changed))
  expire(record)
  local text = snapshot(record)
  return text, redis.call(PUBLISH, key, text)
end

-- Translates a worker's time to Redis time: its distance to the report's `sent_ms` counts from now, so that the
-- worker's clock does not matter. Without `sent_ms` the time is taken as it is. A time close to the stored one keeps it,
-- so that a heartbeat changes nothing. Of a short lease, "close" is only a quarter of what is left: each renewal must be
-- stored.
local function to_redis_time(new, old, name, ms_name)
  local ms = tonumber(new[ms_name])
  if not ms then
    new[name], new[ms_name] = 'null', '0'
    return
  end
  ms = math.max(MIN_TIME_MS, math.min(ms + now - (tonumber(new.sent_ms) or now), MAX_TIME_MS))
  local tolerance_ms = math.min(SAME_TIME_MS, math.abs(ms - now) / 4)
  if old and math.abs(ms - old[ms_name]) <= tolerance_ms and string.find(old[name], TIME) then
    new[name], new[ms_name] = old[name], old[ms_name]
  else
    new[name], new[ms_name] = rfc3339(ms), string.format('%.0f', ms)
  end
end

-- The fence: returns why a report is outdated, or nil.
local function fence(old, new)
  local function compare(name) return tonumber(new[name]) - tonumber(old[name]) end
  if compare('generation') < 0 then return 'finished' end  -- its message is of no more use
  if compare('generation') > 0 then return nil end
  if ENDED[old.status] then return 'finished' end
  if new.message_id ~= old.message_id then
    local last_sign_of_life = math.max(old.version, old.lease_ms, old.due_ms)
    return now < last_sign_of_life + TAKEOVER_MS and 'duplicate' or nil
  end
  if compare('delivery') < 0 then return 'superseded' end
  if compare('delivery') > 0 then return nil end
  return compare('sequence') <= 0 and 'stale' or nil
end

local function flag(value, weight) return value and weight or 0 end

local function report(old, new)
  local reason = old and fence(old, new)
  if reason then return {reason, flag(old.cancel_requested == 'true', 1)} end
  to_redis_time(new, old, 'lease_until', 'lease_ms')
  to_redis_time(new, old, 'due_at', 'due_ms')
  local same_generation = old and old.generation == new.generation
  local same_delivery = same_generation and old.message_id == new.message_id and old.delivery == new.delivery
  new.cancel_requested = same_generation and old.cancel_requested or 'false'
  new.started_at = same_delivery and old.started_at or 'null'
  if new.status == '"running"' and new.started_at == 'null' then new.started_at = rfc3339(now) end
  local watchers, published
  if old then new.version, new.updated_at, new.finished_at = old.version, old.updated_at, old.finished_at end
  if old and same_snapshot(new, old) then
    redis.call('HSET', key, 'message_id', new.message_id, 'delivery', new.delivery, 'sequence', new.sequence)
    expire(new)
    watchers, published = redis.call('PUBSUB', NUMSUB, key)[2], false
  else
    watchers, published = select(2, store(new, old)), true
  end
  return flag(new.cancel_requested == 'true', CANCEL_REQUESTED) + flag(watchers > 0, WATCHED)
    + flag(published, PUBLISHED)
end

local record = load()
if ARGV[1] == 'report' then return report(record, from_args(REPORT_FIELDS)) end

-- The rest is for the rare operations. Redis runs the whole text in each call, so that reports save these definitions.

local PROGRESS_FIELDS = {'kind', 'status', 'max_attempts', 'progress', 'sequence', 'submitted_at', 'expires_at',
  'expires_ms'}
local CANCEL_FIELDS = {'kind', 'max_attempts', 'submitted_at', 'due_at', 'expires_at', 'expires_ms'}

-- Completes a one-line report from the record.
local function progress(old, new)
  local defaults = {generation = '0', attempt = '1', result = 'null', error = 'null', due_ms = 'null',
    lease_ms = 'null', message_id = 'progress', delivery = '1'}
  for name, value in pairs(defaults) do new[name] = value end
  if new.kind == 'null' then new.kind = old and old.kind or '"countdown"' end
  for _, name in ipairs({'generation', 'attempt', 'max_attempts', 'submitted_at', 'expires_at', 'expires_ms'}) do
    if old then new[name] = old[name] end
  end
  return report(old, new)
end

local function cancel(old, args)
  if old and ENDED[old.status] then return snapshot(old) end
  local record = old or args
  if not old then
    local defaults = {generation = '0', attempt = '1', progress = 'null', result = 'null', error = 'null',
      started_at = 'null', message_id = '', delivery = '0', sequence = '0'}
    for name, value in pairs(defaults) do record[name] = value end
  end
  local leased = old and old.status == '"running"' and tonumber(old.lease_ms) > now
  if leased and old.cancel_requested == 'true' then return snapshot(old) end
  record.cancel_requested = 'true'
  if not leased then
    record.status, record.due_at, record.due_ms = '"cancelled"', 'null', '0'
    record.lease_until, record.lease_ms = 'null', '0'
  end
  return (store(record, old))
end

if ARGV[1] == 'progress' then return progress(record, from_args(PROGRESS_FIELDS)) end
if ARGV[1] == 'cancel' then return cancel(record, from_args(CANCEL_FIELDS)) end
