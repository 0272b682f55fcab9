"""Ids begin with the time and end in chance."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count

import pytest

from adtarget_proxy.entropy import entropy as system_entropy
from adtarget_proxy.tracking.ids import Entropy, new_id, new_uuid

TIMES = (0.0, 1.0, 1.5, 1_795_606_978.25, 1_795_606_978.5, 4_000_000_000.0)
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.mark.parametrize("made", [new_id, new_uuid])
def test_they_stand_in_the_order_of_time_and_differ_within_a_millisecond(made: Callable[[float, Entropy], str]) -> None:
    chance = count(255, -1)  # falls, so that only the time can put them in order

    def entropy(size: int) -> bytes:
        return bytes([next(chance)] * size)

    ids = [made(at, entropy) for at in TIMES]
    assert ids == sorted(ids)
    assert made(5.0, entropy) != made(5.0, entropy)


def test_an_events_id_is_32_hex_digits() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", new_id(at, system_entropy)) for at in TIMES)


def test_a_visitors_id_is_a_uuid_that_says_version_4_whatever_chance_brings() -> None:
    assert all(UUID4.fullmatch(new_uuid(at, system_entropy)) for at in TIMES * 50)
    for byte in range(256):
        assert UUID4.fullmatch(new_uuid(1.0, lambda size, byte=byte: bytes([byte] * size)))  # type: ignore[misc]


def test_all_of_the_chance_counts() -> None:
    """74 bits: each nibble but the version's and two bits of the variant's changes what comes out."""

    def at(place: int) -> str:
        return new_uuid(1.0, lambda size: bytes(0x11 if n == place else 0 for n in range(size)))

    assert len({at(place) for place in range(10)}) == 10
