"""Idempotent replay: within 24 h the same key brings the first answer again, whatever the body (adtarget-api, D)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from .answers import Answer, invalid

WINDOW = 24 * 3600.0
LONGEST = 128


class Replays:
    """The answers kept for replay, by API key and ``Idempotency-Key``; at most ``keep`` of them, the oldest go first."""

    def __init__(self, keep: int, clock: Callable[[], float] = time.time) -> None:
        self._keep = keep
        self._clock = clock
        self._answers: OrderedDict[tuple[str, str], tuple[float, Answer, int]] = OrderedDict()

    def find(self, account: str, key: str) -> tuple[Answer, int] | None:
        """The first answer, marked as a replay, and the number of the request it was given to.

        Raises ``Refusal`` for a key over 128 characters.
        """
        if len(key) > LONGEST:
            raise invalid(f"Idempotency-Key has more than {LONGEST} characters")
        found = self._answers.get((account, key))
        if found is None:
            return None
        stored, answer, number = found
        if self._clock() - stored >= WINDOW:
            del self._answers[account, key]
            return None
        return replace(answer, headers={**answer.headers, "X-Idempotent-Replay": "true"}), number

    def store(self, account: str, key: str, answer: Answer, number: int) -> None:
        if len(key) <= LONGEST:
            self._answers[account, key] = (self._clock(), answer, number)
            if len(self._answers) > self._keep:
                self._answers.popitem(last=False)

    def clear(self) -> None:
        self._answers.clear()
