"""The breaker: opens after failures in a row, one probe at a time, pauses, closes on any definite answer."""

from __future__ import annotations

import pytest

from adtarget_proxy.delivery.breaker import THRESHOLD, Breaker, State
from adtarget_proxy.delivery.timing import Timing

TIMING = Timing(probe_first=1.0, probe_longest=8.0, resume=30.0, call=15.0)


def breaker(random: float = 1.0) -> Breaker:
    return Breaker(timing=TIMING, random=lambda: random)


def opened(*, at: float = 100.0, random: float = 1.0) -> Breaker:
    it = breaker(random)
    for _ in range(THRESHOLD):
        it.failed("no answer", now=at)
    return it


@pytest.mark.parametrize(
    ("history", "state"),
    [
        ("", State.OK),
        ("ff", State.OK),
        ("fff", State.OPEN),
        ("ffsff", State.OK),
        ("ffsfff", State.OPEN),
        ("ffff", State.OPEN),
        ("fffs", State.OK),
        ("p", State.PAUSED),
        ("fffp", State.PAUSED),
        ("pfff", State.PAUSED),
        ("ps", State.OK),
    ],
)
def test_state_after_a_history(history: str, state: State) -> None:
    it = breaker()
    for step in history:
        match step:
            case "f":
                it.failed("no answer", now=0.0)
            case "s":
                it.succeeded(now=0.0)
            case "p":
                it.pause("401", now=0.0)
    assert it.state is state
    assert bool(it.reason) is (state is not State.OK)


def test_a_change_is_told_once() -> None:
    it = breaker()
    assert [it.failed("x", now=0.0) for _ in range(5)] == [False, False, True, False, False]
    assert [it.pause("401", now=0.0), it.pause("401", now=0.0)] == [True, False]
    assert [it.succeeded(now=0.0), it.succeeded(now=0.0)] == [True, False]


@pytest.mark.parametrize(("random", "pause"), [(0.0, 0.5), (1.0, 1.0)])
def test_the_probe_is_due_after_the_pause_jittered(random: float, pause: float) -> None:
    it = opened(random=random)
    assert it.probe_in(100.0) == pause
    assert not it.take_probe(100.0 + pause - 0.01)
    assert it.take_probe(100.0 + pause)


def test_no_probe_is_taken_of_a_closed_breaker() -> None:
    assert not breaker().take_probe(1e9)
    assert breaker().probe_in(0.0) == 0.0


def test_one_probe_at_a_time_until_its_clock_has_run_out() -> None:
    it = opened()
    assert it.take_probe(101.0)
    assert not it.take_probe(101.0)
    assert not it.take_probe(101.0 + TIMING.call - 0.01)
    assert it.take_probe(101.0 + TIMING.call)


def test_a_probe_with_nothing_to_send_makes_room_for_another() -> None:
    it = opened()
    assert it.take_probe(101.0)
    it.drop_probe(101.5)
    assert it.take_probe(101.5)


def test_dropping_a_probe_that_failed_does_not_shorten_the_pause() -> None:
    it = opened()
    it.take_probe(101.0)
    it.failed("still no answer", now=102.0)
    it.drop_probe(102.0)
    assert it.probe_in(102.0) == 2.0


def test_each_failed_probe_doubles_the_pause_up_to_the_longest() -> None:
    it, now, pauses = opened(), 100.0, []
    for _ in range(5):
        pauses.append(it.probe_in(now))
        now += pauses[-1]
        assert it.take_probe(now)
        it.failed("still no answer", now=now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_calls_that_were_under_way_when_it_opened_do_not_prolong_the_pause() -> None:
    it = opened()
    it.failed("an old call", now=100.9)
    assert it.take_probe(101.0)


def test_after_it_has_closed_the_pauses_begin_anew() -> None:
    it = opened()
    it.take_probe(101.0)
    it.failed("still no answer", now=101.0)
    it.succeeded(now=0.0)
    for _ in range(THRESHOLD):
        it.failed("again", now=200.0)
    assert it.probe_in(200.0) == 1.0


def test_a_paused_account_is_probed_slowly() -> None:
    it = breaker()
    it.pause("AdTarget answered 401", now=0.0)
    assert it.probe_in(0.0) == TIMING.resume
    assert it.take_probe(TIMING.resume)
    it.pause("AdTarget answered 401", now=31.0)
    assert not it.take_probe(31.0 + TIMING.resume - 0.01)


def test_attempts_from_before_the_breaker_closed_do_not_open_it_again() -> None:
    breaker = Breaker(timing=Timing(), random=lambda: 0.0)
    for _ in range(3):
        breaker.failed("down", now=10.0, began=5.0)
    assert breaker.state is State.OPEN
    breaker.succeeded(now=20.0)
    for _ in range(9):
        assert not breaker.failed("timed out", now=25.0, began=9.0)
    assert breaker.state is State.OK
    assert [breaker.failed("down", now=26.0, began=21.0) for _ in range(3)] == [False, False, True]
