"""How much of the bucket each kind leaves to others."""

from __future__ import annotations

import pytest

from adtarget_proxy.delivery.pacing import reserve
from adtarget_proxy.outbox import Outbox
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
)


def event(kind: type[Event], worth: int) -> Event:
    return kind(id="e", key="k", account="a", visitor="v", at=0.0, worth=worth)


WAITING = [
    (event(Conversion, PAID_OR_AWAITED), 40),
    (event(InviteClick, FROM_AN_AD), 35),
    (event(Visit, FROM_AN_AD), 35),
    (event(FbpUpdate, UPDATE), 35),
    (event(Visit, PLAIN), 35),
]


@pytest.mark.parametrize(("event", "sent"), WAITING, ids=[row[0].kind for row in WAITING])
def test_of_a_burst_of_50_waiting_events_leave_10_for_clicks_and_5_for_conversions(event: Event, sent: int) -> None:
    store = Outbox.open("memory://").store
    taken = 0
    while store.take("a", now=0.0, rate=5.0, burst=50.0, reserve=reserve(event)) == 0.0:
        taken += 1
    assert taken == sent
