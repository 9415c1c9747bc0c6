-- abort: forgets entries that were not committed, prepared or still being written.
-- ARGV 3.. ids
-- Returns how many were forgotten
-- Keeps true: a committed entry is never touched; an aborted one leaves nothing but the counter.

local forgotten = 0
for i = 3, #ARGV do
  local body = BODY .. ARGV[i]
  local st = redis.call('HGET', body, 'st')
  if not st or st == 'p' then
    redis.call('ZREM', PREPARED, ARGV[i])
    forgotten = forgotten + redis.call('UNLINK', body)
  end
end
if forgotten > 0 then redis.call('HINCRBY', COUNTERS, 'aborted', forgotten) end
return forgotten
