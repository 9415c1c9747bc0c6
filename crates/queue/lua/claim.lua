-- claim: hands ready entries to a consumer, given-back and abandoned ones first, else in the order of commits.
-- ARGV 3 consumer, 4 how many, 5 bytes at most (the first is always handed out), 6 takeover ms, 7 scan interval ms
-- Returns {claimed, expired, more}: for each claimed {sid, id, hand-outs, chunks, attempts, ms left, age ms, in doubt, possible
-- delivery}; the rows of `expire`; 1 unless all that was ready is claimed now
-- Keeps true: an entry over its lifetime, or without a body, ends as expired and is not handed out; a call's work is bounded.

if redis.call('EXISTS', READY) == 0 then return { {}, {}, 0 } end
reclaim(tonumber(ARGV[6]), tonumber(ARGV[7]))

local consumer, max, max_bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local out, expired, bytes, budget, full, more = {}, {}, 0, max + 256, false, 1

local function take(sid, fields, deliveries)
  local id, exp = fields[2], tonumber(fields[4])
  local s = redis.call('HMGET', BODY .. id, 'n', 'sz', 'at', 'dbt', 'pd')
  if not s[1] or exp <= NOW then
    expired[#expired + 1] = expire(sid, id)
    return
  end
  local size = tonumber(s[2])
  if full or (#out > 0 and bytes + size > max_bytes) then
    full = true
    return pass(RELEASED, sid)
  end
  bytes = bytes + size
  local age = math.max(0, NOW - tonumber(string.match(sid, '^%d+')))
  out[#out + 1] = { sid, id, deliveries, tonumber(s[1]), tonumber(s[3] or 0), exp - NOW, age, tonumber(s[4] or 0), tonumber(s[5] or 0) }
end

while #out < max and budget > 0 and not full do
  local want = math.min(max - #out, budget, 1000)
  local given = redis.call('XPENDING', READY, GROUP, '-', '+', want, RELEASED)
  if #given > 0 then
    for _, row in ipairs(given) do
      local entry = redis.call('XCLAIM', READY, GROUP, consumer, 0, row[1])[1]
      if entry then take(entry[1], entry[2], row[4] + 1) end
    end
    budget = budget - #given
  else
    local fresh = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', want, 'STREAMS', READY, '>')
    if not fresh then
      more = 0
      break
    end
    for _, entry in ipairs(fresh[1][2]) do take(entry[1], entry[2], 1) end
    budget = budget - #fresh[1][2]
  end
end
return { out, expired, more }
