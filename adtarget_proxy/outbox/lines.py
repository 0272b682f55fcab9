"""The line of a journal: eight hex digits of CRC-32, a space, the event as ASCII JSON, a line break.

A line that fails its checksum is torn: its process died, or its disk was full, in the middle of the write. Where a good line was
written right behind a torn one, without a line break between them, it is found all the same.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from zlib import crc32

CHUNK = 256 * 1024  # bytes read at once: some hundred events, one transaction
_HEAD = re.compile(rb"(?=([0-9a-f]{8}) \{)")


@dataclass(frozen=True, slots=True)
class Lines:
    """What a stretch of a journal holds: the good lines' JSON, where the stretch ends (bytes), how many lines were torn."""

    bodies: list[bytes]
    end: int
    torn: int


def frame(body: bytes) -> bytes:
    """``body`` as a journal's line."""
    return b"%08x %b\n" % (crc32(body), body)


def read_lines(fd: int, offset: int, *, final: bool, size: int = CHUNK) -> Lines:
    """The next stretch from ``offset``: whole lines only, unless it is ``final``, when nobody will finish the last one.

    ``size`` in bytes is about what is read: a line that is longer is read whole.
    """
    while True:
        data = os.pread(fd, size, offset)
        whole = data.rfind(b"\n") + 1
        if whole or len(data) < size:
            break
        size *= 2  # a line longer than the stretch
    if final and len(data) < size:
        whole = len(data)
    bodies, torn = [], 0
    for line in data[:whole].split(b"\n"):
        if not line:
            continue
        body = _body(line)
        if body is None:
            if line.isspace():
                continue  # erased
            body = _behind_torn(line)
            torn += 1
        if body is not None:
            bodies.append(body)
    return Lines(bodies, offset + whole, torn)


def body_of(line: bytes) -> bytes | None:
    """The JSON of a line without its break, also where it stands behind a torn one; None where there is no good one."""
    body = _body(line)
    return _behind_torn(line) if body is None else body


def _body(line: bytes) -> bytes | None:
    body = line[9:]
    return body if line[:9] == b"%08x " % crc32(body) else None


def _behind_torn(line: bytes) -> bytes | None:
    for match in _HEAD.finditer(line, 1):
        body = _body(line[match.start() :])
        if body is not None:
            return body
    return None
