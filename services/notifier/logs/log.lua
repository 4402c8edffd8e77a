-- The log script: appends to and reads the log of a job, atomically.
--
-- KEYS are the job's record (a hash), the state of its log (a hash, and the name of the log's channel) and the text of
-- the log. ARGV[1] is the operation, the arguments follow:
--   append  how many bytes are kept of a log, and of that of a job that has succeeded or was cancelled,
--           generation, message_id, delivery, attempt, watchers (1 or 0), more (1 or 0), from, text
--           -> 1 if text is missing before this one, so that a mark was added, else 0; refused -> the reason
--   read    how many bytes are read of a job that has succeeded or was cancelled, offset
--           -> {base, end, attempt, watchers, the text from the offset, lines, sections}; nil if there is no log
--
-- The offset of a byte is its position in all that was ever logged, so that offsets only rise: `base` is the offset of
-- the first byte of the text, and `end` that after its last one. Each delivery counts its own bytes from 0: `delivery`
-- is the last one, `delivery_at` the offset of its byte 0, and `more` whether another append of it should follow.
-- `lines` is the number of lines before `base`, and `sections` has `<attempt>:<offset>` for each attempt whose text is
-- kept: where that begins.

local MAX_APPENDED_BYTES = 32768                -- above it, the text is rewritten: APPEND may occupy twice its size
local MAX_SECTIONS = 20                         -- of more attempts, the text of the oldest counts as that of the next one
local KEEP_MS = 60 * 60 * 1000                  -- how long the log outlives the job's expiry, as its record does
local MISSING = '…\n'
local INTEGER = '^%-?%d+$'

local SHARDED = false                           -- the loader sets it on a cluster
local PUBLISH = SHARDED and 'SPUBLISH' or 'PUBLISH'

local RECORD, LOG, TEXT = KEYS[1], KEYS[2], KEYS[3]

local function integer(number) return string.format('%.0f', number) end

-- Executes a command; returns nil if the key has another type, because another program has changed it.
local function execute(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err) end
  return nil
end

-- Returns the state of the log, or nil if there is none or another program has damaged it.
local function load()
  local values = execute('HMGET', LOG, 'base', 'end', 'delivery', 'delivery_at', 'attempt', 'watchers', 'lines',
    'sections', 'more')
  if not values then
    redis.call('DEL', LOG)
    return nil
  end
  for _, i in ipairs({1, 2, 4, 5}) do
    if not values[i] or not string.find(values[i], INTEGER) then return nil end
  end
  local log = {base = tonumber(values[1]), last = tonumber(values[2]), delivery = values[3],
    delivery_at = tonumber(values[4]), attempt = values[5], watchers = values[6], lines = tonumber(values[7]) or 0,
    more = values[9] == '1'}
  log.sections = values[8] or log.attempt .. ':' .. integer(log.base)  -- an older version has written none
  if execute('STRLEN', TEXT) ~= log.last - log.base then log.base, log.lines, log.lost = log.last, 0, true end  -- its text was evicted or changed
  return log
end

-- Returns whether the job has succeeded or was cancelled, by the status of its record.
local function is_done(status) return status == '"succeeded"' or status == '"cancelled"' end

-- Returns why the record does not allow a delivery to append, or nil, whether the job is done, and the record's expiry.
local function fence(generation, message_id, delivery)
  local record = execute('HMGET', RECORD, 'generation', 'message_id', 'delivery', 'status', 'expires_ms',
    'erased')
  if not (record and record[1]) then return 'unknown' end
  local newer = generation - (tonumber(record[1]) or 0)
  if newer == 0 then
    if not (record[2] and record[3]) then return 'unknown' end  -- the job waits for its first delivery
    if message_id ~= record[2] or record[6] == record[1] then return 'superseded' end
    newer = delivery - (tonumber(record[3]) or 0)
  end
  local reason = newer < 0 and 'superseded' or newer > 0 and 'unknown' or nil  -- unknown: its report has not arrived
  return reason, is_done(record[4]), tonumber(record[5]) or 0
end

-- Returns the newer bytes of a text, at most `count`, from the beginning of a line, or at least of a character.
local function newest(text, count)
  local start = #text - count + 1
  local line_break = string.find(text, '\n', start - 1, true)
  if line_break and line_break < #text then return string.sub(text, line_break + 1) end
  while string.find(string.sub(text, start, start), '[\128-\191]') do start = start + 1 end
  return string.sub(text, start)
end

-- Returns the text of a log, or its newest `kept` bytes if it is longer than a limit; moves the beginning of the log to them.
local function shorten(log, text, limit, kept)
  local shortened = #text > limit and newest(text, kept) or text
  log.base = log.last - #shortened
  log.lines = log.lines + select(2, string.gsub(string.sub(text, 1, #text - #shortened), '\n', ''))
  return shortened
end

-- Adds a piece to the text, of which only the newest `kept` bytes remain above a limit.
local function write(log, piece, limit, kept)
  local size = log.last - log.base + #piece
  log.last = log.last + #piece
  if size <= MAX_APPENDED_BYTES and size <= limit and not log.lost then
    if piece ~= '' then redis.call('APPEND', TEXT, piece) end
    return
  end
  local text = log.lost and piece or redis.call('GETRANGE', TEXT, 0, -1) .. piece
  redis.call('SET', TEXT, shorten(log, text, limit, kept))
end

-- Returns where the kept text of each attempt begins, after a piece of an attempt that begins at an offset.
local function sections(log, attempt, start)
  local kept, all = {}, log.sections
  if string.match(all, '(%d+):%d+$') ~= attempt then all = all .. ' ' .. attempt .. ':' .. integer(start) end
  for section, offset in string.gmatch(all, '(%d+:(%d+))') do
    if tonumber(offset) <= log.base then kept = {} end  -- the text of the earlier attempts is gone
    table.insert(kept, section)
  end
  return table.concat(kept, ' ', math.max(1, #kept - MAX_SECTIONS + 1))
end

local function append(max_bytes, max_done_bytes, generation, message_id, delivery, attempt, watchers, more, from, text)
  local reason, done, expires_ms = fence(tonumber(generation), message_id, tonumber(delivery))
  if reason then return reason end
  local log = load()
  if not log then
    if text == '' then return 0 end
    log = {base = 0, last = 0, delivery_at = 0, lines = 0, sections = '', lost = true}
  end
  local appending, is_missing = generation .. ' ' .. delivery .. ' ' .. message_id, false
  if log.delivery ~= appending then
    is_missing = log.more  -- the end of the delivery before
    log.delivery, log.delivery_at, log.more = appending, log.last, true
  end
  local known = log.last - log.delivery_at  -- of the bytes of the delivery
  is_missing = is_missing or tonumber(from) > known
  local piece = is_missing and MISSING .. text or string.sub(text, known - from + 1)
  if log.watchers ~= '0' or log.last == log.base then log.watchers = watchers end  -- a log is opened as a whole, or not
  log.more = log.more and more == '1'  -- a repetition that arrives late does not open the delivery again
  local start, after = log.last, math.max(known, from + #text)
  if done then
    write(log, piece, tonumber(max_done_bytes), tonumber(max_done_bytes))
  else
    write(log, piece, tonumber(max_bytes), tonumber(max_bytes) / 2)
  end
  if piece ~= '' then log.sections = sections(log, attempt, start) end
  redis.call('HSET', LOG, 'base', integer(log.base), 'end', integer(log.last), 'delivery', appending,
    'delivery_at', integer(log.last - after), 'attempt', attempt, 'watchers', log.watchers, 'lines', log.lines,
    'sections', log.sections, 'more', log.more and '1' or '0')
  local now = redis.call('TIME')[1] * 1000
  for _, key in ipairs({LOG, TEXT}) do
    redis.call('PEXPIREAT', key, integer(math.max(expires_ms, now) + KEEP_MS))
  end
  if piece ~= '' then
    redis.call(PUBLISH, LOG, integer(start) .. ' ' .. attempt .. ' ' .. log.watchers .. '\n' .. piece)
  end
  return is_missing and 1 or 0
end

local function read(max_done_bytes, offset)
  local log = load()
  if not log then return false end
  local record, text = log.last - log.base > max_done_bytes and execute('HMGET', RECORD, 'status'), ''
  if record and is_done(record[1]) then  -- the last append, which cuts the log, is missing
    text = shorten(log, redis.call('GETRANGE', TEXT, 0, -1), max_done_bytes, max_done_bytes)
    text = string.sub(text, math.max(0, offset - log.base) + 1)
    log.sections = sections(log, log.attempt, log.last)
  elseif not log.lost then
    text = redis.call('GETRANGE', TEXT, integer(math.max(0, offset - log.base)), -1)
  end
  return {log.base, log.last, log.attempt, log.watchers or '0', text, log.lines, log.sections}
end

if ARGV[1] == 'append' then return append(unpack(ARGV, 2)) end
if ARGV[1] == 'read' then return read(tonumber(ARGV[2]), tonumber(ARGV[3])) end
