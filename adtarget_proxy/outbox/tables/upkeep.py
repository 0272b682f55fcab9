"""What time does to events, and how many there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from sqlite3 import Connection

from adtarget_proxy.outbox.store import (
    ASKING_KEPT,
    DEAD_KEPT,
    LINK_KEPT,
    LONGEST_SLEEP,
    PATIENCE,
    SETTLED_KEPT,
    Counts,
    DeadReason,
)
from adtarget_proxy.outbox.tables.records import purge
from adtarget_proxy.outbox.tables.rows import bury, find
from adtarget_proxy.outbox.tables.schema import ASLEEP, READY
from adtarget_proxy.tracking.events import PLAIN

_TOO_OLD = "older than max_age"


def expire(db: Connection, *, now: float, max_age: Mapping[str, float], limit: int, max_dead: int) -> tuple[int, int]:
    """See ``Store.expire``: how many were buried, and how many dead letters went at their bound."""
    buried = 0
    for kind, age in max_age.items():
        found = db.execute(
            "SELECT id, unknown_since FROM events WHERE kind = ? AND at < ? AND owner IS NULL ORDER BY at LIMIT ?",
            (kind, now - age, limit - buried),
        ).fetchall()
        for event_id, unknown_since in found:
            row = find(db, event_id)
            if row is None:
                continue  # an update may have gone with the burial before it
            reason = DeadReason.EXPIRED if unknown_since is None else DeadReason.UNKNOWN
            bury(db, row, event_id, reason=reason, status=None, answer=_TOO_OLD, now=now)
            buried += 1
    _lift(db, now, limit)
    _wake(db, now, limit)
    for table, column, before in (
        ("settled", "at", now - SETTLED_KEPT),
        ("visits", "settled_at", now - SETTLED_KEPT),
        ("links", "at", now - LINK_KEPT),
        ("askings", "at", now - ASKING_KEPT),
    ):
        _forget(db, table, column, before, limit)
    return buried, _forget_dead(db, now, limit, max_dead)


def counts(db: Connection, accounts: Collection[str] | None) -> Counts:
    """See ``Store.counts``."""
    found = db.execute("SELECT account, waiting, claimed, dead, sent FROM tally").fetchall()
    lost = dict(db.execute("SELECT bound, n FROM lost").fetchall())
    chosen = [row[1:] for row in found if accounts is None or row[0] in accounts]
    waiting, claimed, dead, sent = (sum(column) for column in zip(*chosen, strict=True)) if chosen else (0, 0, 0, 0)
    return Counts(waiting=waiting, claimed=claimed, dead=dead, sent=sent, lost=lost)


def _lift(db: Connection, now: float, limit: int) -> None:
    """Plain visits that have waited long enough; they leave the class, so it happens to each once."""
    found = db.execute(
        "SELECT seq, queue FROM events WHERE worth = ? AND at <= ? AND kind = 'visit' ORDER BY at LIMIT ?",
        (PLAIN, now - PATIENCE, limit),
    ).fetchall()
    db.executemany("UPDATE events SET worth = worth - 1 WHERE seq = ?", [(seq,) for seq, _ in found])
    db.executemany("UPDATE queues SET worth = min(worth, ?) WHERE id = ?", [(PLAIN - 1, queue) for _, queue in found])


def _wake(db: Connection, now: float, limit: int) -> None:
    """Heads that are due too far ahead. The account goes first in the index, so each is asked for by name."""
    found = db.execute(
        "SELECT q.id, q.head FROM tally t CROSS JOIN queues q INDEXED BY queues_asleep "  # noqa: S608  # constants
        f"ON q.account = t.account AND q.state = {ASLEEP} AND q.due > ? LIMIT ?",
        (now + LONGEST_SLEEP, limit),
    ).fetchall()
    db.executemany("UPDATE events SET due = 0.0 WHERE seq = ?", [(head,) for _, head in found])
    db.executemany(f"UPDATE queues SET due = 0.0, state = {READY} WHERE id = ?", [(queue,) for queue, _ in found])  # noqa: S608


def _forget_dead(db: Connection, now: float, limit: int, bound: int) -> int:
    """The oldest dead letters, for their age or their number; how many went for the latter."""
    excess = int(db.execute("SELECT sum(dead) FROM tally").fetchone()[0] or 0) - bound
    aged = shed = 0
    for event_id, died_at in db.execute("SELECT id, died_at FROM dead ORDER BY n LIMIT ?", (limit,)).fetchall():
        if died_at < now - DEAD_KEPT:
            aged += 1
        elif aged + shed < excess:
            shed += 1
        else:
            break
        purge(db, event_id)
    if shed:
        db.execute("INSERT INTO lost VALUES ('dead letters', ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (shed,))
    return shed


def _forget(db: Connection, table: str, column: str, before: float, limit: int) -> None:
    key = {"settled": "id", "visits": "account, visitor", "links": "account, visitor, slug", "askings": "rowid"}[table]
    db.execute(
        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {column} < ? LIMIT ?)",  # noqa: S608  # constants
        (before, limit),
    )
