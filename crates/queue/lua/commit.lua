-- commit: makes prepared entries ready; their lifetime starts now.
-- ARGV 3.. ids
-- Returns for each 1 (committed), 0 (was so before), -1 (no such entry)
-- Keeps true: state, place in the stream and counter change together; each entry has exactly one place.

local out = {}
for i = 3, #ARGV do out[#out + 1] = commit(ARGV[i], false) end
return out
