"""An outcome is known to one process alone: it is written, now or as soon as the store is well again."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from adtarget_proxy.delivery.registry import Registry
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.tracking.events import PLAIN, Visit

ACCOUNT = "0123456789abcdef"


def visit(number: int) -> Visit:
    name = f"v{number}"
    return Visit(
        id=name,
        key=name,
        account=ACCOUNT,
        visitor=name,
        at=time.time(),
        worth=PLAIN,
        fields={"href": "https://shop.test/"},
    )


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")


def test_outcomes_that_a_broken_store_refuses_are_said_once_and_written_when_it_is_well(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(outbox)
    outbox.store.put([visit(n) for n in range(5)], now=time.time())
    claims = outbox.store.claim([ACCOUNT], owner=outbox.owner, now=time.time() + 1, limit=5)
    registry.took(claims)
    outbox.store.close()  # a closed store refuses everything, as a full disk's does
    with caplog.at_level(logging.WARNING, "adtarget_proxy"):
        for claim in claims:
            registry.settle(claim.event.id)
    assert registry.held == 5
    assert caplog.text.count("outcomes are kept until") == 1
    with pytest.raises(OutboxError):
        registry.catch_up()
    assert registry.held == 5

    outbox.close()  # the next use opens the store anew
    registry.catch_up()
    assert registry.held == 0
    counts = outbox.store.counts([ACCOUNT])
    assert (counts.sent, counts.waiting, counts.claimed) == (5, 0, 0)


def test_what_is_given_back_at_the_end_goes_again_as_perhaps_counted(outbox: Outbox) -> None:
    registry = Registry(outbox)
    outbox.store.put([visit(1)], now=time.time())
    registry.took(outbox.store.claim([ACCOUNT], owner=outbox.owner, now=time.time() + 1, limit=1))
    registry.give_back(not_before=0.0)
    assert registry.held == 0
    (again,) = outbox.store.claim([ACCOUNT], owner=outbox.owner, now=time.time() + 1, limit=1)
    assert again.tries == 1
    assert again.unknown_since is not None
