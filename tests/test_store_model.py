"""The store against a reference that is too simple to be wrong: a list of events."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from redis_server import empty, redis_server, redis_store

from adtarget_proxy.outbox import DeadReason, Store
from adtarget_proxy.outbox.memory import MemoryStore
from adtarget_proxy.outbox.sqlite import SqliteStore
from adtarget_proxy.tracking.events import PLAIN, Conversion, Event, FbpUpdate, Visit

ACCOUNTS, VISITORS, OWNERS = ("a", "b"), ("x", "y"), ("p", "q")
OFTEN_A = st.sampled_from(("a", "a", "a", "b"))
PATIENCE = 900
LONGEST_SLEEP = 3605
SET_BACK = 1_000_000
Queue = tuple[str, str]  # account and visitor


@dataclass
class Entry:
    """What the reference knows of an event."""

    event: Event
    worth: int
    at: float
    due: float
    fbp: str | None = None
    tries: int = 0
    unknown_since: float | None = None
    owner: str | None = None

    @property
    def id(self) -> str:
        return self.event.id

    @property
    def queue(self) -> Queue:
        return self.event.account, self.event.visitor


class StoreMachine(RuleBasedStateMachine):
    """Events of a few visitors, in every order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.engine()
        self.waiting: list[Entry] = []
        self.settled: set[str] = set()
        self.dead: list[Entry] = []
        self.gone_out: dict[Queue, float] = {}  # when the newest visit that AdTarget took was made
        self.sent = 0
        self.askings: list[tuple[str, str, float]] = []
        self.now = 100.0 * SET_BACK
        self.number = self.set_back = 0

    def engine(self) -> Store:
        return MemoryStore()

    # -- the reference -----------------------------------------------------------------------------------------------------

    def queue(self, account: str, visitor: str) -> list[Entry]:
        return [entry for entry in self.waiting if entry.queue == (account, visitor)]

    def claimed(self) -> list[Entry]:
        return [entry for entry in self.waiting if entry.owner]

    def known(self, id: str) -> bool:  # noqa: A002
        return id in self.settled or any(entry.id == id for entry in self.waiting + self.dead)

    def absorb(self, update: FbpUpdate) -> bool:
        """The rules of an update that needs no request of its own."""
        place = (update.account, update.visitor)
        if self.gone_out.get(place, -1.0) >= update.at:
            return True
        queue = self.queue(*place)
        visits = [n for n, entry in enumerate(queue) if isinstance(entry.event, Visit)]
        if not visits:
            return False
        newest = queue[visits[-1]]
        if newest.at >= update.at:
            return True
        if newest.tries or newest.owner:
            return False
        newest.fbp = update.fields["fbp"]
        for entry in queue[visits[-1] :]:
            if isinstance(entry.event, FbpUpdate) and not entry.owner:
                self.drop(entry)
        return True

    def drop(self, entry: Entry) -> None:
        self.waiting.remove(entry)
        self.settled.add(entry.id)

    def changed(self, place: Queue) -> None:
        """Updates that a newer visit has overtaken are dropped when their queue is next looked at."""
        for entry in self.queue(*place):
            if isinstance(entry.event, FbpUpdate) and not entry.owner and entry.at <= self.gone_out.get(place, -1.0):
                self.drop(entry)

    def put(self, event: Event) -> None:
        known = self.known(event.id)
        assert self.store.put([event], now=self.now) == (not known)
        if known:
            return
        if isinstance(event, FbpUpdate) and self.absorb(event):
            self.settled.add(event.id)
            return
        self.waiting.append(Entry(event, event.worth, event.at, event.not_before, event.fields.get("fbp")))

    # -- what can be done to both ------------------------------------------------------------------------------------------

    @rule(
        account=OFTEN_A,
        visitor=st.sampled_from(VISITORS),
        worth=st.integers(1, 4),
        later=st.sampled_from([0, 0, 5]),
        age=st.integers(0, 3),
        kind=st.sampled_from([Visit, Visit, Conversion]),
    )
    def put_new(self, account: str, visitor: str, worth: int, later: int, age: int, kind: type[Event]) -> None:
        self.number += 1
        name, due = f"e{self.number}", self.now + later if later else 0.0
        at = self.now - age
        self.put(kind(id=name, key=name, account=account, visitor=visitor, at=at, worth=worth, not_before=due))

    @rule(
        account=OFTEN_A,
        visitor=st.sampled_from(VISITORS),
        fbp=st.sampled_from("1234"),
        age=st.integers(0, 3),
    )
    def put_update(self, account: str, visitor: str, fbp: str, age: int) -> None:
        self.put(FbpUpdate.of(account=account, visitor=visitor, fbp=fbp, at=self.now - age, fields={}))

    @precondition(lambda self: self.number)
    @rule(data=st.data())
    def put_again(self, data: Any) -> None:
        name = f"e{data.draw(st.integers(1, self.number))}"
        assert self.store.put([Visit(id=name, key=name, account="a", visitor="x", at=0.0, worth=1)], now=self.now) == 0

    @rule(seconds=st.sampled_from([1, 2, 5, 400]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    def heads(self) -> list[Entry]:
        queues = [self.queue(account, visitor) for account in ACCOUNTS for visitor in VISITORS]
        return [queue[0] for queue in queues if queue and not queue[0].owner]

    @precondition(lambda self: not any(0 < head.due <= self.now for head in self.heads()))
    @rule()
    def clock_goes_back(self) -> None:
        """Further than any of these events can be due; the next look wakes who sleeps for it."""
        self.now -= SET_BACK
        self.set_back += 1
        assert self.store.expire(now=self.now, max_age={}) == 0
        for head in self.heads():
            head.due = 0.0

    @rule(
        owner=st.sampled_from(OWNERS), limit=st.integers(1, 3), accounts=st.sets(st.sampled_from(ACCOUNTS), min_size=1)
    )
    def claim_some(self, owner: str, limit: int, accounts: set[str]) -> None:
        self.claim(owner, limit, accounts)

    def claim(self, owner: str, limit: int, accounts: set[str]) -> None:
        queues = [self.queue(account, visitor) for account in accounts for visitor in VISITORS]
        ready = [queue for queue in queues if queue and not queue[0].owner and queue[0].due <= self.now]
        ready.sort(key=lambda queue: (min(e.worth for e in queue), queue[0].at, self.waiting.index(queue[0])))
        heads = [queue[0] for queue in ready[:limit]]
        claims = self.store.claim(accounts, owner=owner, now=self.now, limit=limit)
        found = [(c.event.id, c.tries, c.unknown_since, c.event.fields.get("fbp")) for c in claims]
        assert found == [(entry.id, entry.tries, entry.unknown_since, entry.fbp) for entry in heads]
        for entry in heads:
            entry.owner = owner

    @rule(owner=st.sampled_from(OWNERS), account=OFTEN_A, visitor=st.sampled_from(VISITORS))
    def promote(self, owner: str, account: str, visitor: str) -> None:
        claims = self.store.promote(account, visitor, owner=owner, now=self.now)
        queue = self.queue(account, visitor)
        visits = [n for n, entry in enumerate(queue) if isinstance(entry.event, Visit)]
        if not visits:
            assert claims == []
            return
        taken = queue[: visits[-1] + 1]
        if any(entry.owner for entry in taken):
            assert claims is None
            return
        held = next((n for n, entry in enumerate(taken) if entry.event.not_before > self.now), len(taken))
        taken = taken[:held]
        while taken and not isinstance(taken[-1].event, Visit):
            taken.pop()
        assert [claim.event.id for claim in claims or ()] == [entry.id for entry in taken]
        for entry in taken:
            entry.owner = owner
        self.changed((account, visitor))

    @precondition(claimed)
    @rule(data=st.data(), outcome=st.sampled_from(["settled", "back", "back unknown", "uncounted", "buried"]))
    def answer(self, data: Any, outcome: str) -> None:
        self.conclude(data.draw(st.sampled_from(self.claimed())), outcome, data.draw(st.integers(0, 5)))

    @precondition(lambda self: self.waiting)
    @rule(outcomes=st.lists(st.sampled_from(["settled", "back", "back unknown"]), min_size=1, max_size=4))
    def attempt(self, outcomes: list[str]) -> None:
        """What a lane does all day: one after the other, a second apart."""
        for outcome in outcomes:
            before = self.claimed()
            self.claim(OWNERS[0], 1, set(ACCOUNTS))
            for entry in self.claimed():
                if entry not in before:
                    self.conclude(entry, outcome, 0)
            self.now += 1

    def conclude(self, entry: Entry, outcome: str, later: int) -> None:
        unknown = outcome == "back unknown"
        if outcome == "settled":
            self.store.settle(entry.id, now=self.now)
            self.drop(entry)
            self.sent += 1
            if isinstance(entry.event, Visit):
                self.gone_out[entry.queue] = max(entry.at, self.gone_out.get(entry.queue, 0.0))
        elif outcome == "buried":
            self.store.bury(entry.id, reason=DeadReason.REFUSED, status=400, answer="", now=self.now)
            self.waiting.remove(entry)
            self.dead.append(entry)
        else:
            counted, due = outcome != "uncounted", self.now + later
            self.store.put_back(entry.id, not_before=due, now=self.now, unknown=unknown, counted=counted)
            entry.owner, entry.due, entry.tries = None, due, entry.tries + counted
            if unknown and entry.unknown_since is None:
                entry.unknown_since = self.now
        self.changed(entry.queue)

    def end(self, entry: Entry) -> None:
        self.waiting.remove(entry)
        self.dead.append(entry)
        self.changed(entry.queue)

    @rule(owner=st.sampled_from(OWNERS))
    def release(self, owner: str) -> None:
        held = [entry for entry in self.waiting if entry.owner == owner]
        assert self.store.release(owner) == len(held)
        for entry in held:
            entry.owner = None
        for place in {entry.queue for entry in held}:
            self.changed(place)

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), again=st.booleans())
    def purge_or_replay(self, data: Any, again: bool) -> None:
        entry = data.draw(st.sampled_from(self.dead))
        self.dead.remove(entry)
        if again:
            assert self.store.replay(entry.id, now=self.now)
            event = entry.event
            self.waiting.append(Entry(event, event.worth, self.now, event.not_before, entry.fbp))
        else:
            assert self.store.purge(entry.id)
            self.settled.add(entry.id)

    @rule(visitor=st.sampled_from(VISITORS))
    def erase(self, visitor: str) -> None:
        gone = [entry for entry in self.waiting + self.dead if entry.event.visitor == visitor]
        assert self.store.erase(visitor, now=self.now) == len(gone)
        self.settled.update(entry.id for entry in gone)
        self.waiting = [entry for entry in self.waiting if entry not in gone]
        self.dead = [entry for entry in self.dead if entry not in gone]
        for account in ACCOUNTS:
            self.gone_out.pop((account, visitor), None)

    @rule(source=st.sampled_from(ACCOUNTS))
    def adopt(self, source: str) -> None:
        (target,) = set(ACCOUNTS) - {source}
        queues = [self.queue(source, visitor) for visitor in VISITORS]
        moved = [entry for queue in queues if not any(each.owner for each in queue) for entry in queue]
        moved += [entry for entry in self.dead if entry.event.account == source]
        assert self.store.adopt(source, target) == len(moved)
        for entry in moved:
            entry.event = replace(entry.event, account=target)
        for visitor in VISITORS:
            if any(entry in moved for entry in self.queue(target, visitor)):
                self.changed((target, visitor))

    @rule(account=OFTEN_A, network=st.sampled_from("mn"), limit=st.sampled_from([None, 1, 2, 3]))
    def admit(self, account: str, network: str, limit: int | None) -> None:
        network += str(self.set_back)  # what a clock that has since gone back has counted is another test's
        here = [at for *whose, at in self.askings if whose == [account, network] and self.now - at < 60]
        admitted = limit is None or len(here) < limit
        assert self.store.admit(account, network, now=self.now, limit=limit) is admitted
        if admitted:
            self.askings.append((account, network, self.now))

    @rule(age=st.sampled_from([300, 600, 10_000]))
    def expire(self, age: int) -> None:
        old = [e for e in self.waiting if isinstance(e.event, Visit) and e.at < self.now - age and not e.owner]
        assert self.store.expire(now=self.now, max_age={"visit": age}) == len(old)
        for entry in sorted(old, key=lambda entry: entry.at):
            self.end(entry)
        for entry in self.waiting:
            if isinstance(entry.event, Visit) and entry.worth == PLAIN and entry.at <= self.now - PATIENCE:
                entry.worth -= 1
        for head in self.heads():
            if head.due > self.now + LONGEST_SLEEP:
                head.due = 0.0

    @invariant()
    def counts_agree(self) -> None:
        for accounts in (ACCOUNTS, ("a",)):
            counts = self.store.counts(accounts)
            here = [entry for entry in self.waiting if entry.event.account in accounts]
            held = sum(entry.owner is not None for entry in here)
            dead = sum(entry.event.account in accounts for entry in self.dead)
            assert (counts.waiting, counts.claimed, counts.dead) == (len(here) - held, held, dead)
        assert self.store.counts().sent == self.sent
        assert {letter.event.id for letter in self.store.dead_letters()} == {entry.id for entry in self.dead}
        assert {each.event.id for each in self.store.waiting()} == {entry.id for entry in self.waiting}
        assert self.store.owners() == {entry.owner for entry in self.claimed()}

    def teardown(self) -> None:
        self.store.close()


class SqliteMachine(StoreMachine):
    """The same over a file."""

    def engine(self) -> Store:
        self.place = tempfile.TemporaryDirectory()
        return SqliteStore(Path(self.place.name) / "o.sqlite3")

    def teardown(self) -> None:
        super().teardown()
        self.place.cleanup()


class RedisMachine(StoreMachine):
    """The same over a server."""

    url = ""

    def engine(self) -> Store:
        empty(self.url)
        return redis_store(self.url)


TestMemoryAgainstTheModel = StoreMachine.TestCase
TestMemoryAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestSqliteAgainstTheModel = SqliteMachine.TestCase
TestSqliteAgainstTheModel.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


@pytest.mark.server
class TestRedisAgainstTheModel(RedisMachine.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=25, stateful_step_count=40, deadline=None)

    @classmethod
    def setUpClass(cls) -> None:
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        server = cls.enterClassContext(redis_server(Path(folder)))
        RedisMachine.url = f"redis://127.0.0.1:{server.port}/0"
