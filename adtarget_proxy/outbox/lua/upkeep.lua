-- What grows old: tables/upkeep.py.

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
