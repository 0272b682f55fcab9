-- The call itself.

if ARGV[1] == 'put' then return commands.put(ARGV[2], ARGV[3], ARGV[4], ARGV[5]) end -- more arguments than unpack takes
return commands[ARGV[1]](unpack(ARGV, 2))
