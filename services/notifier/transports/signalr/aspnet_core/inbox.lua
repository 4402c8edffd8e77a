-- What clients of the fallback transports send, and the sessions of long polls between two polls.
-- KEYS: the messages that wait for the replica that has the connection, which is also the channel's name; the session.
local SHARDED = false
local inbox, session, command = KEYS[1], KEYS[2], ARGV[1]

local function notify(event)
  redis.call(SHARDED and 'SPUBLISH' or 'PUBLISH', inbox, event)
end

local function take()
  local messages = redis.call('LRANGE', inbox, 0, -1)
  redis.call('DEL', inbox)
  return messages
end

if command == 'append' then -- message, maximum number of messages, lifetime in ms
  if redis.call('HEXISTS', session, 'closed') == 1 then
    return 'closed'
  end
  if redis.call('LLEN', inbox) >= tonumber(ARGV[3]) then
    return 'full'
  end
  redis.call('RPUSH', inbox, ARGV[2])
  redis.call('PEXPIRE', inbox, ARGV[4])
  notify('message')
  return 'accepted'
elseif command == 'take' then
  return take()
elseif command == 'poll' then -- lifetime in ms
  local closed = redis.call('HGET', session, 'closed')
  local number = redis.call('HINCRBY', session, 'poll', 1)
  redis.call('PEXPIRE', session, ARGV[2])
  notify('poll ' .. number) -- the poll before this one ends
  return { number, closed, redis.call('HGET', session, 'state'), number > 1 and take() or {} }
elseif command == 'save' then -- number of the poll, state, lifetime in ms
  if redis.call('HGET', session, 'poll') ~= ARGV[2] then
    return 0
  end
  redis.call('HSET', session, 'state', ARGV[3])
  redis.call('PEXPIRE', session, ARGV[4])
  return 1
elseif command == 'close' then -- lifetime in ms
  redis.call('HSET', session, 'closed', '1')
  redis.call('PEXPIRE', session, ARGV[2])
  redis.call('DEL', inbox)
  notify('closed')
  return 1
end
