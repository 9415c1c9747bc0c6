-- prepare: turns written bodies into prepared entries.
-- ARGV 3.. of each: id, chunks that were written before its last ones, bytes, ms until it is in doubt
-- Returns for each 1 (prepared), 0 (was so before), -1 (chunks are missing: the body is not what was sent)
-- Keeps true: a prepared entry has all its bytes, a deadline in `prepared`, and a TTL, and its lane is listed. Refused
-- when memory is full.

-- What the command that stores the last chunks writes beside them: m, n, sz, life, ret, mid, rcpt, tp.
local BESIDE = 8

local function prepare(id, before, bytes)
  local body = BODY .. id
  local s = redis.call('HMGET', body, 'st', 'n')
  if s[1] then return 0 end
  local chunks = tonumber(s[2])
  if not chunks then return -1 end
  -- One command stores all or nothing; what was there before it may have gone.
  if tonumber(before) > 0 then
    local found = 0
    for i = 0, chunks - 1 do found = found + redis.call('HSTRLEN', body, i) end
    -- A gap shows even where an empty chunk hides it from the sum.
    if found ~= tonumber(bytes) or redis.call('HLEN', body) ~= chunks + BESIDE then return -1 end
  end
  redis.call('HSET', body, 'st', 'p')
  return 1
end

local out, deadlines = {}, {}
for i = 3, #ARGV, 4 do
  local result = prepare(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  out[#out + 1] = result
  if result == 1 then
    deadlines[#deadlines + 1] = NOW + ARGV[i + 3]
    deadlines[#deadlines + 1] = ARGV[i]
  end
end
if #deadlines > 0 then
  redis.call('ZADD', PREPARED, unpack(deadlines))
  redis.call('SADD', INTAKES, intake())
end
return out
