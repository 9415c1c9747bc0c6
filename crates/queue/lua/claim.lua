-- claim: hands ready entries to a consumer, given-back and abandoned ones first, else in the order of commits.
-- ARGV 3 consumer, 4 how many, 5 bytes at most (the first is always handed out), 6 takeover ms, 7 scan interval ms
-- Returns {claimed, expired, 1 unless all that was ready is claimed now}: for each claimed {sid, id, hand-outs, its e, attempts, ms left, age ms, in doubt, possible
-- delivery}, and the rows of `expire`
-- Keeps true: an entry over its lifetime, or damaged, ends as expired and is not handed out; a call's work is bounded.

if redis.call('EXISTS', READY) == 0 then return { {}, {}, 0 } end
reclaim(tonumber(ARGV[6]), tonumber(ARGV[7]))

local consumer, max, max_bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local out, expired, bytes, budget, full, more = {}, {}, 0, max + 256, false, 1

local function take(sid, fields, deliveries)
  local id, exp, e = fields[2], tonumber(fields[4]), fields[6] or ''
  local size = tonumber(string.match(e, '^%d+ (%d+) %d+ %d+ %d+ %d+ '))
  if exp <= NOW or not size then
    expired[#expired + 1] = expire(sid, id)
    return
  end
  if full or (#out > 0 and bytes + size > max_bytes) then
    full = true
    return pass(RELEASED, sid)
  end
  bytes = bytes + size
  -- What was handed out before may have been tried; the others are as they were committed.
  local attempts, doubt, possible = 0, string.match(fields[8] or '00', '(%d)(%d)')
  if deliveries > 1 then
    local s = redis.call('HMGET', BODY .. id, 'at', 'dbt', 'pd')
    attempts, doubt, possible = tonumber(s[1] or 0), s[2] or 0, s[3] or 0
  end
  local age = math.max(0, NOW - tonumber(string.match(sid, '^%d+')))
  out[#out + 1] = { sid, id, deliveries, e, attempts, exp - NOW, age, tonumber(doubt), tonumber(possible) }
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
