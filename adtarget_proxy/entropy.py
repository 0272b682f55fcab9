"""Random bytes for ids: the system's own, fetched many at a time, since a page should not pay a system call for each id."""

from __future__ import annotations

import os

_BLOCK = 16  # bytes: a UUID, or an idempotency key
_BLOCKS = 128


class Entropy:
    """``os.urandom`` with a stock. Safe to use from several threads; a forked child never draws from its parent's stock."""

    def __init__(self) -> None:
        self._stock: list[bytes] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._stock.clear)

    def __call__(self, size: int) -> bytes:
        """``size`` random bytes, each handed out once."""
        if size > _BLOCK:
            return os.urandom(size)
        try:
            return self._stock.pop()[:size]  # one atomic step, so that no two threads take the same
        except IndexError:
            fresh = os.urandom(_BLOCK * _BLOCKS)
            self._stock.extend(fresh[start : start + _BLOCK] for start in range(_BLOCK, len(fresh), _BLOCK))
            return fresh[:size]


entropy = Entropy()
