-- What clients without a WebSocket send, and the sessions of long polls between two polls.
-- KEYS: the messages, sorted by their numbers, which is also the name of the channel; the session.
local ENTRY_BYTES = 64 -- that each message occupies in addition, even an empty one
local MAX_UNSAVED_POLLS = 10 -- each one handles again what waits; a client polls again after the answer, which is saved
local SHARDED = false
local inbox, session, command, lifetime_ms = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local closed, poll, saved, state, last, size =
  unpack(redis.call('HMGET', session, 'closed', 'poll', 'saved', 'state', 'last', 'size'))

local function notify(event)
  redis.call(SHARDED and 'SPUBLISH' or 'PUBLISH', inbox, event)
end

local function keep(...)
  redis.call('HSET', session, ...)
  redis.call('PEXPIRE', session, lifetime_ms)
end

local function integer(number)
  return string.format('%.0f', number)
end

-- Returns whether a poll has ended, because the connection has ended or a later poll has begun.
local function has_ended(number)
  return closed or (poll and poll ~= number)
end

-- Returns the messages after a number, each with its own number before it.
local function messages_after(number)
  return redis.call('ZRANGE', inbox, '(' .. number, '+inf', 'BYSCORE')
end

-- Removes the messages up to a number.
local function discard(number)
  local messages = redis.call('ZRANGE', inbox, '-inf', number, 'BYSCORE')
  for _, message in ipairs(messages) do
    size = (size or 0) - #message - ENTRY_BYTES
  end
  if #messages > 0 then
    redis.call('ZREMRANGEBYRANK', inbox, 0, #messages - 1)
    redis.call('PEXPIRE', inbox, lifetime_ms)
    keep('size', integer(math.max(0, size)))
  end
end

local function close()
  closed, state = '1', false
  keep('closed', closed)
  redis.call('HDEL', session, 'state')
  redis.call('DEL', inbox)
  notify('closed')
end

if command == 'append' then -- message, maximum number of bytes
  if closed then
    return 'closed'
  end
  local time = redis.call('TIME')
  last = integer(math.max((last or 0) + 1, time[1] * 1000000 + time[2])) -- higher, too, after data was lost
  local message, is_first = last .. ':' .. ARGV[3], redis.call('ZCARD', inbox) == 0
  size = (not is_first and size or 0) + #message + ENTRY_BYTES
  if size > tonumber(ARGV[4]) then
    return 'full'
  end
  keep('last', last, 'size', integer(size))
  redis.call('ZADD', inbox, last, message)
  if is_first then -- later ones do not keep for longer what no replica handles
    redis.call('PEXPIRE', inbox, lifetime_ms)
  end
  notify('message')
  return 'accepted'
elseif command == 'take' then
  local messages = not closed and messages_after(0)
  discard('+inf')
  return messages
elseif command == 'poll' then
  poll = (poll or 0) + 1
  if not closed and poll - (saved or 0) > MAX_UNSAVED_POLLS then
    close()
  elseif not closed then
    keep('poll', integer(poll))
    notify('poll ' .. integer(poll)) -- the poll before this one ends
  end
  return { poll, closed, state, messages_after(0) }
elseif command == 'read' then -- number of the poll, number of the last message that it has read
  return not has_ended(ARGV[3]) and messages_after(ARGV[4])
elseif command == 'save' then -- number of the poll, state, number of the last message that is in it
  if has_ended(ARGV[3]) then
    return 0
  end
  keep('poll', ARGV[3], 'saved', ARGV[3], 'state', ARGV[4]) -- the number, too: the data of Redis may be lost
  discard(ARGV[5])
  return 1
elseif command == 'close' then
  close()
  return 1
end
