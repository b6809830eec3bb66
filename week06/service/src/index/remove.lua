-- Deletes a page and its lease. KEYS: bodies, ids, lease.
-- ARGV: channel and message, to tell all processes, or nothing.
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if ARGV[1] then
  redis.call('PUBLISH', ARGV[1], ARGV[2])
end
