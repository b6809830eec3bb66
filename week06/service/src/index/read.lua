-- Reads a page. KEYS: bodies, ids, lease. ARGV: limit, new lease, its time,
-- and for a cursor its time and id.
-- Returns {'hit', body...}, {'miss', lease}, {'deep'} if the page ends beyond the
-- index, or {'broken'}.
local complete = redis.call('HGET', KEYS[1], 'complete')
if not complete then
  redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3], 'NX')
  return {'miss', redis.call('GET', KEYS[3])}
end
-- Redis may have evicted one of the keys.
if redis.call('HLEN', KEYS[1]) ~= redis.call('ZCARD', KEYS[2]) + 1 then
  return {'broken'}
end
local limit = tonumber(ARGV[1])
local ids
if ARGV[4] then
  local older = redis.call('ZREVRANGEBYSCORE', KEYS[2], ARGV[4], '-inf',
    'WITHSCORES')
  ids = {}
  for i = 1, #older, 2 do
    if #ids == limit then break end
    -- Ids have equal lengths, so they are in order as text, too.
    if tonumber(older[i + 1]) < tonumber(ARGV[4]) or older[i] < ARGV[5] then
      ids[#ids + 1] = older[i]
    end
  end
else
  ids = redis.call('ZREVRANGE', KEYS[2], 0, limit - 1)
end
if #ids < limit and complete == '0' then
  return {'deep'}
end
local page = {'hit'}
for i, id in ipairs(ids) do
  -- A body that is missing is text that does not decode.
  page[i + 1] = redis.call('HGET', KEYS[1], id) or ''
end
return page
