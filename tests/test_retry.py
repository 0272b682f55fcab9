"""What becomes of an event after an attempt: the tables of the delivery plan."""

from __future__ import annotations

import pytest

from adtarget_proxy.delivery.retry import Again, Buried, Settled, Signal, backoff, outdated, signal, verdict
from adtarget_proxy.delivery.timing import Timing
from adtarget_proxy.errors import (
    ApiDisabled,
    ApiError,
    ChannelNotFound,
    InternalError,
    InvalidKey,
    InvalidPayload,
    NotFound,
    RateLimited,
    ServerError,
    SubscriptionInactive,
    UnexpectedAnswer,
    Unreachable,
)
from adtarget_proxy.outbox import Claim, DeadReason
from adtarget_proxy.tracking.events import PLAIN, Event, FbpUpdate, Visit

NOW = 1_800_000_000.0
HOUR = 3600.0
TIMING = Timing()


class Answered:
    """A result, as far as delivery looks into one."""

    def __init__(self, success: bool | None = None) -> None:
        self.success = success


def visit() -> Event:
    return Visit(id="e1", key="k1", account="a", visitor="v", at=NOW, worth=PLAIN)


def update() -> Event:
    return FbpUpdate.of(account="a", visitor="v", fbp="fb.1.1.1", at=NOW, fields={})


AGAIN, AGAIN_UNKNOWN, PAUSE, DEAD = "again", "again, unknown", "paused", "dead"

REPLIES = [
    ("refused connection", Unreachable("x", sent=False), AGAIN, Signal.FAILED),
    ("time-out after sending", Unreachable("x", sent=True), AGAIN_UNKNOWN, Signal.FAILED),
    ("408", UnexpectedAnswer("x", status=408), AGAIN, Signal.FAILED),
    ("425", UnexpectedAnswer("x", status=425), AGAIN, Signal.FAILED),
    ("429", RateLimited("x"), AGAIN, Signal.LIMITED),
    ("500", InternalError("x"), AGAIN_UNKNOWN, Signal.FAILED),
    ("502", ServerError("x", status=502), AGAIN_UNKNOWN, Signal.FAILED),
    ("503", ApiDisabled("x"), AGAIN_UNKNOWN, Signal.FAILED),
    ("501", ServerError("x", status=501), DEAD, Signal.ALIVE),
    ("505", ServerError("x", status=505), DEAD, Signal.ALIVE),
    ("a page with 200", UnexpectedAnswer("x", status=200), AGAIN_UNKNOWN, Signal.FAILED),
    ("a redirect", UnexpectedAnswer("x", status=302), DEAD, Signal.ALIVE),
    ("400", InvalidPayload("x"), DEAD, Signal.ALIVE),
    ("401", InvalidKey("x"), PAUSE, Signal.PAUSED),
    ("402", SubscriptionInactive("x"), PAUSE, Signal.PAUSED),
    ("403", UnexpectedAnswer("x", status=403), DEAD, Signal.ALIVE),
    ("404", ChannelNotFound("x"), DEAD, Signal.ALIVE),
    ("410", UnexpectedAnswer("x", status=410), DEAD, Signal.ALIVE),
]


@pytest.mark.parametrize(("error", "fate", "said"), [row[1:] for row in REPLIES], ids=[row[0] for row in REPLIES])
def test_every_refusal_has_one_fate_and_one_meaning_for_the_account(error: ApiError, fate: str, said: Signal) -> None:
    end = verdict(visit(), 0, error, now=NOW, random=lambda: 0.5, timing=TIMING)
    assert signal(error) is said
    match end:
        case Again(not_before, unknown, counted):
            assert fate == (PAUSE if not counted else AGAIN_UNKNOWN if unknown else AGAIN)
            assert not_before >= NOW
        case Buried(reason, status, _):
            assert (fate, reason, status) == (DEAD, DeadReason.REFUSED, error.status)
        case _:
            pytest.fail("a refusal settles nothing")


def test_a_refusal_keeps_what_adtarget_wrote_and_shows_it_nowhere() -> None:
    refusal = InvalidPayload("AdTarget answered 400 INVALID_PAYLOAD")
    refusal.answer = '{"error": {"message": "href: jane@example.com"}}'
    end = verdict(visit(), 0, refusal, now=NOW, random=lambda: 0.5, timing=TIMING)
    assert end == Buried(DeadReason.REFUSED, 400, refusal.answer, str(refusal))
    assert "jane" not in f"{end!r} {refusal!r} {refusal}"


@pytest.mark.parametrize(
    ("event", "reply", "end"),
    [
        (visit(), Answered(), Settled()),
        (visit(), Answered(success=False), Settled()),
        (update(), Answered(success=True), Settled()),
        (update(), Answered(success=None), Settled()),
        (update(), Answered(success=False), Buried(DeadReason.REFUSED, 200, "success: false")),
        (
            update(),
            NotFound("AdTarget answered 404"),
            Buried(DeadReason.REFUSED, 404, "AdTarget answered 404", "AdTarget answered 404"),
        ),
    ],
    ids=["visit", "visit, odd field", "update", "update, no word", "update that missed", "update, unknown visitor"],
)
def test_an_answer_settles_but_an_update_that_hit_no_visit_is_dead(event: Event, reply: object, end: object) -> None:
    assert verdict(event, 0, reply, now=NOW, random=lambda: 0.5, timing=TIMING) == end


@pytest.mark.parametrize(
    ("tries", "ceiling"), [(0, 1), (1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (40, 60), (10_000, 60)]
)
def test_back_off_doubles_from_1_to_60_seconds_with_full_jitter(tries: int, ceiling: float) -> None:
    assert backoff(tries, random=lambda: 0.0, timing=TIMING) == 0.0
    assert backoff(tries, random=lambda: 0.25, timing=TIMING) == ceiling / 4
    assert backoff(tries, random=lambda: 1.0, timing=TIMING) == ceiling


@pytest.mark.parametrize(
    ("error", "tries", "random", "delay"),
    [
        (RateLimited("x", retry_after=7.0), 0, 0.5, 7.0),
        (ServerError("x", status=503, retry_after=2.0), 0, 0.5, 2.0),
        (RateLimited("x", retry_after=7.0), 6, 1.0, 60.0),
        (RateLimited("x", retry_after=0.0), 0, 0.5, 0.5),
        (InternalError("x"), 2, 0.5, 2.0),
        (ApiDisabled("x"), 0, 0.5, 8.0),
    ],
    ids=["asked to wait", "503 that asks", "back-off is longer", "asked for nothing", "500", "switched off: slowly"],
)
def test_the_longer_of_back_off_and_retry_after_is_waited(
    error: ApiError, tries: int, random: float, delay: float
) -> None:
    end = verdict(visit(), tries, error, now=NOW, random=lambda: random, timing=TIMING)
    assert isinstance(end, Again)
    assert end.not_before == NOW + delay


@pytest.mark.parametrize(
    ("unknown_since", "is_over"),
    [(None, False), (NOW - 22.9 * HOUR, False), (NOW - 23 * HOUR, True), (NOW - 30 * HOUR, True)],
)
def test_an_unknown_outcome_is_not_repeated_once_adtarget_may_have_forgotten_the_key(
    unknown_since: float | None, is_over: bool
) -> None:
    end = outdated(Claim(visit(), 3, unknown_since), now=NOW)
    assert (end is not None) is is_over
    assert end is None or end.reason is DeadReason.UNKNOWN
