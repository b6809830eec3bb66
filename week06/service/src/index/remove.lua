-- Deletes a page and its lease, and tells all processes.
-- KEYS: bodies, ids, lease. ARGV: channel, message.
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])
