"""What Redis does in one step: :class:`~asyncopt.shared.board.Board`, in Lua and on the server's own clock.

Every script has all its keys named, and all of them have one hash tag, so that a cluster keeps them together. Every key
has an expiry; what expires is what nobody has asked for so long that it makes no difference, but for an idle bucket,
which starts empty again after an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""

_KEEP = """
local function keep(key, moment, longer)
  local milliseconds = math.max(moment - now, 0) * 1000 + longer
  redis.call('SET', key, string.format('%.6f', moment), 'PX', string.format('%.0f', math.ceil(milliseconds)))
end
"""


@dataclass(frozen=True)
class Script:
    """A script and the hash that servers know it by."""

    text: str

    @cached_property
    def digest(self) -> str:
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# Ten minutes ahead, beside the longest turn of everybody, is more than takers can have reserved: there the server's
# clock has been set back, or another server with another clock has taken over, and nobody is to wait for that.
TAKE = Script(
    _NOW
    + _KEEP
    + """
local amount, rate, bucket, fresh = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local turns = tonumber(ARGV[5])
local full = bucket / rate
local paused = math.max(tonumber(redis.call('GET', KEYS[2]) or now), now)
local tat = tonumber(redis.call('GET', KEYS[1]) or now + full + fresh)
if tat > paused + full + turns + 600 then
  tat = now + full + fresh
end
tat = math.max(tat, now)
if paused > now then
  tat = math.max(tat, paused + full)
end
tat = tat + amount / rate
keep(KEYS[1], tat, 3600000)
return string.format('%.6f', math.max(tat - full - now, 0))
"""
)

GIVE_BACK = Script(
    _NOW
    + _KEEP
    + """
local tat = redis.call('GET', KEYS[1])
if tat then
  keep(KEYS[1], tonumber(tat) - tonumber(ARGV[1]) / tonumber(ARGV[2]), 3600000)
end
"""
)

PAUSE = Script(
    _NOW
    + _KEEP
    + """
local paused = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now + tonumber(ARGV[1]))
if paused > now then
  keep(KEYS[1], paused, 0)
end
"""
)

BEAT = Script(
    _NOW
    + """
redis.call('ZADD', KEYS[1], string.format('%.6f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 60)
local beat = {redis.call('ZCARD', KEYS[1])}
for i = 2, #KEYS do
  beat[i] = string.format('%.6f', math.max(tonumber(redis.call('GET', KEYS[i]) or now) - now, 0))
end
return beat
"""
)

# The answer is one text of ones and zeros: most claims are asked for again and again while others have them.
CLAIM = Script(
    _NOW
    + """
local free = {[ARGV[1]] = true}
local granted = {}
for i = 2, #KEYS do
  local owner = redis.call('GET', KEYS[i]) or ARGV[1]
  if free[owner] == nil then
    free[owner] = tonumber(redis.call('ZSCORE', KEYS[1], owner) or now) <= now
  end
  if free[owner] then
    redis.call('SET', KEYS[i], ARGV[1], 'EX', 86400)
  end
  granted[i - 1] = free[owner] and '1' or '0'
end
return table.concat(granted)
"""
)

RELEASE = Script(
    """
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[1] then
    redis.call('DEL', KEYS[i])
  end
end
"""
)
