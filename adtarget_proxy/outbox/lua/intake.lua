-- What comes in: see tables/intake.py, which does the same.

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
