"""The invite ladder against the sandbox on real sockets: a working link within the budget, and the click reported once."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from delivery_world import FALLBACK, QUICK, World, until, world
from redis_server import redis_server

from adtarget_proxy.delivery import Answer, Delivery, State
from adtarget_proxy.outbox import Outbox, Waiting
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.tracking.events import PLAIN

pytestmark = pytest.mark.server
ONLY_CLICKS = {"deliver": "worker"}  # no event lane: what arrives was sent by the ladder


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as it:
        yield it


def drained(it: World) -> bool:
    return it.delivery.flush(0.2) == 0


# -- the happy rungs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", ["keyed", "keyless"])
@pytest.mark.parametrize("known", [True, False])
def test_a_click_ends_in_the_visitors_own_link(box: Sandbox, tmp_path: Path, surface: str, known: bool) -> None:
    with world(box, tmp_path, surface=surface) as it:
        click = it.click(known=known)
        answer = it.delivery.invite(click, limit=4).wait()
        assert answer.reason == "invite"
        assert answer.url.startswith("https://t.me/+")
        (event,) = box.events("invite")
        assert event["idempotency_key"] == (click.event.key if surface == "keyed" else None)
        assert drained(it)


@pytest.mark.parametrize("known_at_first", [True, False])
def test_a_second_tap_gets_the_link_of_the_first_without_a_call(
    box: Sandbox, tmp_path: Path, known_at_first: bool
) -> None:
    with world(box, tmp_path) as it:
        first = it.click(known=known_at_first)
        link = it.delivery.invite(first, limit=4).wait().url
        again = it.delivery.invite(it.click(first.event.visitor), limit=4).wait()
        assert again == Answer(link, "invite-repeat")
        assert len(box.events("invite")) == 1


def test_another_slug_or_visitor_is_no_second_tap(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path) as it:
        first = it.click()
        it.delivery.invite(first, limit=4).wait()
        for click in (replace(it.click(first.event.visitor), slug="news"), it.click()):
            assert it.delivery.invite(click, limit=4).wait().reason == "invite"
        assert len(box.events("invite")) == 3


def test_taps_at_the_same_time_share_one_call(box: Sandbox, tmp_path: Path) -> None:
    box.faults(latency=0.2)
    with world(box, tmp_path) as it:
        first = it.click()
        calls = [it.delivery.invite(first, limit=9)]
        calls += [it.delivery.invite(it.click(first.event.visitor), limit=9) for _ in range(5)]
        answers = [call.wait() for call in calls]
        assert {answer.url for answer in answers} == {answers[0].url}
        assert sorted(answer.reason for answer in answers) == ["invite"] + ["invite-repeat"] * 5
        assert len(box.events("invite")) == 1


def test_taps_in_two_processes_share_one_call(box: Sandbox, tmp_path: Path) -> None:
    box.faults(latency=0.3)
    with world(box, tmp_path) as one, world(box, tmp_path) as other:
        first = one.click()
        leading = one.delivery.invite(first, limit=4)
        until(lambda: one.outbox.store.owners())
        following = other.delivery.invite(other.click(first.event.visitor), limit=4)
        assert following.wait() == Answer(leading.wait().url, "invite-repeat")
        assert len(box.events("invite")) == 1


# -- the visitor's waiting visit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("surface", ["keyed", "keyless"])
def test_the_visitors_waiting_visit_goes_first(box: Sandbox, tmp_path: Path, surface: str, known: bool) -> None:
    with world(box, tmp_path, surface=surface, **ONLY_CLICKS) as it:
        visit, click = it.visit(), it.click(known=known)
        click = replace(click, event=replace(click.event, visitor=visit.visitor))
        it.append(it.visit(), visit, it.visit())
        assert it.delivery.invite(click, limit=4).wait().reason == "invite"
        assert [event["endpoint"] for event in box.events()] == ["visit", "invite"]
        assert box.events("visit")[0]["fields"]["tempId"] == visit.visitor


def test_a_visit_in_another_workers_journal_goes_first(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path, **ONLY_CLICKS) as it:
        neighbour = Outbox.open(it.settings.outbox)
        visit = it.visit()
        neighbour.append(visit)
        assert it.delivery.invite(it.click(visit.visitor), limit=4).wait().reason == "invite"
        assert [event["endpoint"] for event in box.events()] == ["visit", "invite"]
        neighbour.close()


WORKER = """
import sys
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.tracking.events import decode
outbox = Outbox.open(sys.argv[1])
outbox.append(decode(sys.argv[2]))
print("kept", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_a_visit_in_the_journal_of_another_process_goes_first(box: Sandbox, tmp_path: Path, engine: str) -> None:
    with ExitStack() as stack:
        outbox = f"sqlite:///{tmp_path}/outbox.sqlite3"
        if engine == "redis":
            server = stack.enter_context(redis_server(tmp_path / "redis", "--appendonly", "yes"))
            outbox = f"redis://127.0.0.1:{server.port}/0?journal={tmp_path}/outbox"
        once = replace(QUICK, machine=600.0)  # looks at other journals at its start, and then for this click alone
        it = stack.enter_context(world(box, tmp_path, outbox=outbox, timing=once, **ONLY_CLICKS))
        for number in (1, 2):  # when the second has been moved, the first round is over
            it.append(it.visit())
            it.delivery.start()
            until(lambda number=number: it.outbox.store.counts().waiting == number)
        visit = it.visit()
        command = [sys.executable, "-c", WORKER, outbox, visit.encode()]
        worker = stack.enter_context(Popen(command, stdin=PIPE, stdout=PIPE, text=True))
        stack.callback(worker.kill)
        assert worker.stdout
        assert worker.stdout.readline() == "kept\n"
        assert it.outbox.store.find(visit.id) is None, "it is in no store yet"
        assert it.delivery.invite(it.click(visit.visitor), limit=4).wait().reason == "invite"
        sent, asked = box.events()
        assert (sent["endpoint"], asked["endpoint"]) == ("visit", "invite")
        assert sent["idempotency_key"] == visit.key


def test_a_click_waits_for_the_visit_that_another_process_is_sending(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="visit", latency=0.3)
    with world(box, tmp_path) as one, world(box, tmp_path, **ONLY_CLICKS) as other:
        visit = one.visit()
        one.append(visit)
        one.delivery.start()
        until(lambda: box.requests())
        assert other.delivery.invite(other.click(visit.visitor), limit=4).wait().reason == "invite"
        sent, asked = box.events()
        assert (sent["endpoint"], asked["endpoint"]) == ("visit", "invite")
        assert asked["received_at"] >= sent["received_at"] + 0.3  # its answer had come


def test_a_visit_that_is_slow_is_overtaken_and_still_counted_once(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="visit", latency=0.5)
    with world(box, tmp_path, timing=replace(QUICK, promote=0.1), **ONLY_CLICKS) as it:
        visit = it.visit()
        it.append(visit)
        assert it.delivery.invite(it.click(visit.visitor), limit=4).wait().reason == "invite"
        until(lambda: it.outbox.store.counts().claimed == 0)
        assert it.outbox.store.counts().waiting == 0
        assert [event["idempotency_key"] for event in box.events("visit")] == [visit.key]


def test_a_visit_that_fails_does_not_cost_the_link_and_goes_before_the_next_click(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="visit", status=500)
    with world(box, tmp_path, **ONLY_CLICKS) as it:
        visit = it.visit()
        it.append(visit)
        first = it.click(visit.visitor)
        assert it.delivery.invite(first, limit=4).wait().reason == "invite"
        assert box.events("visit") == []
        box.heal()
        second = replace(it.click(visit.visitor), slug="news")
        assert it.delivery.invite(second, limit=4).wait().reason == "invite"
        assert [event["idempotency_key"] for event in box.events()] == [first.event.key, visit.key, second.event.key]


# -- faults: the fallback in time, and the click reported once ---------------------------------------------------------------

FAULTS: dict[str, dict[str, Any]] = {
    "hanging": {"hang": True},
    "429": {"status": 429, "retry_after": 1},
    "401": {"status": 401},
    "402": {"status": 402},
    "500": {"status": 500},
    "503": {"status": 503},
    "a page": {"html": True},
    "dropped before": {"drop_rate": 1.0, "drop_when": "before"},
    "dropped after": {"drop_rate": 1.0, "drop_when": "after"},
    "a link elsewhere": {"foreign_link": True},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("known", [True, False])
def test_whatever_adtarget_does_the_visitor_gets_the_fallback_and_the_click_counts_once(
    box: Sandbox, tmp_path: Path, fault: str, known: bool
) -> None:
    box.faults(endpoint=["visit", "invite"], **FAULTS[fault])
    with world(box, tmp_path) as it:
        click = it.click(known=known, budget=0.4)
        assert it.delivery.invite(click, limit=4).wait() == Answer(FALLBACK, "invite-fallback")
        box.heal()
        until(lambda: drained(it))
        assert [event["idempotency_key"] for event in box.events("invite")] == [click.event.key]


@pytest.mark.parametrize("surface", ["keyed", "keyless"])
def test_an_api_that_is_down_costs_the_visitor_nothing_and_loses_no_click(
    box: Sandbox, tmp_path: Path, surface: str
) -> None:
    box.close_port()
    with world(box, tmp_path, surface=surface) as it:
        for _ in range(20):
            assert it.delivery.invite(it.click(), limit=4).wait().reason == "invite-fallback"
        box.open_port()
        until(lambda: drained(it))
        assert len(box.events("invite")) == 20
        assert it.delivery.health().ok


@pytest.mark.parametrize("fault", FAULTS)
def test_without_idempotency_the_click_is_reported_at_least_once(box: Sandbox, tmp_path: Path, fault: str) -> None:
    box.faults(endpoint=["visit", "invite"], **FAULTS[fault])
    with world(box, tmp_path, surface="keyless") as it:
        click = it.click(budget=0.4)
        assert it.delivery.invite(click, limit=4).wait() == Answer(FALLBACK, "invite-fallback")
        box.heal()
        until(lambda: drained(it))
        assert {event["fields"]["tempId"] for event in box.events("invite")} == {click.event.visitor}


def test_every_attempt_of_a_click_carries_its_key(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="invite", drop_rate=1.0, drop_when="after")
    with world(box, tmp_path) as it:
        click = it.click()
        it.delivery.invite(click, limit=4).wait()
        until(lambda: len(box.requests()) >= 4)
        box.heal()
        until(lambda: drained(it))
        assert {request["idempotency_key"] for request in box.requests()} == {click.event.key}
        assert len(box.events("invite")) == 1


@pytest.mark.parametrize(
    ("fault", "may_be_counted"), [("hanging", True), ("500", True), ("dropped after", True), ("429", False)]
)
def test_a_kept_click_knows_since_when_adtarget_may_have_counted_it(
    box: Sandbox, tmp_path: Path, fault: str, may_be_counted: bool
) -> None:
    box.faults(endpoint="invite", **FAULTS[fault])
    with world(box, tmp_path, **ONLY_CLICKS) as it:
        began, click = time.time(), it.click(budget=0.4)
        assert it.delivery.invite(click, limit=4).wait().reason == "invite-fallback"
        until(lambda: it.outbox.store.find(click.event.id) is not None)
        kept = it.outbox.store.find(click.event.id)
        assert isinstance(kept, Waiting)
        since = kept.unknown_since
        assert (since is not None and began <= since <= time.time()) if may_be_counted else since is None


def test_a_click_that_adtarget_refuses_is_a_dead_letter(tmp_path: Path) -> None:
    with Sandbox(rate=0, channels=("-100111",)) as box, world(box, tmp_path) as it:
        click = it.click()
        click = replace(click, event=replace(click.event, fields={**click.event.fields, "channel_id": "-100222"}))
        assert it.delivery.invite(click, limit=4).wait().reason == "invite-fallback"
        until(lambda: drained(it))
        (letter,) = it.outbox.store.dead_letters()
        assert (letter.event.id, letter.status) == (click.event.id, 404)
        assert it.delivery.health().ok


def test_a_link_that_arrives_after_the_budget_is_remembered_and_the_click_is_settled(
    box: Sandbox, tmp_path: Path
) -> None:
    box.faults(endpoint="invite", latency=0.5)
    with world(box, tmp_path) as it:
        click = it.click(budget=0.15)
        assert it.delivery.invite(click, limit=4).wait().reason == "invite-fallback"
        assert it.delivery.invite(it.click(click.event.visitor), limit=4).wait().reason == "invite-repeat"
        until(lambda: drained(it))
        assert [event["idempotency_key"] for event in box.events("invite")] == [click.event.key]
        assert not [request for request in box.requests() if request["replayed"]]


def test_a_store_that_is_gone_costs_nobody_the_link(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path, outbox="sqlite:////dev/null/outbox.sqlite3") as it:
        assert it.delivery.invite(it.click(), limit=4).wait().reason == "invite"


def test_a_fault_of_our_own_costs_no_visitor_the_fallback_and_no_event(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def planted(*_: object, **__: object) -> None:
        raise RuntimeError("203.0.113.77")

    with world(box, tmp_path) as it:
        with monkeypatch.context() as patch:
            patch.setattr("adtarget_proxy.api.AdTarget.deliver", planted)
            clicks = [it.click() for _ in range(5)]
            for click in clicks:
                assert it.delivery.invite(click, limit=4).wait().reason == "invite-fallback"
        until(lambda: drained(it))
        assert {event["idempotency_key"] for event in box.events("invite")} == {click.event.key for click in clicks}
    assert "RuntimeError in test_ladder.py" in caplog.text
    assert "203.0.113.77" not in caplog.text


def test_an_account_without_settings_gets_the_fallback_and_keeps_its_click(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path) as it:
        assert it.delivery.invite(it.click(account="unknown"), limit=4).wait().reason == "invite-fallback"
        until(lambda: it.outbox.store.counts(["unknown"]).waiting == 1)
        assert box.requests() == []


# -- rung 0 ------------------------------------------------------------------------------------------------------------------


def test_once_the_breaker_is_open_a_click_makes_no_request(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="invite", status=500)
    with world(box, tmp_path, timing=replace(QUICK, probe_first=60.0), **ONLY_CLICKS) as it:
        until(lambda: it.delivery.invite(it.click(), limit=4).wait() and not it.delivery.health().ok)
        asked = len(box.requests())
        assert asked >= 3
        for _ in range(50):
            assert it.delivery.invite(it.click(), limit=4).wait().reason == "invite-fallback"
        assert len(box.requests()) == asked
        assert it.delivery.health().accounts[0].state is State.OPEN


def test_where_no_event_can_be_the_probe_a_clicks_call_is_behind_its_visitors_back(
    box: Sandbox, tmp_path: Path
) -> None:
    box.faults(endpoint="invite", status=500)
    with world(box, tmp_path, **ONLY_CLICKS) as it:
        until(lambda: it.delivery.invite(it.click(), limit=4).wait() and not it.delivery.health().ok)
        box.heal()
        reasons = []
        while not it.delivery.health().ok:
            reasons.append(it.delivery.invite(it.click(), limit=4).wait().reason)
        assert set(reasons[:-1]) == {"invite-fallback"}  # the last one may have come when the probe was back
        assert it.delivery.invite(it.click(), limit=4).wait().reason == "invite"
        assert len(box.events("invite")) in (2, 3)  # the probe, and what came after it


def test_a_crowd_gets_the_fallback_at_once_and_counts_all_the_same(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="invite", latency=0.3)
    with world(box, tmp_path) as it:
        waiting = [it.delivery.invite(it.click(), limit=2) for _ in range(2)]
        assert it.delivery.invite(it.click(), limit=2).wait().reason == "invite-fallback"
        assert [call.wait().reason for call in waiting] == ["invite", "invite"]
        assert it.delivery.invite(it.click(), limit=2).wait().reason == "invite"
        until(lambda: drained(it))
        assert len(box.events("invite")) == 4


def test_at_the_rate_limit_a_click_that_gets_no_token_in_time_falls_back_and_is_sent_later(
    box: Sandbox, tmp_path: Path
) -> None:
    with world(box, tmp_path, rate=60, burst=1) as it:
        assert it.delivery.invite(it.click(), limit=4).wait().reason == "invite"
        click = it.click(budget=0.3)
        assert it.delivery.invite(click, limit=4).wait().reason == "invite-fallback"
        until(lambda: drained(it))
        assert box.events("invite")[-1]["idempotency_key"] == click.event.key


# -- a flood -----------------------------------------------------------------------------------------------------------------


def tap(it: World, *networks: str | None) -> list[str]:
    return [it.delivery.invite(it.click(network=network), limit=64).wait().reason for network in networks]


def spend(it: World, left: float) -> None:
    """Take tokens until so many are left."""
    store, full = it.outbox.store, {"now": time.time(), "rate": 1 / 60, "burst": 50.0}
    while store.level(it.account, **full) > left:
        store.take(it.account, **full, reserve=0.0)


PACED: dict[str, Any] = {"rate": 1, "burst": 50, **ONLY_CLICKS}  # a token a minute: none comes in while the test runs


def test_while_the_bucket_is_above_half_a_whole_carrier_may_click_from_one_address(
    box: Sandbox, tmp_path: Path
) -> None:
    with world(box, tmp_path, **PACED) as it:
        assert set(tap(it, *["nat"] * 25)) == {"invite"}


def test_below_half_a_network_without_cookies_gets_ten_links_and_everybody_else_theirs(
    box: Sandbox, tmp_path: Path
) -> None:
    with world(box, tmp_path, **PACED) as it, world(box, tmp_path, **PACED) as other:
        assert set(tap(it, *["flood"] * 4)) == {"invite"}  # these count as well
        spend(it, 24)
        reasons = tap(it, *["flood"] * 3) + tap(other, *["flood"] * 3) + tap(it, *["flood"] * 9) + tap(other, "flood")
        assert reasons == ["invite"] * 6 + ["invite-fallback"] * 10
        assert tap(it, "home") + tap(other, None, None) == ["invite"] * 3  # None: they came with cookies
        assert len(box.events("invite")) == 13


def test_a_click_of_a_flood_is_kept_and_goes_past_nobody(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path, **PACED) as it:
        spend(it, 24)
        tap(it, *["flood"] * 10)
        flooding = it.click(network="flood")
        assert it.delivery.invite(flooding, limit=64).wait() == Answer(FALLBACK, "invite-fallback")
        until(lambda: it.outbox.store.counts().waiting == 1)
        found = it.outbox.store.find(flooding.event.id)
        assert isinstance(found, Waiting)
        assert (found.worth, found.event.key) == (PLAIN, flooding.event.key)


# -- waiting -----------------------------------------------------------------------------------------------------------------


def test_awaited_it_answers_the_same(box: Sandbox, tmp_path: Path) -> None:
    async def tap(it: World, budget: float) -> Answer:
        return await it.delivery.invite(it.click(budget=budget), limit=64).wait_async()

    async def all_taps(it: World) -> list[Answer]:
        return await asyncio.gather(*(tap(it, 1.5) for _ in range(30)))

    with world(box, tmp_path) as it:
        answers = asyncio.run(all_taps(it))
        assert {answer.reason for answer in answers} == {"invite"}
        assert len({answer.url for answer in answers}) == 30


def test_awaited_a_budget_that_ends_is_a_fallback_and_the_loop_may_close_first(
    box: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box.faults(endpoint="invite", latency=0.4)

    async def tap(it: World) -> Answer:
        return await it.delivery.invite(it.click(budget=0.1), limit=64).wait_async()

    with world(box, tmp_path) as it, caplog.at_level(logging.WARNING):
        assert asyncio.run(tap(it)).reason == "invite-fallback"
        until(lambda: drained(it))
        assert len(box.events("invite")) == 1
    assert caplog.text == ""


def test_a_visitor_who_leaves_cancels_the_wait_and_not_the_call(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="invite", latency=0.3)

    async def leave(it: World, visitor: str) -> None:
        task = asyncio.create_task(it.delivery.invite(it.click(visitor), limit=1).wait_async())
        await asyncio.sleep(0)  # let the task begin to wait
        while not it.outbox.store.owners():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with world(box, tmp_path) as it:
        visitor = it.click().event.visitor
        asyncio.run(leave(it, visitor))
        answer = it.delivery.invite(it.click(visitor), limit=1).wait()  # nobody waits: there is room for one
        assert answer.reason == "invite-repeat"
        assert len(box.events("invite")) == 1


def test_the_kept_click_is_in_the_outbox_before_the_visitor_has_the_fallback(box: Sandbox, tmp_path: Path) -> None:
    box.faults(endpoint="invite", hang=True)
    with world(box, tmp_path, timing=replace(QUICK, call=60.0)) as it:
        click = it.click(budget=0.1)
        it.delivery.invite(click, limit=4).wait()
        late = Outbox.open(it.settings.outbox)
        reader = Delivery(it.settings, late)
        until(lambda: it.outbox.store.counts().waiting == 1)
        assert reader.health().counts == it.delivery.health().counts
        (claim,) = late.store.claim([it.account], owner="t", now=time.time() + 61.0, limit=1)
        assert (claim.event.id, claim.event.key) == (click.event.id, click.event.key)
        assert not late.store.claim([it.account], owner="t", now=time.time() + 1.0, limit=1)
        late.store.put_back(click.event.id, not_before=0.0, now=time.time(), unknown=False, counted=False)
        late.close()
        box.heal()


def test_many_threads_may_wait_at_once(box: Sandbox, tmp_path: Path) -> None:
    answers: list[Answer] = []
    with world(box, tmp_path) as it:
        it.delivery.start()
        threads = [
            threading.Thread(target=lambda: answers.append(it.delivery.invite(it.click(budget=5.0), limit=64).wait()))
            for _ in range(32)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.reason for answer in answers} == {"invite"}
        assert len(box.events("invite")) == 32


@pytest.mark.server
def test_a_pump_that_takes_long_costs_a_click_its_visit_and_not_its_link(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path, timing=replace(QUICK, promote=0.1), deliver="worker") as it:
        it.delivery.start()
        with it.outbox.turn:  # as long as a dead process' big journal is being drained
            assert it.delivery.invite(it.click(), limit=4).wait().reason == "invite"
