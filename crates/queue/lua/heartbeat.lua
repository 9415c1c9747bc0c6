-- heartbeat: says that a consumer still works on its entries.
-- ARGV 3 consumer, then sid and hand-outs of each claim
-- Returns how many it still holds
-- Keeps true: a claim that has passed to another is never renewed, let alone taken back.

local held = 0
for i = 4, #ARGV, 2 do
  if holds(ARGV[3], ARGV[i], ARGV[i + 1]) then
    pass(ARGV[3], ARGV[i])
    held = held + 1
  end
end
return held
