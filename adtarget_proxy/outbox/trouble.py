"""What is wrong with the place that events are kept in: said once a cause, by whoever meets it first, and once when it is over.

A disk that is full fails the journal, the pump, the writing down of outcomes, each with words of its own. It is one cause, and
one line in the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_log = logging.getLogger("adtarget_proxy.outbox")
SAY_AGAIN = 60.0  # seconds before a cause that went and came back is said again


class Trouble:
    """One a process. Safe to use from several threads; never raises, whatever the app's log does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._causes: dict[str, str] = {}  # who suffers → what from
        self._said: dict[str, float] = {}
        self._lost = 0
        self._is_told = False

    def met(self, who: str, cause: str, text: str) -> None:
        """``who`` suffers from ``cause``; ``text`` is said unless that cause is known, from whomever."""
        with self._lock:
            known = cause in self._causes.values()
            self._causes[who] = cause
            now = self._clock()
            if known or now - self._said.get(cause, -SAY_AGAIN) < SAY_AGAIN:
                return
            self._said[cause] = now
            self._is_told = True
        with suppress(Exception):
            _log.error("%s", text)

    def over(self, who: str, *, lost: int = 0) -> None:
        """``who`` is well again and gave up ``lost`` events meanwhile. Said when nobody suffers any more."""
        if who not in self._causes:
            return
        with self._lock:
            self._causes.pop(who, None)
            self._lost += lost
            if self._causes or not (self._is_told or self._lost):
                return
            lost, self._lost, self._is_told = self._lost, 0, False
        with suppress(Exception):
            _log.warning("the outbox is well again; %d events were given up", lost)
