-- Adds written comments to the page, if there is one, and tells all processes.
-- KEYS: bodies, ids, lease. ARGV: size of the page, channel, message, and for
-- each comment its id, time and body.
redis.call('DEL', KEYS[3])
local complete = redis.call('HGET', KEYS[1], 'complete')
if complete then
  for i = 4, #ARGV, 3 do
    redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  end
  -- A page that is not complete is full. So a comment that is older than all of
  -- it, which others in the database may precede, is removed here.
  local excess = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[1])
  if excess > 0 then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, excess - 1)) do
      redis.call('ZREM', KEYS[2], id)
      redis.call('HDEL', KEYS[1], id)
    end
    redis.call('HSET', KEYS[1], 'complete', '0')
  end
  -- The set of a subject without comments has just been created.
  redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
