"""A process' own journal: what makes an event durable before its response leaves, in one write.

No lock, index, thread or fsync on the way: that survives the death of the process, not the loss of power. Several threads
append at once; O_APPEND and one write each keep their lines whole. A descriptor keeps its number from the first event to the
last: rolling puts another file under it (dup2), so that a thread in the middle of an append writes to the old file or to the
new one, never to a stranger's.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from os import write
from time import monotonic, perf_counter

from adtarget_proxy.errors import OutboxError, cause_of
from adtarget_proxy.outbox.detour import IS_FULL, IS_SLOW, Detour, Fault, Full
from adtarget_proxy.outbox.lines import frame
from adtarget_proxy.outbox.segments import SUFFIX, Segments, owner_of
from adtarget_proxy.outbox.slowness import Slowness
from adtarget_proxy.outbox.trouble import Trouble
from adtarget_proxy.tracking.events import Event

SLOW = 0.05  # seconds that an append may take
ROLL_AT = 64 * 1024 * 1024  # bytes of one file
FILES = 16  # of one process; then events are given up until one has been drained
WORTH_IT = 64 * 1024  # bytes of a file whose deletion helps a full disk
OLD = 6 * 3600.0  # seconds after which a file that was moved whole gives way to a new one
GRACE = 60.0  # seconds that a rolled file is kept, for a write that was under way
IN_MEMORY = 10_000  # lines that wait while the disk does not answer


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of this process: ``rolled`` is when it was set aside (monotonic seconds), None for the one in use."""

    name: str
    fd: int
    rolled: float | None = None


class Journal:
    """Appends to files in ``segments``; touches no disk before the first event."""

    def __init__(
        self,
        segments: Segments,
        *,
        roll_at: int = ROLL_AT,
        files: int = FILES,
        slow: float = SLOW,
        grace: float = GRACE,
        old: float = OLD,
        has_room: Callable[[], bool] = lambda: True,
        trouble: Trouble | None = None,
    ) -> None:
        self.owner = f"{os.getpid()}-{secrets.token_hex(6)}"
        self.lost: Counter[str] = Counter()
        self._segments, self._roll_at, self._files, self._slow, self._grace = segments, roll_at, files, slow, grace
        self._old = old
        self._since = 0.0  # monotonic(), when the file was begun
        self._fd = -1  # writing to it fails, and the first event opens the file
        self._name, self._number, self._inode = "", 0, 0
        self._size = 0  # about: threads may count past each other
        self._slowness = Slowness()
        self._rolled: list[Segment] = []
        self._retired: list[int] = []
        self._aside: Detour | Full | None = None
        self._has_room, self._trouble = has_room, trouble or Trouble()
        self._turn = threading.Lock()  # for all but the append itself

    def append(self, event: Event) -> None:
        """Write one event. Raises nothing for a disk's fault: memory takes the line, or it is counted in ``lost``."""
        line = frame(event.encode().encode())
        aside = self._aside  # another thread may end it between two looks
        if aside is not None and aside.put(line):
            return
        began, fd = perf_counter(), self._fd
        try:
            written = write(fd, line)
        except OSError as error:
            self._stumble(fd, line, Fault.of(error))
            return
        if written != len(line):
            self._go_round_with(line, IS_FULL)
            return
        self._size += written
        ended = perf_counter()
        if ended - began > self._slow and self._slowness.shows(began, ended, written, self._size):
            self._go_round(IS_SLOW)
        if self._size > self._roll_at:
            self._grow()

    # -- the file --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Have a locked file, and with it a sign of life. Raises OutboxError."""
        with self._turn:
            try:
                self._open()
            except OSError as error:
                raise OutboxError(f"journal {self._segments.path}: {error.strerror}", cause=cause_of(error)) from None

    @property
    def segments(self) -> list[Segment]:
        """This process' files, oldest first; none before its first event."""
        with self._turn:
            return self._all()

    @property
    def is_held_up(self) -> bool:
        """Whether lines wait in memory for the disk."""
        aside = self._aside
        return isinstance(aside, Detour) and aside.holds

    def mend(self) -> None:
        """Go on in a new file where somebody deleted this one, or closed its descriptor under us. Raises OSError."""
        with self._turn:
            if self._fd < 0:
                return
            try:
                status = os.fstat(self._fd)
            except OSError:
                status = None
            if status is None or status.st_ino != self._inode:
                self._fd = -1
            elif status.st_nlink == 0:
                self._roll()

    def make_way(self) -> None:
        """On a full disk, keep out of what the store needs: lines wait in memory from now on."""
        if self._aside is None and self._fd >= 0 and not self._has_room():
            self._go_round(IS_FULL)

    def renew(self) -> None:
        """Begin another file, so that this one can be deleted, all of which is in the store: on a full disk, or of an old one.

        A store that was lost has its journals read again from their start. What is in them must then be young enough for AdTarget to
        know its key, which it does for 24 h.
        """
        with self._turn, suppress(OSError):
            is_full = isinstance(self._aside, Detour) and self._aside.is_full
            is_old = self._size > 0 and monotonic() - self._since >= self._old
            if self._fd >= 0 and (is_old or (is_full and self._size > WORTH_IT)) and self._room():
                self._roll()

    def drop(self, segment: Segment) -> bool:
        """Delete a rolled file whose events are all in the store; False while a write to it may still be under way."""
        with self._turn:
            if segment not in self._rolled or segment.rolled is None or monotonic() - segment.rolled < self._grace:
                return False
            self._rolled.remove(segment)
            self._segments.delete(segment.name)
            self._segments.let_go(segment.fd)
            return True

    def close(self, *, timeout: float = 0.5) -> None:
        """Let go of the files, and of the locks with them; a later event opens a new one."""
        if isinstance(self._aside, Detour):
            self._aside.quit(timeout)
        self._straight_on()
        with self._turn:
            for segment in self._all():
                if segment.rolled is not None:
                    self._segments.let_go(segment.fd)
            self._rolled = []
            if self._fd >= 0:
                self._retire()

    def abandon(self) -> None:
        """In a forked child: forget descriptors that the parent's locks live with; ``Segments.disown`` closes them."""
        self._fd = -1
        self._rolled, self._retired = [], []

    def __del__(self) -> None:
        """Only now can no thread hold the number of a retired descriptor any more."""
        for fd in self._retired:
            with suppress(OSError):
                self._segments.let_go(fd)

    def _all(self) -> list[Segment]:
        return self._rolled + ([Segment(self._name, self._fd)] if self._fd >= 0 else [])

    def _open(self) -> None:
        if self._fd >= 0:
            return
        self._name, self._fd = self._create()
        self._born()

    def _create(self) -> tuple[str, int]:
        name = f"{self.owner}.{self._number}{SUFFIX}"
        fd = self._segments.create(name)
        self._number += 1
        return name, fd

    def _born(self) -> None:
        self._inode, self._size, self._since = os.fstat(self._fd).st_ino, 0, monotonic()

    def _roll(self) -> None:
        name, new = self._create()
        old = Segment(self._name, self._segments.keep(self._fd), monotonic())
        os.dup2(new, self._fd, inheritable=False)
        self._segments.let_go(new)
        self._name = name
        self._rolled.append(old)
        self._born()

    def _retire(self) -> None:
        """Make writes to the descriptor fail without freeing its number, which might become a socket's."""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self._fd, inheritable=False)
        os.close(null)
        self._retired.append(self._fd)
        self._fd = -1

    # -- what is not the rule --------------------------------------------------------------------------------------------

    def _stumble(self, fd: int, line: bytes, fault: Fault) -> None:
        """A write to ``fd`` failed: there was no file yet, or another thread has opened one since, or the disk refuses."""
        if fd < 0 or fd != self._fd:
            began = perf_counter()
            try:
                quick = self._write_late(line)
            except OSError as error:
                fault = Fault.of(error)
            else:
                if not quick and self._slowness.shows(began, perf_counter(), len(line), self._size):
                    self._go_round(IS_SLOW)
                return
        self._go_round_with(line, fault)

    def _go_round_with(self, line: bytes, fault: Fault) -> None:
        """The line is left to memory and a thread."""
        if self._go_round(fault, line):
            return
        try:
            self._write_late(line)  # the detour that another thread began is over by now
        except OSError:
            self.lost["disk failed"] += 1

    def _go_round(self, fault: Fault, line: bytes | None = None) -> bool:
        """From now on, lines wait in memory; False where this one cannot."""
        with self._turn:
            aside = self._aside
            if aside is None:
                aside = self._aside = Detour(
                    self._write_late,
                    over=self._straight_on,
                    bound=IN_MEMORY,
                    has_room=self._has_room,
                    trouble=self._trouble,
                )
                aside.start(fault, line)
                return True
        return line is None or aside.put(line)

    def _write_late(self, line: bytes) -> bool:
        """Write a line off the beaten track; whether that was quick, the opening apart. Raises OSError."""
        with self._turn:
            self._open()
        began = monotonic()
        if write(self._fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(line)
        return monotonic() - began <= self._slow

    def _straight_on(self) -> None:
        aside, self._aside = self._aside, None
        if aside is not None:
            self.lost["slow disk" if isinstance(aside, Detour) else "journal full"] += aside.lost

    def _grow(self) -> None:
        """Past the size of a file: the next one, or, where too many wait for a pump, no more until one is gone."""
        with self._turn:
            if self._size <= self._roll_at:
                return  # another thread was first
            for segment in [segment for segment in self._rolled if os.fstat(segment.fd).st_nlink == 0]:
                self._rolled.remove(segment)  # another process' pump was done with it
                self._segments.let_go(segment.fd)
            if self._room():
                try:
                    self._roll()
                except OSError:
                    self._size = 0  # tried again a file's size later
            elif self._aside is None:
                self._aside = Full(self._room, over=self._straight_on)

    def _room(self) -> bool:
        return sum(owner_of(name) == self.owner for name in self._segments.names()) < self._files
