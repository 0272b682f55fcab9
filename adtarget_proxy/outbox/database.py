"""The SQLite file under the store: opening, transactions, forks, and what happens to one that is broken.

One connection a process, guarded by a lock: SQLite has one writer anyway, and a connection a thread would only move the wait into
its busy handler. A file that is no database or malformed is set aside under another name, never deleted.

No connection crosses a fork. SQLite keeps the locks on a file in a table of the process; a child that opens the same file finds
the parent's marks in it and takes locks for held that only the parent has, so that the parent's last connection deletes a log
that the child still writes (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_). So the file
is closed before the fork, which waits for a transaction under way but never for another process' one: that wait gives the lock
away. Where the disk keeps a transaction longer than a fork may wait, the child keeps the handle it inherited, never uses and never
closes it, and has no store: its events stay in its journal for other processes.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adtarget_proxy.errors import OutboxError, cause_of
from adtarget_proxy.outbox.reserve import reserve_for, reserve_of
from adtarget_proxy.outbox.tables.schema import migrate

try:
    import fcntl
except ImportError:  # Windows, where only memory:// is offered
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("adtarget_proxy.outbox")
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})  # a log's index that cannot grow is an I/O error
_CAUSES = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_CANTOPEN: "missing",
    sqlite3.SQLITE_CORRUPT: "broken",
    sqlite3.SQLITE_NOTADB: "broken",
}
PAGE = 4096  # bytes: SQLite's own
BUSY_TIMEOUT = 5.0  # seconds that a transaction waits for another process'
_BUSY_IN_SQLITE = 0.05  # seconds of it at a time inside SQLite, where a fork would have to wait along
FORK_TIMEOUT = 1.0  # seconds that a fork waits for a transaction
_CACHE = 8 * 1024  # KiB of pages: a batch of the pump, which SQLite would else write out and read in again
_PAUSE = 0.002  # seconds between two attempts to be the writer


class Database:
    """``path`` None keeps it in memory. Opened at the first transaction. Raises OutboxError for every fault of the file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._closed = False
        self._reserve = None if path is None else reserve_for(path)
        _databases.add(self)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start, so that what it reads stays true until it commits."""
        with self._faults(), self._turn("BEGIN IMMEDIATE") as db:
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Statements that change nothing; each sees the last commit."""
        with self._faults(), self._turn(None) as db:
            yield db

    @contextmanager
    def _turn(self, begin: str | None) -> Iterator[sqlite3.Connection]:
        """The connection, begun upon. While another process writes, the wait is done without the lock: see the module."""
        until = time.monotonic() + BUSY_TIMEOUT
        while True:
            with self._lock:
                try:
                    db = self._open()
                    if begin is not None:
                        db.execute(begin)
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                        raise
                else:
                    yield db
                    return
            time.sleep(_PAUSE)

    def checkpoint(self) -> None:
        """Bring the log into the file and empty it, as far as other processes let it. Raises OutboxError."""
        with self._lock, self._faults():
            self._open().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def keep_reserve(self) -> None:
        """Keep room on the disk that nothing but the store may use, where there is enough of it."""
        if self._reserve is not None:
            self._reserve.hold()

    def has_room(self, pages: int) -> bool:
        """Whether so much may be written without taking what a delete needs: in room of the disk's, or of the file's own."""
        return self._reserve is None or self._reserve.has_room(2 * PAGE * pages) or self.free_pages() >= pages

    def free_pages(self) -> int:
        """How many pages of the file may be written without making it larger. Raises OutboxError."""
        with self.reading() as db:
            return int(db.execute("PRAGMA freelist_count").fetchone()[0])

    def close(self) -> None:
        """Close the connection; the database is opened again by nobody."""
        with self._lock:
            self._closed = True
            self._drop()

    def before_fork(self) -> bool:
        """Close the file, which the next transaction opens again; False where a transaction takes too long to wait for."""
        if not self._lock.acquire(timeout=FORK_TIMEOUT):
            return False
        if self.path is not None:
            self._drop()
        return True

    def after_fork(self) -> None:
        """In parent and child, where ``before_fork`` was in time: go on."""
        self._lock.release()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _BROKEN and self.path is not None:
                try:
                    self._set_aside(self.path)
                except OSError as refusal:
                    words = f"{error}, and cannot be set aside: {refusal.strerror}"
                    raise OutboxError(f"outbox {self._where}: {words}", cause=cause_of(refusal)) from None
            if code in _FULL:
                self._relieve()
            raise OutboxError(f"outbox {self._where}: {error}", cause=_CAUSES.get(code, "")) from None
        except OSError as error:
            raise OutboxError(f"outbox {self._where}: {error.strerror}", cause=cause_of(error)) from None

    def _relieve(self) -> None:
        """Room for what comes next, on a disk that has none: the reserve's, and that of the log."""
        if self._reserve is None:
            return
        self._reserve.spend()
        with self._lock, suppress(sqlite3.Error, OSError, OutboxError):
            self._open().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def _where(self) -> str:
        return str(self.path or "in memory")

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise OutboxError(f"outbox {self._where}: closed")
        if self.path is not None and self.path in _unsafe:
            raise OutboxError(
                f"outbox {self._where}: forked while the disk did not answer; other processes send its events"
            )
        if self._connection is not None and self.path is not None and self._inode != _inode(self.path):
            self._drop()  # deleted, or set aside by another process: what follows belongs in the new file
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if self.path is not None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        target = ":memory:" if self.path is None else self.path
        db = sqlite3.connect(target, timeout=_BUSY_IN_SQLITE, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA cache_size = -{_CACHE}")
            if self.path is not None:
                self._bound_log(db, reserve_of(self.path.parent))
            migrate(db)
        except BaseException:
            db.close()
            raise
        self._inode = _inode(self.path) if self.path is not None else 0
        return db

    def _bound_log(self, db: sqlite3.Connection, size: int) -> None:
        """On a small disk a log of the usual size would itself be what fills it."""
        db.execute(f"PRAGMA wal_autocheckpoint = {size // PAGE}")
        db.execute(f"PRAGMA journal_size_limit = {size}")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _set_aside(self, path: Path) -> None:
        """Rename the broken file with its WAL, once for all processes: whoever comes second finds another inode."""
        with self._lock:
            seen = self._inode or _inode(path)
            self._drop()
            self._inode = 0
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _inode(path) != seen:
                return
            aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            path.rename(aside)
            _log.error("the outbox %s is broken; it was set aside as %s and a new one is started", path, aside.name)
        finally:
            os.close(lock)


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_held: list[Database] = []
_late: list[Database] = []
_unsafe: set[Path] = set()  # files whose parent's handle this process has inherited


def _before_fork() -> None:
    for database in list(_databases):
        (_held if database.before_fork() else _late).append(database)


def _after_fork_in_parent() -> None:
    _late.clear()
    while _held:
        _held.pop().after_fork()


def _after_fork_in_child() -> None:
    _unsafe.update(database.path for database in _late if database.path is not None)  # and _late keeps the handles
    while _held:
        _held.pop().after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1
