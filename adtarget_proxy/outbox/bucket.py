"""The token bucket that all senders of an account share: arithmetic alone, kept by whichever store there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

_HAIR = 1e-9  # so that waiting exactly as long as was said is enough, whatever floats do
SKEW = 5.0  # seconds that the clocks of several machines may differ
LONGEST_HOLD = 3600.0  # seconds: no Retry-After is taken for longer


@dataclass(frozen=True, slots=True)
class Bucket:
    """``tokens`` at the time ``at`` (Unix seconds); nothing is given before ``until``."""

    tokens: float
    at: float
    until: float = 0.0

    def level(self, *, now: float, rate: float, burst: float) -> float:
        """Tokens in it now; ``rate`` in tokens a second."""
        here = self._here(now)
        if now < here.until:
            return 0.0
        return min(burst, here.tokens + max(0.0, now - here.at) * rate)

    def take(self, *, now: float, rate: float, burst: float, reserve: float) -> tuple[Bucket, float]:
        """One token out, ``reserve`` left in: the bucket afterwards, and 0.0 or the seconds to wait."""
        here = self._here(now)
        if now < here.until:
            return here, here.until - now
        tokens = here.level(now=now, rate=rate, burst=burst)
        wanted = 1.0 + min(max(0.0, reserve), max(0.0, burst - 1.0))
        if tokens + _HAIR >= wanted:
            return Bucket(max(0.0, tokens - 1.0), max(now, here.at), here.until), 0.0
        return here, (wanted - tokens) / rate

    def hold(self, until: float) -> Bucket:
        """Empty until then; a hold that lasts longer already stands."""
        return self if until <= self.until else replace(self, tokens=0.0, at=until, until=until)

    def _here(self, now: float) -> Bucket:
        """Itself, unless it was kept by a clock that has since gone back: it would not refill until that time comes again."""
        if self.until - now > LONGEST_HOLD + SKEW:
            return Bucket(self.tokens, now)
        if now >= self.until and self.at - now > SKEW:
            return replace(self, at=now)
        return self
