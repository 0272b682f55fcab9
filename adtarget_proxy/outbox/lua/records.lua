-- The operator's hand: tables/records.py.

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
