"""The SQLite file under the store: opening, schema, transactions, and what happens to one that is broken.

One connection a process, guarded by a lock: SQLite has one writer anyway, and a connection a thread would only move the wait into
its busy handler. A file that is no database or malformed is set aside under another name, never deleted.
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

from adtarget_proxy.errors import OutboxError

try:
    import fcntl
except ImportError:  # Windows, where only memory:// is offered
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("adtarget_proxy.outbox")
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
BUSY_TIMEOUT = 5.0  # seconds that a transaction waits for another process'

# What brings a file from version N to N+1; a new version appends one and never edits an old one.
MIGRATIONS = (
    """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, queue INTEGER NOT NULL, kind TEXT NOT NULL, worth INTEGER NOT NULL,
        at REAL NOT NULL, due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, unknown_since REAL, owner TEXT,
        body TEXT NOT NULL);
    CREATE INDEX events_in_queue ON events (queue, seq);
    CREATE INDEX events_worth_in_queue ON events (queue, worth);
    CREATE INDEX updates_in_queue ON events (queue) WHERE kind = 'fbp-update';
    CREATE INDEX events_by_worth ON events (worth, at);
    CREATE INDEX events_by_age ON events (kind, at);
    CREATE INDEX events_claimed ON events (owner) WHERE owner IS NOT NULL;
    CREATE TABLE queues (
        id INTEGER PRIMARY KEY, account TEXT NOT NULL, visitor TEXT NOT NULL, worth INTEGER NOT NULL, head INTEGER NOT NULL,
        head_at REAL NOT NULL, due REAL NOT NULL, state INTEGER NOT NULL, UNIQUE (account, visitor));
    CREATE INDEX queues_ready ON queues (account, worth, head_at, head) WHERE state = 0;
    CREATE INDEX queues_asleep ON queues (account, due) WHERE state = 1;
    CREATE TABLE dead (
        n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, account TEXT NOT NULL, reason TEXT NOT NULL,
        status INTEGER, answer TEXT NOT NULL, died_at REAL NOT NULL, tries INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE TABLE settled (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX settled_by_age ON settled (at);
    CREATE TABLE visits (
        account TEXT NOT NULL, visitor TEXT NOT NULL, at REAL NOT NULL, settled_at REAL NOT NULL,
        PRIMARY KEY (account, visitor)) WITHOUT ROWID;
    CREATE INDEX visits_by_age ON visits (settled_at);
    CREATE TABLE links (
        account TEXT NOT NULL, visitor TEXT NOT NULL, slug TEXT NOT NULL, link TEXT, owner TEXT, at REAL NOT NULL,
        PRIMARY KEY (account, visitor, slug)) WITHOUT ROWID;
    CREATE INDEX links_by_age ON links (at);
    CREATE INDEX links_by_owner ON links (owner) WHERE owner IS NOT NULL;
    CREATE TABLE buckets (account TEXT PRIMARY KEY, tokens REAL NOT NULL, at REAL NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE journals (name TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE tally (
        account TEXT PRIMARY KEY, waiting INTEGER NOT NULL, claimed INTEGER NOT NULL, dead INTEGER NOT NULL,
        sent INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE lost (bound TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
    """,
)


class Database:
    """``path`` None keeps it in memory. Opened at the first transaction. Raises OutboxError for every fault of the file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._closed = False
        _databases.add(self)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start, so that what it reads stays true until it commits."""
        with self._lock, self._faults():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
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
        with self._lock, self._faults():
            yield self._open()

    def close(self) -> None:
        """Close the connection. Not for one that was inherited over a fork: SQLite's locks belong to the parent."""
        with self._lock:
            self._closed = True
            self._drop()

    def before_fork(self) -> None:
        """End what is under way and close the file, which the next transaction opens again.

        SQLite keeps its locks on a file in a table of the process. A child would inherit it, with marks of locks that it does not
        hold (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_).
        """
        self._lock.acquire()
        if self._path is not None:
            self._drop()

    def after_fork(self) -> None:
        """In parent and child: go on."""
        self._lock.release()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN and self._path is not None:
                self._set_aside(self._path)
            raise OutboxError(f"outbox {self._where}: {error}") from None
        except OSError as error:
            raise OutboxError(f"outbox {self._where}: {error.strerror}") from None

    @property
    def _where(self) -> str:
        return str(self._path or "in memory")

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise OutboxError(f"outbox {self._where}: closed")
        if self._connection is not None and self._path is not None and self._inode != _inode(self._path):
            self._drop()  # deleted, or set aside by another process: what follows belongs in the new file
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        target = ":memory:" if self._path is None else self._path
        db = sqlite3.connect(target, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            _migrate(db)
        except BaseException:
            db.close()
            raise
        self._inode = _inode(self._path) if self._path is not None else 0
        return db

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _set_aside(self, path: Path) -> None:
        """Rename the broken file with its WAL, once for all processes: whoever comes second finds another inode."""
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


def _before_fork() -> None:
    for database in list(_databases):
        database.before_fork()
        _held.append(database)


def _after_fork() -> None:
    while _held:
        _held.pop().after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def _migrate(db: sqlite3.Connection) -> None:
    if _version(db) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # again: another process may have been first
        if version > len(MIGRATIONS):
            raise OutboxError(f"the outbox was written by a newer adtarget-proxy (schema {version})")
        for script in MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
