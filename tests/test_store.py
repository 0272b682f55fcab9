"""The store's contract, over every engine."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis_server import empty, redis_server, redis_store

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Counts, DeadLetter, DeadReason, Flight, JournalOffset, Store, Waiting
from adtarget_proxy.outbox.memory import MemoryStore
from adtarget_proxy.outbox.place import Place
from adtarget_proxy.outbox.sqlite import SqliteStore
from adtarget_proxy.outbox.tables.schema import MIGRATIONS
from adtarget_proxy.tracking.events import (
    FROM_AN_AD,
    PAID_OR_AWAITED,
    PLAIN,
    UPDATE,
    Conversion,
    Event,
    FbpUpdate,
    InviteClick,
    Visit,
    Withdrawal,
)

A, B = "account-a", "account-b"
ME, OTHER = "1-me", "2-other"
MINUTE, HOUR = 60.0, 3600.0

Make = Callable[..., Store]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.server)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[Store] = []

    def factory(**options: Any) -> Store:
        if request.param == "redis":
            url = request.getfixturevalue("redis_url")
            store: Store = Place.parse(url).store() if not options else redis_store(url, **options)
        elif request.param == "memory":
            store = MemoryStore(**options)
        else:
            store = SqliteStore(tmp_path / "outbox" / "o.sqlite3", **options)
        made.append(store)
        return store

    if request.param == "redis":
        empty(request.getfixturevalue("redis_url"))
    yield factory
    for store in made:
        store.close()


@pytest.fixture
def store(make: Make) -> Store:
    return make()


def visit(
    name: str, visitor: str = "v", *, at: float = 100.0, worth: int = PLAIN, account: str = A, **more: Any
) -> Visit:
    return Visit(id=name, key=f"k-{name}", account=account, visitor=visitor, at=at, worth=worth, **more)


def update(fbp: str, visitor: str = "v", *, at: float = 100.0, account: str = A) -> FbpUpdate:
    return FbpUpdate.of(account=account, visitor=visitor, fbp=fbp, at=at, fields={})


def ids(
    store: Store, *, now: float = 1000.0, limit: int = 100, owner: str = ME, accounts: tuple[str, ...] = (A, B)
) -> list[str]:
    return [claim.event.id for claim in store.claim(accounts, owner=owner, now=now, limit=limit)]


def in_order(store: Store, *, now: float = 1000.0) -> list[str]:
    """Everything that can be sent now, one by one, each taken by AdTarget before the next is claimed."""
    sent = []
    while claimed := store.claim([A, B], owner=ME, now=now, limit=1):
        sent.append(claimed[0].event.id)
        store.settle(claimed[0].event.id, now=now)
    return sent


# -- putting -------------------------------------------------------------------------------------------------------------


def test_what_adtarget_was_asked_for_before_it_was_put_has_an_unknown_outcome_since_then(store: Store) -> None:
    store.put([visit("asked", asked_at=97.5), visit("new", "w")], now=100)
    claims = {claim.event.id: claim.unknown_since for claim in store.claim([A], owner=ME, now=101, limit=5)}
    assert claims == {"asked": 97.5, "new": None}
    store.put_back("asked", not_before=0, now=102, unknown=True)
    (claim,) = store.claim([A], owner=ME, now=103, limit=1)
    assert claim.unknown_since == 97.5
    store.bury("asked", reason=DeadReason.UNKNOWN, status=None, answer="", now=104)
    assert store.replay("asked", now=105)
    (claim,) = store.claim([A], owner=ME, now=106, limit=1)
    assert (claim.event.id, claim.unknown_since) == ("asked", None)


def test_an_event_comes_back_as_it_was_put(store: Store) -> None:
    event = visit(
        "one", at=99.5, worth=FROM_AN_AD, fields={"href": "https://shop.example/?q=ä", "value": 1.5, "n": None}
    )
    assert store.put([event], now=100) == 1
    (claim,) = store.claim([A], owner=ME, now=101, limit=5)
    assert (claim.event, type(claim.event), claim.tries, claim.unknown_since) == (event, Visit, 0, None)


@pytest.mark.parametrize(
    "end",
    [
        lambda store: None,
        lambda store: ids(store),
        lambda store: store.settle("one", now=200),
        lambda store: store.bury("one", reason=DeadReason.REFUSED, status=400, answer="no", now=200),
        lambda store: (
            store.bury("one", reason=DeadReason.REFUSED, status=400, answer="no", now=200) or store.purge("one")
        ),
    ],
    ids=["waiting", "claimed", "settled", "dead", "purged"],
)
def test_an_id_is_put_once_whatever_became_of_it(store: Store, end: Callable[[Store], object]) -> None:
    store.put([visit("one")], now=100)
    end(store)
    assert store.put([visit("one"), visit("two"), visit("two")], now=300) == 1


def test_a_settled_id_is_remembered_for_48_hours(store: Store) -> None:
    store.put([visit("one")], now=100)
    store.settle("one", now=100)
    store.expire(now=100 + 47 * HOUR, max_age={})
    assert store.put([visit("one")], now=100 + 47 * HOUR) == 0
    store.expire(now=101 + 48 * HOUR, max_age={})
    assert store.put([visit("one")], now=101 + 48 * HOUR) == 1


def test_settling_what_was_never_put_keeps_it_from_coming_later(store: Store) -> None:
    store.settle("click", now=100)
    assert store.put([visit("click")], now=101) == 0
    assert store.counts().sent == 1


def test_a_journal_is_moved_once_up_to_each_offset(store: Store) -> None:
    assert store.offset("j") == 0
    assert store.put([visit("one")], now=1, journal=JournalOffset("j", 40)) == 1
    assert store.put([visit("two")], now=1, journal=JournalOffset("j", 40)) == 0
    assert store.put([visit("two")], now=1, journal=JournalOffset("j", 80)) == 1
    assert store.offset("j") == 80
    store.forget_journal("j")
    assert store.offset("j") == 0


def test_at_the_bound_the_least_worthy_and_newest_goes_first_and_it_is_said_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store = make(max_events=3)
    store.put(
        [visit("plain-old", "a", at=1), visit("plain-new", "b", at=9), visit("ad", "c", at=5, worth=FROM_AN_AD)], now=10
    )
    store.put([visit("paid", "d", at=10, worth=PAID_OR_AWAITED), visit("ad-2", "e", at=11, worth=FROM_AN_AD)], now=11)
    assert ids(store) == ["paid", "ad", "ad-2"]
    assert store.counts() == Counts(waiting=0, claimed=3, lost={"shed": 2})
    store.put([visit("plain-newest", "f", at=12)], now=12)
    assert store.counts().lost == {"shed": 3}
    assert caplog.messages == ["the outbox is full (3 events): the least worthy are given up"]


def test_dead_letters_are_kept_for_30_days(store: Store) -> None:
    day = 24 * HOUR
    store.put([visit("old", "a"), visit("new", "b")], now=0)
    for name, now in (("old", 0), ("new", day)):
        store.bury(name, reason=DeadReason.REFUSED, status=400, answer="", now=now)
    store.expire(now=30 * day, max_age={})
    assert [letter.event.id for letter in store.dead_letters()] == ["old", "new"]
    store.expire(now=30 * day + 1, max_age={})
    assert [letter.event.id for letter in store.dead_letters()] == ["new"]
    assert store.counts() == Counts(dead=1)


def test_of_too_many_dead_letters_the_oldest_go_counted_and_come_back_from_no_journal(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store = make(max_dead=3)
    names = list("abcdefg")
    store.put([visit(name, name) for name in names], now=0)
    for name in names:
        store.bury(name, reason=DeadReason.REFUSED, status=400, answer="", now=1)
    store.expire(now=2, max_age={}, limit=3)
    assert [letter.event.id for letter in store.dead_letters()] == ["d", "e", "f", "g"]
    store.expire(now=3, max_age={})
    assert [letter.event.id for letter in store.dead_letters()] == ["e", "f", "g"]
    assert store.counts() == Counts(dead=3, lost={"dead letters": 4})
    assert caplog.messages == ["there are more than 3 dead letters: the oldest are given up"]
    assert store.put([visit("a", "a")], now=4) == 0


# -- order -----------------------------------------------------------------------------------------------------------------


def test_worth_goes_first_and_within_a_class_the_oldest(store: Store) -> None:
    store.put(
        [
            visit("plain", "a", at=1),
            update("fb.1.1.1", "b", at=2),
            visit("ad-new", "c", at=9, worth=FROM_AN_AD),
            visit("ad-old", "d", at=3, worth=FROM_AN_AD),
            Conversion(id="sale", key="s", account=A, visitor="e", at=20, worth=PAID_OR_AWAITED),
        ],
        now=20,
    )
    assert ids(store) == ["sale", "ad-old", "ad-new", update("fb.1.1.1", "b").id, "plain"]


def test_a_queue_takes_the_class_of_its_worthiest_event_and_keeps_its_order(store: Store) -> None:
    store.put([visit("other", "b", at=1), visit("first", "a", at=5), visit("ad", "a", at=6, worth=FROM_AN_AD)], now=10)
    assert in_order(store) == ["first", "ad", "other"]


def test_a_queue_loses_the_class_when_its_worthiest_event_has_gone(store: Store) -> None:
    store.put([visit("ad", "a", at=5, worth=FROM_AN_AD), visit("later", "a", at=6), visit("other", "b", at=1)], now=10)
    assert in_order(store) == ["ad", "other", "later"]


def test_one_claim_takes_one_event_a_visitor_and_nothing_behind_a_claimed_head(store: Store) -> None:
    store.put([visit("a1", "a"), visit("a2", "a"), visit("b1", "b")], now=10)
    assert ids(store) == ["a1", "b1"]
    assert ids(store) == []
    store.settle("a1", now=11)
    assert ids(store) == ["a2"]


def test_the_same_visitor_of_two_accounts_has_two_queues(store: Store) -> None:
    store.put([visit("a", account=A, at=1), visit("b", account=B, at=2)], now=10)
    assert ids(store, accounts=(B,)) == ["b"]
    assert ids(store, accounts=(A, B)) == ["a"]
    assert store.claim([], owner=ME, now=10, limit=5) == []


def test_no_more_than_the_limit_is_claimed(store: Store) -> None:
    store.put([visit(str(n), str(n), at=n) for n in range(5)], now=10)
    assert [ids(store, limit=2), ids(store, limit=2), ids(store, limit=2)] == [["0", "1"], ["2", "3"], ["4"]]


def test_an_event_waits_for_its_time_and_holds_back_what_is_behind_it(store: Store) -> None:
    store.put([visit("later", not_before=50), visit("behind"), visit("other", "b", at=200)], now=10)
    assert store.next_due([A], now=10) == 0.0
    assert ids(store, now=49.9) == ["other"]
    assert store.next_due([A], now=40) == pytest.approx(10)
    assert ids(store, now=50) == ["later"]
    assert store.next_due([A], now=50) is None


def test_a_plain_visit_rises_one_class_after_15_minutes_and_no_further(store: Store) -> None:
    store.put(
        [visit("patient", "a", at=0), update("fb.1.1.1", "b", at=600), visit("ad", "c", at=700, worth=FROM_AN_AD)],
        now=700,
    )
    store.expire(now=14 * MINUTE, max_age={})
    assert ids(store, limit=2) == ["ad", update("fb.1.1.1", "b").id]
    store.release(ME)
    for minutes in (15, 31, 90):
        store.expire(now=minutes * MINUTE, max_age={})
    assert ids(store, limit=2) == ["ad", "patient"]


@pytest.mark.parametrize(("ahead", "asleep"), [(3600, True), (3604, True), (3606, False), (86_400 * 365, False)])
def test_what_a_clock_that_went_back_put_to_sleep_wakes(store: Store, ahead: float, asleep: bool) -> None:
    store.put([visit("tried"), visit("behind"), visit("other", "b", at=200)], now=1000)
    store.claim([A], owner=ME, now=1000, limit=1)
    store.put_back("tried", not_before=1000 + ahead, now=1000, unknown=False)
    assert store.expire(now=1000, max_age={}) == 0
    assert ids(store, now=1000) == (["other"] if asleep else ["tried", "other"])


def test_what_stands_behind_one_that_woke_wakes_in_its_turn(store: Store) -> None:
    store.put([visit("one", not_before=9000), visit("two", not_before=9000)], now=10)
    store.expire(now=10, max_age={})
    assert ids(store, now=10) == ["one"]
    store.settle("one", now=10)
    assert ids(store, now=10) == []
    store.expire(now=10, max_age={})
    assert ids(store, now=10) == ["two"]


# -- what becomes of a claim -----------------------------------------------------------------------------------------------


def test_put_back_keeps_the_place_counts_the_try_and_remembers_the_first_unknown(store: Store) -> None:
    store.put([visit("one"), visit("two")], now=10)
    assert ids(store, now=10) == ["one"]
    store.put_back("one", not_before=30, now=12, unknown=True)
    assert ids(store, now=29) == []
    (claim,) = store.claim([A], owner=ME, now=30, limit=5)
    assert (claim.event.id, claim.tries, claim.unknown_since) == ("one", 1, 12)
    store.put_back("one", not_before=40, now=33, unknown=True)
    (claim,) = store.claim([A], owner=ME, now=40, limit=5)
    assert (claim.tries, claim.unknown_since) == (2, 12)
    store.put_back("one", not_before=0, now=41, unknown=False, counted=False)
    (claim,) = store.claim([A], owner=ME, now=41, limit=5)
    assert (claim.tries, claim.unknown_since) == (2, 12)


def test_a_dead_letter_keeps_the_answer_and_releases_what_is_behind_it(store: Store) -> None:
    event = visit("one", fields={"href": "https://shop.example/"})
    store.put([event, visit("two")], now=10)
    store.claim([A], owner=ME, now=10, limit=1)
    store.bury("one", reason=DeadReason.REFUSED, status=400, answer="x" * 5000, now=11)
    (letter,) = store.dead_letters()
    assert letter.event == event
    assert (letter.reason, letter.status, letter.died_at, letter.tries) == (DeadReason.REFUSED, 400, 11, 0)
    assert letter.answer == "x" * 2048
    assert ids(store) == ["two"]


def test_dead_letters_are_listed_by_account_oldest_first(store: Store) -> None:
    store.put([visit(str(n), str(n), account=A if n % 2 else B) for n in range(450)], now=10)
    for n in range(450):
        store.bury(str(n), reason=DeadReason.REFUSED, status=None, answer="", now=n)
    assert [letter.event.id for letter in store.dead_letters([A])] == [str(n) for n in range(450) if n % 2]
    assert len(list(store.dead_letters())) == 450


def test_a_dead_letter_is_replayed_under_its_old_key_and_its_age_begins_anew(store: Store) -> None:
    store.put([visit("one", at=0)], now=10)
    store.expire(now=200, max_age={"visit": 100})
    assert [letter.reason for letter in store.dead_letters()] == [DeadReason.EXPIRED]
    assert store.replay("one", now=300)
    assert store.expire(now=350, max_age={"visit": 100}) == 0
    (claim,) = store.claim([A], owner=ME, now=350, limit=1)
    assert claim.event.key == "k-one"
    assert list(store.dead_letters()) == []
    assert not store.replay("one", now=300)


def test_a_purged_dead_letter_is_gone(store: Store) -> None:
    store.put([visit("one")], now=10)
    store.bury("one", reason=DeadReason.REFUSED, status=404, answer="", now=11)
    assert store.purge("one")
    assert not store.purge("one")
    assert not store.replay("one", now=12)
    assert store.counts() == Counts()


def test_what_the_store_does_not_know_is_no_fault(store: Store) -> None:
    store.put_back("nobody", not_before=5, now=1, unknown=True)
    store.bury("nobody", reason=DeadReason.REFUSED, status=400, answer="", now=1)
    assert store.release("nobody") == 0
    assert store.counts() == Counts()


def test_expiry_buries_by_kind_and_spares_what_is_claimed(store: Store) -> None:
    sale = Conversion(id="sale", key="s", account=A, visitor="c", at=0, worth=PAID_OR_AWAITED)
    store.put([visit("claimed", "a", at=0), visit("old", "b", at=0), sale, visit("young", "d", at=90)], now=95)
    store.claim([A], owner=ME, now=95, limit=2)
    store.put_back("sale", not_before=0, now=95, unknown=False)
    assert store.expire(now=111, max_age={"visit": 110, "conversion": 1000}) == 1
    assert [(letter.event.id, letter.reason) for letter in store.dead_letters()] == [("old", DeadReason.EXPIRED)]


def test_expiry_buries_no_more_than_the_limit(store: Store) -> None:
    store.put([visit(str(n), "v", at=n) for n in range(5)], now=10)
    assert [store.expire(now=100, max_age={"visit": 1}, limit=2) for _ in range(4)] == [2, 2, 1, 0]


# -- owners ----------------------------------------------------------------------------------------------------------------


def test_what_a_dead_process_held_is_free_again_at_its_place(store: Store) -> None:
    store.put([visit("a1", "a"), visit("a2", "a"), visit("b1", "b")], now=10)
    assert ids(store, owner=OTHER, limit=1) == ["a1"]
    assert ids(store, owner=ME) == ["b1"]
    assert store.owners() == {ME, OTHER}
    assert store.release(OTHER) == 1
    assert store.owners() == {ME}
    assert ids(store) == ["a1"]


def test_who_was_never_heard_of_is_silent(store: Store) -> None:
    assert store.silent({ME, OTHER}) == {ME, OTHER}
    assert store.silent(set()) == set()


def test_a_dead_process_gives_its_flights_back(store: Store) -> None:
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=10) == (Flight.LEAD, None)
    assert store.owners() == {OTHER}
    store.release(OTHER)
    assert store.begin_invite(A, "v", "vip", owner=ME, now=10) == (Flight.LEAD, None)


# -- promotion -------------------------------------------------------------------------------------------------------------


def test_promotion_takes_the_visitors_events_up_to_the_newest_visit_past_every_queue(store: Store) -> None:
    click = InviteClick(id="click", key="c", account=A, visitor="v", at=4, worth=PLAIN)
    store.put([visit("paid", "w", at=0, worth=1), visit("v1", at=1), visit("v2", at=3), click], now=10)
    assert [claim.event.id for claim in store.promote(A, "v", owner=ME, now=10) or ()] == ["v1", "v2"]
    assert ids(store) == ["paid"]
    store.settle("v1", now=11)
    assert ids(store) == []
    store.settle("v2", now=11)
    assert ids(store) == ["click"]


@pytest.mark.parametrize("rest", ["nothing", "an update", "another visitor"])
def test_promotion_finds_nothing_where_no_visit_waits(store: Store, rest: str) -> None:
    store.put({"nothing": [], "an update": [update("fb.1.1.1")], "another visitor": [visit("o", "w")]}[rest], now=10)
    assert store.promote(A, "v", owner=ME, now=10) == []
    assert store.promote(B, "v", owner=ME, now=10) == []


def test_promotion_waits_for_a_visit_that_another_claim_holds(store: Store) -> None:
    store.put([visit("one"), visit("two")], now=10)
    assert ids(store, owner=OTHER) == ["one"]
    assert store.promote(A, "v", owner=ME, now=10) is None
    store.settle("one", now=11)
    assert [claim.event.id for claim in store.promote(A, "v", owner=ME, now=11) or ()] == ["two"]


def test_promotion_does_not_wait_for_a_retrys_back_off_but_for_the_events_own_time(store: Store) -> None:
    store.put([visit("tried", "a"), visit("held", "b", not_before=60)], now=10)
    store.claim([A], owner=ME, now=10, limit=1)
    store.put_back("tried", not_before=70, now=11, unknown=False)
    assert [claim.event.id for claim in store.promote(A, "a", owner=ME, now=12) or ()] == ["tried"]
    assert store.promote(A, "b", owner=ME, now=12) == []
    assert [claim.event.id for claim in store.promote(A, "b", owner=ME, now=60) or ()] == ["held"]


# -- FbpUpdate -------------------------------------------------------------------------------------------------------------


def test_an_update_amends_the_visit_that_waits_untried(store: Store) -> None:
    store.put([visit("one", at=1, fields={"href": "h", "fbp": "old"})], now=1)
    store.put([update("new", at=5)], now=5)
    (claim,) = store.claim([A], owner=ME, now=6, limit=5)
    assert claim.event.fields == {"href": "h", "fbp": "new"}
    store.settle("one", now=6)
    assert ids(store) == []
    assert store.put([update("new", at=9)], now=9) == 0


@pytest.mark.parametrize("tried", [True, False], ids=["tried", "claimed"])
def test_an_update_stands_behind_a_visit_that_may_already_have_gone(store: Store, tried: bool) -> None:
    store.put([visit("one", at=1)], now=1)
    ids(store)
    if tried:
        store.put_back("one", not_before=0, now=2, unknown=True)
    store.put([update("new", at=5)], now=5)
    if tried:
        assert ids(store) == ["one"]
    assert ids(store) == []
    store.settle("one", now=6)
    assert ids(store) == [update("new").id]


def test_an_update_stands_before_its_own_pages_visit(store: Store) -> None:
    store.put([visit("one", at=1)], now=1)
    ids(store)
    store.put([update("new", at=5), visit("two", at=5.5, fields={"fbp": "new"})], now=6)
    store.put_back("one", not_before=0, now=6, unknown=True)
    assert in_order(store) == ["one", update("new").id, "two"]


def test_an_update_whose_visit_ended_as_a_dead_letter_may_still_go(store: Store) -> None:
    store.put([visit("one", at=1)], now=1)
    ids(store)
    store.put([update("new", at=5)], now=5)
    store.bury("one", reason=DeadReason.REFUSED, status=400, answer="", now=6)
    assert ids(store) == [update("new").id]


def test_an_update_is_dropped_once_a_newer_visit_went_out(store: Store) -> None:
    store.put([visit("newer", at=9)], now=9)
    ids(store)
    store.settle("newer", now=10)
    store.put([update("late", at=5)], now=11)
    assert ids(store) == []
    assert store.counts().waiting == 0


def test_an_update_that_waits_is_dropped_when_a_newer_visit_goes_out_past_it(store: Store) -> None:
    store.put([visit("one", at=1)], now=1)
    ids(store)
    store.put([update("new", at=5), visit("two", at=6)], now=6)
    store.put_back("one", not_before=0, now=6, unknown=False)
    promoted = store.promote(A, "v", owner=ME, now=7) or ()
    assert [claim.event.id for claim in promoted] == ["one", update("new").id, "two"]
    store.put_back(update("new").id, not_before=0, now=8, unknown=False)
    store.settle("one", now=8)
    store.settle("two", now=8)
    assert ids(store) == []
    assert store.counts() == Counts(sent=2)


def test_an_update_is_put_once_for_its_value(store: Store) -> None:
    assert store.put([update("a"), update("a"), update("b")], now=1) == 2


# -- invite links ----------------------------------------------------------------------------------------------------------


def test_one_call_at_a_time_and_its_link_for_60_seconds(store: Store) -> None:
    link = "https://t.me/+abc"
    assert store.begin_invite(A, "v", "vip", owner=ME, now=10) == (Flight.LEAD, None)
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=11) == (Flight.FOLLOW, None)
    assert store.begin_invite(A, "v", "other", owner=OTHER, now=11) == (Flight.LEAD, None)
    assert store.begin_invite(A, "w", "vip", owner=OTHER, now=11) == (Flight.LEAD, None)
    store.end_invite(A, "v", "vip", link=link, now=12)
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=71.9) == (Flight.LINK, link)
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=72) == (Flight.LEAD, None)


def test_a_call_without_a_link_leaves_the_next_one_to_ask(store: Store) -> None:
    store.begin_invite(A, "v", "vip", owner=ME, now=10)
    store.end_invite(A, "v", "vip", link=None, now=11)
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=12) == (Flight.LEAD, None)


def test_a_flight_is_taken_over_after_15_seconds(store: Store) -> None:
    store.begin_invite(A, "v", "vip", owner=ME, now=10)
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=24.9) == (Flight.FOLLOW, None)
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=25) == (Flight.LEAD, None)


@pytest.mark.parametrize("link", [None, "https://t.me/+old"], ids=["a flight", "a link"])
def test_a_link_and_a_flight_of_the_future_are_none(store: Store, link: str | None) -> None:
    store.begin_invite(A, "x", "vip", owner=ME, now=9000)
    if link is not None:
        store.end_invite(A, "x", "vip", link=link, now=9000)
    assert store.begin_invite(A, "x", "vip", owner=ME, now=1000) == (Flight.LEAD, None)


def test_a_link_that_arrives_late_is_not_taken_away_by_a_call_that_failed(store: Store) -> None:
    store.begin_invite(A, "v", "vip", owner=ME, now=10)
    store.end_invite(A, "v", "vip", link="https://t.me/+abc", now=11)
    store.end_invite(A, "v", "vip", link=None, now=12)
    assert store.begin_invite(A, "v", "vip", owner=OTHER, now=13)[0] is Flight.LINK


# -- who asks without cookies ----------------------------------------------------------------------------------------------


def admitted(store: Store, *times: float, network: str = "n", limit: int | None = 3, account: str = A) -> list[bool]:
    return [store.admit(account, network, now=now, limit=limit) for now in times]


def test_a_networks_visitors_without_cookies_are_counted_for_60_seconds(store: Store) -> None:
    assert admitted(store, 100, 110, 120, 121) == [True, True, True, False]
    assert admitted(store, 159.9, 160, 160) == [False, True, False]
    assert admitted(store, 170.5, 170.5) == [True, False]


def test_who_is_refused_does_not_count(store: Store) -> None:
    assert admitted(store, 100, 100, 100) == [True] * 3
    assert admitted(store, *range(101, 160)) == [False] * 59
    assert admitted(store, 160, 160, 160, 160) == [True, True, True, False]


def test_without_a_limit_they_are_counted_all_the_same(store: Store) -> None:
    assert admitted(store, *[100] * 20, limit=None) == [True] * 20
    assert admitted(store, 101) == [False]


def test_each_network_and_account_is_counted_by_itself(store: Store) -> None:
    assert admitted(store, 100, 100, 100, 100) == [True, True, True, False]
    assert admitted(store, 100, network="m") == [True]
    assert admitted(store, 100, account=B) == [True]


# -- pacing ----------------------------------------------------------------------------------------------------------------


def take(store: Store, now: float, reserve: float = 0.0, account: str = A) -> float:
    return store.take(account, now=now, rate=5.0, burst=50.0, reserve=reserve)


def test_a_bucket_gives_its_burst_and_then_its_rate(store: Store) -> None:
    assert [take(store, 100) for _ in range(50)] == [0.0] * 50
    assert take(store, 100) == pytest.approx(0.2)
    assert take(store, 100.2) == 0.0
    assert take(store, 100.2) == pytest.approx(0.2)
    assert take(store, 100.2, account=B) == 0.0
    assert store.level(A, now=1000, rate=5, burst=50) == 50


def test_a_reserve_is_left_for_others(store: Store) -> None:
    assert [take(store, 100, reserve=10) for _ in range(40)] == [0.0] * 40
    assert take(store, 100, reserve=10) == pytest.approx(0.2)
    assert [take(store, 100) for _ in range(10)] == [0.0] * 10


def test_several_tokens_are_taken_together_or_not_at_all(store: Store) -> None:
    def several(now: float, number: int, reserve: float = 0.0) -> float:
        return store.take(A, now=now, rate=5.0, burst=50.0, reserve=reserve, number=number)

    assert several(100, 30, reserve=15) == 0.0
    assert several(100, 6, reserve=15) == pytest.approx(0.2)
    assert several(100, 5, reserve=15) == 0.0
    assert store.level(A, now=100, rate=5, burst=50) == pytest.approx(15)
    assert several(100, 20) == pytest.approx(1.0)
    assert several(101, 20) == 0.0


def test_a_hold_empties_the_bucket_for_all_until_then(store: Store) -> None:
    store.hold(A, until=110)
    assert take(store, 105) == pytest.approx(5)
    assert store.level(A, now=105, rate=5, burst=50) == 0
    store.hold(A, until=107)
    assert take(store, 109) == pytest.approx(1)
    assert take(store, 110.2) == 0.0
    assert take(store, 110.2) > 0


def test_a_clock_that_goes_back_does_not_stop_the_bucket(store: Store) -> None:
    assert [take(store, 10_000) for _ in range(50)] == [0.0] * 50
    assert take(store, 6_400) == pytest.approx(0.2)  # an hour back: empty as it was
    assert take(store, 6_400.2) == 0.0
    assert store.level(A, now=6_410.2, rate=5, burst=50) == pytest.approx(50)


def test_a_clock_a_moment_behind_gets_no_more_for_it(store: Store) -> None:
    assert [take(store, 100) for _ in range(50)] == [0.0] * 50
    assert take(store, 99) == pytest.approx(0.2)
    assert take(store, 100.2) == 0.0
    assert take(store, 99.2) > 0


def test_a_hold_of_another_clock_ends_with_the_longest_there_is(store: Store) -> None:
    store.hold(A, until=20_000)
    assert take(store, 10_000) == pytest.approx(0.2)
    assert take(store, 10_000.2) == 0.0
    store.hold(B, until=13_600)
    assert take(store, 10_000, account=B) == pytest.approx(3_600)


HALVED = [
    ([], 0.0, 1.0),
    ([0.0], 0.0, 0.5),
    ([0.0], 150.0, 0.75),
    ([0.0], 300.0, 1.0),
    ([0.0], 10_000.0, 1.0),
    ([0.0, 0.0], 0.0, 0.25),
    ([0.0, 300.0], 300.0, 0.5),
    ([0.0] * 50, 0.0, 1 / 16),
]


@pytest.mark.parametrize(("at_429", "later", "share"), HALVED)
def test_a_keyless_429_halves_the_rate_for_all_and_it_recovers_slowly(
    store: Store, at_429: list[float], later: float, share: float
) -> None:
    start = 10_000.0
    for moment in at_429:
        store.halve(A, began=start + moment, now=start + moment)
    while take(store, start + later) == 0.0:
        pass
    assert take(store, start + later) == pytest.approx(0.2 / share)
    assert store.level(A, now=start + later + 1, rate=5, burst=50) == pytest.approx(5 * share, rel=0.05)
    assert take(store, start + later + 0.2 / share) == 0.0
    while take(store, start, account=B) == 0.0:
        pass
    assert take(store, start, account=B) == pytest.approx(0.2), "another account's rate"


def test_of_attempts_under_way_at_once_the_first_429_halves_the_rate(store: Store) -> None:
    for began in (100.0, 100.1, 100.4):
        store.halve(A, began=began, now=100.5)
    assert take(store, 100.5) == pytest.approx(0.4)
    store.halve(A, began=100.6, now=100.7)
    assert take(store, 100.7) == pytest.approx(0.6, rel=0.01)  # of a token in 0.8 s, the part that is there


def test_a_clock_that_goes_back_does_not_keep_the_rate_halved(store: Store) -> None:
    store.halve(A, began=10_000, now=10_000)
    take(store, 6_400)
    while take(store, 6_700) == 0.0:
        pass
    assert take(store, 6_700) == pytest.approx(0.2)


# -- looking after ---------------------------------------------------------------------------------------------------------


def test_counts_follow_each_event(store: Store) -> None:
    store.put([visit(str(n), str(n), at=n) for n in range(4)] + [visit("b", account=B)], now=10)
    assert store.counts() == Counts(waiting=5)
    assert store.counts([A]) == Counts(waiting=4)
    assert ids(store, accounts=(A,), limit=3) == ["0", "1", "2"]
    assert store.counts([A]) == Counts(waiting=1, claimed=3)
    store.settle("0", now=11)
    store.bury("1", reason=DeadReason.REFUSED, status=400, answer="", now=11)
    store.put_back("2", not_before=0, now=11, unknown=False)
    assert store.counts([A]) == Counts(waiting=2, dead=1, sent=1)
    assert store.counts([]) == Counts()


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    with pytest.raises(OutboxError, match="closed"):
        store.put([visit("one")], now=1)


# -- the operator's hand ---------------------------------------------------------------------------------------------------


def bury(store: Store, name: str, *, now: float = 11) -> None:
    store.bury(name, reason=DeadReason.REFUSED, status=400, answer="no", now=now)


def test_what_waits_is_listed_by_worth_and_age_with_how_it_stands(store: Store) -> None:
    store.put([visit(str(n), str(n), at=n) for n in range(450)], now=500)
    store.put([visit("ad", "x", at=450, worth=FROM_AN_AD, fields={"href": "h"}), visit("b", account=B)], now=500)
    (claim,) = store.claim([A], owner=ME, now=500, limit=1)
    store.put_back("ad", not_before=600, now=500, unknown=True)
    store.claim([A], owner=ME, now=500, limit=1)
    listed = list(store.waiting([A]))
    assert [each.event.id for each in listed] == ["ad", *map(str, range(450))]
    assert listed[0] == Waiting(claim.event, FROM_AN_AD, 600, 1, 500, None)
    assert [each.owner for each in listed[1:3]] == [ME, None]
    assert len(list(store.waiting())) == 452
    assert list(store.waiting([])) == []


def test_an_event_is_found_whatever_became_of_it(store: Store) -> None:
    store.put([visit("waits", "a"), visit("dead", "b"), visit("sent", "c")], now=10)
    bury(store, "dead")
    store.settle("sent", now=11)
    waits, dead = store.find("waits"), store.find("dead")
    assert isinstance(waits, Waiting)
    assert (waits.event.id, waits.owner) == ("waits", None)
    assert isinstance(dead, DeadLetter)
    assert (dead.event.id, dead.status, dead.answer) == ("dead", 400, "no")
    assert (store.find("sent"), store.find("nobody")) == (None, None)


def test_accounts_are_known_by_what_was_put_for_them(store: Store) -> None:
    assert store.accounts() == set()
    store.put([visit("a"), visit("b", account=B)], now=10)
    store.settle("a", now=11)
    store.settle("a click answered at once", now=11)
    assert store.accounts() == {A, B}


@pytest.mark.parametrize("unknown", [True, False])
def test_what_grew_old_after_an_attempt_of_unknown_outcome_says_so(store: Store, unknown: bool) -> None:
    store.put([visit("one", at=0)], now=10)
    ids(store, now=10)
    store.put_back("one", not_before=0, now=11, unknown=unknown)
    store.expire(now=200, max_age={"visit": 100})
    assert [letter.reason for letter in store.dead_letters()] == [DeadReason.UNKNOWN if unknown else DeadReason.EXPIRED]


def test_a_visitor_is_erased_from_everywhere_and_comes_back_from_no_journal(store: Store) -> None:
    mine = [visit("claimed"), visit("waits"), visit("dead", not_before=1), visit("elsewhere", account=B)]
    store.put([*mine, visit("other", "w")], now=10)
    bury(store, "dead")
    assert store.claim([A], owner=OTHER, now=10, limit=1)[0].event.id == "claimed"
    store.begin_invite(A, "v", "vip", owner=ME, now=10)
    store.end_invite(A, "v", "vip", link="https://t.me/+abc", now=10)
    assert store.erase("v", now=12) == 4
    assert store.counts() == Counts(waiting=1)
    assert list(store.dead_letters()) == []
    assert store.owners() == set()
    assert store.put(mine, now=13) == 0
    assert store.begin_invite(A, "v", "vip", owner=ME, now=13) == (Flight.LEAD, None)
    assert store.erase("v", now=14) == 0
    assert ids(store) == ["other"]
    for late in ("claimed", "waits"):
        store.put_back(late, not_before=0, now=15, unknown=False)
        store.settle(late, now=15)
    assert store.counts().waiting == 0


def withdrawal(at: float, visitor: str = "v", name: str = "no") -> Withdrawal:
    return Withdrawal(id=name, key=name, account=A, visitor=visitor, at=at, worth=PAID_OR_AWAITED)


def sale(name: str, at: float, **fields: Any) -> Conversion:
    return Conversion(id=name, key=name, account=A, visitor="v", at=at, worth=PAID_OR_AWAITED, fields=fields)


def test_a_withdrawal_drops_what_waits_of_its_visitor_up_to_then(store: Store) -> None:
    mine = [visit("claimed", at=1), visit("waits", at=5), visit("elsewhere", at=5, account=B), visit("dead", at=2)]
    store.put([*mine, update("fb.1.1.1", at=5), visit("after", at=6), visit("other", "w", at=1)], now=10)
    assert ids(store, limit=1, accounts=(A,)) == ["claimed"]
    bury(store, "dead")
    store.begin_invite(A, "v", "vip", owner=ME, now=10)
    store.end_invite(A, "v", "vip", link="https://t.me/+abc", now=10)
    assert store.put([withdrawal(5.0)], now=11) == 0
    assert [each.event.id for each in store.waiting()] == ["other", "after"]
    assert list(store.dead_letters()) == []
    assert store.begin_invite(A, "v", "vip", owner=ME, now=11) == (Flight.LEAD, None)
    store.end_invite(A, "v", "vip", link=None, now=11)
    assert store.counts() == Counts(waiting=2)
    store.settle("claimed", now=12)
    store.put_back("claimed", not_before=0, now=12, unknown=True)
    assert in_order(store) == ["other", "after"]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in batches of their own"])
def test_after_a_withdrawal_only_what_is_younger_comes_in(store: Store, together: bool) -> None:
    batch = [
        visit("before", at=4),
        withdrawal(5.0),
        visit("late", at=5),
        withdrawal(3.0, name="older"),
        visit("new", at=6),
    ]
    for events in [batch] if together else [[event] for event in batch]:
        store.put(events, now=10)
    assert ids(store) == ["new"]
    store.put(batch, now=11)  # as a pump does that died before it had noted how far it was
    assert store.counts() == Counts(claimed=1)


def test_a_withdrawal_is_in_force_for_48_hours(store: Store) -> None:
    store.put([withdrawal(5.0)], now=10)
    store.expire(now=5 + 48 * 3600, max_age={})
    store.put([visit("late", at=4)], now=10)
    assert store.counts().waiting == 0
    store.expire(now=6 + 48 * 3600, max_age={})
    store.put([visit("later", at=4)], now=10)
    assert store.counts().waiting == 1


BORROWED = {"fbp": "fb.1.2.3", "fbc": 'a"b\\', "client_ip": "203.0.113.7", "user_agent": 'é"}{,'}
OWN = {
    "telegram_user_id": 1234567890123456789,
    "value": 0.1,
    "content_name": 'x","fbp":"y',
    "event_time": 1700000000123,
}


@pytest.mark.parametrize("fields", [{**BORROWED, **OWN}, {**OWN, **BORROWED}, BORROWED, {"fbp": "x", **OWN}, OWN])
def test_conversions_outlive_a_withdrawal_without_what_they_borrowed(store: Store, fields: dict[str, Any]) -> None:
    store.put([sale("waits", 4, **fields), sale("dead", 4, **fields), sale("young", 6, **fields)], now=10)
    bury(store, "dead")
    store.put([withdrawal(5.0), sale("late", 5, **fields)], now=11)
    left = {each.event.id: each.event.fields for each in (*store.waiting(), *store.dead_letters())}
    own = {name: value for name, value in fields.items() if name in OWN}
    assert left == {"waits": own, "dead": own, "late": own, "young": fields}


def test_another_account_adopts_what_waits_and_what_is_dead(store: Store) -> None:
    store.put([visit("a1", at=1), visit("dead", "d"), visit("held", "h", at=0)], now=10)
    store.put([visit("b1", account=B, at=2)], now=10)
    store.put([visit("a2", at=3, worth=FROM_AN_AD)], now=10)
    bury(store, "dead")
    store.put_back("held", not_before=50, now=10, unknown=True)
    assert store.adopt(A, B) == 4
    assert (store.counts([A]), store.counts([B])) == (Counts(), Counts(waiting=4, dead=1))
    assert [letter.event.account for letter in store.dead_letters()] == [B]
    assert {each.event.account for each in store.waiting()} == {B}
    assert in_order(store, now=10) == ["a1", "b1", "a2"]
    assert [(claim.event.id, claim.tries) for claim in store.claim([B], owner=ME, now=50, limit=5)] == [("held", 1)]
    assert store.adopt(A, B) == 0


def test_adoption_leaves_what_is_claimed_and_keeps_to_its_limit(store: Store) -> None:
    store.put([visit(str(n), str(n), at=n) for n in range(5)], now=10)
    ids(store, limit=1)
    assert [store.adopt(A, B, limit=3) for _ in range(3)] == [3, 1, 0]
    store.put_back("0", not_before=0, now=11, unknown=False)
    assert store.adopt(A, B, limit=3) == 1
    assert ids(store, accounts=(B,)) == list("01234")


def test_an_adopted_update_is_dropped_where_its_new_account_knows_better(store: Store) -> None:
    store.put([visit("newer", at=9, account=B)], now=9)
    store.settle("newer", now=10)
    store.put([update("late", at=5, account=A)], now=11)
    store.adopt(A, B)
    assert ids(store) == []
    assert store.counts() == Counts(sent=1)


# -- SQLite alone ----------------------------------------------------------------------------------------------------------


def test_the_file_is_its_users_own_and_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "outbox" / "o.sqlite3"
    first = SqliteStore(path)
    first.put([visit("one")], now=1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    second = SqliteStore(path)
    assert ids(second) == ["one"]
    assert ids(first) == []
    first.close()
    second.close()


def test_a_network_is_forgotten_after_60_seconds(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "o.sqlite3")
    admitted(store, 100, 130, network="5ebe2294ecd0e0f0")
    db = sqlite3.connect(tmp_path / "o.sqlite3")
    for now, kept in ((160, 2), (161, 1), (191, 0)):
        store.expire(now=now, max_age={})
        assert "\n".join(db.iterdump()).count("5ebe2294ecd0e0f0") == kept
    db.close()
    store.close()


def test_what_is_erased_is_in_no_file_any_more(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "o.sqlite3")
    store.put([visit("one", fields={"href": "h" * 5000, "user_agent": "Rare/7.3"}), visit("two", "w")], now=1)
    assert any(b"Rare/7.3" in file.read_bytes() for file in tmp_path.iterdir())
    store.erase("v", now=2)
    assert not any(b"Rare/7.3" in file.read_bytes() for file in tmp_path.iterdir())
    store.close()


def put_again(store: Store, event: Event) -> None:
    """As a pump does: what the broken file did not take, its successor does."""
    for _ in range(2):
        try:
            store.put([event], now=1)
        except OutboxError:
            continue
        return


def test_a_file_that_is_no_database_is_set_aside_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "o.sqlite3"
    garbage = b"this is no database. " * 5000
    path.write_bytes(garbage)
    store, other = SqliteStore(path), SqliteStore(path)
    for each in (store, other):
        put_again(each, visit("first"))
    assert ids(store) == ["first"]
    (aside,) = tmp_path.glob("o.sqlite3.broken-*[0-9]")
    assert aside.read_bytes() == garbage
    assert len([record for record in caplog.records if "set aside" in record.message]) == 1
    store.close()
    other.close()


def test_a_broken_file_that_cannot_be_set_aside_is_a_fault_of_the_outbox(tmp_path: Path) -> None:
    """Callers know OutboxError alone: anything else would reach a health page, or leave a claim with nobody."""
    path = tmp_path / "o.sqlite3"
    path.write_bytes(b"no database " * 1000)
    path.with_name("o.sqlite3.lock").mkdir()
    with pytest.raises(OutboxError, match="cannot be set aside"):
        SqliteStore(path).counts()
    assert path.exists()


def test_a_file_that_breaks_while_it_is_open_is_set_aside_by_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "o.sqlite3"
    store, other = SqliteStore(path), SqliteStore(path)
    store.put([visit(str(n), str(n), fields={"href": "h" * 2000}) for n in range(2000)], now=1)
    assert other.counts().waiting == 2000
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"garbage!" * ((path.stat().st_size - 4096) // 8))
    for each in (store, other):
        for _ in range(2):
            with suppress(OutboxError):
                ids(each, limit=2000)
    put_again(store, visit("first"))
    assert ids(other) == ["first"]
    assert len(list(tmp_path.glob("o.sqlite3.broken-*[0-9]"))) == 1
    assert len([record for record in caplog.records if "set aside" in record.message]) == 1
    store.close()
    other.close()


def test_a_file_of_the_first_version_is_brought_up_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    db = sqlite3.connect(path)
    db.executescript(
        MIGRATIONS[0] + "PRAGMA user_version = 1; INSERT INTO buckets VALUES ('account-a', 7.0, 100.0, 0.0);"
    )
    db.close()
    store = SqliteStore(path)
    assert store.level(A, now=100, rate=5, burst=50) == 7
    assert admitted(store, 100, limit=1) == [True]
    store.halve(A, began=100, now=100)
    assert store.level(A, now=102, rate=5, burst=50) == pytest.approx(12, rel=0.01)
    store.close()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(OutboxError, match="newer"):
        SqliteStore(path).counts()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (99,)


def test_a_place_that_cannot_be_written_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match=r"file/o\.sqlite3"):
        SqliteStore(tmp_path / "file" / "o.sqlite3").put([visit("one")], now=1)


def test_no_event_shows_its_content_in_a_claims_repr(store: Store) -> None:
    event = replace(visit("one"), fields={"user_agent": "Secret/1.0"})
    store.put([event], now=1)
    assert "Secret" not in repr(store.claim([A], owner=ME, now=5, limit=1))


def test_update_worth_is_between_an_ad_and_a_plain_visit() -> None:
    event: Event = update("x")
    assert FROM_AN_AD < event.worth == UPDATE < PLAIN
