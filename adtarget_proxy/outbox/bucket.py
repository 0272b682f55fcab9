"""The token bucket that all senders of an account share: arithmetic alone, kept by whichever store there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

_HAIR = 1e-9  # so that waiting exactly as long as was said is enough, whatever floats do


@dataclass(frozen=True, slots=True)
class Bucket:
    """``tokens`` at the time ``at`` (Unix seconds); nothing is given before ``until``."""

    tokens: float
    at: float
    until: float = 0.0

    def level(self, *, now: float, rate: float, burst: float) -> float:
        """Tokens in it now; ``rate`` in tokens a second."""
        if now < self.until:
            return 0.0
        return min(burst, self.tokens + max(0.0, now - self.at) * rate)

    def take(self, *, now: float, rate: float, burst: float, reserve: float) -> tuple[Bucket, float]:
        """One token out, ``reserve`` left in: the bucket afterwards, and 0.0 or the seconds to wait."""
        if now < self.until:
            return self, self.until - now
        tokens = self.level(now=now, rate=rate, burst=burst)
        wanted = 1.0 + min(max(0.0, reserve), max(0.0, burst - 1.0))
        if tokens + _HAIR >= wanted:
            return Bucket(max(0.0, tokens - 1.0), max(now, self.at), self.until), 0.0
        return self, (wanted - tokens) / rate

    def hold(self, until: float) -> Bucket:
        """Empty until then; a hold that lasts longer already stands."""
        return self if until <= self.until else replace(self, tokens=0.0, at=until, until=until)
