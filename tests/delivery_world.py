"""A small world for the tests of delivery: a sandbox on real sockets, an outbox on disk, and the events of made-up visitors."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adtarget_proxy.delivery import Click, Delivery, Timing
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import PAID_OR_AWAITED, PLAIN, Conversion, Event, FbpUpdate, InviteClick, Visit

FALLBACK = "https://t.me/fallback"
QUICK = Timing(
    tick=0.01,
    poll=0.03,
    machine=0.1,
    expire=0.1,
    call=1.0,
    backoff_first=0.02,
    backoff_longest=0.1,
    probe_first=0.05,
    probe_longest=0.2,
    resume=0.1,
)
BUDGET = 1.5  # seconds


def until(condition: Callable[[], Any], *, timeout: float = 10.0) -> None:
    """Wait for a condition of another thread or process."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class World:
    """What one process has: ``surface`` is keyed or keyless."""

    box: Sandbox
    settings: Settings
    outbox: Outbox
    delivery: Delivery

    @property
    def account(self) -> str:
        return self.settings.accounts[0].id

    def visit(self, visitor: str | None = None, **fields: Any) -> Visit:
        visitor = visitor or new_id()
        return self._event(Visit, visitor, PLAIN, href="https://shop.test/", temp_id=visitor, **fields)

    def conversion(self) -> Conversion:
        account = next(account for account in self.settings.accounts if account.api_key)
        return self._event(
            Conversion, new_id(), PAID_OR_AWAITED, account=account.id, telegram_user_id=1234567890, event_type="Lead"
        )

    def update(self, visitor: str, fbp: str = "fb.1.1700000000000.123456789") -> FbpUpdate:
        return FbpUpdate.of(account=self.account, visitor=visitor, fbp=fbp, at=time.time(), fields={})

    def click(
        self,
        visitor: str | None = None,
        *,
        known: bool = True,
        network: str | None = None,
        budget: float = BUDGET,
        account: str | None = None,
    ) -> Click:
        """With a ``network`` it is the click of somebody without cookies."""
        visitor = visitor or new_id()
        event = self._event(
            InviteClick, visitor, PAID_OR_AWAITED, account=account, href="https://shop.test/", temp_id=visitor
        )
        return Click(event, "vip", FALLBACK, time.monotonic() + budget, known and network is None, network)

    def append(self, *events: Event) -> None:
        for event in events:
            self.outbox.append(event)
        self.delivery.wake()

    def _event(self, kind: Any, visitor: str, worth: int, account: str | None = None, **fields: Any) -> Any:
        return kind(
            id=new_id(),
            key=new_id(),
            account=account or self.account,
            visitor=visitor,
            at=time.time(),
            worth=worth,
            fields=fields,
        )


@contextmanager
def world(
    box: Sandbox,
    folder: Path,
    *,
    surface: str = "keyed",
    timing: Timing = QUICK,
    outbox: str | None = None,
    **settings: Any,
) -> Iterator[World]:
    """A world that ends with the test. ``box`` lives on, so that several processes can share it."""
    credential = {"keyed": {"api_key": box.api_key}, "keyless": {"website_id": box.website_id}}[surface]
    made = Settings(
        **{
            **credential,
            "api_url": box.api_url,
            "tracker_url": box.tracker_url,
            "outbox": outbox or f"sqlite:///{folder / 'outbox.sqlite3'}",
            "rate": 1_000_000,
            "burst": 10_000,
            **settings,
        }
    )
    kept = Outbox.open(made.outbox)
    delivery = Delivery(made, kept, timing=timing)
    try:
        yield World(box, made, kept, delivery)
    finally:
        delivery.close(0.5)
        kept.close()
