"""The token bucket that all senders of an account share: arithmetic alone, kept by whichever store there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

_HAIR = 1e-9  # so that waiting exactly as long as was said is enough, whatever floats do
SKEW = 5.0  # seconds that the clocks of several machines may differ
LONGEST_HOLD = 3600.0  # seconds: no Retry-After is taken for longer
SLOWEST = 1 / 16  # of the rate, however often it was halved
RECOVERY = 300.0  # seconds from half the rate back to all of it


@dataclass(frozen=True, slots=True)
class Bucket:
    """``tokens`` at the time ``at`` (Unix seconds); nothing is given before ``until``.

    It refills at the ``share`` of the rate that was left at the time ``slowed``, and at more and more of it since.
    """

    tokens: float
    at: float
    until: float = 0.0
    share: float = 1.0
    slowed: float = 0.0

    def level(self, *, now: float, rate: float, burst: float) -> float:
        """Tokens in it now; ``rate`` in tokens a second."""
        here = self._here(now)
        if now < here.until:
            return 0.0
        return min(burst, here.tokens + max(0.0, now - here.at) * rate * here.share_at(now))

    def take(self, *, now: float, rate: float, burst: float, reserve: float, number: int = 1) -> tuple[Bucket, float]:
        """So many tokens out or none, ``reserve`` left in: the bucket afterwards, and 0.0 or the seconds to wait."""
        here = self._here(now)
        if now < here.until:
            return here, here.until - now
        tokens = here.level(now=now, rate=rate, burst=burst)
        wanted = number + min(max(0.0, reserve), max(0.0, burst - number))
        if tokens + _HAIR >= wanted:
            return replace(here, tokens=max(0.0, tokens - number), at=max(now, here.at)), 0.0
        return here, (wanted - tokens) / (rate * here.share_at(now))

    def hold(self, until: float) -> Bucket:
        """Empty until then; a hold that lasts longer already stands."""
        return self if until <= self.until else replace(self, tokens=0.0, at=until, until=until)

    def halve(self, *, began: float, now: float) -> Bucket:
        """A 429 to an attempt that ``began`` at that time: half the rate, unless it was halved after the attempt had begun."""
        here = self._here(now)
        if began < here.slowed:
            return here
        return replace(here, share=max(SLOWEST, here.share_at(now) / 2.0), slowed=now)

    def share_at(self, now: float) -> float:
        """The share of the rate; it climbs back in a straight line."""
        return min(1.0, self.share + max(0.0, now - self.slowed) / RECOVERY / 2.0)

    def _here(self, now: float) -> Bucket:
        """Itself, unless it was kept by a clock that has since gone back: it would not refill until that time comes again."""
        here = replace(self, slowed=now) if self.slowed - now > SKEW else self
        if here.until - now > LONGEST_HOLD + SKEW:
            return replace(here, at=now, until=0.0)
        if now >= here.until and here.at - now > SKEW:
            return replace(here, at=now)
        return here
