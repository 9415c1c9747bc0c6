-- lease: takes a worker's feedback on an intake, and says how many connections to it that worker may have.
-- ARGV 3 consumer, 4 min, 5 max, 6 open, 7 wanted, 8 delivered, 9 refused, 10 service time in µs or "", 11 "1" reachable,
--      "0" not, "" not tried, 12 error or "", 13 ms that a lease lasts, 14 µs in which a backlog should be gone, 15 first
--      guess of the service time in µs
-- Returns {granted, target, total, waiting}
-- Keeps true: src/lease.rs says what, and is the same decision. The hash holds h:<consumer> = "count open wanted until"
-- for each worker, window (absent: infinite), service, down (since when), error, error_at, active (when).

local consumer, least, most = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local open, wanted, delivered, refused = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local mine = 'h:' .. consumer

-- Who is there; those whose time is over are forgotten.
local all, others, others_open, before, state = {}, 0, 0, 0, {}
local fields = redis.call('HGETALL', LEASE)
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if string.sub(name, 1, 2) ~= 'h:' then
    state[name] = value
  else
    local c, o, w, u = string.match(value, '^(%d+) (%d+) (%d+) (%d+)$')
    if tonumber(u) <= NOW then
      redis.call('HDEL', LEASE, name)
    elseif name == mine then
      before = tonumber(c)
    else
      others, others_open = others + tonumber(c), others_open + tonumber(o)
      all[#all + 1] = { tonumber(w), tonumber(c), name }
    end
  end
end

-- What the feedback teaches.
local service = tonumber(state.service or ARGV[15])
if ARGV[10] ~= '' then
  local n = math.max(delivered, 1)
  service = service + n / (n + 4) * (tonumber(ARGV[10]) - service)
  redis.call('HSET', LEASE, 'service', string.format('%.17g', service))
end
local window = tonumber(state.window or math.huge)
window = math.sqrt(window * window + 2 * delivered)
if refused > 0 then
  local own = math.min(math.max(before, open), open + refused)
  window = math.max(1, math.min(window, others_open + own) - refused)
end
if window < most then
  redis.call('HSET', LEASE, 'window', string.format('%.17g', window))
else
  window = math.huge
  if state.window then redis.call('HDEL', LEASE, 'window') end
end
if ARGV[11] == '1' then
  redis.call('HDEL', LEASE, 'down')
elseif ARGV[11] == '0' then
  redis.call('HSETNX', LEASE, 'down', NOW)
end
if delivered > 0 or refused > 0 or ARGV[11] ~= '' then redis.call('HSET', LEASE, 'active', NOW) end
if ARGV[12] ~= '' then redis.call('HSET', LEASE, 'error', ARGV[12], 'error_at', NOW) end

-- What the cluster should have.
local waiting = redis.call('XLEN', READY) - redis.call('ZCARD', RETRY)
local target = 0
if waiting > 0 then
  local floor = math.min(math.max(least, 1), waiting)
  local backlog = math.min(math.ceil(waiting * service / tonumber(ARGV[14])), waiting)
  target = math.max(1, math.min(math.max(floor, backlog), math.max(most, 1), math.floor(window)))
end

-- The caller's share of it: who wants little gets it, the others equal parts of the rest.
all[#all + 1] = { wanted, math.max(before, open), mine }
table.sort(all, function(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] end
  if a[2] ~= b[2] then return a[2] < b[2] end
  return a[3] < b[3]
end)
local rest, share = target, 0
for i, who in ipairs(all) do
  local part = math.min(who[1], math.floor(rest / (#all - i + 1)))
  if who[3] == mine then
    share = part
    break
  end
  rest = rest - part
end

local granted = math.min(share, math.max(0, target - others))
local count = math.max(granted, open)
if count > 0 or wanted > 0 then
  redis.call('HSET', LEASE, mine, string.format('%d %d %d %.0f', count, open, wanted, NOW + ARGV[13]))
else
  redis.call('HDEL', LEASE, mine)
end
return { granted, target, others + count, waiting }
