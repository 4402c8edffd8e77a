-- The end of the record script: the rare operations.

local RECORD_PATTERNS = {id = TEXT, kind = TEXT, attempt = COUNT, max_attempts = COUNT, cancel_requested = '^[tf]%l+$',
  submitted_at = TIME, started_at = TIME, due_at = TIME, lease_until = TIME, expires_at = TIME, name = TEXT,
  advanced_at = TIME, earlier_attempts = ATTEMPTS, redriven_at = TIME, labels = LABELS}
local PROGRESS_FIELDS = {'kind', 'status', 'max_attempts', 'progress', 'sequence', 'submitted_at', 'expires_at',
  'expires_ms'}
local SUBMISSION_FIELDS = {'kind', 'generation', 'max_attempts', 'submitted_at', 'expires_at', 'due_ms', 'expires_ms',
  'labels', 'name', 'action'}
local CANCEL_FIELDS = {'kind', 'max_attempts', 'submitted_at', 'due_at', 'expires_at', 'expires_ms', 'requires_record',
  'labels', 'action'}
local CANCEL_UNCHANGED_FIELDS = {'expected_generation', 'until_ms', 'action'}
local OPTIONAL_FIELDS = {'requires_record', 'labels', 'name', 'action'}  -- missing or empty arguments

-- Returns whether the fields that these operations retain are valid. An ending is retained unchecked.
local function is_valid(record)
  return matches(record, RECORD_PATTERNS) and (ENDED[record.status] or
    pcall(cjson.decode, '[' .. table.concat({record.progress, record.result, record.error, record.name or 'null',
      record.earlier_attempts or 'null', record.labels or 'null'}, ',') .. ']'))
end

local function from_optional_args(names)
  local args = from_args(names)
  for _, name in ipairs(OPTIONAL_FIELDS) do
    if args[name] == '' then args[name] = nil end
  end
  return args
end

local function set(record, defaults)
  for name, value in pairs(defaults) do record[name] = value end
end

-- Completes a one-line report from the record. After a delivery to another worker it begins an attempt, and keeps the
-- number of that delivery: the fence then rejects that worker, and accepts the next delivery.
local function progress(old, new)
  set(new, {generation = '0', attempt = '1', result = 'null', error = 'null', due_ms = 'null', lease_ms = 'null',
    message_id = ONE_LINE, delivery = '1'})
  if new.kind == 'null' then new.kind = old and old.kind or '"countdown"' end
  for _, name in ipairs({'generation', 'attempt', 'max_attempts', 'submitted_at', 'expires_at', 'expires_ms'}) do
    if old then new[name] = old[name] end
  end
  if old and old.message_id ~= '' then
    new.delivery = old.delivery
    if old.message_id ~= ONE_LINE then new.attempt = string.format('%.0f', (tonumber(old.attempt) or 0) + 1) end
  end
  return report(old, new)
end

-- Creates the record of a job that waits for its first delivery, or for the first one of a new generation. Without the
-- fields of a delivery: version 0.1 then sees no record, and accepts the start.
local function submission(old, new)
  if old and tonumber(new.generation) <= tonumber(old.generation) then
    if new.generation == old.generation then add_action(old, new.action) end
    return fill_in_labels(old, new)
  end
  set(new, {status = '"queued"', attempt = '1', progress = 'null', result = 'null', error = 'null',
    cancel_requested = 'false', started_at = 'null', finished_at = 'null', lease_until = 'null', lease_ms = '0'})
  if new.due_ms ~= 'null' and tonumber(new.due_ms) <= now then new.due_ms = 'null' end
  to_redis_time(new, nil, 'due_at', 'due_ms')
  if old then
    new.submitted_at, new.earlier_attempts = old.submitted_at, with_attempt(old, old.earlier_attempts)
    new.redriven_at = now_json()
    if old.labels then new.labels, new.name = old.labels, old.name end
    redis.call('HDEL', key, 'message_id', 'delivery', 'sequence')
    for i = 26, 28 do stored[i] = false end
    on_redriven(new)
  end
  store(new, old)
  add_action(new, new.action)
  return TRANSITION
end

-- Cancels a job. With `labels`, only while the record has these and the kind: those that a filter has matched.
local function cancel(old, args)
  if not old and args.requires_record then return false end
  if args.labels and ((old.labels or 'null') ~= args.labels or old.kind ~= args.kind) then return false end
  if old and ENDED[old.status] then return {snapshot(old), 0, false} end
  local record = old or args
  if not old then
    set(record, {generation = '0', attempt = '1', progress = 'null', result = 'null', error = 'null',
      started_at = 'null', message_id = '', delivery = '0', sequence = '0', finished_at = 'null'})
  end
  local leased = old and old.status == '"running"' and tonumber(old.lease_ms) > now
  if leased and old.cancel_requested == 'true' then return {snapshot(old), 0, old.worker or false} end
  record.cancel_requested = 'true'
  if not leased then
    record.status, record.finished_at, record.due_at, record.due_ms = '"cancelled"', now_json(), 'null', '0'
    record.lease_until, record.lease_ms = 'null', '0'
  end
  add_action(record, args.action)
  return {store(record, old), leased and 0 or TRANSITION, leased and old.worker or false}
end

-- Cancels a job, unless it has ended, or has another generation, or was redriven after `until_ms`.
local function cancel_unchanged(old, args)
  if not old then return false end
  if ENDED[old.status] then return 'ended' end
  local redriven_ms = tonumber(redis.call('HMGET', key, 'redriven_ms')[1] or 0)
  if old.generation ~= args.expected_generation or redriven_ms > tonumber(args.until_ms) then return 'changed' end
  return cancel(old, {action = args.action})
end

if record and not is_valid(record) then record = nil end
if ARGV[1] == 'progress' then return progress(record, from_args(PROGRESS_FIELDS)) end
if ARGV[1] == 'submission' then return submission(record, from_optional_args(SUBMISSION_FIELDS)) end
if ARGV[1] == 'cancel' then return cancel(record, from_optional_args(CANCEL_FIELDS)) end
if ARGV[1] == 'cancel_unchanged' then return cancel_unchanged(record, from_optional_args(CANCEL_UNCHANGED_FIELDS)) end
if ARGV[1] == 'erase' then return erase(record, ARGV[2] ~= '' and ARGV[2]) end
