"""Looking through what there is, and the operator's hand in it: dead letters, a visitor's data, another account's events."""

from __future__ import annotations

from dataclasses import replace
from sqlite3 import Connection
from typing import Any

from adtarget_proxy.outbox.store import WITHDRAWN, DeadLetter, DeadReason, Waiting
from adtarget_proxy.outbox.tables.rows import enqueue, queue_of, refresh, remember, remove, tally
from adtarget_proxy.outbox.tables.schema import CLAIMED
from adtarget_proxy.tracking.events import LENT, decode

_STANDING = "e.worth, e.at, e.seq, q.account, e.body, e.due, e.tries, e.unknown_since, e.owner"
_LETTER = "n, account, body, reason, status, answer, died_at, tries"


def waiting_page(db: Connection, after: Any, size: int) -> list[Any]:
    """The next rows behind the row ``after``, in order of worth and age; None begins."""
    place = (-1, 0.0, 0) if after is None else after[:3]
    return db.execute(
        f"SELECT {_STANDING} FROM events e JOIN queues q ON q.id = e.queue "  # noqa: S608  # constants
        "WHERE (e.worth, e.at, e.seq) > (?, ?, ?) ORDER BY e.worth, e.at, e.seq LIMIT ?",
        (*place, size),
    ).fetchall()


def dead_page(db: Connection, after: Any, size: int) -> list[Any]:
    """The next dead letters' rows behind the row ``after``, oldest first; None begins."""
    return db.execute(
        f"SELECT {_LETTER} FROM dead WHERE n > ? ORDER BY n LIMIT ?",  # noqa: S608  # constants
        (0 if after is None else after[0], size),
    ).fetchall()


def waiting_of(row: Any) -> Waiting:
    """A row of ``waiting_page`` as a value."""
    worth, _, _, _, body, due, tries, unknown_since, owner = row
    return Waiting(decode(body), worth=worth, due=due, tries=tries, unknown_since=unknown_since, owner=owner)


def letter_of(row: Any) -> DeadLetter:
    """A row of ``dead_page`` as a value."""
    _, _, body, reason, status, answer, died_at, tries = row
    return DeadLetter(decode(body), DeadReason(reason), status, answer, died_at, tries)


def find(db: Connection, event_id: str) -> Waiting | DeadLetter | None:
    """See ``Store.find``."""
    row = db.execute(
        f"SELECT {_STANDING} FROM events e JOIN queues q ON q.id = e.queue WHERE e.id = ?",  # noqa: S608
        (event_id,),
    ).fetchone()
    if row is not None:
        return waiting_of(row)
    row = db.execute(f"SELECT {_LETTER} FROM dead WHERE id = ?", (event_id,)).fetchone()  # noqa: S608
    return None if row is None else letter_of(row)


def replay(db: Connection, event_id: str, *, now: float) -> bool:
    """See ``Store.replay``. Its age counts from now, else an expired one would only expire again."""
    row = db.execute("SELECT body, account FROM dead WHERE id = ?", (event_id,)).fetchone()
    if row is None:
        return False
    db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
    event = replace(decode(row[0]), asked_at=None)
    enqueue(db, [event])
    db.execute("UPDATE events SET at = ? WHERE id = ?", (now, event_id))
    refresh(db, queue_of(db, event.account, event.visitor))
    tally(db, row[1], dead=-1, waiting=1)
    return True


def purge(db: Connection, event_id: str) -> bool:
    """See ``Store.purge``."""
    row = db.execute("SELECT account, died_at FROM dead WHERE id = ?", (event_id,)).fetchone()
    if row is None:
        return False
    db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
    remember(db, event_id, row[1])
    tally(db, row[0], dead=-1)
    return True


def erase(db: Connection, visitor: str, *, now: float) -> int:
    """See ``Store.erase``. What is deleted is overwritten in the file, not only taken off its index."""
    db.execute("PRAGMA secure_delete = ON")
    erased = 0
    for queue, account in db.execute("SELECT id, account FROM queues WHERE visitor = ?", (visitor,)).fetchall():
        for event_id, owner in db.execute("SELECT id, owner FROM events WHERE queue = ?", (queue,)).fetchall():
            remember(db, event_id, now)
            tally(db, account, **{"waiting" if owner is None else "claimed": -1})
            erased += 1
        db.execute("DELETE FROM events WHERE queue = ?", (queue,))
        db.execute("DELETE FROM queues WHERE id = ?", (queue,))
    letters = db.execute("SELECT id, account FROM dead WHERE json_extract(body, '$.v') = ?", (visitor,)).fetchall()
    for event_id, account in letters:
        db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
        remember(db, event_id, now)
        tally(db, account, dead=-1)
    db.execute("DELETE FROM links WHERE visitor = ?", (visitor,))
    db.execute("DELETE FROM visits WHERE visitor = ?", (visitor,))
    return erased + len(letters)


_UNLENT = "SET body = json_remove(body, {})".format(", ".join(f"'$.f.{name}'" for name in LENT))
_MADE_BEFORE = "json_extract(body, '$.v') = ? AND json_extract(body, '$.t') <= ?"
_NO_CONVERSION = "json_extract(body, '$.k') <> 'conversion'"


def withdraw(db: Connection, visitor: str, *, at: float, now: float) -> None:
    """Delete what was made of a visitor up to ``at``, and take from conversions what they borrowed; see ``Store.put``."""
    remember(db, WITHDRAWN + visitor, at)
    for queue, account in db.execute("SELECT id, account FROM queues WHERE visitor = ?", (visitor,)).fetchall():
        rows = db.execute(
            "SELECT seq, id, owner FROM events WHERE queue = ? AND at <= ? AND kind <> 'conversion'", (queue, at)
        ).fetchall()
        for seq, event_id, owner in rows:
            remember(db, event_id, now)
            remove(db, seq, account, owner)
        db.execute(f"UPDATE events {_UNLENT} WHERE queue = ? AND at <= ?", (queue, at))
        refresh(db, queue)
    db.execute(f"UPDATE dead {_UNLENT} WHERE {_MADE_BEFORE}", (visitor, at))
    found = db.execute(f"SELECT id, account FROM dead WHERE {_MADE_BEFORE} AND {_NO_CONVERSION}", (visitor, at))  # noqa: S608
    for event_id, account in found.fetchall():
        db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
        remember(db, event_id, now)
        tally(db, account, dead=-1)
    db.execute("DELETE FROM links WHERE visitor = ?", (visitor,))


def accounts(db: Connection) -> set[str]:
    """See ``Store.accounts``."""
    return {row[0] for row in db.execute("SELECT account FROM tally WHERE account <> ''")}


def adopt(db: Connection, source: str, target: str, *, limit: int) -> int:
    """See ``Store.adopt``."""
    moved = _adopt_queues(db, source, target, limit)
    if moved < limit:
        letters = db.execute("SELECT id FROM dead WHERE account = ? LIMIT ?", (source, limit - moved)).fetchall()
        db.executemany(
            "UPDATE dead SET account = ?, body = json_set(body, '$.a', ?) WHERE id = ?",
            [(target, target, event_id) for (event_id,) in letters],
        )
        tally(db, source, dead=-len(letters))
        tally(db, target, dead=len(letters))
        moved += len(letters)
    return moved


def _adopt_queues(db: Connection, source: str, target: str, limit: int) -> int:
    """Whole queues; one that a claim holds stays until it has ended."""
    moved = 0
    queues = db.execute(
        "SELECT id, visitor FROM queues q WHERE account = ? AND state <> ? "
        "AND NOT EXISTS (SELECT 1 FROM events e WHERE e.queue = q.id AND e.owner IS NOT NULL) LIMIT ?",
        (source, CLAIMED, limit),
    ).fetchall()
    for queue, visitor in queues:
        if moved >= limit:
            break
        home = db.execute("SELECT id FROM queues WHERE account = ? AND visitor = ?", (target, visitor)).fetchone()
        into = queue if home is None else home[0]
        number = db.execute(
            "UPDATE events SET queue = ?, body = json_set(body, '$.a', ?) WHERE queue = ?", (into, target, queue)
        ).rowcount
        if home is None:
            db.execute("UPDATE queues SET account = ? WHERE id = ?", (target, queue))
        else:
            db.execute("DELETE FROM queues WHERE id = ?", (queue,))
        refresh(db, into)
        tally(db, source, waiting=-number)
        tally(db, target, waiting=number)
        moved += number
    return moved
