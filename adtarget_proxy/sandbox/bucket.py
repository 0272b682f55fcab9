"""The rate limit: a bucket a key, of ``burst`` tokens, refilled at ``rate`` a minute (adtarget-api: 300 and 50)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Buckets:
    """One token bucket for each key that calls."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = rate / 60
        self._burst = max(float(burst), 1.0)
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> int:
        """Takes a token; 0 if there was one, else the whole seconds to wait for the next (``Retry-After``)."""
        if not self._per_second:
            return 0
        now = self._clock()
        level, since = self._levels.get(key, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._per_second)
        if level < 1:
            self._levels[key] = (level, now)
            return max(1, math.ceil((1 - level) / self._per_second))
        self._levels[key] = (level - 1, now)
        return 0

    def clear(self) -> None:
        self._levels.clear()
