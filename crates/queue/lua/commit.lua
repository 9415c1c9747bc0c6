-- commit: makes prepared entries ready; their lifetime starts now.
-- ARGV 3.. ids
-- Returns for each 1 (committed), 0 (was so before), -1 (no such entry)
-- Keeps true: state, place in the stream and counter change together; each entry has exactly one place.

return commit({ unpack(ARGV, 3) }, false)
