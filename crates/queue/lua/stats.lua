-- stats: depth, age and counters at one moment.
-- ARGV none of its own
-- Returns {ready, in flight, retrying, prepared, age of the oldest in ms, {counter, value, …}}
-- Keeps true: ready + in flight + retrying is the length of the stream (never the group's `lag`, which lies after XDEL).

local length, held, given, oldest = redis.call('XLEN', READY), 0, 0, 0
if length > 0 then
  local summary = redis.call('XPENDING', READY, GROUP)
  held = summary[1]
  for _, row in ipairs(summary[4] or {}) do
    if row[1] == RELEASED then given = tonumber(row[2]) end
  end
  local first = redis.call('XRANGE', READY, '-', '+', 'COUNT', 1)[1]
  oldest = math.max(0, NOW - tonumber(string.match(first[1], '^%d+')))
end
local waiting = redis.call('ZCARD', RETRY)
return { length - held + given, held - given - waiting, waiting, redis.call('ZCARD', PREPARED), oldest, redis.call('HGETALL', COUNTERS) }
