-- The record script: every change of a job's record, atomically. job_details.lua and rare_operations.lua are its end.
--
-- KEYS[1] is the job's record (a hash) and the name of its channel. ARGV[1] is the operation, the fields follow:
--   report      REPORT_FIELDS, and DETAILS_FIELDS if it has details
--                                  accepted -> the sum of the bits CANCEL_REQUESTED, WATCHED, PUBLISHED, TRANSITION;
--                                  refused  -> {reason, whether a cancellation is requested, TRANSITION or 0}
--   progress    PROGRESS_FIELDS    the same; kind may be null
--   submission  SUBMISSION_FIELDS  -> TRANSITION or 0
--   cancel      CANCEL_FIELDS      -> {snapshot, TRANSITION or 0, the worker that must be notified or nil};
--                                  nil if there is no record and none may be created, or it has other labels
--   cancel_unchanged  CANCEL_UNCHANGED_FIELDS  -> the same, or `changed` or `ended`; nil if there is no record
--   erase       action (may be empty)  -> ERASED or NOT_ENDED; nil if there is no record
-- Optional fields at the end of the arguments may be left out.
-- The fields of a snapshot are stored as JSON text and never decoded here: cjson turns [] into {} and rounds long
-- numbers. The times of a record are by the clock of Redis, apart from those of the submission.

local RECORD_FIELDS = {'id', 'kind', 'status', 'version', 'generation', 'attempt', 'max_attempts', 'progress',
  'result', 'error', 'cancel_requested', 'submitted_at', 'started_at', 'updated_at', 'finished_at', 'due_at',
  'lease_until', 'expires_at',                -- 1 to 18: in every snapshot
  'name', 'advanced_at', 'earlier_attempts',  -- 19 to 22: in a snapshot and in the record only if they are not empty
  'redriven_at',
  'lease_ms', 'due_ms', 'expires_ms',         -- 23 to 25
  'message_id', 'delivery', 'sequence',       -- 26 to 28: of the last delivery; before the first one there are none
  'labels', 'worker'}                         -- 29 and 30: if they are not empty
local REPORT_FIELDS = {'kind', 'status', 'generation', 'attempt', 'max_attempts', 'progress', 'result', 'error',
  'submitted_at', 'expires_at', 'message_id', 'delivery', 'sequence', 'lease_ms', 'due_ms', 'expires_ms', 'sent_ms',
  'worker', 'labels', 'name'}
local INTEGER_FIELDS = {'version', 'generation', 'delivery', 'sequence', 'lease_ms', 'due_ms', 'expires_ms'}
local INTEGERS = '^%-?%d+ %-?%d+ %-?%d+ %-?%d+ %-?%d+ %-?%d+ %-?%d+$'
local TIME = '^"%d+%-%d+%-%d+T%d+:%d+:%d+%.%d+Z"$'
local TEXT, COUNT, LABELS, ATTEMPTS = '^".+"$', '^%d+$', '^{.+}$', '^%[{"attempt":.+}%]$'
local CURRENT, PERCENT = '^{"current":([^,]+)', '^{"current":[^,]+,"total":[^,]+,"percent":([^,]+)'
local ENDED = {['"succeeded"'] = true, ['"failed"'] = true, ['"cancelled"'] = true}
local CANCEL_REQUESTED, WATCHED, PUBLISHED, TRANSITION = 1, 2, 4, 8
local ONE_LINE = 'progress'          -- the `message_id` of one-line reports, whose worker may have a queue message, too
local TAKEOVER_MS = 10 * 60 * 1000  -- how long after its last sign of life a record refuses another message
local KEEP_MS = 60 * 60 * 1000      -- how long a record outlives the job's expiry, and its own last change
local SAME_TIME_MS = 2000           -- a worker's time this close to the stored one keeps the stored one
local MAX_EARLIER_ATTEMPTS = 5
local MIN_TIME_MS, MAX_TIME_MS = -62135596800000, 253402300799999  -- the years 1 to 9999

local SHARDED = false               -- the loader sets it on a cluster, where publications stay in their shard
local PUBLISH, NUMSUB = SHARDED and 'SPUBLISH' or 'PUBLISH', SHARDED and 'SHARDNUMSUB' or 'NUMSUB'

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local wrong_type = false  -- whether the key holds something other than a hash
local stored = {}         -- the values of RECORD_FIELDS as they are in the hash

-- Returns whether each field is absent, null or matches its pattern.
local function matches(record, patterns)
  for name, pattern in pairs(patterns) do
    local value = record[name]
    if value and value ~= 'null' and not string.find(value, pattern) then return false end
  end
  return true
end

-- Returns whether the numbers that every operation uses are integers.
local function has_integers(record)
  for i = 1, #INTEGER_FIELDS do
    if #record[INTEGER_FIELDS[i]] > 17 then return false end
  end
  return string.find(record.version .. ' ' .. record.generation .. ' ' .. record.delivery .. ' ' .. record.sequence
    .. ' ' .. record.lease_ms .. ' ' .. record.due_ms .. ' ' .. record.expires_ms, INTEGERS)
end

-- Returns the record, or nil if it does not exist or lacks a field. An optional field that is empty is nil.
local function load()
  local values = redis.pcall('HMGET', key, unpack(RECORD_FIELDS))
  if values.err then
    wrong_type = true
    return nil
  end
  stored = values
  local record = {}
  for i = 1, #RECORD_FIELDS do
    local value = values[i]
    if value and (value ~= 'null' or i <= 18 or i >= 23 and i <= 28) then
      record[RECORD_FIELDS[i]] = value
    elseif i <= 18 or i >= 23 and i <= 25 then
      return nil
    end
  end
  if not (record.message_id or record.delivery or record.sequence) then
    record.message_id, record.delivery, record.sequence = '', '0', '0'
  elseif not (record.message_id and record.delivery and record.sequence) then
    return nil
  end
  return has_integers(record) and record or nil
end

-- Returns the arguments by name, and the job's id from the braces of its key.
local function from_args(names)
  local values = {id = '"' .. string.match(key, '{(.*)}') .. '"'}
  for i = 1, #names do values[names[i]] = ARGV[i + 1] end
  return values
end

-- Returns the snapshot as JSON. Concatenated at once, since Lua hashes every string that it creates.
local function snapshot(record)
  local optional = ''
  if record.name or record.advanced_at or record.earlier_attempts or record.redriven_at then
    optional = (record.name and ',"name":' .. record.name or '')
      .. (record.advanced_at and ',"advanced_at":' .. record.advanced_at or '')
      .. (record.earlier_attempts and ',"earlier_attempts":' .. record.earlier_attempts or '')
      .. (record.redriven_at and ',"redriven_at":' .. record.redriven_at or '')
  end
  return '{"id":' .. record.id .. ',"kind":' .. record.kind .. ',"status":' .. record.status
    .. ',"version":' .. record.version .. ',"generation":' .. record.generation .. ',"attempt":' .. record.attempt
    .. ',"max_attempts":' .. record.max_attempts .. ',"progress":' .. record.progress .. ',"result":' .. record.result
    .. ',"error":' .. record.error .. ',"cancel_requested":' .. record.cancel_requested
    .. ',"submitted_at":' .. record.submitted_at .. ',"started_at":' .. record.started_at
    .. ',"updated_at":' .. record.updated_at .. ',"finished_at":' .. record.finished_at
    .. ',"due_at":' .. record.due_at .. ',"lease_until":' .. record.lease_until
    .. ',"expires_at":' .. record.expires_at .. optional .. '}'
end

-- Returns whether a report changes nothing that its record stores, apart from the delivery.
local function is_heartbeat(new, old)
  return new.progress == old.progress and new.status == old.status and new.lease_until == old.lease_until
    and new.advanced_at == old.advanced_at and new.started_at == old.started_at and new.finished_at == old.finished_at
    and new.generation == old.generation and new.attempt == old.attempt and new.max_attempts == old.max_attempts
    and new.cancel_requested == old.cancel_requested and new.earlier_attempts == old.earlier_attempts
    and new.due_at == old.due_at and new.expires_at == old.expires_at and new.submitted_at == old.submitted_at
    and new.result == old.result and new.error == old.error and new.id == old.id and new.kind == old.kind
    and new.name == old.name and new.labels == old.labels and new.worker == old.worker
    and new.redriven_at == old.redriven_at
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

local now_text
local function now_json()
  now_text = now_text or rfc3339(now)
  return now_text
end

local function details_key() return 'headway:details:' .. string.match(key, '{.*}') end

local function expire(record, name)
  redis.call('PEXPIREAT', name, string.format('%.0f', math.max(tonumber(record.expires_ms), now) + KEEP_MS))
end

-- Stores the record as a new version and publishes it; returns its snapshot and the number of subscribed replicas.
local function store(record, old)
  record.version = string.format('%.0f', math.max(old and old.version + 1 or 0, now))
  record.updated_at = now_json()
  local changed, count = {}, 0
  for i = 1, #RECORD_FIELDS do
    local name = RECORD_FIELDS[i]
    local value = record[name] or stored[i] and 'null'
    if value and value ~= stored[i] then
      changed[count + 1], changed[count + 2] = name, value
      count = count + 2
    end
  end
  local text = snapshot(record)
  -- Only then: Redis at its memory limit refuses a script whose first write needs memory, and DEL needs none.
  if wrong_type then redis.call('DEL', key) end
  redis.call('HSET', key, unpack(changed))
  expire(record, key)
  return text, redis.call(PUBLISH, key, text)
end

-- Called when a record gets another generation. The hidden field `redriven_ms` is for operations on many jobs, which leave
-- alone what happens after they are requested.
local function on_redriven(record)
  redis.call('HSET', key, 'redriven_ms', now)
  expire(record, details_key())
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
  if old.message_id == '' then return nil end
  if new.message_id ~= old.message_id then
    -- The queue has delivered the message of a one-line worker again, or gives it one that no other worker has.
    if old.message_id == ONE_LINE and compare('delivery') > 0 then return nil end
    if new.message_id == ONE_LINE and math.max(old.lease_ms, old.due_ms) <= now then return nil end
    local last_sign_of_life = math.max(old.version, old.lease_ms, old.due_ms)
    return now < last_sign_of_life + TAKEOVER_MS and 'duplicate' or nil
  end
  if compare('delivery') < 0 then return 'superseded' end
  if compare('delivery') > 0 then return nil end
  return compare('sequence') <= 0 and 'stale' or nil
end

local function flag(value, weight) return value and weight or 0 end

-- Returns whether `current` or the percentage is greater than in an earlier progress of the attempt.
local function has_risen(progress, earlier)
  if progress == earlier then return false end
  local current = tonumber(string.match(progress, CURRENT)) or 0
  if current > (tonumber(string.match(earlier, CURRENT)) or 0) then return true end
  return (tonumber(string.match(progress, PERCENT)) or 0) > (tonumber(string.match(earlier, PERCENT)) or 100)
end

-- Returns the value if it is valid, otherwise nil.
local function valid(value, pattern) return value and string.find(value, pattern) and value or nil end

-- Returns a JSON array of attempts with one more, and without the oldest if there are too many; nil is an empty array.
local function with_entry(entries, entry)
  entries = entries and string.sub(entries, 2, -2) .. ',' .. entry or entry
  if select(2, string.gsub(entries, '{"attempt":', '')) > MAX_EARLIER_ATTEMPTS then  -- no string contains a bare quote
    entries = string.sub(entries, string.find(entries, ',{"attempt":', 1, true) + 1)
  end
  return '[' .. entries .. ']'
end

-- Returns the type of an error, as JSON; nil if it is null or another program has damaged it.
local function type_of_error(text)
  local valid, failure = pcall(cjson.decode, text)
  return valid and type(failure) == 'table' and type(failure.type) == 'string' and cjson.encode(failure.type) or nil
end

-- Returns the earlier attempts, as JSON, when another attempt follows that of a record; nil if there are none.
local function with_attempt(old, earlier_attempts)
  local outcome = ({['"retrying"'] = '"failed"', ['"queued"'] = '"released"', ['"running"'] = '"lost"'})[old.status]
    or ENDED[old.status] and old.status
  local has_started = old.status ~= '"queued"' or old.started_at ~= 'null'
  local retained = {attempt = COUNT, started_at = TIME, updated_at = TIME, finished_at = TIME}
  if not (outcome and has_started and matches(old, retained)) then return earlier_attempts end
  local ended_at = ENDED[old.status] and old.finished_at or old.updated_at
  if outcome == '"lost"' and old.lease_ms ~= '0' then ended_at = rfc3339(math.min(old.lease_ms, now)) end
  local entry = '{"attempt":' .. old.attempt .. ',"started_at":' .. old.started_at .. ',"ended_at":' .. ended_at
    .. ',"outcome":' .. outcome .. ',"error":' .. (type_of_error(old.error) or 'null') .. '}'
  return with_entry(earlier_attempts, entry)
end

-- Fills in the labels of a record that a cancellation, or the report of an older worker, has created without them;
-- returns TRANSITION or 0.
local function fill_in_labels(old, new)
  if old.labels or not new.labels or old.generation ~= new.generation then return 0 end
  old.labels, old.name = new.labels, new.name
  store(old, old)
  return TRANSITION
end

-- Retains what no report replaces, unless another program has damaged it.
local function retain(old, new, same_generation, same_attempt)
  if new.submitted_at ~= old.submitted_at then new.submitted_at = valid(old.submitted_at, TIME) or new.submitted_at end
  if not new.labels or valid(old.labels, LABELS) then
    new.labels, new.name = old.labels, old.name and (valid(old.name, TEXT) or new.name)
  end
  new.earlier_attempts = valid(old.earlier_attempts, ATTEMPTS)
  new.redriven_at = same_generation and valid(old.redriven_at, TIME) or nil
  if not same_generation or not same_attempt and tonumber(new.attempt) > (tonumber(old.attempt) or 0) then
    new.earlier_attempts = with_attempt(old, new.earlier_attempts)
  end
end

local function report(old, new)
  local reason = old and fence(old, new)
  if reason then
    local filled = old.message_id == '' and fill_in_labels(old, new) or 0
    return {reason, flag(old.cancel_requested == 'true', 1), filled}
  end
  to_redis_time(new, old, 'lease_until', 'lease_ms')
  to_redis_time(new, old, 'due_at', 'due_ms')
  local same_generation = old and old.generation == new.generation
  local same_attempt = same_generation and old.attempt == new.attempt
  local same_delivery = same_generation and old.message_id == new.message_id and old.delivery == new.delivery
  new.cancel_requested = same_generation and old.cancel_requested == 'true' and 'true' or 'false'
  new.started_at = same_delivery and valid(old.started_at, TIME) or 'null'
  if new.status == '"running"' and new.started_at == 'null' then new.started_at = now_json() end
  new.finished_at = ENDED[new.status] and now_json() or 'null'
  if has_risen(new.progress, same_attempt and old.progress or 'null') then
    new.advanced_at = now_json()
  elseif same_attempt then
    new.advanced_at = valid(old.advanced_at, TIME)
  end
  if old then retain(old, new, same_generation, same_attempt) end
  local watchers, published
  if old and is_heartbeat(new, old) then
    if same_delivery then
      redis.call('HSET', key, 'sequence', new.sequence)
    else
      redis.call('HSET', key, 'message_id', new.message_id, 'delivery', new.delivery, 'sequence', new.sequence)
    end
    if tonumber(new.expires_ms) <= now then expire(new, key) end  -- otherwise nothing changes the expiry of the key
    watchers, published = redis.call('PUBSUB', NUMSUB, key)[2], false
  else
    watchers, published = select(2, store(new, old)), true
  end
  if new.error ~= 'null' then redis.call('HDEL', key, 'error_type') end  -- see job_details.lua
  if old and not same_generation then on_redriven(new) end
  if new.status == '"succeeded"' and (new.attempt ~= '1' or new.generation ~= '0') then
    redis.pcall('HDEL', details_key(), 'message')  -- which only an earlier attempt can have left
  end
  local transition = not (same_delivery and same_attempt and old.status == new.status and old.labels == new.labels)
  return flag(new.cancel_requested == 'true', CANCEL_REQUESTED) + flag(watchers > 0, WATCHED)
    + flag(published, PUBLISHED) + flag(transition, TRANSITION)
end

local record = load()
if ARGV[1] == 'report' and not ARGV[#REPORT_FIELDS + 2] then return report(record, from_args(REPORT_FIELDS)) end
