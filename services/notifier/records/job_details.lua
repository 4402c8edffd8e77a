-- The record script, continued: what a report has for operators only. Redis runs the whole text in each call, so that most
-- reports, which have returned, save these definitions. The first argument after REPORT_FIELDS is the `error_type`.
--
-- The hash `headway:details:{<id>}` has, each if there is one:
--   attempt         the attempt that the next three belong to: {"attempt", "generation", "started_at"}
--   error           the true error: {"type", "message"}
--   traceback       the error's, as text
--   steps           [{"name", "started_at", "ended_at"}]
--   message         the text of the queue message, with which the job can be run again
--   actions         what operators did with the job, a line each, the newest first: {"action", "by", "generation", "at"}
--   earlier_errors  those of other attempts, the oldest first: [{"attempt", "generation", "started_at", "error"}]
--
-- The field `error_type` of the record is the type of the true error if users see another one. It belongs to the record's
-- `error` and means nothing while that is null, so that most reports need not read it.

local DETAILS_FIELDS = {'error', 'traceback', 'steps', 'message'}  -- arguments; an empty one leaves the field as it is
local ATTEMPT = '^{"attempt":%d+,"generation":%d+,"started_at":[^{}]+}$'
local NEWEST_ACTIONS = '^' .. string.rep('[^\n]*\n', 10)
local NOT_ENDED, ERASED = 0, 1

-- Returns the errors of the other attempts, as JSON; nil if there are none.
local function earlier_errors(details)
  local attempt, failure, errors = details[1], details[2], valid(details[3], ATTEMPTS)
  if not (valid(attempt, ATTEMPT) and failure) then return errors end
  return with_entry(errors, string.sub(attempt, 1, -2) .. ',"error":' .. failure .. '}')
end

local function store_details(record)
  local name = details_key()
  local attempt = '{"attempt":' .. record.attempt .. ',"generation":' .. record.generation
    .. ',"started_at":' .. record.started_at .. '}'
  local changed = {'attempt', attempt}
  local details = redis.pcall('HMGET', name, 'attempt', 'error', 'earlier_errors')
  if details.err then
    redis.call('DEL', name)  -- of another type
  elseif details[1] ~= attempt then
    redis.call('HDEL', name, 'error', 'traceback', 'steps')
    local errors = earlier_errors(details)
    if errors then changed[3], changed[4] = 'earlier_errors', errors end
  end
  for i = 1, #DETAILS_FIELDS do
    local value = ARGV[#REPORT_FIELDS + 2 + i]
    if value ~= '' then
      changed[#changed + 1] = DETAILS_FIELDS[i]
      changed[#changed + 1] = value
    end
  end
  redis.call('HSET', name, unpack(changed))
  expire(record, name)
end

local function report_with_details(old)
  local new = from_args(REPORT_FIELDS)
  for _, name in ipairs({'worker', 'labels', 'name'}) do
    if new[name] == '' then new[name] = nil end
  end
  local reply = report(old, new)
  if type(reply) ~= 'number' then return reply end
  local error_type = ARGV[#REPORT_FIELDS + 2]
  if error_type ~= '' then redis.call('HSET', key, 'error_type', error_type) end
  store_details(new)
  return reply
end

-- Adds an action, {"action", "by"}, to those that the details keep, unless it is a repetition of the last one.
local function add_action(record, action)
  if not action then return end
  local name = details_key()
  local actions = redis.pcall('HMGET', name, 'actions')
  if actions.err then redis.call('DEL', name) end  -- of another type
  actions = actions[1] or ''
  action = string.sub(action, 1, -2) .. ',"generation":' .. record.generation .. ','
  if string.sub(actions, 1, #action) == action then return end
  actions = action .. '"at":' .. now_json() .. '}\n' .. actions
  redis.call('HSET', name, 'actions', string.match(actions, NEWEST_ACTIONS) or actions)
  expire(record, name)
end

-- Empties the log. Its offsets go on if the job does, since a client continues from the one that it has.
local function erase_log(name)
  redis.call('DEL', name .. ':text')
  local last = redis.pcall('HMGET', name, 'end')[1]  -- an error has no elements
  if last and valid(last, COUNT) then
    redis.call('HSET', name, 'base', last)
  else
    redis.call('DEL', name)
  end
end

-- Returns an error without its message, which may quote anything.
local function erased_error(failure)
  local error_type = type_of_error(failure)
  return error_type and '{"type":' .. error_type .. ',"message":"The message was erased."}' or 'null'
end

-- Removes all that a job has left but who, what and when: the result, the texts of progress and error, details and log.
-- `erased` is the generation whose log takes no more text, since a worker sends the rest after the end.
local function erase(record, action)
  if record and not ENDED[record.status] then return NOT_ENDED end
  redis.call('DEL', details_key())
  erase_log('headway:log:' .. string.match(key, '{.*}'))
  if not record then return false end
  redis.call('HDEL', key, 'error_type')
  redis.call('HSET', key, 'erased', record.generation)
  local progress = string.gsub(record.progress, ',"message":".*}$', ',"message":null}')
  local failure = erased_error(record.error)
  if record.result ~= 'null' or record.progress ~= progress or record.error ~= failure then
    record.result, record.progress, record.error = 'null', progress, failure
    store(record, record)
  end
  add_action(record, action)
  return ERASED
end

if ARGV[1] == 'report' then return report_with_details(record) end
