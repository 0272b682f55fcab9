"""Ids that begin with the time, so that they fall on the end of a store's index, however large it is.

With random ones each new event, and each new visitor's queue, rewrites a page somewhere in an index of its own: with a million events
waiting the pump would pay three times as much. What is left to chance is still more than anybody can guess.
"""

from __future__ import annotations

from collections.abc import Callable

Entropy = Callable[[int], bytes]


def new_id(at: float, entropy: Entropy) -> str:
    """A new event's id: 12 hex digits of the time in milliseconds, 20 of chance, as in a UUIDv7 (RFC 9562, 6.11)."""
    return f"{int(at * 1000):012x}{entropy(10).hex()}"


def new_uuid(at: float, entropy: Entropy) -> str:
    """A new visitor's or session's id: 48 bits of the time in milliseconds, 74 of chance (RFC 9562, 6.2).

    It says that it is of version 4, as ``track.js``'s are: whoever checks the version of a ``tempId`` knows that one.
    """
    time, digits = f"{int(at * 1000) & 0xFFFFFFFFFFFF:012x}", entropy(10).hex()
    variant = "89ab"[int(digits[3], 16) & 3]  # RFC 9562, 4.1
    return f"{time[:8]}-{time[8:]}-4{digits[:3]}-{variant}{digits[4:7]}-{digits[7:19]}"
