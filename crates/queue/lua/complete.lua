-- complete: ends claimed entries.
-- ARGV 3 consumer, then of each: sid, hand-outs, id, counter of the end, class, detail
-- Returns for each 1, or 0 when the claim is not this consumer's any more (nothing is changed)
-- Keeps true: each entry ends once, and its end, counter and dead letter are one step.

local out, sids, members, bodies, done = {}, {}, {}, {}, {}
for i = 4, #ARGV, 6 do
  local sid, id, field = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  local held = not done[sid] and holds(ARGV[3], sid, ARGV[i + 1])
  out[#out + 1] = held and 1 or 0
  if held then
    done[sid] = true
    if field == 'delivered' then
      sids[#sids + 1], members[#members + 1], bodies[#bodies + 1] = sid, sid .. ':' .. id, BODY .. id
    else
      finish(sid, id, field, ARGV[i + 4], ARGV[i + 5])
    end
  end
end
if #sids > 0 then
  leave(sids, members, 'delivered')
  redis.call('UNLINK', unpack(bodies))
end
return out
