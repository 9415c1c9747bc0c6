-- consumers: removes the names of workers that are gone for good.
-- ARGV 3 ms without any sign of life after which a name that holds nothing is removed
-- Returns how many
-- Keeps true: a name that holds an entry stays (with it, the entry would be forgotten), as do those that stand for a state.

if redis.call('EXISTS', READY) == 0 then return 0 end
local rows = redis.pcall('XINFO', 'CONSUMERS', READY, GROUP)
if rows.err then return 0 end
local removed = 0
for _, row in ipairs(rows) do
  local consumer = {}
  for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
  local stands_for_a_state = string.sub(consumer.name, 1, 1) == '('
  if not stands_for_a_state and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', READY, GROUP, consumer.name)
    removed = removed + 1
  end
end
return removed
