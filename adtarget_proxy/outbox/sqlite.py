"""The store of ``sqlite://``: one file for all processes of a machine, at a cost that does not grow with what waits.

Each method of the contract is one transaction; the statements are in ``tables``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox.bounds import Bounds
from adtarget_proxy.outbox.bucket import Bucket
from adtarget_proxy.outbox.database import PAGE, Database
from adtarget_proxy.outbox.lines import CHUNK
from adtarget_proxy.outbox.store import MAX_DEAD, Claim, Counts, DeadLetter, DeadReason, Flight, JournalOffset, Waiting
from adtarget_proxy.outbox.tables import intake, records, sending, shared, upkeep
from adtarget_proxy.outbox.together import Together
from adtarget_proxy.tracking.events import Event, Written, decode

_PAGE = 200  # rows read at once, so that a long list holds no lock


class TableStore:
    """The contract of ``Store`` over the tables of a ``Database``. Every method raises OutboxError where that fails."""

    stretch = CHUNK

    def __init__(self, database: Database, *, max_events: int, max_dead: int = MAX_DEAD) -> None:
        self._db = database
        self._together = Together(database)
        self._max_events, self._max_dead = max_events, max_dead
        self._bounds = Bounds()

    # -- putting ---------------------------------------------------------------------------------------------------------

    def put(self, events: Sequence[Event | Written], *, now: float, journal: JournalOffset | None = None) -> int:
        """See ``Store.put``."""
        with self._db.writing() as db:
            new, shed = intake.put(db, events, now=now, journal=journal, bound=self._max_events)
        if shed:
            self._bounds.shed_events(self._max_events)
        return new

    def offset(self, journal: str) -> int:
        """See ``Store.offset``."""
        with self._db.reading() as db:
            return intake.offset(db, journal)

    def forget_journal(self, journal: str) -> None:
        """See ``Store.forget_journal``."""
        with self._db.writing() as db:
            intake.forget_journal(db, journal)

    # -- sending ---------------------------------------------------------------------------------------------------------

    def claim(self, accounts: Collection[str], *, owner: str, now: float, limit: int) -> list[Claim]:
        """See ``Store.claim``."""
        with self._db.writing() as db:
            rows = sending.claim(db, accounts, owner=owner, now=now, limit=limit)
        return [Claim(decode(body), tries, unknown) for body, tries, unknown in rows]

    def promote(self, account: str, visitor: str, *, owner: str, now: float) -> list[Claim] | None:
        """See ``Store.promote``."""
        with self._db.writing() as db:
            return sending.promote(db, account, visitor, owner=owner, now=now)

    def settle(self, event_id: str, *, now: float) -> None:
        """See ``Store.settle``."""
        self._together.write(lambda db: sending.settle(db, event_id, now=now))

    def put_back(self, event_id: str, *, not_before: float, now: float, unknown: bool, counted: bool = True) -> None:
        """See ``Store.put_back``."""
        self._together.write(
            lambda db: sending.put_back(db, event_id, not_before=not_before, now=now, unknown=unknown, counted=counted)
        )

    def bury(self, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float) -> None:
        """See ``Store.bury``."""
        self._together.write(
            lambda db: sending.bury(db, event_id, reason=reason, status=status, answer=answer, now=now)
        )

    def release(self, owner: str) -> int:
        """See ``Store.release``."""
        with self._db.writing() as db:
            return sending.release(db, owner)

    def owners(self) -> set[str]:
        """See ``Store.owners``."""
        with self._db.reading() as db:
            return sending.owners(db)

    def silent(self, owners: Collection[str]) -> set[str]:
        """See ``Store.silent``: on one machine who has no journal is dead."""
        return set(owners)

    # -- invite links and pacing -----------------------------------------------------------------------------------------

    def begin_invite(
        self, account: str, visitor: str, slug: str, *, owner: str, now: float
    ) -> tuple[Flight, str | None]:
        """See ``Store.begin_invite``."""
        with self._db.writing() as db:
            return shared.begin_invite(db, (account, visitor, slug), owner=owner, now=now)

    def end_invite(self, account: str, visitor: str, slug: str, *, link: str | None, now: float) -> None:
        """See ``Store.end_invite``."""
        with self._db.writing() as db:
            shared.end_invite(db, (account, visitor, slug), link=link, now=now)

    def admit(self, account: str, network: str, *, now: float, limit: int | None) -> bool:
        """See ``Store.admit``."""
        return self._together.write(lambda db: shared.admit(db, account, network, now=now, limit=limit))

    def take(self, account: str, *, now: float, rate: float, burst: float, reserve: float, number: int = 1) -> float:
        """See ``Store.take``."""
        return self._together.write(
            lambda db: shared.take(db, account, now=now, rate=rate, burst=burst, reserve=reserve, number=number)
        )

    def hold(self, account: str, *, until: float) -> None:
        """See ``Store.hold``."""
        with self._db.writing() as db:
            bucket = shared.bucket_of(db, account) or Bucket(0.0, until)
            shared.keep_bucket(db, account, bucket.hold(until))

    def halve(self, account: str, *, began: float, now: float) -> None:
        """See ``Store.halve``."""
        with self._db.writing() as db:
            bucket = shared.bucket_of(db, account) or Bucket(0.0, now)
            shared.keep_bucket(db, account, bucket.halve(began=began, now=now))

    def level(self, account: str, *, now: float, rate: float, burst: float) -> float:
        """See ``Store.level``."""
        with self._db.reading() as db:
            bucket = shared.bucket_of(db, account) or Bucket(burst, now)
        return bucket.level(now=now, rate=rate, burst=burst)

    # -- looking after ---------------------------------------------------------------------------------------------------

    def expire(self, *, now: float, max_age: Mapping[str, float], limit: int = 1000) -> int:
        """See ``Store.expire``; returns how many were buried."""
        with self._db.writing() as db:
            buried, gone = upkeep.expire(db, now=now, max_age=max_age, limit=limit, max_dead=self._max_dead)
        if gone:
            self._bounds.shed_dead(self._max_dead)
        return buried

    def counts(self, accounts: Collection[str] | None = None) -> Counts:
        """See ``Store.counts``."""
        with self._db.reading() as db:
            return upkeep.counts(db, accounts)

    def next_due(self, accounts: Collection[str], *, now: float) -> float | None:
        """See ``Store.next_due``."""
        with self._db.reading() as db:
            return sending.next_due(db, accounts, now=now)

    def waiting(self, accounts: Collection[str] | None = None) -> Iterator[Waiting]:
        """See ``Store.waiting``."""
        for row in self._walk(records.waiting_page):
            if accounts is None or row[3] in accounts:
                yield records.waiting_of(row)

    def dead_letters(self, accounts: Collection[str] | None = None) -> Iterator[DeadLetter]:
        """See ``Store.dead_letters``."""
        for row in self._walk(records.dead_page):
            if accounts is None or row[1] in accounts:
                yield records.letter_of(row)

    def find(self, event_id: str) -> Waiting | DeadLetter | None:
        """See ``Store.find``."""
        with self._db.reading() as db:
            return records.find(db, event_id)

    def accounts(self) -> set[str]:
        """See ``Store.accounts``."""
        with self._db.reading() as db:
            return records.accounts(db)

    def replay(self, event_id: str, *, now: float) -> bool:
        """See ``Store.replay``."""
        with self._db.writing() as db:
            return records.replay(db, event_id, now=now)

    def purge(self, event_id: str) -> bool:
        """See ``Store.purge``."""
        with self._db.writing() as db:
            return records.purge(db, event_id)

    def erase(self, visitor: str, *, now: float) -> int:
        """See ``Store.erase``."""
        with self._db.writing() as db:
            erased = records.erase(db, visitor, now=now)
        self._db.checkpoint()  # the log still holds what the file has lost
        return erased

    def adopt(self, source: str, target: str, *, limit: int = 1000) -> int:
        """See ``Store.adopt``."""
        with self._db.writing() as db:
            return records.adopt(db, source, target, limit=limit)

    def close(self) -> None:
        """See ``Store.close``."""
        self._db.close()

    def _walk(self, page: Callable[[Connection, Any, int], list[Any]]) -> Iterator[Any]:
        last: Any = None
        while True:
            with self._db.reading() as db:
                rows = page(db, last, _PAGE)
            if not rows:
                return
            last = rows[-1]
            yield from rows


class SqliteStore(TableStore):
    """The tables in a file at ``path``: made at the first use, mode 0600, its directory 0700."""

    def __init__(self, path: Path, *, max_events: int = 2_000_000, max_dead: int = MAX_DEAD) -> None:
        super().__init__(Database(path), max_events=max_events, max_dead=max_dead)
        self._path = path

    def put(self, events: Sequence[Event | Written], *, now: float, journal: JournalOffset | None = None) -> int:
        """See ``Store.put``. On a full disk what comes must leave room for what goes, which makes room."""
        if not self._db.has_room(_pages(events)):
            raise OutboxError(f"outbox {self._path}: database or disk is full", cause="full")
        return super().put(events, now=now, journal=journal)

    def expire(self, *, now: float, max_age: Mapping[str, float], limit: int = 1000) -> int:
        """See ``Store.expire``."""
        self._db.keep_reserve()
        return super().expire(now=now, max_age=max_age, limit=limit)


def _pages(events: Sequence[Event | Written]) -> int:
    """About what they take in the file, indexes and all."""
    return 8 + 3 * sum(len(event.encode()) for event in events) // PAGE
