"""The IAB's TC string (Transparency & Consent Framework 2): the purposes and vendors of its core segment.

"Transparency and Consent String with Global Vendor & CMP List Formats v2", IAB Tech Lab: base64url without padding, big-endian bit
fields, bit 1 of a field the lowest id. Purposes' consents are 24 bits from bit 152; vendors' consents begin at bit 213 with the
highest id (16 bits) and one bit: 0 a field of that many bits, 1 ranges (12 bits how many; each 1 bit "is a range", then one or
two ids of 16 bits).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode

_CORE = re.compile(r"[A-Za-z0-9_-]{39,8192}")  # 230 bits at least: up to the vendors' first
_PURPOSES, _NUMBER_OF_PURPOSES = 152, 24
_VENDORS = 213
_VERSION = 2


class TCString:
    """The core segment of a TC string. Raises ValueError for what is none, or is of another version than 2."""

    def __init__(self, text: str) -> None:
        core = text.partition(".")[0]
        if not _CORE.fullmatch(core):
            raise ValueError("no TC string")
        whole = core + "A" * (-len(core) % 4)  # encoders end with any character, not with a whole byte
        self._bits = int.from_bytes(urlsafe_b64decode(whole))
        self._length = len(whole) * 6
        if self._read(0, 6) != _VERSION:
            raise ValueError("no TC string of version 2")

    def allows(self, purpose: int) -> bool:
        """Whether the visitor consents to a purpose, by its number from 1 to 24."""
        return 1 <= purpose <= _NUMBER_OF_PURPOSES and self._read(_PURPOSES + purpose - 1, 1) == 1

    def allows_vendor(self, vendor: int) -> bool:
        """Whether the visitor consents to a vendor, by its number in the Global Vendor List. Raises ValueError where it is cut off."""
        highest, in_ranges = self._read(_VENDORS, 16), self._read(_VENDORS + 16, 1)
        if not 1 <= vendor <= highest:
            return False
        at = _VENDORS + 17
        if not in_ranges:
            return self._read(at + vendor - 1, 1) == 1
        entries, at = self._read(at, 12), at + 12
        for _ in range(entries):
            is_range, first = self._read(at, 1), self._read(at + 1, 16)
            last, at = (self._read(at + 17, 16), at + 33) if is_range else (first, at + 17)
            if first <= vendor <= last:
                return True
        return False

    def _read(self, start: int, size: int) -> int:
        if start + size > self._length:
            raise ValueError("a TC string that is cut off")
        return self._bits >> (self._length - start - size) & ((1 << size) - 1)
