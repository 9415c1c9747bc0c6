-- replay: puts dead letters back into the queue.
-- ARGV 3.. place among the dead letters and id of each
-- Returns for each 1 (ready), 0 (is in the queue already), -1 (no body is retained), -2 (no such dead letter)
-- Keeps true: a dead letter is either among the dead or in the queue, never both, never neither.

local out = {}
for i = 3, #ARGV, 2 do
  local place, id = ARGV[i], ARGV[i + 1]
  local body = BODY .. id
  local row = redis.call('XRANGE', DEAD, place, place)[1]
  local st = redis.call('HGET', body, 'st')
  if not row then
    out[#out + 1] = st == 'c' and 0 or -2
  elseif st ~= 'd' then
    out[#out + 1] = -1
  else
    redis.call('HSET', body, 'st', 'p')
    redis.call('HDEL', body, 'at', 'err')
    -- id, <id>, end, <end>, …
    if row[2][4] == 'possible_delivery' then redis.call('HSET', body, 'pd', 1) end
    commit({ id }, false)
    redis.call('XDEL', DEAD, place)
    redis.call('HINCRBY', COUNTERS, 'replayed', 1)
    out[#out + 1] = 1
  end
end
return out
