-- prepare: turns written bodies into prepared entries.
-- ARGV 3.. of each: id, chunks, bytes, ms until it is in doubt, lifetime ms, retention ms, mid, recipients, traceparent
-- Returns for each 1 (prepared), 0 (was so before), -1 (chunks are missing: the body is not what was sent)
-- Keeps true: a prepared entry has all its bytes, a deadline in `prepared`, and a TTL, and its lane is listed. Refused
-- when memory is full.

local function prepare(id, chunks, bytes, doubt, life, retain, mid, rcpt, tp)
  local body = BODY .. id
  if redis.call('HGET', body, 'st') then return 0 end
  local found = 0
  for i = 0, chunks - 1 do found = found + redis.call('HSTRLEN', body, i) end
  -- The fields besides them are one, m: a gap shows even where an empty chunk hides it from the sum.
  if found ~= tonumber(bytes) or redis.call('HLEN', body) ~= chunks + 1 then return -1 end
  redis.call('HSET', body, 'st', 'p', 'n', chunks, 'sz', bytes, 'at', 0, 'life', life, 'ret', retain, 'mid', mid,
    'rcpt', rcpt, 'tp', tp)
  redis.call('PEXPIRE', body, doubt + life + GRACE + retain)
  return 1
end

local out, deadlines = {}, {}
for i = 3, #ARGV, 9 do
  local result = prepare(unpack(ARGV, i, i + 8))
  out[#out + 1] = result
  if result == 1 then
    deadlines[#deadlines + 1] = NOW + ARGV[i + 3]
    deadlines[#deadlines + 1] = ARGV[i]
  end
end
if #deadlines > 0 then
  redis.call('ZADD', PREPARED, unpack(deadlines))
  redis.call('SADD', INTAKES, INTAKE)
end
return out
