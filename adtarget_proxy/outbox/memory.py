"""The store of ``memory://``: SQLite's tables without a file, so that both engines keep one set of rules at one cost."""

from __future__ import annotations

from adtarget_proxy.outbox.database import Database
from adtarget_proxy.outbox.sqlite import TableStore


class MemoryStore(TableStore):
    """Lives and dies with its process. ``max_events`` bounds what waits; the least worthy goes first."""

    def __init__(self, *, max_events: int = 100_000, max_dead: int = 10_000) -> None:
        super().__init__(Database(None), max_events=max_events, max_dead=max_dead)
