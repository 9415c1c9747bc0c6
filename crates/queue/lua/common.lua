-- Shared head of every script: it is put before each of them, so that a rule is written once.
--
-- KEYS (all scripts, one hash slot each lane: tdc:{intake}:…)
--   1 ready     stream, group "workers": one entry for each committed copy that has not ended: {id, exp, mid, rcpt, tp}, the
--               last three for the mail log, should its body's TTL have ended it
--   2 retry     sorted set, "sid:id" by due time: the entries that wait for a retry
--   3 prepared  sorted set, id by deadline: stored, not committed
--   4 expiry    sorted set, "sid:id" by end of lifetime: the same entries as in `ready`
--   5 counters  hash of integers that only grow
--   6 dead      stream of the metadata of copies that ended undelivered, bounded
--   7 body      prefix of the bodies' keys; a body is a hash: m = metadata, 0.. = chunks, and its state:
--               st     p prepared, c committed, d ended and retained; absent while it is being written
--               n, sz  chunks, bytes        life, ret  lifetime and retention in ms
--               at     attempts that count  dbt, pd    in doubt; an attempt may have arrived
--               mid, rcpt, tp   number in the mail log, count of recipients, traceparent
--               err    why the last attempt failed
--   8 lease     hash of the workers' leases on connections, and of what is known of the intake (see lease.lua)
-- ARGV (all scripts)
--   1 dead_max  about how many dead letters stay
--   2 grace     ms that a body may outlive its entry's lifetime
--
-- Always true: a committed entry stays at its place in `ready` until it ends. Undelivered or held by "(released)" it is
-- ready; held by "(waiting)" it is also in `retry`; held by any other consumer it is in flight. The clock is Redis's.

local READY, RETRY, PREPARED, EXPIRY, COUNTERS, DEAD, BODY, LEASE = unpack(KEYS)
local DEAD_MAX, GRACE = ARGV[1], tonumber(ARGV[2])
-- The set of the intakes that have or had entries. A lane is listed in the step that gives it its first entry, and
-- taken off in the step that clears it away, so that what is stored is always listed, and so swept.
local INTAKES = 'tdc:intakes'
local GROUP, RELEASED, WAITING, WAKE = 'workers', '(released)', '(waiting)', 'tdc:wake'

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- The name of the intake.
local function intake()
  return string.match(READY, '^tdc:{(.*)}:ready$')
end

-- Who holds a stream entry, and how many times it was handed out; nil when nobody does.
local function holder(sid)
  local rows = redis.pcall('XPENDING', READY, GROUP, sid, sid, 1)
  if rows[1] then return rows[1][2], rows[1][4] end
end

-- A claim is one hand-out to one consumer: both must match, else somebody else has had the entry since.
local function holds(consumer, sid, deliveries)
  local who, times = holder(sid)
  return who == consumer and times == tonumber(deliveries)
end

-- Passes a held entry to a consumer that stands for a state. JUSTID leaves the number of hand-outs alone.
local function pass(to, sid)
  redis.call('XCLAIM', READY, GROUP, to, 0, sid, 'JUSTID')
end

local function parse(member)
  local colon = string.find(member, ':', 1, true)
  return string.sub(member, 1, colon - 1), string.sub(member, colon + 1)
end

-- Takes entries that do not wait for a retry out of every index, and counts them as ended. `members` are their "sid:id".
local function leave(sids, members, field)
  redis.call('XACK', READY, GROUP, unpack(sids))
  redis.call('XDEL', READY, unpack(sids))
  redis.call('ZREM', EXPIRY, unpack(members))
  redis.call('HINCRBY', COUNTERS, field, #sids)
end

-- Ends an entry undelivered: out of every index, counted, and among the dead letters, in this one step.
-- Returns what the body knew of it: attempts, detail, in doubt, possible delivery.
local function finish(sid, id, field, class, detail)
  local member = sid .. ':' .. id
  redis.call('ZREM', RETRY, member)
  leave({ sid }, { member }, field)
  if field == 'hard_bounced' then redis.call('HINCRBY', COUNTERS, 'hard:' .. class, 1) end
  local body = BODY .. id
  local s = redis.call('HMGET', body, 'm', 'at', 'sz', 'ret', 'err', 'n', 'dbt', 'pd')
  local retain = tonumber(s[4] or 0)
  if detail == '' then detail = s[5] or '' end
  if not s[6] then detail, retain = 'its body was gone', 0 end
  redis.call('XADD', DEAD, 'MAXLEN', '~', DEAD_MAX, '*', 'id', id, 'end', field, 'class', class, 'detail', detail,
    'attempts', s[2] or 0, 'size', s[3] or 0, 'retain', retain, 'm', s[1] or '')
  if retain > 0 then
    redis.call('HSET', body, 'st', 'd')
    redis.call('PEXPIRE', body, retain)
  else
    redis.call('UNLINK', body)
  end
  return { attempts = s[2] or 0, detail = detail, in_doubt = s[7] or 0, possible = s[8] or 0 }
end

-- Ends an entry whose lifetime is over. Returns the row that tells of it: {id, mid, recipients, attempts, traceparent,
-- in doubt, possible delivery, age in ms, detail}; it is handed out this once.
local function expire(sid, id)
  local row = redis.call('XRANGE', READY, sid, sid)[1]
  local f = row and row[2] or {}
  local left = finish(sid, id, 'expired', '', '')
  local since = tonumber(string.match(sid, '^%d+'))
  local age = since > 0 and math.max(0, NOW - since) or 0
  return { id, tonumber(f[6] or 0), tonumber(f[8] or 0), tonumber(left.attempts), f[10] or '',
    tonumber(left.in_doubt), tonumber(left.possible), age, left.detail }
end

-- Makes prepared entries ready. Returns for each 1, 0 when it was committed before, -1 when there is no such entry.
local function commit(ids, in_doubt)
  local out, new, members = {}, {}, {}
  for i, id in ipairs(ids) do
    local body = BODY .. id
    local s = redis.call('HMGET', body, 'st', 'life', 'ret', 'mid', 'rcpt', 'tp')
    out[i] = s[1] and 0 or -1
    if s[1] == 'p' then
      if #new == 0 and redis.call('EXISTS', READY) == 0 then
        redis.call('XGROUP', 'CREATE', READY, GROUP, '0', 'MKSTREAM')
      end
      local exp = NOW + tonumber(s[2])
      local sid = redis.call('XADD', READY, '*', 'id', id, 'exp', exp, 'mid', s[4] or 0, 'rcpt', s[5] or 0, 'tp', s[6] or '')
      redis.call('HSET', body, 'st', 'c')
      if in_doubt then redis.call('HSET', body, 'dbt', 1) end
      redis.call('PEXPIRE', body, tonumber(s[2]) + GRACE + tonumber(s[3]))
      out[i], new[#new + 1] = 1, id
      members[#members + 1] = exp
      members[#members + 1] = sid .. ':' .. id
    end
  end
  if #new > 0 then
    redis.call('ZREM', PREPARED, unpack(new))
    redis.call('ZADD', EXPIRY, unpack(members))
    redis.call('HINCRBY', COUNTERS, 'committed', #new)
    if in_doubt then redis.call('HINCRBY', COUNTERS, 'in_doubt', #new) end
    redis.call('PUBLISH', WAKE, '')
  end
  return out
end

-- Makes ready what a consumer has held for `takeover` ms without a heartbeat; looks at most once in `every` ms.
local function reclaim(takeover, every)
  local last = tonumber(redis.call('HGET', COUNTERS, 'scanned') or 0)
  if last <= NOW and NOW - last < every then return end
  redis.call('HSET', COUNTERS, 'scanned', NOW)
  local moved = 0
  for _, row in ipairs(redis.call('XPENDING', READY, GROUP)[4] or {}) do
    local who = row[1]
    if who ~= RELEASED and who ~= WAITING then
      for _, held in ipairs(redis.call('XPENDING', READY, GROUP, 'IDLE', takeover, '-', '+', 1000, who)) do
        pass(RELEASED, held[1])
        moved = moved + 1
      end
    end
  end
  if moved > 0 then redis.call('PUBLISH', WAKE, '') end
end

