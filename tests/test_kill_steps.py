"""SIGKILL between any two steps of an event's way: whoever takes over sends it, once, under the key it was born with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from delivery_world import World, until, world
from redis_server import empty, redis_server
from step_world import Step, die_at, started

from adtarget_proxy.outbox import DeadReason
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.tracking.events import Visit

pytestmark = pytest.mark.server


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as it:
        yield it


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(params=["sqlite", "redis"])
def survivor(request: pytest.FixtureRequest, box: Sandbox, tmp_path: Path) -> Iterator[World]:
    """The process that takes over: it has done nothing yet."""
    url = None
    if request.param == "redis":
        redis: str = request.getfixturevalue("redis_url")
        empty(redis)
        url = f"{redis}?journal={tmp_path / 'outbox'}"
    with world(box, tmp_path, outbox=url) as it:
        yield it


def around(*calls: str) -> list[Step]:
    return [Step(when, call) for call in calls for when in ("before", "after")]


def settled(it: World) -> bool:
    """Whether nothing waits and nothing of the dead is left, neither a claim nor a journal."""
    counts, journal, segments = it.outbox.store.counts(), it.outbox.journal, it.outbox.segments
    assert journal is not None
    assert segments is not None
    own = {segment.name for segment in journal.segments}
    return counts.waiting == counts.claimed == 0 and set(segments.names()) <= own


def sent_once(it: World, visit: Visit) -> None:
    """It counted once, and no attempt had another key."""
    assert it.delivery.flush(10) == 0
    until(lambda: settled(it))
    assert [event["idempotency_key"] for event in it.box.events("visit")] == [visit.key]
    assert {request["idempotency_key"] for request in it.box.requests()} == {visit.key}


def test_killed_before_its_append_there_is_no_event_for_no_response_has_left(survivor: World) -> None:
    die_at(Step("before", "append"), survivor.settings, survivor.visit())
    assert survivor.delivery.flush(10) == 0
    assert survivor.box.requests() == []


@pytest.mark.parametrize(
    "step", [Step("after", "append"), *around("put", "claim", "take", "deliver", "settle")], ids=str
)
def test_killed_on_its_way_it_is_sent_by_another_process(survivor: World, step: Step) -> None:
    visit = survivor.visit()
    die_at(step, survivor.settings, visit)
    sent_once(survivor, visit)


def test_killed_while_the_answer_is_on_its_way(survivor: World) -> None:
    survivor.box.faults(latency=60.0)
    visit = survivor.visit()
    process = started(survivor.settings, visit)
    until(lambda: survivor.box.count("visit"))
    process.kill()
    process.join()
    survivor.box.heal()
    sent_once(survivor, visit)


@pytest.mark.parametrize("step", around("put_back"), ids=str)
def test_killed_when_it_was_to_go_again(survivor: World, step: Step) -> None:
    survivor.box.faults(status=503)
    visit = survivor.visit()
    die_at(step, survivor.settings, visit)
    survivor.box.heal()
    sent_once(survivor, visit)


@pytest.mark.parametrize("step", around("bury"), ids=str)
def test_killed_when_it_was_refused_it_is_one_dead_letter(survivor: World, step: Step) -> None:
    survivor.box.faults(status=422)
    visit = survivor.visit()
    die_at(step, survivor.settings, visit)
    survivor.delivery.flush(10)
    until(lambda: settled(survivor))
    assert [(letter.event.id, letter.reason) for letter in survivor.outbox.store.dead_letters()] == [
        (visit.id, DeadReason.REFUSED)
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [(Step("after", "append"), second) for second in around("put")]
    + [
        (Step("after", first), second)
        for first in ("append", "put", "claim")
        for second in around("release", "forget_journal")
    ],
    ids=str,
)
def test_killed_while_it_takes_over_from_a_killed_one(survivor: World, first: Step, second: Step) -> None:
    visit = survivor.visit()
    die_at(first, survivor.settings, visit)
    die_at(second, survivor.settings)
    sent_once(survivor, visit)


@pytest.mark.parametrize(
    "step",
    [
        *around("begin_invite", "promote", "take", "deliver", "settle", "end_invite"),
        *(
            Step(when, call, 2) for call in ("take", "deliver", "settle") for when in ("before", "after")
        ),  # the click's own
    ],
    ids=str,
)
def test_killed_on_the_ladder_the_visit_is_sent_and_the_next_click_gets_its_link(
    box: Sandbox, survivor: World, tmp_path: Path, step: Step
) -> None:
    """Such a click had no response; its visit had. The child leaves events to others, so that the click alone moves them."""
    visit = survivor.visit()
    with world(box, tmp_path, outbox=survivor.settings.outbox, deliver="worker") as web:
        die_at(step, web.settings, visit, click=survivor.click(visit.visitor, budget=20.0))
    survivor.delivery.start()
    until(lambda: survivor.box.count("visit"))
    again = survivor.click(visit.visitor)
    reason = survivor.delivery.invite(again, limit=4).wait().reason
    assert reason in ("invite", "invite-repeat")
    assert survivor.delivery.flush(10) == 0
    until(lambda: settled(survivor))
    assert [event["idempotency_key"] for event in box.events("visit")] == [visit.key]
    assert {request["idempotency_key"] for request in box.requests() if request["endpoint"] == "visit"} == {visit.key}
