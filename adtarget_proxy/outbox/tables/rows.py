"""Events and the queues they stand in: the statements that all others are made of. A queue's row is kept true by ``refresh``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

from adtarget_proxy.outbox.store import ANSWER_KEPT, DeadReason
from adtarget_proxy.outbox.tables.schema import ASLEEP, CLAIMED, READY
from adtarget_proxy.tracking.events import Event, Written


def queue_of(db: Connection, account: str, visitor: str) -> int | None:
    """The visitor's queue, if there is one."""
    row = db.execute("SELECT id FROM queues WHERE account = ? AND visitor = ?", (account, visitor)).fetchone()
    return row[0] if row else None


def newest_visit(db: Connection, queue: int) -> Any:
    """seq, at, tries, owner, body; or None."""
    return db.execute(
        "SELECT seq, at, tries, owner, body FROM events WHERE queue = ? AND kind = 'visit' ORDER BY seq DESC LIMIT 1",
        (queue,),
    ).fetchone()


def find(db: Connection, event_id: str) -> Any:
    """seq, queue, account, visitor, kind, at, owner, tries, body; or None."""
    return db.execute(
        "SELECT e.seq, q.id, q.account, q.visitor, e.kind, e.at, e.owner, e.tries, e.body "
        "FROM events e JOIN queues q ON q.id = e.queue WHERE e.id = ?",
        (event_id,),
    ).fetchone()


def enqueue(db: Connection, events: Sequence[Event | Written]) -> None:
    """At the ends of their visitors' queues, in this order. Many at once cost a fraction of one by one."""
    seq = int(db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
    queues = _queues(db, events)
    last = int(db.execute("SELECT coalesce(max(id), 0) FROM queues").fetchone()[0])
    made: list[tuple[int, str, str, int, int, float, float, int]] = []
    placed: list[tuple[Any, ...]] = []
    better: dict[int, int] = {}
    for event in events:
        seq += 1
        key, due, worth = (event.account, event.visitor), event.not_before, event.worth
        queue, queue_worth = queues.get(key, (0, 0))
        if not queue:
            queue = last = last + 1
            made.append((queue, *key, worth, seq, event.at, due, ASLEEP if due else READY))
            queues[key] = queue, worth
        elif worth < queue_worth:
            better[queue] = worth
            queues[key] = queue, worth
        placed.append((seq, event.id, queue, event.kind, worth, event.at, due, event.asked_at, event.encode()))
    db.executemany(
        "INSERT INTO queues (id, account, visitor, worth, head, head_at, due, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        made,
    )
    db.executemany("UPDATE queues SET worth = ? WHERE id = ?", [(worth, queue) for queue, worth in better.items()])
    db.executemany(
        "INSERT INTO events (seq, id, queue, kind, worth, at, due, unknown_since, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        placed,
    )


def _queues(db: Connection, events: Sequence[Event | Written]) -> dict[tuple[str, str], tuple[int, int]]:
    """The queues that these events' visitors have already: id and worth by account and visitor."""
    visitors: dict[str, set[str]] = {}
    for event in events:
        visitors.setdefault(event.account, set()).add(event.visitor)
    return {
        (account, visitor): (queue, worth)
        for account, names in visitors.items()
        for visitor, queue, worth in db.execute(
            "SELECT visitor, id, worth FROM queues WHERE account = ? AND visitor IN (SELECT value FROM json_each(?))",
            (account, json.dumps(list(names))),
        )
    }


def mark(db: Connection, rows: Sequence[tuple[int, str]], owner: str) -> None:
    """These events (seq, account) are the owner's."""
    db.executemany("UPDATE events SET owner = ? WHERE seq = ?", [(owner, seq) for seq, _ in rows])
    for account, number in Counter(account for _, account in rows).items():
        tally(db, account, waiting=-number, claimed=number)


def remove(db: Connection, seq: int, account: str, owner: str | None) -> None:
    """Delete an event, claimed by ``owner`` or waiting. Its queue's row is to be refreshed."""
    db.execute("DELETE FROM events WHERE seq = ?", (seq,))
    tally(db, account, **{"waiting" if owner is None else "claimed": -1})


def remember(db: Connection, event_id: str, now: float) -> bool:
    """Keep a settled id; whether it is new. An id settled twice keeps the later time."""
    new = db.execute("SELECT 1 FROM settled WHERE id = ?", (event_id,)).fetchone() is None
    db.execute("INSERT INTO settled VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)", (event_id, now))
    return new


def bury(
    db: Connection, row: Any, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float
) -> None:
    """Make a dead letter of the event whose ``row`` is ``find``\'s."""
    seq, queue, account, *_, owner, tries, body = row
    db.execute(
        "INSERT INTO dead (id, account, reason, status, answer, died_at, tries, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (event_id, account, reason.value, status, answer[:ANSWER_KEPT], now, tries, body),
    )
    remove(db, seq, account, owner)
    tally(db, account, dead=1)
    refresh(db, queue)


def refresh(db: Connection, queue: int | None) -> None:
    """The queue's row after its events changed. Updates that a newer visit has overtaken go first: they would patch that one."""
    stale = db.execute(
        "SELECT e.seq, e.id, q.account, v.settled_at "
        "FROM events e INDEXED BY updates_in_queue JOIN queues q ON q.id = e.queue "
        "JOIN visits v ON v.account = q.account AND v.visitor = q.visitor "
        "WHERE e.queue = ? AND e.kind = 'fbp-update' AND e.owner IS NULL AND e.at <= v.at",
        (queue,),
    ).fetchall()
    for seq, event_id, account, settled_at in stale:
        remember(db, event_id, settled_at)
        remove(db, seq, account, None)
    head = db.execute(
        "SELECT seq, at, due, owner FROM events WHERE queue = ? ORDER BY seq LIMIT 1", (queue,)
    ).fetchone()
    if head is None:
        db.execute("DELETE FROM queues WHERE id = ?", (queue,))
        return
    seq, at, due, owner = head
    state = CLAIMED if owner is not None else ASLEEP if due else READY
    db.execute(
        "UPDATE queues SET head = ?, head_at = ?, due = ?, state = ?, "
        "worth = (SELECT min(worth) FROM events WHERE queue = ?) WHERE id = ?",
        (seq, at, due, state, queue, queue),
    )


def tally(db: Connection, account: str, *, waiting: int = 0, claimed: int = 0, dead: int = 0, sent: int = 0) -> None:
    """Kept as it changes: counting a million rows is no answer for a status page."""
    db.execute(
        "INSERT INTO tally VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET waiting = waiting + excluded.waiting, "
        "claimed = claimed + excluded.claimed, dead = dead + excluded.dead, sent = sent + excluded.sent",
        (account, waiting, claimed, dead, sent),
    )
