"""The directory of the journals: files that are born locked and stay so as long as their process lives.

A file's name is ``<owner>.<number>.journal``; the owner is a process. ``flock`` lives with the open file, not with the
process, so a forked child has to close what it inherited: ``disown``. On the way to its name a file is called ``<name>.new``,
so that nobody ever sees one that is not locked yet.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from adtarget_proxy.errors import OutboxError

try:
    import fcntl
except ImportError:  # Windows, where only memory:// is offered
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".journal"
_NEW = ".new"
_STALE = 60.0  # seconds after which a file that never got its name is swept away


def owner_of(name: str) -> str:
    """The process that a journal file belongs to."""
    return name.split(".", 1)[0]


class Segments:
    """The journal files of one machine's outbox. Every method raises OSError as the file system does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: set[int] = set()

    def create(self, name: str) -> int:
        """A new file, locked before it has its name; returns its descriptor, for appending and reading."""
        if fcntl is None:
            raise OutboxError("this system has no flock; set the outbox to memory://")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        unborn = self.path / (name + _NEW)
        fd = os.open(unborn, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
        self._held.add(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unborn.rename(self.path / name)
        except BaseException:
            self.let_go(fd)
            with suppress(OSError):
                unborn.unlink()
            raise
        return fd

    def names(self) -> list[str]:
        """All journal files, each process' own in the order they were made."""
        try:
            found = [entry.name for entry in os.scandir(self.path)]
        except FileNotFoundError:
            return []
        for name in found:
            if name.endswith(_NEW):
                self._sweep(self.path / name)
        return sorted(
            (name for name in found if name.endswith(SUFFIX)), key=lambda name: (owner_of(name), len(name), name)
        )

    def written_at(self, name: str) -> float:
        """When a file was last written to, in Unix seconds; 0.0 where it is gone."""
        try:
            return (self.path / name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def lock(self, name: str) -> int | None:
        """The descriptor of a file whose process is gone, now locked by the caller; None where it lives or the file is gone."""
        fd = self.open(name)
        if fd is None:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.let_go(fd)
            return None
        if os.fstat(fd).st_nlink == 0:  # drained and deleted by another between our open and our lock
            self.let_go(fd)
            return None
        return fd

    def open(self, name: str, *, writing: bool = False) -> int | None:
        """A descriptor to read from, or to write in the middle; None where the file is gone."""
        try:
            fd = os.open(self.path / name, os.O_RDWR if writing else os.O_RDONLY)
        except FileNotFoundError:
            return None
        self._held.add(fd)
        return fd

    def keep(self, fd: int) -> int:
        """A second descriptor of the same open file: the lock lives as long as either."""
        twin = os.dup(fd)
        self._held.add(twin)
        return twin

    def let_go(self, fd: int) -> None:
        """Close it, and with the last descriptor of its open file the lock."""
        self._held.discard(fd)
        os.close(fd)

    def delete(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        (self.path / name).unlink(missing_ok=True)

    def disown(self) -> None:
        """In a forked child: close every descriptor that came from the parent, so that its locks end with the parent."""
        held, self._held = self._held, set()
        for fd in held:
            with suppress(OSError):
                os.close(fd)

    def _sweep(self, unborn: Path) -> None:
        """Delete what a process that died at birth left behind: it never held an event."""
        with suppress(OSError):
            if time.time() - unborn.stat().st_mtime > _STALE:
                unborn.unlink()
