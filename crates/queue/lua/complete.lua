-- complete: ends a claimed entry.
-- ARGV 3 consumer, 4 sid, 5 hand-outs, 6 id, 7 counter of the end, 8 class, 9 detail
-- Returns 1, or 0 when the claim is not this consumer's any more (nothing is changed)
-- Keeps true: each entry ends once, and its end, counter and dead letter are one step.

if not holds(ARGV[3], ARGV[4], ARGV[5]) then return 0 end
finish(ARGV[4], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
return 1
