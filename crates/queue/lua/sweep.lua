-- sweep: one bounded round of housekeeping.
-- ARGV 3 takeover ms, 4 scan interval ms, 5 how many of each kind at most, 6 ms after which an idle consumer is forgotten,
--      7 ms that a dead letter stays whose body is not retained
-- Returns {promoted, committed in doubt, the rows of `expire`}
-- Keeps true: an entry in a live worker's hands is left to it until its lifetime and the grace are over; a consumer is
-- forgotten only while it holds nothing (forgetting one that does would lose its entries).

local batch = tonumber(ARGV[5])
local expired, promoted, in_doubt = {}, 0, 0

if redis.call('EXISTS', READY) == 1 then
  reclaim(tonumber(ARGV[3]), tonumber(ARGV[4]))

  -- Some of the overdue ones may be in flight and stay: look past them, but not for ever.
  local stay = 0
  while #expired < batch and stay < 4 * batch do
    local due = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', NOW, 'WITHSCORES', 'LIMIT', stay, batch - #expired)
    if #due == 0 then break end
    for i = 1, #due, 2 do
      local sid, id = parse(due[i])
      local who = holder(sid)
      if who and who ~= RELEASED and who ~= WAITING and NOW < tonumber(due[i + 1]) + GRACE then
        stay = stay + 1
      else
        expired[#expired + 1] = expire(sid, id)
      end
    end
  end

  for _, member in ipairs(redis.call('ZRANGEBYSCORE', RETRY, '-inf', NOW, 'LIMIT', 0, batch)) do
    local sid = parse(member)
    redis.call('ZREM', RETRY, member)
    pass(RELEASED, sid)
    promoted = promoted + 1
  end
  if promoted > 0 then redis.call('PUBLISH', WAKE, '') end

  for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', READY, GROUP)) do
    -- name, <name>, pending, <n>, idle, <ms>
    if row[4] == 0 and row[6] > tonumber(ARGV[6]) and row[2] ~= RELEASED and row[2] ~= WAITING then
      redis.call('XGROUP', 'DELCONSUMER', READY, GROUP, row[2])
    end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', PREPARED, '-inf', NOW, 'LIMIT', 0, batch)) do
  in_doubt = in_doubt + 1
  if commit({ id }, true)[1] ~= 1 then
    -- Its body outlived neither: nobody swept for the whole of its TTL. It may have been due, so it is counted.
    redis.call('ZREM', PREPARED, id)
    redis.call('HINCRBY', COUNTERS, 'committed', 1)
    redis.call('HINCRBY', COUNTERS, 'in_doubt', 1)
    expired[#expired + 1] = expire('0-0', id)
  end
end

-- Dead letters whose time is over. Each has its own, so a cursor goes round: some in every round.
local cursor = redis.call('HGET', COUNTERS, 'dead_cursor')
local letters = redis.call('XRANGE', DEAD, cursor and '(' .. cursor or '-', '+', 'COUNT', 64)
for _, letter in ipairs(letters) do
  local fields, keep = letter[2], 0
  for i = 1, #fields, 2 do
    if fields[i] == 'retain' then keep = tonumber(fields[i + 1]) end
  end
  if keep == 0 then keep = tonumber(ARGV[7]) end
  if tonumber(string.match(letter[1], '^%d+')) + keep <= NOW then redis.call('XDEL', DEAD, letter[1]) end
end
if #letters == 64 then
  redis.call('HSET', COUNTERS, 'dead_cursor', letters[64][1])
elseif cursor then
  redis.call('HDEL', COUNTERS, 'dead_cursor')
end
return { promoted, in_doubt, expired }
