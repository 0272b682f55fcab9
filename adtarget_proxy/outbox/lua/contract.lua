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
