-- The store's contract over Redis: one call, one command, atomic. ARGV[1] names the command, the rest are its arguments.
--
-- Numbers stay the strings they came as, since Lua would print them with 14 digits. A queue is account .. NUL .. visitor.
-- Below the prefix:
--   e:<id>           an event: q, account, kind, worth (now), class (as it was made), at, nb (its own not_before), due, tries,
--                    unknown, owner, seq, body, fbp (where an update amended it)
--   q:<queue>        its events by seq; qv: its visits, qu: its updates, qd: its dead letters
--   m:<queue>        how many of each class (w<n>), and where a claim finds the queue (into, as)
--   ready:<account>:<worth>   queues whose head may go: by the head's age, then by seq, which the member begins with
--   asleep:<account>          queues whose head is not due, by due time
--   age:<kind>       unclaimed events by age; w:<worth> all of a class by age; patient: plain visits that have not risen
--   claims:<owner>   flights:<owner>   owners   alive:<owner>
--   dead, d:<id>, da:<account>   settled   v:at, v:settled   l:<queue NUL slug>, links, ls:<queue>
--   n:<account NUL network>   when its visitors without cookies asked for links
--   b:<account>   journals   t:<account>, accounts, lost   seq, deaths

local P = KEYS[1]
local call, num = redis.call, tonumber
local PLAIN = 4

local function key(...) return P .. table.concat({...}) end
local function exact(x) return string.format('%.17g', x) end

local function tally(account, field, n)
  call('SADD', key('accounts'), account)
  call('HINCRBY', key('t:', account), field, n)
end

local function remember(id, now) return call('ZADD', key('settled'), 'GT', now, id) end

local function leave(owner)
  if call('EXISTS', key('claims:', owner), key('flights:', owner)) == 0 then call('SREM', key('owners'), owner) end
end

local function heard_of(owner, alive)
  call('SET', key('alive:', owner), 1, 'PX', alive)
end

-- queues ---------------------------------------------------------------------------------------------------------------

local function place_at(q, into, as, score)
  call('ZADD', into, score, as)
  call('HSET', key('m:', q), 'into', into, 'as', as)
end

local function ready(q, account, seq, at)
  local counts = call('HMGET', key('m:', q), 'w1', 'w2', 'w3', 'w4')
  local worth = PLAIN
  for n = PLAIN, 1, -1 do
    if counts[n] and num(counts[n]) > 0 then worth = n end
  end
  place_at(q, key('ready:', account, ':', worth), string.format('%016d', num(seq)) .. q, at)
end

local function displace(q)
  local place = call('HMGET', key('m:', q), 'into', 'as')
  if place[1] then
    call('ZREM', place[1], place[2])
    call('HDEL', key('m:', q), 'into', 'as')
  end
end

local function place(q)
  displace(q)
  local head = call('ZRANGE', key('q:', q), 0, 0)[1]
  if not head then
    call('DEL', key('m:', q))
    return
  end
  local e = call('HMGET', key('e:', head), 'seq', 'at', 'due', 'owner', 'account')
  if e[4] then return end
  if num(e[3]) ~= 0 then
    place_at(q, key('asleep:', e[5]), q, e[3])
  else
    ready(q, e[5], e[1], e[2])
  end
end

local function drop(id)
  local e = call('HMGET', key('e:', id), 'q', 'kind', 'worth', 'owner', 'account')
  call('ZREM', key('q:', e[1]), id)
  call('ZREM', key('w:', e[3]), id)
  call('ZREM', key('age:', e[2]), id)
  if e[2] == 'visit' then
    call('ZREM', key('qv:', e[1]), id)
    call('ZREM', key('patient'), id)
  elseif e[2] == 'fbp-update' then
    call('ZREM', key('qu:', e[1]), id)
  end
  call('HINCRBY', key('m:', e[1]), 'w' .. e[3], -1)
  call('DEL', key('e:', id))
  if e[4] then
    call('SREM', key('claims:', e[4]), id)
    leave(e[4])
  end
  tally(e[5], e[4] and 'claimed' or 'waiting', -1)
end

-- Updates that a newer visit has overtaken go first: they would patch that one.
local function refresh(q)
  local sent = call('ZSCORE', key('v:at'), q)
  if sent then
    for _, id in ipairs(call('ZRANGE', key('qu:', q), 0, -1)) do
      local e = call('HMGET', key('e:', id), 'owner', 'at')
      if not e[1] and num(e[2]) <= num(sent) then
        remember(id, call('ZSCORE', key('v:settled'), q))
        drop(id)
      end
    end
  end
  place(q)
end

local function stand(id, q, kind, worth, at, seq)
  call('ZADD', key('q:', q), seq, id)
  if kind == 'visit' then
    call('ZADD', key('qv:', q), seq, id)
  elseif kind == 'fbp-update' then
    call('ZADD', key('qu:', q), seq, id)
  end
  call('HINCRBY', key('m:', q), 'w' .. worth, 1)
end

-- At the end of its queue; the caller counts it.
local function enqueue(id, account, visitor, kind, worth, at, nb, body, fbp)
  local q, seq = account .. '\0' .. visitor, call('INCR', key('seq'))
  call('HSET', key('e:', id), 'q', q, 'account', account, 'kind', kind, 'worth', worth, 'class', worth, 'at', at,
    'nb', nb, 'due', nb, 'tries', 0, 'seq', seq, 'body', body)
  if fbp then call('HSET', key('e:', id), 'fbp', fbp) end
  call('ZADD', key('w:', worth), at, id)
  call('ZADD', key('age:', kind), at, id)
  if kind == 'visit' and num(worth) == PLAIN then call('ZADD', key('patient'), at, id) end
  stand(id, q, kind, worth, at, seq)
  if call('ZCARD', key('q:', q)) > 1 then
    place(q)
  elseif num(nb) ~= 0 then
    place_at(q, key('asleep:', account), q, nb)
  else
    place_at(q, key('ready:', account, ':', worth), string.format('%016d', seq) .. q, at)
  end
end

local function mark(id, owner)
  local e = call('HMGET', key('e:', id), 'kind', 'account')
  call('HSET', key('e:', id), 'owner', owner)
  call('ZREM', key('age:', e[1]), id)
  call('SADD', key('claims:', owner), id)
  call('SADD', key('owners'), owner)
  tally(e[2], 'waiting', -1)
  tally(e[2], 'claimed', 1)
end

local function unmark(id)
  local e = call('HMGET', key('e:', id), 'kind', 'account', 'at', 'owner')
  call('HDEL', key('e:', id), 'owner')
  call('ZADD', key('age:', e[1]), e[3], id)
  call('SREM', key('claims:', e[4]), id)
  leave(e[4])
  tally(e[2], 'claimed', -1)
  tally(e[2], 'waiting', 1)
end

local function claimed(id)
  return call('HMGET', key('e:', id), 'account', 'body', 'fbp', 'tries', 'unknown')
end

local function bury(id, reason, status, answer, now)
  local e = call('HMGET', key('e:', id), 'q', 'account', 'kind', 'class', 'nb', 'body', 'fbp', 'tries')
  call('HSET', key('d:', id), 'q', e[1], 'account', e[2], 'kind', e[3], 'class', e[4], 'nb', e[5], 'body', e[6],
    'tries', e[8], 'reason', reason, 'status', status, 'answer', answer, 'died_at', now)
  if e[7] then call('HSET', key('d:', id), 'fbp', e[7]) end
  call('ZADD', key('dead'), call('INCR', key('deaths')), id)
  call('SADD', key('da:', e[2]), id)
  call('SADD', key('qd:', e[1]), id)
  drop(id)
  tally(e[2], 'dead', 1)
  refresh(e[1])
end

local function unbury(id)
  local d = call('HMGET', key('d:', id), 'account', 'q', 'died_at')
  call('DEL', key('d:', id))
  call('ZREM', key('dead'), id)
  call('SREM', key('da:', d[1]), id)
  call('SREM', key('qd:', d[2]), id)
  tally(d[1], 'dead', -1)
  return d
end

local function unlink(q, slug)
  local k = q .. '\0' .. slug
  local owner = call('HGET', key('l:', k), 'owner')
  call('DEL', key('l:', k))
  call('ZREM', key('links'), k)
  call('SREM', key('ls:', q), slug)
  if owner then
    call('SREM', key('flights:', owner), k)
    leave(owner)
  end
end

local function split(k) return string.match(k, '^(.*)%z([^%z]*)$') end

-- putting --------------------------------------------------------------------------------------------------------------

local function known(id)
  return call('EXISTS', key('e:', id), key('d:', id)) > 0 or call('ZSCORE', key('settled'), id)
end

-- Whether an update needs no request of its own: a visit that waits untried carries it, or a newer one went out or waits.
local function absorbed(id, q, at, fbp, now)
  local sent = call('ZSCORE', key('v:at'), q)
  if sent and num(sent) >= num(at) then return remember(id, now) end
  local visit = call('ZREVRANGE', key('qv:', q), 0, 0)[1]
  if not visit then return false end
  local e = call('HMGET', key('e:', visit), 'at', 'tries', 'owner', 'seq')
  if num(e[1]) >= num(at) then return remember(id, now) end
  if num(e[2]) > 0 or e[3] then return false end
  call('HSET', key('e:', visit), 'fbp', fbp)
  -- Older updates behind it would overwrite the newer value at AdTarget.
  for _, older in ipairs(call('ZRANGEBYSCORE', key('qu:', q), '(' .. e[4], '+inf')) do
    if call('HEXISTS', key('e:', older), 'owner') == 0 then
      remember(older, now)
      drop(older)
    end
  end
  place(q)
  return remember(id, now)
end

-- At the bound the least worthy goes, the newest of them first; claimed ones stay.
local function shed(bound)
  local excess = -bound
  for worth = 1, PLAIN do excess = excess + call('ZCARD', key('w:', worth)) end
  local gone = 0
  for worth = PLAIN, 1, -1 do
    local passed = 0
    while gone < excess do
      local id = call('ZREVRANGE', key('w:', worth), passed, passed)[1]
      if not id then break end
      local e = call('HMGET', key('e:', id), 'owner', 'q')
      if e[1] then
        passed = passed + 1
      else
        drop(id)
        refresh(e[2])
        gone = gone + 1
      end
    end
  end
  if gone > 0 then call('HINCRBY', key('lost'), 'shed', gone) end
  return gone
end

-- A conversion's JSON without what it borrowed: cut out, since its numbers would not come back from Lua as they were. A quote
-- inside of a string is escaped, so the name's own quotes are found nowhere else.
local function unlent(body)
  for _, name in ipairs({'fbp', 'fbc', 'client_ip', 'user_agent'}) do
    local first, last = string.find(body, '"' .. name .. '":"', 1, true)
    if first then
      repeat
        last = last + 1
        local byte = string.sub(body, last, last)
        if byte == '\\' then last = last + 1 end
      until byte == '"' or byte == ''
      if string.sub(body, last + 1, last + 1) == ',' then
        last = last + 1
      elseif string.sub(body, first - 1, first - 1) == ',' then
        first = first - 1
      end
      body = string.sub(body, 1, first - 1) .. string.sub(body, last + 1)
    end
  end
  return body
end

-- Whatever was made of the visitor up to then goes, or is a conversion; the settled ids keep the cut.
local function withdraw(visitor, at, now)
  remember('withdrawn ' .. visitor, at)
  for _, account in ipairs(call('SMEMBERS', key('accounts'))) do
    local q = account .. '\0' .. visitor
    for _, id in ipairs(call('ZRANGE', key('q:', q), 0, -1)) do
      local e = call('HMGET', key('e:', id), 'kind', 'at', 'body')
      if num(e[2]) <= num(at) then
        if e[1] == 'conversion' then
          call('HSET', key('e:', id), 'body', unlent(e[3]))
        else
          remember(id, now)
          drop(id)
        end
      end
    end
    refresh(q)
    for _, id in ipairs(call('SMEMBERS', key('qd:', q))) do
      local d = call('HMGET', key('d:', id), 'kind', 'body')
      if cjson.decode(d[2])['t'] <= num(at) then
        if d[1] == 'conversion' then
          call('HSET', key('d:', id), 'body', unlent(d[2]))
        else
          unbury(id)
          remember(id, now)
        end
      end
    end
    for _, slug in ipairs(call('SMEMBERS', key('ls:', q))) do unlink(q, slug) end
  end
end

local function is_withdrawn(visitor, at)
  local cut = call('ZSCORE', key('settled'), 'withdrawn ' .. visitor)
  return cut and num(at) <= num(cut)
end

local commands = {}

function commands.put(now, bound, journal, offset)
  if journal ~= '' then
    if num(call('HGET', key('journals'), journal) or '0') >= num(offset) then return {0, 0} end
    call('HSET', key('journals'), journal, offset)
  end
  for n = 6, #ARGV, 10 do
    if ARGV[n + 3] == 'withdrawal' then withdraw(ARGV[n + 2], ARGV[n + 5], now) end
  end
  local new, standing = 0, {}
  for n = 6, #ARGV, 10 do
    local id, account, visitor, kind, at, fbp = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], ARGV[n + 5], ARGV[n + 8]
    local body, is_gone = ARGV[n + 7], kind == 'withdrawal'
    if not is_gone and is_withdrawn(visitor, at) then
      is_gone = kind ~= 'conversion'
      body = unlent(body)
    end
    if not is_gone and not known(id) then
      new = new + 1
      if kind ~= 'fbp-update' or not absorbed(id, account .. '\0' .. visitor, at, fbp, now) then
        enqueue(id, account, visitor, kind, ARGV[n + 4], at, ARGV[n + 6], body)
        if ARGV[n + 9] ~= '' then call('HSET', key('e:', id), 'unknown', ARGV[n + 9]) end
        standing[account] = (standing[account] or 0) + 1
      end
    end
  end
  for account, number in pairs(standing) do tally(account, 'waiting', number) end
  return {new, new > 0 and shed(num(bound)) or 0}
end

-- sending --------------------------------------------------------------------------------------------------------------

function commands.claim(owner, now, limit, alive, ...)
  heard_of(owner, alive)
  local found = {}
  for _, account in ipairs({...}) do
    for _, q in ipairs(call('ZRANGEBYSCORE', key('asleep:', account), '-inf', now, 'LIMIT', 0, 2000)) do
      displace(q)
      local e = call('HMGET', key('e:', call('ZRANGE', key('q:', q), 0, 0)[1]), 'seq', 'at')
      ready(q, account, e[1], e[2])
    end
    local wanted = num(limit)
    for worth = 1, PLAIN do
      if wanted <= 0 then break end
      local page = call('ZRANGE', key('ready:', account, ':', worth), 0, wanted - 1, 'WITHSCORES')
      for n = 1, #page, 2 do
        found[#found + 1] = {worth, num(page[n + 1]), string.sub(page[n], 1, 16), string.sub(page[n], 17)}
      end
      wanted = wanted - #page / 2
    end
  end
  table.sort(found, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    if a[2] ~= b[2] then return a[2] < b[2] end
    return a[3] < b[3]
  end)
  local answer = {}
  for n = 1, math.min(#found, num(limit)) do
    local q = found[n][4]
    local id = call('ZRANGE', key('q:', q), 0, 0)[1]
    mark(id, owner)
    displace(q)
    answer[n] = {id, claimed(id)}
  end
  return answer
end

-- A retry's back-off is overridden, an event's own not_before is not.
function commands.promote(account, visitor, owner, now, alive)
  local q = account .. '\0' .. visitor
  local newest = call('ZREVRANGE', key('qv:', q), 0, 0, 'WITHSCORES')
  if not newest[1] then return {} end
  local taken, open, visits = {}, true, 0
  for _, id in ipairs(call('ZRANGEBYSCORE', key('q:', q), '-inf', newest[2])) do
    local e = call('HMGET', key('e:', id), 'owner', 'nb', 'kind')
    if e[1] then return 'busy' end
    open = open and num(e[2]) <= num(now)
    if open then
      taken[#taken + 1] = id
      if e[3] == 'visit' then visits = #taken end
    end
  end
  if visits == 0 then return {} end
  heard_of(owner, alive)
  local answer = {}
  for n = 1, visits do
    mark(taken[n], owner)
    answer[n] = {taken[n], claimed(taken[n])}
  end
  refresh(q)
  return answer
end

function commands.settle(id, now)
  local e = call('HMGET', key('e:', id), 'q', 'kind', 'at', 'account')
  if not e[1] then
    local dead = call('EXISTS', key('d:', id)) > 0 and unbury(id)[1] or ''
    if remember(id, now) > 0 then tally(dead, 'sent', 1) end
    return
  end
  remember(id, now)
  drop(id)
  tally(e[4], 'sent', 1)
  if e[2] == 'visit' then
    call('ZADD', key('v:at'), 'GT', e[3], e[1])
    call('ZADD', key('v:settled'), now, e[1])
  end
  refresh(e[1])
end

function commands.put_back(id, not_before, now, unknown, counted)
  local e = call('HMGET', key('e:', id), 'q', 'owner')
  if not e[1] then return end
  call('HSET', key('e:', id), 'due', not_before)
  call('HINCRBY', key('e:', id), 'tries', counted)
  if unknown == '1' then call('HSETNX', key('e:', id), 'unknown', now) end
  if e[2] then unmark(id) end
  refresh(e[1])
end

function commands.bury(id, reason, status, answer, now)
  if call('EXISTS', key('e:', id)) > 0 then bury(id, reason, status, answer, now) end
end

function commands.release(owner)
  local ids = call('SMEMBERS', key('claims:', owner))
  for _, id in ipairs(ids) do unmark(id) end
  for _, id in ipairs(ids) do refresh(call('HGET', key('e:', id), 'q') or '') end
  for _, k in ipairs(call('SMEMBERS', key('flights:', owner))) do unlink(split(k)) end
  call('SREM', key('owners'), owner)
  call('DEL', key('alive:', owner))
  return #ids
end

function commands.next_due(now, ...)
  local soonest
  for _, account in ipairs({...}) do
    for worth = 1, PLAIN do
      if call('EXISTS', key('ready:', account, ':', worth)) > 0 then return '0' end
    end
    local first = call('ZRANGE', key('asleep:', account), 0, 0, 'WITHSCORES')[2]
    if first then
      local wait = math.max(0, num(first) - num(now))
      if not soonest or wait < soonest then soonest = wait end
    end
  end
  return soonest and exact(soonest)
end

-- invite links and pacing ----------------------------------------------------------------------------------------------

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
function commands.take(account, now, rate, burst, reserve)
  local b = bucket(account, burst, now)
  now, rate, burst = num(now), num(rate), num(burst)
  if come_here(b, now) then keep_bucket(account, b) end
  if now < b.hold then return exact(b.hold - now) end
  local tokens = level(b, now, rate, burst)
  local wanted = 1 + math.min(math.max(0, num(reserve)), math.max(0, burst - 1))
  if tokens + 1e-9 < wanted then return exact((wanted - tokens) / (rate * share_at(b, now))) end
  b.tokens, b.at = math.max(0, tokens - 1), math.max(now, b.at)
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

-- looking after --------------------------------------------------------------------------------------------------------

local function lift(before, limit)
  for _, id in ipairs(call('ZRANGEBYSCORE', key('patient'), '-inf', before, 'LIMIT', 0, limit)) do
    local e = call('HMGET', key('e:', id), 'q', 'at')
    call('ZREM', key('patient'), id)
    call('HSET', key('e:', id), 'worth', PLAIN - 1)
    call('ZREM', key('w:', PLAIN), id)
    call('ZADD', key('w:', PLAIN - 1), e[2], id)
    call('HINCRBY', key('m:', e[1]), 'w' .. PLAIN, -1)
    call('HINCRBY', key('m:', e[1]), 'w' .. (PLAIN - 1), 1)
    place(e[1])
  end
end

local function wake(far, limit)
  for _, account in ipairs(call('SMEMBERS', key('accounts'))) do
    for _, q in ipairs(call('ZRANGEBYSCORE', key('asleep:', account), '(' .. far, '+inf', 'LIMIT', 0, limit)) do
      call('HSET', key('e:', call('ZRANGE', key('q:', q), 0, 0)[1]), 'due', '0')
      place(q)
    end
  end
end

-- The oldest, for their age or their number; how many went for the latter.
local function forget_dead(before, limit, bound)
  local excess, aged, gone = call('ZCARD', key('dead')) - bound, 0, 0
  for _, id in ipairs(call('ZRANGE', key('dead'), 0, limit - 1)) do
    if num(call('HGET', key('d:', id), 'died_at')) < num(before) then
      aged = aged + 1
    elseif aged + gone < excess then
      gone = gone + 1
    else
      break
    end
    remember(id, unbury(id)[3])
  end
  if gone > 0 then call('HINCRBY', key('lost'), 'dead letters', gone) end
  return gone
end

function commands.expire(now, limit, words, risen, settled, links, far, dead, max_dead, ...)
  local kinds, buried = {...}, 0
  for n = 1, #kinds, 2 do
    local old = call('ZRANGEBYSCORE', key('age:', kinds[n]), '-inf', '(' .. kinds[n + 1], 'LIMIT', 0, num(limit) - buried)
    for _, id in ipairs(old) do
      if call('EXISTS', key('e:', id)) > 0 then -- an update may have gone with the burial before it
        local unknown = call('HEXISTS', key('e:', id), 'unknown') == 1
        bury(id, unknown and 'unknown' or 'expired', '', words, now)
        buried = buried + 1
      end
    end
  end
  lift(risen, limit)
  wake(far, limit)
  for _, id in ipairs(call('ZRANGEBYSCORE', key('settled'), '-inf', '(' .. settled, 'LIMIT', 0, limit)) do
    call('ZREM', key('settled'), id)
  end
  for _, q in ipairs(call('ZRANGEBYSCORE', key('v:settled'), '-inf', '(' .. settled, 'LIMIT', 0, limit)) do
    call('ZREM', key('v:settled'), q)
    call('ZREM', key('v:at'), q)
  end
  for _, k in ipairs(call('ZRANGEBYSCORE', key('links'), '-inf', '(' .. links, 'LIMIT', 0, limit)) do unlink(split(k)) end
  return {buried, forget_dead(dead, limit, max_dead)}
end

function commands.replay(id, now)
  local d = call('HMGET', key('d:', id), 'q', 'account', 'kind', 'class', 'nb', 'body', 'fbp')
  if not d[1] then return 0 end
  unbury(id)
  enqueue(id, d[2], string.sub(d[1], #d[2] + 2), d[3], d[4], now, d[5], d[6], d[7])
  tally(d[2], 'waiting', 1)
  return 1
end

function commands.purge(id)
  if call('EXISTS', key('d:', id)) == 0 then return 0 end
  remember(id, unbury(id)[3])
  return 1
end

function commands.erase(visitor, now)
  local erased = 0
  for _, account in ipairs(call('SMEMBERS', key('accounts'))) do
    local q = account .. '\0' .. visitor
    for _, id in ipairs(call('ZRANGE', key('q:', q), 0, -1)) do
      remember(id, now)
      drop(id)
      erased = erased + 1
    end
    place(q)
    for _, id in ipairs(call('SMEMBERS', key('qd:', q))) do
      unbury(id)
      remember(id, now)
      erased = erased + 1
    end
    call('ZREM', key('v:at'), q)
    call('ZREM', key('v:settled'), q)
  end
  for _, k in ipairs(call('ZRANGE', key('links'), 0, -1)) do
    local q, slug = split(k)
    if string.sub(q, -#visitor - 1) == '\0' .. visitor then unlink(q, slug) end
  end
  return erased
end

local function is_free(q)
  for _, id in ipairs(call('ZRANGE', key('q:', q), 0, -1)) do
    if call('HEXISTS', key('e:', id), 'owner') == 1 then return false end
  end
  return true
end

local function move(q, source, target)
  local home = target .. string.sub(q, #source + 1)
  local ids = call('ZRANGE', key('q:', q), 0, -1)
  displace(q)
  for _, id in ipairs(ids) do
    local e = call('HMGET', key('e:', id), 'kind', 'worth', 'at', 'seq')
    call('HSET', key('e:', id), 'q', home, 'account', target)
    stand(id, home, e[1], e[2], e[3], e[4])
  end
  call('DEL', key('q:', q), key('qv:', q), key('qu:', q), key('m:', q))
  tally(source, 'waiting', -#ids)
  tally(target, 'waiting', #ids)
  refresh(home)
  return #ids
end

-- Whole queues; one that a claim holds stays until it has ended.
function commands.adopt(source, target, limit)
  local moved, wanted = 0, num(limit)
  local places = {key('asleep:', source)}
  for worth = 1, PLAIN do places[worth + 1] = key('ready:', source, ':', worth) end
  for n, from in ipairs(places) do
    local passed = 0
    while moved < wanted do
      local member = call('ZRANGE', from, passed, passed)[1]
      if not member then break end
      local q = n == 1 and member or string.sub(member, 17)
      if is_free(q) then moved = moved + move(q, source, target) else passed = passed + 1 end
    end
  end
  for _, id in ipairs(moved < wanted and call('SRANDMEMBER', key('da:', source), wanted - moved) or {}) do
    local home = target .. string.sub(call('HGET', key('d:', id), 'q'), #source + 1)
    call('SREM', key('qd:', call('HGET', key('d:', id), 'q')), id)
    call('SADD', key('qd:', home), id)
    call('SMOVE', key('da:', source), key('da:', target), id)
    call('HSET', key('d:', id), 'q', home, 'account', target)
    tally(source, 'dead', -1)
    tally(target, 'dead', 1)
    moved = moved + 1
  end
  return moved
end

if ARGV[1] == 'put' then return commands.put(ARGV[2], ARGV[3], ARGV[4], ARGV[5]) end -- more arguments than unpack takes
return commands[ARGV[1]](unpack(ARGV, 2))
