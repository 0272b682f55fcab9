"""What comes in: events put into their visitors' queues, updates that need no place there, and the bound."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from sqlite3 import Connection

from adtarget_proxy.outbox.store import WITHDRAWN, JournalOffset
from adtarget_proxy.outbox.tables.records import withdraw
from adtarget_proxy.outbox.tables.rows import enqueue, newest_visit, queue_of, refresh, remember, remove, tally
from adtarget_proxy.tracking.events import LENT, Conversion, Event, FbpUpdate, Withdrawal, Written


def put(
    db: Connection, events: Sequence[Event | Written], *, now: float, journal: JournalOffset | None, bound: int
) -> tuple[int, int]:
    """See ``Store.put``: how many were new, and how many went at the ``bound``.

    A batch whose journal offset was recorded before is passed over whole.
    """
    if journal is not None:
        if offset(db, journal.name) >= journal.offset:
            return 0, 0
        db.execute("INSERT OR REPLACE INTO journals VALUES (?, ?)", (journal.name, journal.offset))
    events = _without_withdrawn(db, events, now)
    known = _known(db, events)
    fresh: dict[str, Event | Written] = {}
    for event in events:
        if event.id not in known:
            fresh.setdefault(event.id, event)
    waiting: Counter[str] = Counter()
    for _, run in groupby(fresh.values(), key=type):  # whether an update has to stand depends on what came before it
        standing = [event for event in run if not (isinstance(event, FbpUpdate) and _absorbed(db, event, now))]
        enqueue(db, standing)
        waiting.update(event.account for event in standing)
    for account, number in waiting.items():
        tally(db, account, waiting=number)
    return len(fresh), _shed(db, bound) if waiting else 0


def offset(db: Connection, journal: str) -> int:
    """See ``Store.offset``."""
    row = db.execute("SELECT offset FROM journals WHERE name = ?", (journal,)).fetchone()
    return int(row[0]) if row else 0


def forget_journal(db: Connection, journal: str) -> None:
    """See ``Store.forget_journal``."""
    db.execute("DELETE FROM journals WHERE name = ?", (journal,))


def _without_withdrawn(db: Connection, events: Sequence[Event | Written], now: float) -> Sequence[Event | Written]:
    """The events as a withdrawal, among them or before them, leaves them."""
    for event in events:
        if isinstance(event, Withdrawal):
            withdraw(db, event.visitor, at=event.at, now=now)
    if (
        db.execute(
            "SELECT 1 FROM settled WHERE id >= ? AND id < ?", (WITHDRAWN, WITHDRAWN.replace(" ", "!"))
        ).fetchone()
        is None
    ):
        return events  # most sites have none: the pump does not pay for it
    visitors = json.dumps([WITHDRAWN + visitor for visitor in {event.visitor for event in events}])
    rows = db.execute("SELECT id, at FROM settled WHERE id IN (SELECT value FROM json_each(?))", (visitors,))
    until = {name.removeprefix(WITHDRAWN): at for name, at in rows}
    if not until:
        return events
    kept: list[Event | Written] = []
    for event in events:
        if isinstance(event, Withdrawal):
            continue
        if event.at > until.get(event.visitor, float("-inf")):
            kept.append(event)
        elif isinstance(event, Conversion):
            own = {name: value for name, value in event.fields.items() if name not in LENT}
            kept.append(replace(event, fields=own))
    return kept


def _known(db: Connection, events: Sequence[Event | Written]) -> set[str]:
    """Which of these ids wait, were settled, or are dead letters."""
    return {
        row[0]
        for row in db.execute(
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM events WHERE id = value) "
            "OR EXISTS (SELECT 1 FROM settled WHERE id = value) OR EXISTS (SELECT 1 FROM dead WHERE id = value)",
            (json.dumps([event.id for event in events]),),
        )
    }


def _absorbed(db: Connection, update: FbpUpdate, now: float) -> bool:
    """Whether the update needs no request of its own: a visit that waits untried carries it, or a newer one went out or waits."""
    sent = db.execute(
        "SELECT at FROM visits WHERE account = ? AND visitor = ?", (update.account, update.visitor)
    ).fetchone()
    if sent is not None and sent[0] >= update.at:
        return remember(db, update.id, now)
    queue = queue_of(db, update.account, update.visitor)
    visit = None if queue is None else newest_visit(db, queue)
    if visit is None:
        return False
    seq, at, tries, owner, body = visit
    if at >= update.at:
        return remember(db, update.id, now)
    if tries or owner is not None:
        return False
    record = json.loads(body)
    record["f"]["fbp"] = update.fields["fbp"]
    db.execute("UPDATE events SET body = ? WHERE seq = ?", (json.dumps(record, separators=(",", ":")), seq))
    # Older updates behind it would overwrite the newer value at AdTarget.
    behind = "FROM events WHERE queue = ? AND kind = 'fbp-update' AND seq > ? AND owner IS NULL"
    overtaken = db.execute(f"SELECT seq, id {behind}", (queue, seq)).fetchall()
    for older, event_id in overtaken:
        remember(db, event_id, now)
        remove(db, older, update.account, None)
    if overtaken:
        refresh(db, queue)
    return remember(db, update.id, now)


def _shed(db: Connection, bound: int) -> int:
    """At the bound the least worthy goes, the newest of them first; claimed ones stay."""
    total = int(db.execute("SELECT sum(waiting + claimed) FROM tally").fetchone()[0] or 0)
    if total <= bound:
        return 0
    rows = db.execute(
        "SELECT e.seq, q.id, q.account FROM events e JOIN queues q ON q.id = e.queue WHERE e.owner IS NULL "
        "ORDER BY e.worth DESC, e.at DESC LIMIT ?",
        (total - bound,),
    ).fetchall()
    for seq, queue, account in rows:
        db.execute("DELETE FROM events WHERE seq = ?", (seq,))
        tally(db, account, waiting=-1)
        refresh(db, queue)
    db.execute("INSERT INTO lost VALUES ('shed', ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (len(rows),))
    return len(rows)
