"""What a store says when it gives something up at one of its bounds: once a minute, however much goes."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger("adtarget_proxy.outbox")
_SAY_AGAIN = 60.0  # seconds


class Bounds:
    """One a store."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def shed_events(self, bound: int) -> None:
        """More than ``bound`` events waited."""
        self._say(f"the outbox is full ({bound} events): the least worthy are given up")

    def shed_dead(self, bound: int) -> None:
        """There were more than ``bound`` dead letters."""
        self._say(f"there are more than {bound} dead letters: the oldest are given up")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if now - self._said.get(text, -_SAY_AGAIN) >= _SAY_AGAIN:
            self._said[text] = now
            _log.warning("%s", text)
