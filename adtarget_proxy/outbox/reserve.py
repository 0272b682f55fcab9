"""Room on the disk that is kept for the store alone: a file that is given up when the disk is full.

A delete in SQLite needs room too, in its log and then in the file. On a disk that other files, or the log itself, have filled to the last
byte nothing that was sent could be struck off, so nothing more could be sent, and nothing would ever make room. Once the reserve has
been given up, only what leaves the store may write, until there is room for a reserve again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from adtarget_proxy.errors import cause_of

_LARGEST = 16 * 1024 * 1024  # bytes: what SQLite's log grows to before it is brought in, at two fsync a time
_SMALLEST = 64 * 1024
_SHARE = 8  # of a small file system


def reserve_of(directory: Path) -> int:
    """Bytes that are kept for the store on the file system of ``directory``. Raises OSError."""
    status = os.statvfs(directory)
    return max(_SMALLEST, min(_LARGEST, status.f_blocks * status.f_frsize // _SHARE))


class Reserve:
    """The file beside a database, one for all its processes. Its methods raise nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_spent = False

    def has_room(self, size: int) -> bool:
        """Whether it is held and this many bytes (of a file, and of the log before it) are free besides."""
        if not self.hold():
            return False
        try:
            return _free(self._path.parent) >= size
        except OSError:
            return True

    def hold(self) -> bool:
        """Whether it is there, or no file system tells; made where it is not, and the disk has room for it and half as much.

        The first is made smaller where it has to be: a disk on which little is free is not full.
        """
        if self._path.exists():
            return True
        try:
            free, size = _free(self._path.parent), reserve_of(self._path.parent)
        except OSError:
            return True
        if free < size * 3 // 2:
            size = free // 2
            if self._is_spent or size < _SMALLEST:
                return False
        try:
            self._make(size)
        except OSError as error:  # where another process was first, or the directory is gone, the disk is not full
            return cause_of(error) != "full"
        self._is_spent = False
        return True

    def spend(self) -> None:
        """Give it up."""
        self._is_spent = True
        with suppress(OSError):
            self._path.unlink()

    def _make(self, size: int) -> None:
        fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
            else:  # macOS
                os.write(fd, bytes(size))
        except OSError:
            self.spend()
            raise
        finally:
            os.close(fd)


def _free(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


@cache
def reserve_for(database: Path) -> Reserve:
    """The reserve of a database file: one in a process."""
    return Reserve(database.with_name(database.name + ".reserve"))
