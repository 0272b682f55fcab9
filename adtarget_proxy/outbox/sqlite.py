"""The store of ``sqlite://``: one file for all processes of a machine, at a cost that does not grow with what waits.

``events`` keeps each event at its place (``seq``), ``queues`` one row a visitor with what a claim needs to know of it,
indexed in the order of claims. A queue is READY, CLAIMED, or ASLEEP: its head has a due time, which a claim looks at once
it has passed.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from adtarget_proxy.outbox.bucket import Bucket
from adtarget_proxy.outbox.database import Database
from adtarget_proxy.outbox.store import Claim, Counts, DeadLetter, DeadReason, Flight, JournalOffset
from adtarget_proxy.tracking.events import PLAIN, Event, FbpUpdate, Visit, decode

_log = logging.getLogger("adtarget_proxy.outbox")
_READY, _ASLEEP, _CLAIMED = 0, 1, 2
SETTLED_KEPT = 48 * 3600.0  # seconds that a settled id is remembered
LINK_KEPT = 60.0  # seconds that an invite link is remembered
FLIGHT_KEPT = 15.0  # seconds after which a flight is taken over
PATIENCE = 900.0  # seconds after which a plain visit rises one class
_ANSWER_KEPT = 2048
_PAGE = 200


class TableStore:
    """The contract of ``Store`` over the tables of a ``Database``. Every method raises OutboxError where that fails."""

    def __init__(self, database: Database, *, max_events: int) -> None:
        self._db = database
        self._max_events = max_events
        self._said_full = float("-inf")

    # -- putting ---------------------------------------------------------------------------------------------------------

    def put(self, events: Sequence[Event], *, now: float, journal: JournalOffset | None = None) -> int:
        """See ``Store.put``. A batch whose journal offset was recorded before is passed over whole."""
        with self._db.writing() as db:
            if journal is not None:
                if _offset(db, journal.name) >= journal.offset:
                    return 0
                db.execute("INSERT OR REPLACE INTO journals VALUES (?, ?)", (journal.name, journal.offset))
            known = _known(db, events)
            seq = int(db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
            waiting: Counter[str] = Counter()
            before = len(known)
            for event in events:
                if event.id in known:
                    continue
                known.add(event.id)
                if isinstance(event, FbpUpdate) and _absorbed(db, event, now):
                    continue
                seq += 1
                _enqueue(db, event, seq=seq, at=event.at)
                waiting[event.account] += 1
            for account, number in waiting.items():
                _tally(db, account, waiting=number)
            if waiting:
                self._shed(db)
            return len(known) - before

    def offset(self, journal: str) -> int:
        """See ``Store.offset``."""
        with self._db.reading() as db:
            return _offset(db, journal)

    def forget_journal(self, journal: str) -> None:
        """See ``Store.forget_journal``."""
        with self._db.writing() as db:
            db.execute("DELETE FROM journals WHERE name = ?", (journal,))

    def _shed(self, db: Connection) -> None:
        """At the bound the least worthy goes, the newest of them first; claimed ones stay."""
        total = int(db.execute("SELECT sum(waiting + claimed) FROM tally").fetchone()[0] or 0)
        if total <= self._max_events:
            return
        rows = db.execute(
            "SELECT e.seq, q.id, q.account FROM events e JOIN queues q ON q.id = e.queue WHERE e.owner IS NULL "
            "ORDER BY e.worth DESC, e.at DESC LIMIT ?",
            (total - self._max_events,),
        ).fetchall()
        for seq, queue, account in rows:
            db.execute("DELETE FROM events WHERE seq = ?", (seq,))
            _tally(db, account, waiting=-1)
            _refresh(db, queue)
        db.execute("INSERT INTO lost VALUES ('shed', ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (len(rows),))
        if time.monotonic() - self._said_full >= 60:
            self._said_full = time.monotonic()
            _log.warning("the outbox is full (%d events): the least worthy are given up", self._max_events)

    # -- sending ---------------------------------------------------------------------------------------------------------

    def claim(self, accounts: Collection[str], *, owner: str, now: float, limit: int) -> list[Claim]:
        """See ``Store.claim``."""
        rows: list[Any] = []
        with self._db.writing() as db:
            for account in set(accounts):
                db.execute("UPDATE queues SET state = 0 WHERE account = ? AND state = 1 AND due <= ?", (account, now))
                rows += db.execute(
                    "SELECT q.worth, q.head_at, q.head, q.id, q.account, e.body, e.tries, e.unknown_since "
                    "FROM queues q INDEXED BY queues_ready JOIN events e ON e.seq = q.head "
                    "WHERE q.account = ? AND q.state = 0 ORDER BY q.worth, q.head_at, q.head LIMIT ?",
                    (account, limit),
                )
            rows = sorted(rows, key=lambda row: row[:3])[:limit]
            db.executemany("UPDATE queues SET state = 2 WHERE id = ?", [(row[3],) for row in rows])
            _mark(db, [(row[2], row[4]) for row in rows], owner)
        return [Claim(decode(body), tries, unknown) for *_, body, tries, unknown in rows]

    def promote(self, account: str, visitor: str, *, owner: str, now: float) -> list[Claim] | None:
        """See ``Store.promote``. A retry's back-off is overridden, an event's own ``not_before`` is not."""
        with self._db.writing() as db:
            queue = _queue(db, account, visitor)
            newest = None if queue is None else _newest_visit(db, queue)
            if newest is None:
                return []
            rows = db.execute(
                "SELECT seq, body, tries, unknown_since, owner FROM events WHERE queue = ? AND seq <= ? ORDER BY seq",
                (queue, newest[0]),
            ).fetchall()
            if any(row[4] is not None for row in rows):
                return None
            taken: list[tuple[int, Claim]] = []
            for seq, body, tries, unknown, _ in rows:
                event = decode(body)
                if event.not_before > now:
                    break
                taken.append((seq, Claim(event, tries, unknown)))
            while taken and not isinstance(taken[-1][1].event, Visit):
                taken.pop()
            _mark(db, [(seq, account) for seq, _ in taken], owner)
            _refresh(db, queue)
            return [claim for _, claim in taken]

    def settle(self, event_id: str, *, now: float) -> None:
        """See ``Store.settle``. A dead letter that AdTarget took after all is none any more."""
        with self._db.writing() as db:
            row = _find(db, event_id)
            if row is None:
                self._settle_unqueued(db, event_id, now)
                return
            seq, queue, account, visitor, kind, at, owner = row[:7]
            _remember(db, event_id, now)
            _remove(db, seq, account, owner)
            _tally(db, account, sent=1)
            if kind == Visit.kind:
                db.execute(
                    "INSERT INTO visits VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
                    "SET at = max(at, excluded.at), settled_at = excluded.settled_at",
                    (account, visitor, at, now),
                )
            _refresh(db, queue)

    def _settle_unqueued(self, db: Connection, event_id: str, now: float) -> None:
        dead = db.execute("SELECT account FROM dead WHERE id = ?", (event_id,)).fetchone()
        if dead is not None:
            db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
            _tally(db, dead[0], dead=-1)
        if _remember(db, event_id, now):
            _tally(db, dead[0] if dead else "", sent=1)

    def put_back(self, event_id: str, *, not_before: float, now: float, unknown: bool, counted: bool = True) -> None:
        """See ``Store.put_back``."""
        with self._db.writing() as db:
            row = _find(db, event_id)
            if row is None:
                return
            seq, queue, account, *_, owner = row[:7]
            db.execute(
                "UPDATE events SET owner = NULL, due = ?, tries = tries + ?, unknown_since = coalesce(unknown_since, ?) "
                "WHERE seq = ?",
                (not_before, int(counted), now if unknown else None, seq),
            )
            if owner is not None:
                _tally(db, account, waiting=1, claimed=-1)
            _refresh(db, queue)

    def bury(self, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float) -> None:
        """See ``Store.bury``."""
        with self._db.writing() as db:
            row = _find(db, event_id)
            if row is not None:
                _bury(db, row, event_id, reason=reason, status=status, answer=answer, now=now)

    def release(self, owner: str) -> int:
        """See ``Store.release``."""
        with self._db.writing() as db:
            rows = db.execute(
                "SELECT q.id, q.account FROM events e JOIN queues q ON q.id = e.queue WHERE e.owner = ?", (owner,)
            ).fetchall()
            db.execute("UPDATE events SET owner = NULL WHERE owner = ?", (owner,))
            for queue, account in rows:
                _tally(db, account, waiting=1, claimed=-1)
                _refresh(db, queue)
            db.execute("DELETE FROM links WHERE owner = ?", (owner,))
            return len(rows)

    def owners(self) -> set[str]:
        """See ``Store.owners``."""
        with self._db.reading() as db:
            return {
                row[0]
                for row in db.execute(
                    "SELECT owner FROM events WHERE owner IS NOT NULL UNION SELECT owner FROM links WHERE owner IS NOT NULL"
                )
            }

    # -- invite links ----------------------------------------------------------------------------------------------------

    def begin_invite(
        self, account: str, visitor: str, slug: str, *, owner: str, now: float
    ) -> tuple[Flight, str | None]:
        """See ``Store.begin_invite``."""
        key = (account, visitor, slug)
        with self._db.writing() as db:
            row = db.execute(
                "SELECT link, at FROM links WHERE account = ? AND visitor = ? AND slug = ?", key
            ).fetchone()
            if row is not None and row[0] is not None and now - row[1] < LINK_KEPT:
                return Flight.LINK, str(row[0])
            if row is not None and row[0] is None and now - row[1] < FLIGHT_KEPT:
                return Flight.FOLLOW, None
            db.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?, NULL, ?, ?)", (*key, owner, now))
            return Flight.LEAD, None

    def end_invite(self, account: str, visitor: str, slug: str, *, link: str | None, now: float) -> None:
        """See ``Store.end_invite``. A flight without a link does not take away one that another has brought."""
        key = (account, visitor, slug)
        with self._db.writing() as db:
            if link is not None:
                db.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, NULL, ?)", (*key, link, now))
            else:
                db.execute("DELETE FROM links WHERE account = ? AND visitor = ? AND slug = ? AND link IS NULL", key)

    # -- pacing ----------------------------------------------------------------------------------------------------------

    def take(self, account: str, *, now: float, rate: float, burst: float, reserve: float) -> float:
        """See ``Store.take``."""
        with self._db.writing() as db:
            bucket = _bucket(db, account) or Bucket(burst, now)
            bucket, wait = bucket.take(now=now, rate=rate, burst=burst, reserve=reserve)
            if not wait:
                _keep_bucket(db, account, bucket)
            return wait

    def hold(self, account: str, *, until: float) -> None:
        """See ``Store.hold``."""
        with self._db.writing() as db:
            _keep_bucket(db, account, (_bucket(db, account) or Bucket(0.0, until)).hold(until))

    def level(self, account: str, *, now: float, rate: float, burst: float) -> float:
        """See ``Store.level``."""
        with self._db.reading() as db:
            return (_bucket(db, account) or Bucket(burst, now)).level(now=now, rate=rate, burst=burst)

    # -- looking after ---------------------------------------------------------------------------------------------------

    def expire(self, *, now: float, max_age: Mapping[str, float], limit: int = 1000) -> int:
        """See ``Store.expire``; returns how many were buried."""
        buried = 0
        with self._db.writing() as db:
            for kind, age in max_age.items():
                ids = db.execute(
                    "SELECT id FROM events WHERE kind = ? AND at < ? AND owner IS NULL ORDER BY at LIMIT ?",
                    (kind, now - age, limit - buried),
                ).fetchall()
                for (event_id,) in ids:
                    row = _find(db, event_id)
                    if row is not None:  # an update may have gone with the burial before it
                        words = "older than max_age"
                        _bury(db, row, event_id, reason=DeadReason.EXPIRED, status=None, answer=words, now=now)
                        buried += 1
            _lift(db, now, limit)
            for table, column, before in (
                ("settled", "at", now - SETTLED_KEPT),
                ("visits", "settled_at", now - SETTLED_KEPT),
                ("links", "at", now - LINK_KEPT),
            ):
                _forget(db, table, column, before, limit)
        return buried

    def counts(self, accounts: Collection[str] | None = None) -> Counts:
        """See ``Store.counts``."""
        with self._db.reading() as db:
            rows = db.execute("SELECT account, waiting, claimed, dead, sent FROM tally").fetchall()
            lost = dict(db.execute("SELECT bound, n FROM lost").fetchall())
        chosen = [row[1:] for row in rows if accounts is None or row[0] in accounts]
        waiting, claimed, dead, sent = (sum(column) for column in zip(*chosen, strict=True)) if chosen else (0, 0, 0, 0)
        return Counts(waiting=waiting, claimed=claimed, dead=dead, sent=sent, lost=lost)

    def next_due(self, accounts: Collection[str], *, now: float) -> float | None:
        """See ``Store.next_due``."""
        soonest: float | None = None
        with self._db.reading() as db:
            for account in accounts:
                if db.execute("SELECT 1 FROM queues WHERE account = ? AND state = 0 LIMIT 1", (account,)).fetchone():
                    return 0.0
                due = db.execute("SELECT min(due) FROM queues WHERE account = ? AND state = 1", (account,)).fetchone()[
                    0
                ]
                if due is not None:
                    wait = max(0.0, due - now)
                    soonest = wait if soonest is None else min(soonest, wait)
        return soonest

    def dead_letters(self, accounts: Collection[str] | None = None) -> Iterator[DeadLetter]:
        """See ``Store.dead_letters``. Read page by page, so that a long list holds no lock."""
        last = 0
        while True:
            with self._db.reading() as db:
                rows = db.execute(
                    "SELECT n, account, body, reason, status, answer, died_at, tries FROM dead WHERE n > ? ORDER BY n LIMIT ?",
                    (last, _PAGE),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for _, account, body, reason, status, answer, died_at, tries in rows:
                if accounts is None or account in accounts:
                    yield DeadLetter(decode(body), DeadReason(reason), status, answer, died_at, tries)

    def replay(self, event_id: str, *, now: float) -> bool:
        """See ``Store.replay``. Its age counts from now, else an expired one would only expire again."""
        with self._db.writing() as db:
            row = db.execute("SELECT body, account FROM dead WHERE id = ?", (event_id,)).fetchone()
            if row is None:
                return False
            db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
            seq = int(db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]) + 1
            _enqueue(db, decode(row[0]), seq=seq, at=now)
            _tally(db, row[1], dead=-1, waiting=1)
            return True

    def purge(self, event_id: str) -> bool:
        """See ``Store.purge``."""
        with self._db.writing() as db:
            row = db.execute("SELECT account, died_at FROM dead WHERE id = ?", (event_id,)).fetchone()
            if row is None:
                return False
            db.execute("DELETE FROM dead WHERE id = ?", (event_id,))
            _remember(db, event_id, row[1])
            _tally(db, row[0], dead=-1)
            return True

    def close(self) -> None:
        """See ``Store.close``."""
        self._db.close()


class SqliteStore(TableStore):
    """The tables in a file at ``path``: made at the first use, mode 0600, its directory 0700."""

    def __init__(self, path: Path, *, max_events: int = 2_000_000) -> None:
        super().__init__(Database(path), max_events=max_events)


# -- statements inside a transaction ---------------------------------------------------------------------------------------------


def _offset(db: Connection, journal: str) -> int:
    row = db.execute("SELECT offset FROM journals WHERE name = ?", (journal,)).fetchone()
    return int(row[0]) if row else 0


def _known(db: Connection, events: Sequence[Event]) -> set[str]:
    """Which of these ids wait, were settled, or are dead letters."""
    return {
        row[0]
        for row in db.execute(
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM events WHERE id = value) "
            "OR EXISTS (SELECT 1 FROM settled WHERE id = value) OR EXISTS (SELECT 1 FROM dead WHERE id = value)",
            (json.dumps([event.id for event in events]),),
        )
    }


def _queue(db: Connection, account: str, visitor: str) -> int | None:
    row = db.execute("SELECT id FROM queues WHERE account = ? AND visitor = ?", (account, visitor)).fetchone()
    return row[0] if row else None


def _newest_visit(db: Connection, queue: int) -> Any:
    return db.execute(
        "SELECT seq, at, tries, owner, body FROM events WHERE queue = ? AND kind = 'visit' ORDER BY seq DESC LIMIT 1",
        (queue,),
    ).fetchone()


def _enqueue(db: Connection, event: Event, *, seq: int, at: float) -> None:
    """At the end of its visitor's queue."""
    due, worth = event.not_before, event.worth
    row = db.execute(
        "SELECT id, worth FROM queues WHERE account = ? AND visitor = ?", (event.account, event.visitor)
    ).fetchone()
    if row is None:
        queue = db.execute(
            "INSERT INTO queues (account, visitor, worth, head, head_at, due, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (event.account, event.visitor, worth, seq, at, due, _ASLEEP if due else _READY),
        ).lastrowid
    else:
        queue = row[0]
        if worth < row[1]:
            db.execute("UPDATE queues SET worth = ? WHERE id = ?", (worth, queue))
    db.execute(
        "INSERT INTO events (seq, id, queue, kind, worth, at, due, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (seq, event.id, queue, event.kind, worth, at, due, event.encode()),
    )


def _absorbed(db: Connection, update: FbpUpdate, now: float) -> bool:
    """Whether the update needs no request of its own: a visit that waits untried carries it, or a newer one went out or waits."""
    sent = db.execute(
        "SELECT at FROM visits WHERE account = ? AND visitor = ?", (update.account, update.visitor)
    ).fetchone()
    if sent is not None and sent[0] >= update.at:
        return _remember(db, update.id, now)
    queue = _queue(db, update.account, update.visitor)
    visit = None if queue is None else _newest_visit(db, queue)
    if visit is None:
        return False
    seq, at, tries, owner, body = visit
    if at >= update.at:
        return _remember(db, update.id, now)
    if tries or owner is not None:
        return False
    record = json.loads(body)
    record["f"]["fbp"] = update.fields["fbp"]
    db.execute("UPDATE events SET body = ? WHERE seq = ?", (json.dumps(record, separators=(",", ":")), seq))
    # Older updates behind it would overwrite the newer value at AdTarget.
    behind = "FROM events WHERE queue = ? AND kind = 'fbp-update' AND seq > ? AND owner IS NULL"
    for older, event_id in db.execute(f"SELECT seq, id {behind}", (queue, seq)).fetchall():
        _remember(db, event_id, now)
        _remove(db, older, update.account, None)
    return _remember(db, update.id, now)


def _mark(db: Connection, rows: Sequence[tuple[int, str]], owner: str) -> None:
    """These events (seq, account) are the owner's."""
    db.executemany("UPDATE events SET owner = ? WHERE seq = ?", [(owner, seq) for seq, _ in rows])
    for account, number in Counter(account for _, account in rows).items():
        _tally(db, account, waiting=-number, claimed=number)


def _find(db: Connection, event_id: str) -> Any:
    """seq, queue, account, visitor, kind, at, owner, tries, body; or None."""
    return db.execute(
        "SELECT e.seq, q.id, q.account, q.visitor, e.kind, e.at, e.owner, e.tries, e.body "
        "FROM events e JOIN queues q ON q.id = e.queue WHERE e.id = ?",
        (event_id,),
    ).fetchone()


def _remove(db: Connection, seq: int, account: str, owner: str | None) -> None:
    db.execute("DELETE FROM events WHERE seq = ?", (seq,))
    _tally(db, account, **{"waiting" if owner is None else "claimed": -1})


def _remember(db: Connection, event_id: str, now: float) -> bool:
    """Keep a settled id; whether it is new. An id settled twice keeps the later time."""
    new = db.execute("SELECT 1 FROM settled WHERE id = ?", (event_id,)).fetchone() is None
    db.execute("INSERT INTO settled VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)", (event_id, now))
    return new


def _bury(
    db: Connection, row: Any, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float
) -> None:
    seq, queue, account, *_, owner, tries, body = row
    db.execute(
        "INSERT INTO dead (id, account, reason, status, answer, died_at, tries, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (event_id, account, reason.value, status, answer[:_ANSWER_KEPT], now, tries, body),
    )
    _remove(db, seq, account, owner)
    _tally(db, account, dead=1)
    _refresh(db, queue)


def _refresh(db: Connection, queue: int | None) -> None:
    """The queue's row after its events changed. Updates that a newer visit has overtaken go first: they would patch that one."""
    stale = db.execute(
        "SELECT e.seq, e.id, q.account, v.settled_at FROM events e JOIN queues q ON q.id = e.queue "
        "JOIN visits v ON v.account = q.account AND v.visitor = q.visitor "
        "WHERE e.queue = ? AND e.kind = 'fbp-update' AND e.owner IS NULL AND e.at <= v.at",
        (queue,),
    ).fetchall()
    for seq, event_id, account, settled_at in stale:
        _remember(db, event_id, settled_at)
        _remove(db, seq, account, None)
    head = db.execute(
        "SELECT seq, at, due, owner FROM events WHERE queue = ? ORDER BY seq LIMIT 1", (queue,)
    ).fetchone()
    if head is None:
        db.execute("DELETE FROM queues WHERE id = ?", (queue,))
        return
    seq, at, due, owner = head
    state = _CLAIMED if owner is not None else _ASLEEP if due else _READY
    db.execute(
        "UPDATE queues SET head = ?, head_at = ?, due = ?, state = ?, "
        "worth = (SELECT min(worth) FROM events WHERE queue = ?) WHERE id = ?",
        (seq, at, due, state, queue, queue),
    )


def _lift(db: Connection, now: float, limit: int) -> None:
    """Plain visits that have waited long enough; they leave the class, so it happens to each once."""
    rows = db.execute(
        "SELECT seq, queue FROM events WHERE worth = ? AND at <= ? AND kind = 'visit' ORDER BY at LIMIT ?",
        (PLAIN, now - PATIENCE, limit),
    ).fetchall()
    db.executemany("UPDATE events SET worth = worth - 1 WHERE seq = ?", [(seq,) for seq, _ in rows])
    db.executemany("UPDATE queues SET worth = min(worth, ?) WHERE id = ?", [(PLAIN - 1, queue) for _, queue in rows])


def _forget(db: Connection, table: str, column: str, before: float, limit: int) -> None:
    key = {"settled": "id", "visits": "account, visitor", "links": "account, visitor, slug"}[table]
    db.execute(
        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {column} < ? LIMIT ?)",  # noqa: S608  # constants
        (before, limit),
    )


def _bucket(db: Connection, account: str) -> Bucket | None:
    row = db.execute("SELECT tokens, at, until FROM buckets WHERE account = ?", (account,)).fetchone()
    return Bucket(*row) if row else None


def _keep_bucket(db: Connection, account: str, bucket: Bucket) -> None:
    db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?)", (account, bucket.tokens, bucket.at, bucket.until))


def _tally(db: Connection, account: str, *, waiting: int = 0, claimed: int = 0, dead: int = 0, sent: int = 0) -> None:
    """Kept as it changes: counting a million rows is no answer for a status page."""
    db.execute(
        "INSERT INTO tally VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET waiting = waiting + excluded.waiting, "
        "claimed = claimed + excluded.claimed, dead = dead + excluded.dead, sent = sent + excluded.sent",
        (account, waiting, claimed, dead, sent),
    )
