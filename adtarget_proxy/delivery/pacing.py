"""How fast an account may be used: the bucket lives in the store, shared by all; what is asked of it is decided here.

AdTarget takes 300 requests a minute and key, burst 50. Ten tokens are held back for invite clicks and five more for conversions,
so a queue of page views never makes a button wait.
"""

from __future__ import annotations

import threading

from adtarget_proxy.tracking.events import Conversion, Event

FOR_CLICKS = 10.0
FOR_CONVERSIONS = 5.0
_SLOWEST = 1 / 16
_RECOVERY = 300.0  # seconds from half the rate back to all of it


def reserve(event: Event) -> float:
    """Tokens that must be left in the bucket when this event, waiting in the outbox, takes one."""
    return FOR_CLICKS if isinstance(event, Conversion) else FOR_CLICKS + FOR_CONVERSIONS


class Pace:
    """The account's rate, in tokens a second. A keyless 429 halves it, since that surface's limit is not documented."""

    def __init__(self, *, rate: float, burst: float) -> None:
        """``rate`` in requests a minute, as the settings have it."""
        self.burst = burst
        self._full = rate / 60.0
        self._share = 1.0
        self._since = 0.0
        self._lock = threading.Lock()

    def rate(self, now: float) -> float:
        """Tokens a second at this time; it climbs back in a straight line."""
        return self._full * self._share_at(now)

    def halve(self, now: float) -> None:
        """AdTarget's keyless surface said 429."""
        with self._lock:
            self._share = max(_SLOWEST, self._share_at(now) / 2.0)
            self._since = now

    def _share_at(self, now: float) -> float:
        return min(1.0, self._share + max(0.0, now - self._since) / _RECOVERY / 2.0) if self._share < 1.0 else 1.0
