-- Queues, and where a claim finds them.

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
