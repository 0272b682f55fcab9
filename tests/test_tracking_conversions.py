"""A conversion: what the caller says wins, what AdTarget would refuse is refused here."""

from __future__ import annotations

from typing import Any

import pytest

from adtarget_proxy.tracking.conversions import conversion_of
from adtarget_proxy.tracking.events import PAID_OR_AWAITED, Conversion, decode

LEAD = {"telegram_user_id": 1234567890, "event_type": "Lead"}
PURCHASE = {**LEAD, "event_type": "Purchase", "value": 97.0, "currency": "USD"}


def conversion(
    fields: dict[str, Any], *, key: str = "order_1", visitor: str | None = None, **borrowed: Any
) -> Conversion:
    return conversion_of(
        fields, account="acc", key=key, visitor=visitor, now=1_700_000_000.5, borrowed=borrowed, ip="full"
    )


def test_a_conversion_carries_the_callers_key_and_its_time() -> None:
    event = conversion(PURCHASE, visitor="me", fbp="fb.1.1.1")
    assert (event.key, event.visitor, event.worth, event.account) == ("order_1", "me", PAID_OR_AWAITED, "acc")
    assert event.fields == {**PURCHASE, "fbp": "fb.1.1.1", "event_time": 1_700_000_000_500}
    assert decode(event.encode()) == event


def test_what_the_caller_says_beats_what_is_borrowed() -> None:
    event = conversion({**LEAD, "fbp": "any text", "fbc": None, "event_time": 5}, fbp="fb.1.1.1", fbc="fb.1.1.2")
    assert (event.fields["fbp"], event.fields["fbc"], event.fields["event_time"]) == ("any text", "fb.1.1.2", 5)


def test_two_conversions_under_one_key_are_one() -> None:
    assert conversion(LEAD).id == conversion(PURCHASE).id
    assert conversion(LEAD).id != conversion(LEAD, key="order_2").id


def test_a_conversion_of_nobody_in_particular_stands_in_a_queue_of_its_own() -> None:
    event = conversion(LEAD)
    assert event.visitor == event.id


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({}, ["telegram_user_id", "event_type"]),
        ({**LEAD, "telegram_user_id": "123"}, ["telegram_user_id"]),
        ({**LEAD, "telegram_user_id": True}, ["telegram_user_id"]),
        ({**LEAD, "event_type": "lead"}, ["event_type"]),
        ({**LEAD, "event_type": "Custom"}, ["custom_event_name"]),
        ({**LEAD, "event_type": "Purchase"}, ["value", "currency"]),
        ({**PURCHASE, "value": "97"}, ["value"]),
        ({**PURCHASE, "value": float("nan")}, ["value"]),
        ({**PURCHASE, "value": True}, ["value"]),
        ({**PURCHASE, "currency": "usd"}, ["currency"]),
        ({**PURCHASE, "currency": "DOLLAR"}, ["currency"]),
        ({**LEAD, "currency": 840}, ["currency"]),
    ],
)
def test_every_field_that_adtarget_would_refuse_is_named_at_once(fields: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        conversion(fields)
    assert [text.partition(":")[0] for text in str(caught.value).split("; ")] == problems


@pytest.mark.parametrize(
    "fields",
    [
        LEAD,
        PURCHASE,
        {**LEAD, "event_type": "Custom", "custom_event_name": "Tap"},
        {**LEAD, "event_type": "Subscribe", "value": 0},
    ],
)
def test_what_adtarget_takes_is_taken(fields: dict[str, Any]) -> None:
    assert conversion(fields).fields.items() >= fields.items()
