"""The sandbox's clocks, owned by the test: the rate limit and the window of idempotent replay."""

from __future__ import annotations

import pytest

from adtarget_proxy.sandbox.answers import Answer, Refusal
from adtarget_proxy.sandbox.bucket import Buckets
from adtarget_proxy.sandbox.idempotency import Replays
from adtarget_proxy.sandbox.options import Options


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(buckets: Buckets, tries: int, key: str = "a") -> int:
    return sum(buckets.take(key) == 0 for _ in range(tries))


@pytest.mark.parametrize(
    ("idle", "passes"), [(0, 50), (0.19, 50), (0.2, 51), (1, 55), (2, 60), (3600, 100)], ids=lambda value: f"{value}"
)
def test_the_documented_limit_is_a_burst_of_50_refilled_at_5_a_second(clock: Clock, idle: float, passes: int) -> None:
    options = Options()
    buckets = Buckets(options.rate, options.burst, clock)
    first = taken(buckets, 60)
    clock.now += idle
    assert first + taken(buckets, 60) == passes


@pytest.mark.parametrize(("rate", "wait"), [(300, 1), (60, 1), (6, 10), (1, 60)])
def test_the_wait_that_is_told_is_enough(clock: Clock, rate: float, wait: int) -> None:
    buckets = Buckets(rate, 1, clock)
    assert buckets.take("a") == 0
    assert buckets.take("a") == wait
    clock.now += wait
    assert buckets.take("a") == 0


def test_each_key_has_a_bucket_of_its_own(clock: Clock) -> None:
    buckets = Buckets(300, 2, clock)
    assert (taken(buckets, 5, "a"), taken(buckets, 5, "b")) == (2, 2)
    buckets.clear()
    assert taken(buckets, 5, "a") == 2


def test_a_rate_of_zero_lifts_the_limit(clock: Clock) -> None:
    assert taken(Buckets(0, 1, clock), 1000) == 1000


@pytest.mark.parametrize(
    ("age", "replayed"), [(0, True), (86_399, True), (86_400, False)], ids=["at once", "just under a day", "a day"]
)
def test_an_answer_is_replayed_for_a_day(clock: Clock, age: float, replayed: bool) -> None:
    replays = Replays(10, clock)
    replays.store("account", "key", Answer(200, {"visitId": "v"}), 7)
    clock.now += age
    found = replays.find("account", "key")
    assert (found is not None) is replayed
    if found:
        assert (found[0].body, found[0].headers["X-Idempotent-Replay"], found[1]) == ({"visitId": "v"}, "true", 7)


def test_at_most_so_many_answers_are_kept(clock: Clock) -> None:
    replays = Replays(2, clock)
    for key in ("1", "2", "3"):
        replays.store("account", key, Answer(200), 1)
    assert [replays.find("account", key) is not None for key in ("1", "2", "3")] == [False, True, True]


def test_a_key_over_128_characters_is_refused(clock: Clock) -> None:
    with pytest.raises(Refusal, match="128"):
        Replays(2, clock).find("account", "k" * 129)
