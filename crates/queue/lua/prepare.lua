-- prepare: turns a written body into a prepared entry.
-- ARGV 3 id, 4 chunks, 5 bytes, 6 ms until it is in doubt, 7 lifetime ms, 8 retention ms, 9 mid,
--      10 recipients, 11 traceparent
-- Returns 1 (prepared), 0 (was so before), -1 (chunks are missing: the body is not what was sent)
-- Keeps true: a prepared entry has all its bytes, a deadline in `prepared`, and a TTL. Refused when memory is full.

local id, chunks, bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local body = BODY .. id
if redis.call('HGET', body, 'st') then return 0 end
local found = 0
for i = 0, chunks - 1 do found = found + redis.call('HSTRLEN', body, i) end
-- The fields besides them are one, m: a gap shows even where an empty chunk hides it from the sum.
if found ~= bytes or redis.call('HLEN', body) ~= chunks + 1 then return -1 end
redis.call('HSET', body, 'st', 'p', 'n', chunks, 'sz', bytes, 'at', 0, 'life', ARGV[7], 'ret', ARGV[8],
  'mid', ARGV[9], 'rcpt', ARGV[10], 'tp', ARGV[11])
redis.call('PEXPIRE', body, tonumber(ARGV[6]) + tonumber(ARGV[7]) + GRACE + tonumber(ARGV[8]))
redis.call('ZADD', PREPARED, NOW + tonumber(ARGV[6]), id)
return 1
