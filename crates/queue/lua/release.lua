-- release: gives claimed entries back; they keep their place and no attempt is counted.
-- ARGV 3 consumer, then sid and hand-outs of each claim
-- Returns how many were given back
-- Keeps true: only the holder can give back; what is given back can be claimed at once.

local given = 0
for i = 4, #ARGV, 2 do
  if holds(ARGV[3], ARGV[i], ARGV[i + 1]) then
    pass(RELEASED, ARGV[i])
    given = given + 1
  end
end
if given > 0 then redis.call('PUBLISH', WAKE, '') end
return given
