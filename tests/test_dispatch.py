"""The event lane against the sandbox: what is sent, in which order, and what becomes of what is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from delivery_world import QUICK, World, new_id, until, world

from adtarget_proxy.delivery import State
from adtarget_proxy.outbox import DeadReason, Outbox, Waiting
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.tracking.events import FROM_AN_AD, PLAIN, UPDATE, Event

pytestmark = pytest.mark.server
DAY = 86_400.0


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as it:
        yield it


def drained(it: World) -> bool:
    return it.delivery.flush(0.2) == 0


@pytest.mark.parametrize("outbox", [None, "memory://"], ids=["sqlite", "memory"])
@pytest.mark.parametrize("surface", ["keyed", "keyless"])
def test_every_event_is_sent_once_under_its_key(box: Sandbox, tmp_path: Path, surface: str, outbox: str | None) -> None:
    with world(box, tmp_path, surface=surface, outbox=outbox) as it:
        visits = [it.visit() for _ in range(200)]
        it.append(*visits)
        assert it.delivery.flush(20) == 0
        assert sorted(event["fields"]["tempId"] for event in box.events()) == sorted(v.visitor for v in visits)
        if surface == "keyed":
            assert {event["idempotency_key"] for event in box.events()} == {visit.key for visit in visits}


def test_what_a_long_journal_has_brought_into_the_store_is_sent_while_the_rest_is_moved(
    box: Sandbox, tmp_path: Path
) -> None:
    with world(box, tmp_path) as it:
        it.append(*(it.visit() for _ in range(60_000)))
        it.delivery.start()
        until(lambda: box.requests())
        assert it.outbox.is_behind


def test_a_keyless_site_sends_its_conversions_with_the_key(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path, surface="keyless", api_key=box.api_key) as it:
        it.append(it.visit(), it.conversion())
        assert it.delivery.flush(10) == 0
        assert {(event["endpoint"], event["surface"]) for event in box.events()} == {
            ("visit", "keyless"),
            ("conversion", "keyed"),
        }


def test_a_visitors_events_arrive_in_order_while_others_fail(box: Sandbox, tmp_path: Path) -> None:
    box.faults(error_rate=0.3, drop_rate=0.2, drop_when="either")
    with world(box, tmp_path) as it:
        queues = {
            visitor.visitor: [it.visit(visitor.visitor) for _ in range(5)] for visitor in map(it.visit, [None] * 10)
        }
        it.append(*(visit for step in zip(*queues.values(), strict=True) for visit in step))
        it.delivery.start()
        until(lambda: len(box.requests()) > 30)
        box.heal()
        until(lambda: drained(it), timeout=30)
        for visitor, visits in queues.items():
            arrived = [e["idempotency_key"] for e in box.events("visit") if e["fields"]["tempId"] == visitor]
            assert arrived == [visit.key for visit in visits]


def test_what_is_left_goes_out_at_the_next_start(box: Sandbox, tmp_path: Path) -> None:
    box.close_port()
    with world(box, tmp_path) as it:
        visits = [it.visit() for _ in range(5)]
        it.append(*visits)
        assert it.delivery.flush(0.3) == 5
    box.open_port()
    with world(box, tmp_path) as it:
        assert it.delivery.flush(10) == 0
        assert {event["idempotency_key"] for event in box.events()} == {visit.key for visit in visits}


REFUSALS: dict[str, tuple[dict[str, Any], int | None]] = {
    "400": ({"status": 400}, 400),
    "403": ({"status": 403}, 403),
    "404": ({"status": 404}, 404),
    "501": ({"status": 501}, 501),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_adtarget_refuses_for_good_is_a_dead_letter_and_releases_the_queue(
    box: Sandbox, tmp_path: Path, refusal: str
) -> None:
    fault, status = REFUSALS[refusal]
    box.faults(endpoint="update-fbp", **fault)
    with world(box, tmp_path) as it:
        first = it.visit()
        it.append(first)
        assert it.delivery.flush(10) == 0
        update, second = it.update(first.visitor), it.visit(first.visitor)
        it.append(update, second)
        assert it.delivery.flush(10) == 0
        (letter,) = it.outbox.store.dead_letters()
        assert (letter.event.id, letter.reason, letter.status) == (update.id, DeadReason.REFUSED, status)
        assert [event["idempotency_key"] for event in box.events("visit")] == [first.key, second.key]
        assert it.delivery.health().ok


@pytest.mark.parametrize(("miss", "status"), [("false", 200), ("404", 404)])
def test_an_update_that_hit_no_visit_is_a_dead_letter(tmp_path: Path, miss: str, status: int) -> None:
    with Sandbox(rate=0, fbp_miss=miss) as box, world(box, tmp_path) as it:
        it.append(it.update("5f0c7d6e-7a0b-4f67-9a0e-3f6f0d6b7b11"))
        assert it.delivery.flush(10) == 0
        (letter,) = it.outbox.store.dead_letters()
        assert (letter.reason, letter.status) == (DeadReason.REFUSED, status)


def test_an_event_that_cannot_be_written_down_is_a_dead_letter_and_stops_nobody(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path) as it:
        odd, good = replace(it.visit(), key="no\nkey"), it.visit()
        it.append(odd, good)
        assert it.delivery.flush(10) == 0
        assert [letter.event.id for letter in it.outbox.store.dead_letters()] == [odd.id]
        assert [event["idempotency_key"] for event in box.events()] == [good.key]


@pytest.mark.parametrize("status", [401, 402])
def test_a_refused_account_pauses_says_so_once_and_resumes_by_itself(
    box: Sandbox, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    box.faults(status=status)
    with world(box, tmp_path) as it, caplog.at_level(logging.INFO):
        visits = [it.visit() for _ in range(20)]
        it.append(*visits)
        it.delivery.start()
        until(lambda: len(box.requests()) >= 3 and it.delivery.health().accounts[0].state is State.PAUSED)
        assert not it.delivery.health().ok
        said = [record.getMessage() for record in caplog.records if "sending is paused" in record.getMessage()]
        assert len(said) == 1
        assert ("api_key" if status == 401 else "subscription") in said[0]
        box.heal()
        until(lambda: drained(it))
        assert {event["idempotency_key"] for event in box.events()} == {visit.key for visit in visits}
        assert it.delivery.health().ok
        assert box.api_key not in caplog.text


def test_retry_after_empties_the_bucket_for_every_process(box: Sandbox, tmp_path: Path) -> None:
    box.faults(status=429, retry_after=1)
    with world(box, tmp_path) as it, world(box, tmp_path) as other:
        it.append(it.visit())
        it.delivery.start()
        until(lambda: box.requests())
        until(lambda: it.outbox.store.counts().claimed == 0)
        other.append(*(other.visit() for _ in range(20)))
        asked = len(box.requests())
        other.delivery.flush(0.3)
        assert len(box.requests()) == asked
        box.heal()
        until(lambda: drained(it) and drained(other))
        assert len(box.events()) == 21


@pytest.mark.parametrize(("surface", "slower"), [("keyed", False), ("keyless", True)])
def test_a_429_without_a_key_slows_every_process_down(box: Sandbox, tmp_path: Path, surface: str, slower: bool) -> None:
    box.faults(status=429, retry_after=1)
    with world(box, tmp_path, surface=surface) as it:
        it.append(it.visit())
        it.delivery.start()
        until(lambda: box.requests())
        until(lambda: it.outbox.store.counts().claimed == 0)
        other = Outbox.open(it.settings.outbox).store
        later = time.time() + 30.0  # when what was held back is given again
        while (wait := other.take(it.account, now=later, rate=10.0, burst=50.0, reserve=0.0)) == 0.0:
            pass
        assert (wait > 0.15) is slower
        other.close()


def test_the_rate_of_the_settings_is_kept(tmp_path: Path) -> None:
    with Sandbox(rate=600, burst=50) as box, world(box, tmp_path, rate=600, burst=50) as it:
        it.append(*(it.visit() for _ in range(45)))
        until(lambda: drained(it))
        assert len(box.events()) == 45
        assert [request for request in box.requests() if request["status"] == 429] == []


def test_at_the_rate_limit_what_is_worthier_goes_past_all_but_the_one_event_at_the_bucket(
    box: Sandbox, tmp_path: Path
) -> None:
    box.faults(latency=0.1)
    with world(box, tmp_path, rate=1200, burst=50) as it:
        it.append(*(it.visit() for _ in range(200)))
        it.delivery.start()
        until(lambda: len(box.requests()) >= 40)  # of the burst nothing is left
        paid_for = [replace(it.visit(), worth=FROM_AN_AD) for _ in range(30)]
        it.append(*paid_for)
        until(lambda: it.outbox.store.find(paid_for[-1].id))
        already = len(box.requests())
        until(lambda: {event.key for event in paid_for} <= {event["idempotency_key"] for event in box.events()})
        keys = [event["idempotency_key"] for event in box.events()][already:]
        last = max(keys.index(event.key) for event in paid_for if event.key in keys)
        assert last < 30 + 2  # the one that waited already, and one that was on its way


def test_one_dead_account_slows_no_other(box: Sandbox, tmp_path: Path) -> None:
    with Sandbox(rate=0) as other:
        other.faults(hang=True)
        sites = {
            "good.test": {"api_key": box.api_key, "api_url": box.api_url},
            "dead.test": {"api_key": other.api_key, "api_url": other.api_url},
        }
        with world(box, tmp_path, sites=sites, timing=replace(QUICK, call=60.0)) as it:
            good, dead = (it.settings.site_for(host).tracking_account.id for host in sites)  # type: ignore[union-attr]
            it.append(*(replace(it.visit(), account=dead) for _ in range(100)))
            visits = [replace(it.visit(), account=good) for _ in range(100)]
            it.append(*visits)
            it.delivery.start()
            box.wait_for(100, timeout=20)
            assert it.outbox.store.counts([dead]).claimed <= 12
            other.heal()


@pytest.mark.parametrize(("burst", "left"), [(10, 0), (50, 12)], ids=["a small burst", "what is for conversions"])
def test_an_event_whose_token_is_far_away_is_not_claimed_over_and_over(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, burst: int, left: int
) -> None:
    with world(box, tmp_path, rate=1, burst=burst, timing=replace(QUICK, poll=3600.0)) as it:
        store = it.outbox.store
        for _ in range(burst - left):
            assert store.take(it.account, now=time.time(), rate=1 / 60, burst=burst, reserve=0.0) == 0.0
        calls: list[str] = []
        for name in ("claim", "expire"):
            monkeypatch.setattr(store, name, partial(counted, calls, name, getattr(store, name)))
        it.append(it.visit(), it.visit())
        it.delivery.start()
        until(lambda: "claim" in calls and calls[calls.index("claim") :].count("expire") >= 5)
        assert calls.count("claim") <= 2
        until(lambda: store.counts().waiting == 2)
        assert box.requests() == []


def counted(calls: list[str], name: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    calls.append(name)
    return method(*arguments, **named)


def test_each_site_has_a_rate_and_a_burst_of_its_own(box: Sandbox, tmp_path: Path) -> None:
    with Sandbox(rate=0) as other:
        sites = {
            "quick.test": {"api_key": box.api_key, "api_url": box.api_url},
            "slow.test": {"api_key": other.api_key, "api_url": other.api_url, "rate": 1, "burst": 20},
        }
        with world(box, tmp_path, sites=sites) as it:
            for host in sites:
                account = it.settings.site_for(host).tracking_account.id  # type: ignore[union-attr]
                it.append(*(replace(it.visit(), account=account) for _ in range(100)))
            it.delivery.start()
            box.wait_for(100, timeout=20)
            other.wait_for(5, timeout=20)
            it.delivery.flush(0.3)
            assert len(other.requests()) == 5  # of 20, 15 are others'; the next comes in a minute


def test_an_outage_is_probed_by_one_event_at_a_time(box: Sandbox, tmp_path: Path) -> None:
    box.faults(status=500)
    with world(box, tmp_path, timing=replace(QUICK, probe_first=0.2, probe_longest=0.2)) as it:
        it.append(*(it.visit() for _ in range(100)))
        it.delivery.start()
        until(lambda: not it.delivery.health().ok)
        until(lambda: it.outbox.store.counts().claimed == 0)
        asked = len(box.requests())
        until(lambda: len(box.requests()) == asked + 1)
        until(lambda: len(box.requests()) == asked + 2)
        assert it.outbox.store.counts().claimed <= 1
        box.heal()
        until(lambda: drained(it))
        assert len(box.events()) == 100


def aged(event: Event, seconds: float) -> Event:
    return replace(event, at=event.at - seconds)


def test_visits_expire_after_max_age_and_conversions_after_a_week(box: Sandbox, tmp_path: Path) -> None:
    box.close_port()
    with world(box, tmp_path, max_age=3600) as it:
        old = [aged(it.visit(), 3700), aged(it.conversion(), 7 * DAY + 60)]
        young = [aged(it.visit(), 3500), aged(it.conversion(), 7 * DAY - 60)]
        it.append(*old, *young)
        it.delivery.start()
        until(lambda: it.outbox.store.counts().dead == 2)
        letters = {letter.event.id: letter.reason for letter in it.outbox.store.dead_letters()}
        assert letters == {event.id: DeadReason.EXPIRED for event in old}
        assert {each.event.id for each in it.outbox.store.waiting()} == {event.id for event in young}


def test_a_plain_visit_that_has_waited_15_minutes_goes_before_what_was_worthier(box: Sandbox, tmp_path: Path) -> None:
    box.faults(status=429, retry_after=60)
    with world(box, tmp_path) as it:
        it.append(it.visit())
        it.delivery.start()
        until(lambda: box.requests())  # from now on the bucket is empty, for a minute
        update, young, patient = it.update(new_id()), aged(it.visit(), 840), aged(it.visit(), 960)
        it.append(update, young, patient)
        until(lambda: worth_of(it, patient) == UPDATE)
        assert (worth_of(it, update), worth_of(it, young)) == (UPDATE, PLAIN)
        first = it.outbox.store.claim([it.account], owner="test", now=time.time(), limit=1)
        assert [claim.event.id for claim in first] == [patient.id]


def worth_of(it: World, event: Event) -> int | None:
    found = it.outbox.store.find(event.id)
    return found.worth if isinstance(found, Waiting) else None


def test_nothing_personal_and_no_key_is_logged(box: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box.faults(status=400)
    with world(box, tmp_path) as it, caplog.at_level(logging.DEBUG, logger="adtarget_proxy"):
        it.append(it.visit(client_ip="203.0.113.77", user_agent="Secret/1.0"))
        it.delivery.invite(it.click(), limit=4).wait()
        assert it.delivery.flush(10) == 0
    assert "dead letter" in caplog.text
    for word in ("203.0.113.77", "Secret/1.0", box.api_key, "shop.test"):
        assert word not in caplog.text


def test_events_of_another_account_are_kept_and_said_once(
    box: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with world(box, tmp_path) as it, caplog.at_level(logging.WARNING, "adtarget_proxy"):
        it.append(*(replace(it.visit(), account="0123456789abcdef") for _ in range(3)), it.visit())
        it.delivery.start()
        until(lambda: "0123456789abcdef" in caplog.text)
        until(lambda: len(box.events("visit")) == 1)
        it.append(replace(it.visit(), account="fedcba9876543210"))
        until(lambda: "fedcba9876543210" in caplog.text)  # two looks later
        assert it.outbox.store.counts(["0123456789abcdef"]).waiting == 3
    assert caplog.text.count("0123456789abcdef") == 1


def test_sending_goes_on_after_a_store_that_failed_and_a_log_that_raised(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def broken(_: logging.Logger, message: str, *args: object) -> None:
        said.append(message % args)
        raise RuntimeError("the log's disk is full")

    monkeypatch.setattr(logging.Logger, "error", broken)
    with world(box, tmp_path) as it:
        it.delivery.start()
        it.outbox.store.close()  # it refuses everything now
        until(lambda: any("closed" in line for line in said))
        it.outbox.close()  # the next use opens it anew
        it.append(it.visit())
        until(lambda: len(box.events("visit")) == 1)
