-- Claims and what becomes of them: tables/sending.py.

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
