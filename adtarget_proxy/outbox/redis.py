"""The store of ``redis://``: one for any number of machines. What a call does is in ``lua/``, one script, so that each is atomic.

Needs Redis 6.2 or newer (or Valkey), not a cluster. Journals stay on each machine: a Redis that is down delays events and loses none.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import entries
from adtarget_proxy.outbox.bounds import Bounds
from adtarget_proxy.outbox.pulse import Pulse
from adtarget_proxy.outbox.store import (
    ANSWER_KEPT,
    ASKING_KEPT,
    DEAD_KEPT,
    FLIGHT_KEPT,
    LINK_KEPT,
    LONGEST_SLEEP,
    MAX_DEAD,
    PATIENCE,
    SETTLED_KEPT,
    Claim,
    Counts,
    DeadLetter,
    DeadReason,
    Flight,
    JournalOffset,
    Waiting,
)
from adtarget_proxy.outbox.wire import Wire
from adtarget_proxy.tracking.events import PLAIN, Event, FbpUpdate, Written

BEAT = 3.0  # seconds between two signs of life of who claims
SILENCE = 10.0  # seconds without one, after which its claims are taken over
PREFIX = "adtarget:"
_STRETCH = 32 * 1024  # bytes: some fifty events, for whose put Redis answers nobody else


class RedisStore:
    """The contract of ``Store``. Connects at its first use; every method raises OutboxError where Redis does not answer.

    ``where`` is the place without its password, for messages.
    """

    stretch = _STRETCH

    def __init__(
        self, url: str, *, where: str, max_events: int = 2_000_000, max_dead: int = MAX_DEAD, prefix: str = PREFIX
    ) -> None:
        self._wire = Wire(url, where=where, prefix=prefix)
        self._max_events, self._max_dead = max_events, max_dead
        self._bounds = Bounds()
        self._claiming = threading.Lock()
        self._held: set[str] = set()
        self._doubtful = False  # a claim's answer was lost, and with it what it claimed
        self._pulse = Pulse(self._beat, every=BEAT)

    # -- putting ---------------------------------------------------------------------------------------------------------

    def put(self, events: Sequence[Event | Written], *, now: float, journal: JournalOffset | None = None) -> int:
        """See ``Store.put``. A batch whose journal offset was recorded before is passed over whole."""
        flat: list[Any] = []
        for event in events:
            fbp = event.fields["fbp"] if isinstance(event, FbpUpdate) else ""
            place = (event.id, event.account, event.visitor, event.kind, event.worth, event.at, event.not_before)
            flat += (*place, event.encode(), fbp, "" if event.asked_at is None else event.asked_at)
        name, offset = (journal.name, journal.offset) if journal is not None else ("", 0)
        new, shed = self._wire.do("put", now, self._max_events, name, offset, *flat)
        if shed:
            self._bounds.shed_events(self._max_events)
        return int(new)

    def offset(self, journal: str) -> int:
        """See ``Store.offset``."""
        with self._wire.faults():
            return int(cast("bytes", self._wire.client.hget(self._wire.key("journals"), journal)) or 0)

    def forget_journal(self, journal: str) -> None:
        """See ``Store.forget_journal``."""
        with self._wire.faults():
            self._wire.client.hdel(self._wire.key("journals"), journal)

    # -- sending ---------------------------------------------------------------------------------------------------------

    def claim(self, accounts: Collection[str], *, owner: str, now: float, limit: int) -> list[Claim]:
        """See ``Store.claim``."""
        return self._claimed(owner, "claim", owner, now, limit, _ms(SILENCE), *set(accounts)) or []

    def promote(self, account: str, visitor: str, *, owner: str, now: float) -> list[Claim] | None:
        """See ``Store.promote``."""
        return self._claimed(owner, "promote", account, visitor, owner, now, _ms(SILENCE))

    def settle(self, event_id: str, *, now: float) -> None:
        """See ``Store.settle``."""
        self._wire.do("settle", event_id, now)
        self._held.discard(event_id)

    def put_back(self, event_id: str, *, not_before: float, now: float, unknown: bool, counted: bool = True) -> None:
        """See ``Store.put_back``."""
        self._wire.do("put_back", event_id, not_before, now, int(unknown), int(counted))
        self._held.discard(event_id)

    def bury(self, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float) -> None:
        """See ``Store.bury``."""
        self._wire.do("bury", event_id, reason.value, "" if status is None else status, answer[:ANSWER_KEPT], now)
        self._held.discard(event_id)

    def release(self, owner: str) -> int:
        """See ``Store.release``."""
        self._pulse.forget(owner)
        return int(self._wire.do("release", owner))

    def owners(self) -> set[str]:
        """See ``Store.owners``."""
        with self._wire.faults():
            return _texts(self._wire.client.smembers(self._wire.key("owners")))

    def silent(self, owners: Collection[str]) -> set[str]:
        """See ``Store.silent``. Nobody is called dead for being silent while Redis could not be heard from here either."""
        names = sorted(owners)
        if not names or self._wire.has_failed_within(SILENCE):
            return set()
        with self._wire.faults():
            signs = cast("list[Any]", self._wire.client.mget([self._wire.key("alive:" + name) for name in names]))
        return {name for name, sign in zip(names, signs, strict=True) if sign is None}

    def next_due(self, accounts: Collection[str], *, now: float) -> float | None:
        """See ``Store.next_due``."""
        wait = self._wire.do("next_due", now, *accounts)
        return None if wait is None else float(wait)

    def _claimed(self, owner: str, command: str, *arguments: Any) -> list[Claim] | None:
        """What a command claims for ``owner``; None where another claim is in its way."""
        with self._claiming:
            if self._doubtful:
                self._reconcile(owner)
            self._doubtful = True
            answer = self._wire.do(command, *arguments)
            self._doubtful = False
            if isinstance(answer, bytes):
                return None
            claims = [
                Claim(entries.event_of(account, body, fbp), int(tries), entries.number(unknown))
                for _, (account, body, fbp, tries, unknown) in answer
            ]
            self._held.update(claim.event.id for claim in claims)
        if claims:
            self._pulse.keep(owner)
        return claims

    def _reconcile(self, owner: str) -> None:
        """Give back what this process holds without knowing."""
        with self._wire.faults():
            claimed = _texts(self._wire.client.smembers(self._wire.key("claims:" + owner)))
        for event_id in claimed - self._held:
            self._wire.do("put_back", event_id, 0, 0, 0, 0)

    def _beat(self, owner: str) -> None:
        with suppress(OutboxError), self._wire.faults():
            self._wire.client.set(self._wire.key("alive:" + owner), 1, px=_ms(SILENCE))

    # -- invite links and pacing -----------------------------------------------------------------------------------------

    def begin_invite(
        self, account: str, visitor: str, slug: str, *, owner: str, now: float
    ) -> tuple[Flight, str | None]:
        """See ``Store.begin_invite``."""
        words = (account, visitor, slug, owner, now, LINK_KEPT, FLIGHT_KEPT, _ms(SILENCE))
        flight, *link = self._wire.do("begin_invite", *words)
        if flight == b"lead":
            self._pulse.keep(owner)
        return Flight(flight.decode()), link[0].decode() if link else None

    def end_invite(self, account: str, visitor: str, slug: str, *, link: str | None, now: float) -> None:
        """See ``Store.end_invite``."""
        self._wire.do("end_invite", account, visitor, slug, link or "", now)

    def admit(self, account: str, network: str, *, now: float, limit: int | None) -> bool:
        """See ``Store.admit``."""
        bound = "" if limit is None else limit
        return bool(self._wire.do("admit", account, network, now, now - ASKING_KEPT, _ms(ASKING_KEPT), bound))

    def take(self, account: str, *, now: float, rate: float, burst: float, reserve: float, number: int = 1) -> float:
        """See ``Store.take``."""
        return float(self._wire.do("take", account, now, rate, burst, reserve, number))

    def hold(self, account: str, *, until: float) -> None:
        """See ``Store.hold``."""
        self._wire.do("hold", account, until)

    def halve(self, account: str, *, began: float, now: float) -> None:
        """See ``Store.halve``."""
        self._wire.do("halve", account, began, now)

    def level(self, account: str, *, now: float, rate: float, burst: float) -> float:
        """See ``Store.level``."""
        return float(self._wire.do("level", account, now, rate, burst))

    # -- looking after ---------------------------------------------------------------------------------------------------

    def expire(self, *, now: float, max_age: Mapping[str, float], limit: int = 1000) -> int:
        """See ``Store.expire``; returns how many were buried."""
        limits = [word for kind, age in max_age.items() for word in (kind, now - age)]
        bounds = (now - PATIENCE, now - SETTLED_KEPT, now - LINK_KEPT, now + LONGEST_SLEEP)
        dead = (now - DEAD_KEPT, self._max_dead)
        buried, gone = self._wire.do("expire", now, limit, "older than max_age", *bounds, *dead, *limits)
        if gone:
            self._bounds.shed_dead(self._max_dead)
        return int(buried)

    def counts(self, accounts: Collection[str] | None = None) -> Counts:
        """See ``Store.counts``."""
        chosen = sorted(self._accounts() if accounts is None else accounts)
        with self._wire.faults():
            pipe = self._wire.client.pipeline(transaction=False)
            pipe.hgetall(self._wire.key("lost"))
            for account in chosen:
                pipe.hgetall(self._wire.key("t:" + account))
            lost, *tallies = pipe.execute()
        sums = {name: sum(int(tally.get(name.encode(), 0)) for tally in tallies) for name in _TALLIED}
        return Counts(**sums, lost={bound.decode(): int(number) for bound, number in lost.items()})

    def waiting(self, accounts: Collection[str] | None = None) -> Iterator[Waiting]:
        """See ``Store.waiting``."""
        for worth in range(1, PLAIN + 1):
            for event_id in entries.walk(self._wire, f"w:{worth}"):
                found = entries.standing(self._wire, event_id)
                if found is not None and (accounts is None or found.event.account in accounts):
                    yield found

    def dead_letters(self, accounts: Collection[str] | None = None) -> Iterator[DeadLetter]:
        """See ``Store.dead_letters``."""
        for event_id in entries.walk(self._wire, "dead"):
            found = entries.letter(self._wire, event_id)
            if found is not None and (accounts is None or found.event.account in accounts):
                yield found

    def find(self, event_id: str) -> Waiting | DeadLetter | None:
        """See ``Store.find``."""
        return entries.standing(self._wire, event_id) or entries.letter(self._wire, event_id)

    def accounts(self) -> set[str]:
        """See ``Store.accounts``."""
        return self._accounts() - {""}

    def replay(self, event_id: str, *, now: float) -> bool:
        """See ``Store.replay``."""
        return bool(self._wire.do("replay", event_id, now))

    def purge(self, event_id: str) -> bool:
        """See ``Store.purge``."""
        return bool(self._wire.do("purge", event_id))

    def erase(self, visitor: str, *, now: float) -> int:
        """See ``Store.erase``. An append-only file keeps what is deleted until Redis rewrites it (BGREWRITEAOF)."""
        return int(self._wire.do("erase", visitor, now))

    def adopt(self, source: str, target: str, *, limit: int = 1000) -> int:
        """See ``Store.adopt``."""
        return int(self._wire.do("adopt", source, target, limit))

    def close(self) -> None:
        """See ``Store.close``."""
        self._pulse.stop()
        self._wire.close()

    def _accounts(self) -> set[str]:
        with self._wire.faults():
            return _texts(self._wire.client.smembers(self._wire.key("accounts")))


_TALLIED = ("waiting", "claimed", "dead", "sent")


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _texts(members: Any) -> set[str]:
    return {member.decode("utf-8", "surrogatepass") for member in members}
