-- purge: removes dead letters and what was retained of them.
-- ARGV 3.. place among the dead letters and id of each
-- Returns how many there were
-- Keeps true: the body of an entry that is in the queue again is not touched.

local purged = 0
for i = 3, #ARGV, 2 do
  if redis.call('XDEL', DEAD, ARGV[i]) == 1 then
    purged = purged + 1
    local body = BODY .. ARGV[i + 1]
    if redis.call('HGET', body, 'st') == 'd' then redis.call('UNLINK', body) end
  end
end
if purged > 0 then redis.call('HINCRBY', COUNTERS, 'purged', purged) end
return purged
