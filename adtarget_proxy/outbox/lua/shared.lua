-- Invite links, who asks without cookies, the bucket: tables/shared.py.

function commands.begin_invite(account, visitor, slug, owner, now, link_kept, flight_kept, alive)
  local q = account .. '\0' .. visitor
  local k = q .. '\0' .. slug
  local l = call('HMGET', key('l:', k), 'link', 'at')
  if l[2] then
    local age = math.abs(num(now) - num(l[2])) -- one from the future was kept by a clock that has gone back
    if l[1] and age < num(link_kept) then return {'link', l[1]} end
    if not l[1] and age < num(flight_kept) then return {'follow'} end
    unlink(q, slug)
  end
  call('HSET', key('l:', k), 'owner', owner, 'at', now)
  call('ZADD', key('links'), now, k)
  call('SADD', key('ls:', q), slug)
  call('SADD', key('flights:', owner), k)
  call('SADD', key('owners'), owner)
  heard_of(owner, alive)
  return {'lead'}
end

-- A flight without a link does not take away one that another has brought.
function commands.end_invite(account, visitor, slug, link, now)
  local q = account .. '\0' .. visitor
  local k = q .. '\0' .. slug
  if link == '' and call('HEXISTS', key('l:', k), 'link') == 1 then return end
  unlink(q, slug)
  if link ~= '' then
    call('HSET', key('l:', k), 'link', link, 'at', now)
    call('ZADD', key('links'), now, k)
    call('SADD', key('ls:', q), slug)
  end
end

-- Redis forgets the network by itself, a minute after the last one who counted.
function commands.admit(account, network, now, before, kept, limit)
  local n = key('n:', account, '\0', network)
  call('ZREMRANGEBYSCORE', n, '-inf', before)
  if limit ~= '' and call('ZCARD', n) >= num(limit) then return 0 end
  call('ZADD', n, now, call('INCR', key('seq')))
  call('PEXPIRE', n, kept)
  return 1
end

local function bucket(account, tokens, at)
  local b = call('HMGET', key('b:', account), 'tokens', 'at', 'until', 'share', 'slowed')
  return {tokens = num(b[1] or tokens), at = num(b[2] or at), hold = num(b[3] or '0'), share = num(b[4] or '1'),
    slowed = num(b[5] or '0')}
end

local function keep_bucket(account, b)
  call('HSET', key('b:', account), 'tokens', exact(b.tokens), 'at', exact(b.at), 'until', exact(b.hold),
    'share', exact(b.share), 'slowed', exact(b.slowed))
end

-- The bucket as this clock sees it: one that a clock ahead of it has kept would not refill until that time comes again.
-- Returns whether that changed it.
local function come_here(b, now)
  local changed = b.slowed - now > 5
  if changed then b.slowed = now end
  if b.hold - now > 3605 then
    b.at, b.hold, changed = now, 0, true
  elseif now >= b.hold and b.at - now > 5 then
    b.at, changed = now, true
  end
  return changed
end

local function share_at(b, now) return math.min(1, b.share + math.max(0, now - b.slowed) / 300 / 2) end

local function level(b, now, rate, burst)
  if now < b.hold then return 0 end
  return math.min(burst, b.tokens + math.max(0, now - b.at) * rate * share_at(b, now))
end

-- As outbox/bucket.py says it.
function commands.take(account, now, rate, burst, reserve, number)
  local b = bucket(account, burst, now)
  now, rate, burst, number = num(now), num(rate), num(burst), num(number)
  if come_here(b, now) then keep_bucket(account, b) end
  if now < b.hold then return exact(b.hold - now) end
  local tokens = level(b, now, rate, burst)
  local wanted = number + math.min(math.max(0, num(reserve)), math.max(0, burst - number))
  if tokens + 1e-9 < wanted then return exact((wanted - tokens) / (rate * share_at(b, now))) end
  b.tokens, b.at = math.max(0, tokens - number), math.max(now, b.at)
  keep_bucket(account, b)
  return '0'
end

function commands.hold(account, hold)
  if num(hold) > bucket(account, '0', hold).hold then
    call('HSET', key('b:', account), 'tokens', '0', 'at', hold, 'until', hold)
  end
end

function commands.halve(account, began, now)
  local b = bucket(account, '0', now)
  now = num(now)
  come_here(b, now)
  if num(began) >= b.slowed then b.share, b.slowed = math.max(1 / 16, share_at(b, now) / 2), now end
  keep_bucket(account, b)
end

function commands.level(account, now, rate, burst)
  local b = bucket(account, burst, now)
  come_here(b, num(now))
  return exact(level(b, num(now), num(rate), num(burst)))
end
