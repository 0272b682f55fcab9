"""Taking a visitor out of the journals: their lines are overwritten where they stand, whoever's file it is.

A line's place is filled with blanks, which readers pass over. A living process only appends, so nothing else is touched.
"""

from __future__ import annotations

import os

from adtarget_proxy.outbox.lines import CHUNK, body_of
from adtarget_proxy.outbox.segments import Segments
from adtarget_proxy.tracking.events import decode


def erase_lines(segments: Segments, visitor: str) -> int:
    """Overwrite the visitor's lines in every journal of this machine; returns how many. Raises OSError."""
    return sum(_erase(segments, name, visitor) for name in segments.names())


def _erase(segments: Segments, name: str, visitor: str) -> int:
    fd = segments.open(name, writing=True)
    if fd is None:
        return 0
    erased, offset, size = 0, 0, CHUNK
    try:
        while data := os.pread(fd, size, offset):
            whole = data.rfind(b"\n") + 1
            if not whole:
                if len(data) < size:
                    break  # the last line is not finished, and may never be
                size *= 2
                continue
            place = offset
            for line in data[:whole].splitlines(keepends=True):
                if _is_of(line, visitor):
                    os.pwrite(fd, b" " * (len(line) - 1), place)
                    erased += 1
                place += len(line)
            offset, size = offset + whole, CHUNK
        if erased:
            os.fsync(fd)
        return erased
    finally:
        segments.let_go(fd)


def _is_of(line: bytes, visitor: str) -> bool:
    body = body_of(line.rstrip(b"\n"))
    if body is None:
        return False
    try:
        return decode(body).visitor == visitor
    except ValueError:
        return False
