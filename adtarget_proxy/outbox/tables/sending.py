"""Claims and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection
from sqlite3 import Connection
from typing import Any

from adtarget_proxy.outbox.store import Claim, DeadReason
from adtarget_proxy.outbox.tables import rows
from adtarget_proxy.outbox.tables.schema import ASLEEP, CLAIMED, READY
from adtarget_proxy.tracking.events import Visit, decode


def claim(db: Connection, accounts: Collection[str], *, owner: str, now: float, limit: int) -> list[Any]:
    """See ``Store.claim``: rows of body, tries, unknown_since, to be decoded once the write lock is gone."""
    found: list[Any] = []
    for account in set(accounts):
        db.execute(
            f"UPDATE queues SET state = {READY} WHERE account = ? AND state = {ASLEEP} AND due <= ?",  # noqa: S608
            (account, now),
        )
        found += db.execute(
            "SELECT q.worth, q.head_at, q.head, q.id, q.account, e.body, e.tries, e.unknown_since "
            "FROM queues q INDEXED BY queues_ready JOIN events e ON e.seq = q.head "
            "WHERE q.account = ? AND q.state = 0 ORDER BY q.worth, q.head_at, q.head LIMIT ?",
            (account, limit),
        )
    found = sorted(found, key=lambda row: row[:3])[:limit]
    db.executemany(f"UPDATE queues SET state = {CLAIMED} WHERE id = ?", [(row[3],) for row in found])  # noqa: S608
    rows.mark(db, [(row[2], row[4]) for row in found], owner)
    return [row[5:] for row in found]


def promote(db: Connection, account: str, visitor: str, *, owner: str, now: float) -> list[Claim] | None:
    """See ``Store.promote``. A retry's back-off is overridden, an event's own ``not_before`` is not."""
    queue = rows.queue_of(db, account, visitor)
    newest = None if queue is None else rows.newest_visit(db, queue)
    if newest is None:
        return []
    found = db.execute(
        "SELECT seq, body, tries, unknown_since, owner FROM events WHERE queue = ? AND seq <= ? ORDER BY seq",
        (queue, newest[0]),
    ).fetchall()
    if any(row[4] is not None for row in found):
        return None
    taken: list[tuple[int, Claim]] = []
    for seq, body, tries, unknown, _ in found:
        event = decode(body)
        if event.not_before > now:
            break
        taken.append((seq, Claim(event, tries, unknown)))
    while taken and not isinstance(taken[-1][1].event, Visit):
        taken.pop()
    rows.mark(db, [(seq, account) for seq, _ in taken], owner)
    rows.refresh(db, queue)
    return [claim for _, claim in taken]


def settle(db: Connection, event_id: str, *, now: float) -> None:
    """See ``Store.settle``. A dead letter that AdTarget took after all is none any more."""
    row = rows.find(db, event_id)
    if row is None:
        _settle_unqueued(db, event_id, now)
        return
    seq, queue, account, visitor, kind, at, owner = row[:7]
    rows.remember(db, event_id, now)
    rows.remove(db, seq, account, owner)
    rows.tally(db, account, sent=1)
    if kind == Visit.kind:
        db.execute(
            "INSERT INTO visits VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET at = max(at, excluded.at), settled_at = excluded.settled_at",
            (account, visitor, at, now),
        )
    rows.refresh(db, queue)


def _settle_unqueued(db: Connection, event_id: str, now: float) -> None:
    dead = db.execute("SELECT account FROM dead WHERE id = ?", (event_id,)).fetchone()
    if dead is not None:
        db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
        rows.tally(db, dead[0], dead=-1)
    if rows.remember(db, event_id, now):
        rows.tally(db, dead[0] if dead else "", sent=1)


def put_back(db: Connection, event_id: str, *, not_before: float, now: float, unknown: bool, counted: bool) -> None:
    """See ``Store.put_back``."""
    row = rows.find(db, event_id)
    if row is None:
        return
    seq, queue, account, *_, owner = row[:7]
    db.execute(
        "UPDATE events SET owner = NULL, due = ?, tries = tries + ?, unknown_since = coalesce(unknown_since, ?) "
        "WHERE seq = ?",
        (not_before, int(counted), now if unknown else None, seq),
    )
    if owner is not None:
        rows.tally(db, account, waiting=1, claimed=-1)
    rows.refresh(db, queue)


def bury(db: Connection, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float) -> None:
    """See ``Store.bury``."""
    row = rows.find(db, event_id)
    if row is not None:
        rows.bury(db, row, event_id, reason=reason, status=status, answer=answer, now=now)


def release(db: Connection, owner: str) -> int:
    """See ``Store.release``."""
    held = db.execute(
        "SELECT q.id, q.account FROM events e JOIN queues q ON q.id = e.queue WHERE e.owner = ?", (owner,)
    ).fetchall()
    db.execute("UPDATE events SET owner = NULL WHERE owner = ?", (owner,))
    for queue, account in held:
        rows.tally(db, account, waiting=1, claimed=-1)
        rows.refresh(db, queue)
    db.execute("DELETE FROM links WHERE owner = ?", (owner,))
    return len(held)


def owners(db: Connection) -> set[str]:
    """See ``Store.owners``."""
    return {
        row[0]
        for row in db.execute(
            "SELECT owner FROM events WHERE owner IS NOT NULL UNION SELECT owner FROM links WHERE owner IS NOT NULL"
        )
    }


def next_due(db: Connection, accounts: Collection[str], *, now: float) -> float | None:
    """See ``Store.next_due``."""
    soonest: float | None = None
    for account in accounts:
        if db.execute("SELECT 1 FROM queues WHERE account = ? AND state = 0 LIMIT 1", (account,)).fetchone():
            return 0.0
        due = db.execute("SELECT min(due) FROM queues WHERE account = ? AND state = 1", (account,)).fetchone()[0]
        if due is not None:
            wait = max(0.0, due - now)
            soonest = wait if soonest is None else min(soonest, wait)
    return soonest
