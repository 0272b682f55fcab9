"""The floor under the pump: a table that keeps events in order, once each and findable by visitor, and knows nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from adtarget_proxy.tracking.events import Event

BATCH = 400  # events a transaction: what the pump finds in one stretch of a journal


class BareTable:
    """The same file format, log and durability as the store's, two unique keys in place of its nine indexes."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS bare "
            "(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, visitor TEXT NOT NULL UNIQUE, body TEXT NOT NULL)"
        )

    def put(self, events: Sequence[Event]) -> None:
        """In transactions of a batch."""
        rows = [(event.id, event.visitor, event.encode()) for event in events]
        for start in range(0, len(rows), BATCH):
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO bare (id, visitor, body) VALUES (?, ?, ?)", rows[start : start + BATCH])
            self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
