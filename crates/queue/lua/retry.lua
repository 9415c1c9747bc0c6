-- retry: puts a claimed entry aside until it is due.
-- ARGV 3 consumer, 4 sid, 5 hand-outs, 6 id, 7 delay ms, 8 "1" when the attempt may have arrived, 9 detail
-- Returns 1, or 0 when the claim is not this consumer's any more (nothing is changed)
-- Keeps true: one attempt and one soft bounce are counted with the change; an entry without a body ends as expired.

local sid, id = ARGV[4], ARGV[6]
local body = BODY .. id
if not holds(ARGV[3], sid, ARGV[5]) then return 0 end
if redis.call('EXISTS', body) == 0 then
  finish(sid, id, 'expired', '', '')
  return 1
end
redis.call('HINCRBY', body, 'at', 1)
redis.call('HSET', body, 'err', ARGV[9])
if ARGV[8] == '1' then redis.call('HSET', body, 'pd', 1) end
redis.call('HINCRBY', COUNTERS, 'soft_bounced', 1)
redis.call('ZADD', RETRY, NOW + tonumber(ARGV[7]), sid .. ':' .. id)
pass(WAITING, sid)
return 1
