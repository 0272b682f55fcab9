"""An event on its way: what is written is what is read, whole or as far as a store has to know it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adtarget_proxy.tracking.events import (
    FROM_AN_AD,
    PAID_OR_AWAITED,
    PLAIN,
    Conversion,
    Event,
    FbpUpdate,
    InviteClick,
    Visit,
    Withdrawal,
    Written,
    decode,
    read,
)

HEAD = ("kind", "id", "account", "visitor", "at", "worth", "not_before", "asked_at")


def event(kind: type[Event] = Visit, **changes: Any) -> Event:
    return kind(
        **{
            "id": "e1",
            "key": "k1",
            "account": "a1",
            "visitor": "v1",
            "at": 1_795_606_978.25,
            "worth": PLAIN,
            "fields": {"href": "https://shop.example/"},
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("made", "is_read_whole"),
    [
        (event(), False),
        (event(InviteClick, worth=FROM_AN_AD, asked_at=1_795_606_977.5), False),
        (event(worth=PAID_OR_AWAITED, not_before=1.0e10), False),
        (event(at=0.0, fields={}), False),
        (event(at=-1.5e-7), False),
        (event(at=5), False),
        (event(fields={"nested": {"f": {"}}": '","v":"other"'}}}), False),
        (event(FbpUpdate, fields={"fbp": "fb.1.1.2"}), True),
        (event(Conversion, worth=PAID_OR_AWAITED), True),
        (event(Withdrawal, worth=PAID_OR_AWAITED), True),
        (event(id='"quoted"'), True),
        (event(visitor="back\\slash"), True),
        (event(visitor="Ж"), True),
        (event(visitor="\ud800"), True),
    ],
    ids=repr,
)
def test_what_a_store_has_to_know_is_read_as_it_was_made(made: Event, is_read_whole: bool) -> None:
    line = made.encode()
    found = read(line)
    assert decode(line) == made
    assert [getattr(found, name) for name in HEAD] == [getattr(made, name) for name in HEAD]
    assert found.encode() == line
    assert isinstance(found, Written) is not is_read_whole


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        event().encode()[:-1],
        event().encode().replace('"k":"visit"', '"k":"from-the-future"'),
        event().encode().replace('"w":4', '"w":"high"').replace('"f":{', '"g":{'),
        event().encode().replace('"t":1795606978.25', '"t":yesterday'),
        json.dumps({"k": "visit"}),
    ],
)
def test_what_is_no_event_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(line)
