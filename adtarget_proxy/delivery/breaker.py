"""The breaker of one account: it opens after failures in a row, and one probe at a time finds out whether AdTarget is back.

No visitor ever waits for a probe. It is an event that waits; where this process has none to send (``deliver="worker"``, an empty
outbox) it is the call of a click whose visitor already has the fallback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum

from adtarget_proxy.delivery.timing import Timing

THRESHOLD = 3  # failures or time-outs in a row


class State(StrEnum):
    """What the account can be used for."""

    OK = "ok"
    OPEN = "breaker-open"  # AdTarget does not answer
    PAUSED = "paused"  # AdTarget refuses the credential or the subscription


class Breaker:
    """Times are seconds of any steady clock. Safe to use from several threads."""

    def __init__(self, *, timing: Timing, random: Callable[[], float]) -> None:
        self._timing = timing
        self._random = random
        self._lock = threading.Lock()
        self._state = State.OK
        self._reason = ""
        self._failures = 0
        self._pause = timing.probe_first
        self._probe_at = 0.0
        self._probing = False
        self._changed_at = float("-inf")  # when it opened or closed last

    @property
    def state(self) -> State:
        """OK as long as everything may go."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is not OK, in a few words; empty where it is."""
        return self._reason

    def probe_in(self, now: float) -> float:
        """Seconds until something may be sent; 0.0 where it may at once."""
        return 0.0 if self._state is State.OK else max(0.0, self._probe_at - now)

    def take_probe(self, now: float) -> bool:
        """Whether the caller is the probe. One at a time: the next may go when this one has ended or its clock has run out."""
        with self._lock:
            if self._state is State.OK or now < self._probe_at:
                return False
            self._probing = True
            self._probe_at = now + self._timing.call
            return True

    def drop_probe(self, now: float) -> None:
        """The caller took the probe and it came to no answer either way; without effect where it did."""
        with self._lock:
            if self._probing:
                self._probing = False
                self._probe_at = now

    def succeeded(self, *, now: float) -> bool:
        """A definite answer came; True where that closes the breaker."""
        with self._lock:
            changed = self._state is not State.OK
            if changed:
                self._changed_at = now
            self._state, self._reason, self._failures, self._probing = State.OK, "", 0, False
            self._pause = self._timing.probe_first
            return changed

    def failed(self, reason: str, *, now: float, began: float | None = None) -> bool:
        """No definite answer came in time; True where that opens the breaker.

        An attempt that ``began`` before the breaker last opened or closed tells nothing of what has been learnt since.
        """
        with self._lock:
            if began is not None and began < self._changed_at:
                return False
            self._failures += 1
            if self._state is State.OK:
                if self._failures < THRESHOLD:
                    return False
                self._state, self._reason, self._changed_at = State.OPEN, reason, now
                self._sleep(now)
                return True
            if self._probing:  # calls that were under way when it opened prove nothing new
                self._pause = min(self._timing.probe_longest, self._pause * 2)
                self._sleep(now)
            return False

    def pause(self, reason: str, *, now: float) -> bool:
        """AdTarget refuses the account; True where that is news."""
        with self._lock:
            news = self._state is not State.PAUSED
            self._state, self._reason, self._probing = State.PAUSED, reason, False
            self._probe_at = now + self._timing.resume
            return news

    def _sleep(self, now: float) -> None:
        """Half of the pause and a random part of the other half, so that processes do not probe in step."""
        self._probing = False
        self._probe_at = now + self._pause * (0.5 + 0.5 * self._random())
