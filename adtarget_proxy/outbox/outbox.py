"""The outbox of one process: what the request path appends to, and what senders find behind it.

Everything that a fork must not share (journal, store, locks, the queue of ``memory://``) lives in a ``_Room`` that a child replaces
before it runs a line of its own.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox.journal import Journal
from adtarget_proxy.outbox.place import Place
from adtarget_proxy.outbox.reserve import reserve_for
from adtarget_proxy.outbox.segments import Segments
from adtarget_proxy.outbox.store import Store
from adtarget_proxy.outbox.trouble import Trouble
from adtarget_proxy.tracking.events import Event

try:
    import fcntl
except ImportError:  # Windows, where only memory:// is offered
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("adtarget_proxy.outbox")
IN_MEMORY = 100_000  # events that wait for the pump of memory://
_SECRET = 64  # hex digits


class _Room:
    """What belongs to one process, and to its kind of locks. ``segments`` None: memory://."""

    def __init__(self, place: Place, segments: Segments | None, secret: str | None = None) -> None:
        self.mark = _mark()
        self.turn = threading.Lock()  # one pump at a time
        self.opening = threading.Lock()
        self.store: Store | None = None
        self.secret = secret
        self.lost: Counter[str] = Counter()
        self.failed = False
        self.arrivals: deque[Event] = deque()
        self.trouble = Trouble()
        self.journal = None
        if segments is not None:
            self.journal = Journal(segments, has_room=_room_beside(place), trouble=self.trouble)


class Outbox:
    """Where events are kept from the response to AdTarget's answer. Opened by its URL; starts nothing by itself."""

    def __init__(self, place: Place) -> None:
        self.place = place
        path = place.path
        self.segments = None if path is None else Segments(path.with_name(path.name + ".journal"))
        self._room = _Room(place, self.segments)
        self._inherited: list[_Room] = []
        _living.add(self)

    @classmethod
    def open(cls, url: str) -> Outbox:
        """The outbox at ``url``, see ``Place.parse``; touches no disk and no network. Raises OutboxError."""
        place = Place.parse(url)
        if place.path is not None and fcntl is None:
            raise OutboxError("this system has no flock, which a durable outbox needs; set the outbox to memory://")
        return cls(place)

    # -- the request path ------------------------------------------------------------------------------------------------

    def append(self, event: Event) -> None:
        """Keep one event: durable when this returns (but for ``memory://``). Never raises; what cannot be kept is counted."""
        room = self._room
        try:
            if room.journal is not None:
                room.journal.append(event)
            elif len(room.arrivals) < IN_MEMORY:
                room.arrivals.append(event)
            else:
                room.lost["memory full"] += 1
        except Exception as error:
            room.lost["unwritable"] += 1
            if not room.failed:
                room.failed = True
                _log.error("an event could not be kept: %s", type(error).__name__)

    # -- behind it -------------------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """This process' store, opened at its first use. Its methods raise OutboxError."""
        room = self._room
        if room.store is None:
            with room.opening:
                if room.store is None:
                    room.store = self.place.store()
        return room.store

    @property
    def owner(self) -> str:
        """The name under which this process claims; its journal's lock is held from here on. Raises OutboxError."""
        journal = self._room.journal
        if journal is None:
            return "memory"
        journal.open()
        return journal.owner

    @property
    def journal(self) -> Journal | None:
        """This process' journal; None for ``memory://``."""
        return self._room.journal

    @property
    def arrivals(self) -> deque[Event]:
        """What ``memory://`` has in place of a journal: events that the pump has not fetched yet, oldest first."""
        return self._room.arrivals

    @property
    def is_behind(self) -> bool:
        """Whether this process has events that the store does not know yet. Raises OutboxError."""
        room = self._room
        if room.journal is None:
            return bool(room.arrivals)
        store = self.store
        return self.is_held_up or any(
            os.fstat(segment.fd).st_size > store.offset(segment.name) for segment in room.journal.segments
        )

    @property
    def is_held_up(self) -> bool:
        """Whether events of this process wait in memory for a disk that does not take them."""
        journal = self._room.journal
        return journal is not None and journal.is_held_up

    @property
    def turn(self) -> threading.Lock:
        """Held by whoever pumps in this process."""
        return self._room.turn

    @property
    def trouble(self) -> Trouble:
        """What is wrong with this place, as this process has met it."""
        return self._room.trouble

    def suffers(self, error: OutboxError) -> None:
        """The store refused: said once, by whoever meets it first. A file that is broken was told of when it was set aside."""
        if error.cause == "broken":
            return
        words = f"{error}; pages are served, events and outcomes are kept until it is well again"
        self.trouble.met("store", error.cause or str(error), words)

    @property
    def lost(self) -> Mapping[str, int]:
        """Events that this process gave up, and torn lines it passed over, by cause."""
        journal = self._room.journal
        return self._room.lost + (journal.lost if journal is not None else Counter())

    def count(self, cause: str, number: int = 1) -> None:
        """Add to ``lost``."""
        if number:
            self._room.lost[cause] += number

    def secret(self) -> str:
        """The secret of a keyless site: made once and kept beside the outbox; where that cannot be, one of this process."""
        room = self._room
        if room.secret is None:
            with room.opening:
                if room.secret is None:
                    room.secret = self._kept_secret()
        return room.secret

    def close(self) -> None:
        """Let go of the journal and the store. Waiting events stay; an event that comes later is kept in a new journal."""
        room = self._room
        if room.journal is not None:
            names = [segment.name for segment in room.journal.segments]
            room.journal.close()
            if room.store is not None:
                with suppress(OutboxError, OSError):
                    self._clear(names, room.store)
                    room.store.release(room.journal.owner)
        if room.store is not None:
            store, room.store = room.store, None  # a server may start its lifespan again: the next use opens anew
            store.close()

    def settle_in(self) -> None:
        """At the first use in a process: start anew where a fork has told nobody, or where gevent has patched the locks since.

        uWSGI forks without Python's hooks. Two workers under one name would write over each other's journals.
        """
        if self._room.mark != _mark():
            self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In the child, called by the fork itself: start anew, and close what would keep the parent's journal locked.

        The parent's room is kept and never used: closing what is in it would act on the parent's behalf.
        """
        parent = self._room
        self._room = _Room(self.place, self.segments, parent.secret)
        self._inherited.append(parent)
        if parent.journal is not None and self.segments is not None:
            parent.journal.abandon()
            self.segments.disown()

    def _clear(self, names: list[str], store: Store) -> None:
        """Delete own files that are let go of and all in the store. The lock is free only when no write is under way any more."""
        if self.segments is None:
            return
        for name in names:
            fd = self.segments.lock(name)
            if fd is None:
                continue  # whoever drains it next deletes it
            try:
                if os.fstat(fd).st_size <= store.offset(name):
                    self.segments.delete(name)
                    store.forget_journal(name)
            finally:
                self.segments.let_go(fd)

    def _kept_secret(self) -> str:
        if self.place.path is None:
            return secrets.token_hex(_SECRET // 2)
        path = self.place.path.with_name(self.place.path.name + ".secret")
        try:
            return _read_or_make(path)
        except OSError as error:
            _log.warning(
                "no secret can be kept at %s (%s): visitors' state lasts as long as this process", path, error.strerror
            )
            return secrets.token_hex(_SECRET // 2)


def _room_beside(place: Place) -> Callable[[], bool]:
    """Whether a journal leaves the store what that needs of their disk."""
    if place.engine != "sqlite" or place.path is None:
        return lambda: True
    return reserve_for(place.path).hold


def _read_or_make(path: Path) -> str:
    """The file's secret, written by whichever process holds its lock first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        kept = os.pread(fd, _SECRET, 0).decode("ascii", "replace")
        if len(kept) < _SECRET:  # new, or its maker died while writing
            kept = secrets.token_hex(_SECRET // 2)
            os.pwrite(fd, kept.encode(), 0)
            os.fsync(fd)
        return kept
    finally:
        os.close(fd)


def _mark() -> tuple[int, object]:
    """Which process this is, and what its locks are made of: gevent puts others in the place of ``threading``'s."""
    return os.getpid(), threading.Lock


_living: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _after_fork() -> None:
    for outbox in list(_living):
        outbox.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
