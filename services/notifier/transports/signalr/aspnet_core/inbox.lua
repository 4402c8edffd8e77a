-- What clients without a WebSocket send, and the sessions of long polls between two polls.
-- KEYS: the messages that wait for the replica that has the connection, which is also the channel's name; the session.
local SHARDED = false
local inbox, session, command = KEYS[1], KEYS[2], ARGV[1]
local closed, poll, state, count, size = unpack(redis.call('HMGET', session, 'closed', 'poll', 'state', 'count', 'size'))

local function notify(event)
  redis.call(SHARDED and 'SPUBLISH' or 'PUBLISH', inbox, event)
end

local function keep(lifetime_ms, ...)
  redis.call('HSET', session, ...)
  redis.call('PEXPIRE', session, lifetime_ms)
end

local function take()
  local messages = redis.call('ZRANGE', inbox, 0, -1)
  redis.call('DEL', inbox)
  redis.call('HDEL', session, 'size')
  for index, message in ipairs(messages) do
    messages[index] = message:sub(message:find(':', 1, true) + 1)
  end
  return messages
end

if command == 'append' then -- lifetime in ms, message, maximum number of bytes
  size = tonumber(size or 0) + #ARGV[3]
  if closed then
    return 'closed'
  elseif size > tonumber(ARGV[4]) then
    return 'full'
  end
  count = tonumber(count or 0) + 1
  keep(ARGV[2], 'count', count, 'size', size)
  redis.call('ZADD', inbox, count, count .. ':' .. ARGV[3]) -- the number makes equal messages different members
  redis.call('PEXPIRE', inbox, ARGV[2])
  notify('message')
  return 'accepted'
elseif command == 'take' then
  return take()
elseif command == 'poll' then -- lifetime in ms
  poll = tonumber(poll or 0) + 1
  keep(ARGV[2], 'poll', poll)
  notify('poll ' .. poll) -- the poll before this one ends
  return { poll, closed, state, poll > 1 and take() or {} }
elseif command == 'save' then -- lifetime in ms, number of the poll, state
  if poll and poll ~= ARGV[3] then
    return 0
  end
  keep(ARGV[2], 'poll', ARGV[3], 'state', ARGV[4]) -- the number, too: the data of Redis may be lost
  return 1
elseif command == 'close' then -- lifetime in ms
  keep(ARGV[2], 'closed', '1')
  redis.call('DEL', inbox)
  notify('closed')
  return 1
end
