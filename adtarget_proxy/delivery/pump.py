"""Moves what journals hold into the store. No thread of its own: whoever delivers calls it.

The offset of a journal is recorded in the transaction that puts its events, and a put is idempotent by event id: a pump that dies
between any two steps, or runs beside another one, neither loses an event nor doubles it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby

from adtarget_proxy.errors import OutboxError, cause_of
from adtarget_proxy.outbox import JournalOffset, Outbox
from adtarget_proxy.outbox.journal import GRACE, Journal
from adtarget_proxy.outbox.lines import read_lines
from adtarget_proxy.outbox.segments import Segments, owner_of
from adtarget_proxy.tracking.events import Event, Written, read

_log = logging.getLogger("adtarget_proxy.delivery")
BATCH = 500  # events of memory:// a transaction
LITTLE = 16 * 1024  # bytes at once into a store that is full: what goes makes room by and by
ROOM = 0.0005  # seconds between two batches of a neighbour's journal, for whoever else wants to pump


class Pump:
    """Pumps for one process. Every method may be called from several threads and raises OutboxError where the store fails.

    ``between`` is called between two batches: what is in the store already need not wait for the rest of a long journal.
    """

    def __init__(self, outbox: Outbox, *, between: Callable[[], None] = lambda: None) -> None:
        self._outbox = outbox
        self._between = between

    def own(self, now: float) -> int:
        """Move this process' new events; returns how many were new to the store. A look at a file's size where there are none."""
        journal = self._outbox.journal
        with self._outbox.turn, self._faults():
            return self._arrivals(now) if journal is None else self._journal(journal, now)

    def machine(self, now: float) -> int:
        """Move the new events of every journal of this machine; journals whose process is gone are emptied and deleted.

        What a dead process had claimed is free afterwards.
        """
        moved = self.own(now)
        segments = self._outbox.segments
        if segments is None:
            return moved
        with self._faults():
            return moved + self._neighbours(segments, now)

    def living(self, now: float, *, until: float) -> int:
        """Move what this process and its living neighbours have written, up to the deadline ``until`` (time.monotonic()).

        That is all a click can have to wait for: its visitor was served a moment ago. What dead processes left is ``machine``'s.
        """
        if not self._outbox.turn.acquire(timeout=max(0.0, until - time.monotonic())):
            return 0
        try:
            journal = self._outbox.journal
            with self._faults():
                moved = self._arrivals(now) if journal is None else self._journal(journal, now)
        finally:
            self._outbox.turn.release()
        segments = self._outbox.segments
        if segments is None:
            return moved
        with self._faults():
            for name in sorted(self._foreign(segments), key=segments.written_at, reverse=True):
                moved += self._peek(segments, name, now, until)
        return moved

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutboxError(f"the journals cannot be read: {error.strerror}", cause=cause_of(error)) from None

    # -- this process ----------------------------------------------------------------------------------------------------

    def _arrivals(self, now: float) -> int:
        arrivals, moved = self._outbox.arrivals, 0
        while arrivals:
            batch = [arrivals.popleft() for _ in range(min(BATCH, len(arrivals)))]
            try:
                moved += self._outbox.store.put(batch, now=now)
            except OutboxError:
                arrivals.extendleft(reversed(batch))
                raise
        return moved

    def _journal(self, journal: Journal, now: float) -> int:
        moved = 0
        with suppress(OSError):  # a new file cannot be had; the next round tries again
            journal.mend()
        journal.make_way()
        for segment in journal.segments:
            moved += self._move(segment.name, segment.fd, now)
            if segment.rolled is not None and journal.drop(segment):
                self._outbox.store.forget_journal(segment.name)
        journal.renew()
        return moved

    # -- other processes -------------------------------------------------------------------------------------------------

    def _neighbours(self, segments: Segments, now: float) -> int:
        claiming = self._outbox.store.owners()  # before the listing: whoever claims already has a file to be listed
        names = self._foreign(segments)
        moved = 0
        for owner, files in groupby(names, key=owner_of):
            moved += self._neighbour(segments, owner, list(files), now)
        present = {owner_of(name) for name in (*names, *self._own())}
        for owner in self._outbox.store.silent(claiming - present):
            self._outbox.store.release(owner)
        return moved

    def _own(self) -> set[str]:
        journal = self._outbox.journal
        return set() if journal is None else {segment.name for segment in journal.segments}

    def _foreign(self, segments: Segments) -> list[str]:
        own = self._own()
        return [name for name in segments.names() if name not in own]

    def _neighbour(self, segments: Segments, owner: str, names: list[str], now: float) -> int:
        moved = 0
        locked: dict[str, int] = {}
        try:
            for name in names:
                fd = segments.lock(name)
                if fd is not None:
                    locked[name] = fd
            for name in names:
                if name in locked:
                    moved += self._share(name, locked[name], now, final=True)
                else:
                    moved += self._live(segments, name, now, rolled=name != names[-1])
            if locked and self._is_dead(segments, owner, locked):
                self._outbox.store.release(owner)
            for name in locked:
                segments.delete(name)
                self._outbox.store.forget_journal(name)
        finally:
            for fd in locked.values():
                segments.let_go(fd)
        return moved

    def _is_dead(self, segments: Segments, owner: str, locked: Iterable[str]) -> bool:
        """A living process has a file that it holds; it makes the next one before it lets go of the last."""
        return {name for name in segments.names() if owner_of(name) == owner} <= set(locked)

    def _live(self, segments: Segments, name: str, now: float, *, rolled: bool) -> int:
        """Read along in a living process' file; one that it has rolled, and that holds nothing more, is deleted for it.

        Its offset stays until the process itself lets go: that still has the file open, and would move it once more from its start.
        """
        fd = segments.open(name)
        if fd is None:
            return 0
        try:
            moved = self._share(name, fd, now)
            if rolled and time.time() - os.fstat(fd).st_mtime > GRACE:
                segments.delete(name)
            return moved
        finally:
            segments.let_go(fd)

    def _peek(self, segments: Segments, name: str, now: float, until: float) -> int:
        """Read along in a file, if its process lives."""
        fd = segments.lock(name)
        if fd is not None:
            segments.let_go(fd)
            return 0
        fd = segments.open(name)
        if fd is None:
            return 0
        try:
            return self._share(name, fd, now, until=until)
        finally:
            segments.let_go(fd)

    # -- one file --------------------------------------------------------------------------------------------------------

    def _share(self, name: str, fd: int, now: float, *, final: bool = False, until: float = float("inf")) -> int:
        """Move a neighbour's file batch by batch, so that nobody in this process waits for more than one of them."""
        moved = 0
        while time.monotonic() < until:
            with self._outbox.turn:
                offset = self._outbox.store.offset(name)
                if os.fstat(fd).st_nlink == 0:
                    break  # all in the store: deleted since we opened it, and then its offset was forgotten
                number, is_done = self._batch(name, fd, offset, now, final=final)
            moved += number
            if is_done:
                break
            self._between()
            time.sleep(ROOM)  # a lock that is given away and taken at once would never change hands
        return moved

    def _move(self, name: str, fd: int, now: float) -> int:
        moved, is_done = 0, False
        while not is_done:
            number, is_done = self._batch(name, fd, self._outbox.store.offset(name), now)
            moved += number
            if not is_done:
                self._between()
        return moved

    def _batch(self, name: str, fd: int, offset: int, now: float, *, final: bool = False) -> tuple[int, bool]:
        """Move one stretch from ``offset`` on; how many events were new, and whether nothing was left to move."""
        if os.fstat(fd).st_size <= offset:
            return 0, True
        stretch = self._outbox.store.stretch
        for size in (stretch, LITTLE):
            lines = read_lines(fd, offset, final=final, size=size)
            if lines.end == offset:
                return 0, True
            try:
                moved = self._outbox.store.put(
                    self._events(lines.bodies), now=now, journal=JournalOffset(name, lines.end)
                )
            except OutboxError as error:
                if error.cause != "full" or size == LITTLE:
                    raise
            else:
                break
        self._outbox.count("torn", lines.torn)
        return moved, False

    def _events(self, bodies: Iterable[bytes]) -> list[Event | Written]:
        events: list[Event | Written] = []
        for body in bodies:
            try:
                events.append(read(body.decode("ascii")))
            except ValueError:
                self._outbox.count("unreadable")
                _log.error("a journal holds an event that this version cannot read; it is passed over")
        return events
