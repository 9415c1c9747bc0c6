-- forget: clears away the lane of an intake that is in no use any more.
-- ARGV 3 ms for which it must have been empty
-- Returns 1 when the lane was listed and nothing of it is left, else 0
-- Keeps true: a lane with an entry in any state, or with a dead letter younger than that, stays as it is; so do its
-- counters, and its name in the list. Bodies that are still being written are not touched: PREPARE lists them anew.

if redis.call('XLEN', READY) + redis.call('ZCARD', PREPARED) + redis.call('ZCARD', RETRY) > 0 then return 0 end
local before = NOW - tonumber(ARGV[3])

-- When the last entry came to a stream, also one that was taken out again.
local function last(stream)
  if redis.call('EXISTS', stream) == 0 then return 0 end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^(%d+)')) end
  end
end

if last(READY) > before or last(DEAD) > before then return 0 end
redis.call('UNLINK', READY, RETRY, PREPARED, EXPIRY, COUNTERS, DEAD, LEASE)
return redis.call('SREM', INTAKES, intake())
