"""A burst over AdTarget's limit, on real servers: what an ad paid for goes first, nobody knocks in vain, and no button waits.

The limits are AdTarget's own (300 a minute, burst 50), on both sides, and it answers in 100 ms.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import serving
from delivery_world import until
from redis_server import redis_server
from serving import Reply, Server

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

VISITS = 1_000
PAID_FOR = 150  # of them bring a click id: three in each twenty, the last one not
AMONG = 200  # calls, within which those are sent
PEOPLE = 16  # at once
FALLBACK = "https://t.me/fallback_channel"


class Visitor(NamedTuple):
    server: Server
    page: Reply
    paid: bool

    @property
    def temp_id(self) -> str:
        return self.page.cookies["adtarget_temp_id"].partition(";")[0]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        running.faults(latency=0.1)
        yield running


def environment(sandbox: Sandbox, outbox: str) -> dict[str, str]:
    return {
        "ADTARGET_API_KEY": sandbox.api_key,
        "ADTARGET_API_URL": sandbox.api_url,
        "ADTARGET_OUTBOX": outbox,
        "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
        "ADTARGET_FALLBACK_URL": FALLBACK,
        "ADTARGET_TRUSTED_PROXIES": "127.0.0.0/8",
        "ADTARGET_DEBUG": "true",
    }


def burst(servers: list[Server]) -> list[Visitor]:
    """As many first visits as fit through the door, each by somebody else, spread over the servers; in their order."""

    def visit(number: int) -> Visitor:
        server, paid = servers[number % len(servers)], number % 20 < 3
        return Visitor(server, server.get(f"/?fbclid=IwAR{number}" if paid else "/"), paid)

    with ThreadPoolExecutor(PEOPLE) as people:
        return list(people.map(visit, range(VISITS)))


def of(event: dict[str, Any]) -> str:
    temp_id: str = event["fields"]["tempId"]
    return temp_id


@pytest.mark.parametrize(
    ("kinds", "engine"),
    [(("uvicorn",), "sqlite"), (("gunicorn",), "redis"), (("uvicorn", "gunicorn"), "sqlite")],
    ids=["uvicorn", "gunicorn over Redis", "both at one outbox"],
)
def test_in_a_burst_what_an_ad_paid_for_goes_first_and_the_last_in_the_queue_gets_their_link(
    kinds: tuple[str, ...], engine: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        outbox = f"sqlite:///{tmp_path}/outbox.sqlite3"
        if engine == "redis":
            redis = stack.enter_context(redis_server(tmp_path / "redis", "--appendonly", "yes"))
            outbox = f"redis://127.0.0.1:{redis.port}/0?journal={tmp_path}/outbox"
        servers = [stack.enter_context(serving.serving(kind, environment(sandbox, outbox), tmp_path)) for kind in kinds]
        visitors = burst(servers)
        last = [visitor for visitor in visitors if not visitor.paid][-2:]
        clicks = [last_one.server.get("/c/vip", {"Cookie": last_one.page.jar}) for last_one in last]
        assert len(sandbox.requests()) < AMONG, "the queue was not long when they clicked"
        sandbox.wait_for(AMONG, timeout=60)
    counted = sandbox.events()
    for visitor, click in zip(last, clicks, strict=True):
        assert click.reason == "invite"  # within invite_timeout, or it were the fallback
        visit, invite = [event for event in counted if of(event) == visitor.temp_id]
        assert (visit["endpoint"], invite["endpoint"]) == ("visit", "invite")
        assert click.header("Location") == invite["answer"]["body"]["inviteLink"]

    paid = {visitor.temp_id for visitor in visitors if visitor.paid}
    assert len(paid) == PAID_FOR
    places = [place for place, event in enumerate(counted) if of(event) in paid]
    assert len([place for place in places if place < AMONG]) == PAID_FOR
    requests = sandbox.requests()
    refused = [request for request in requests if request["status"] == 429]
    assert len(refused) < 0.02 * len(requests)


def test_while_one_network_floods_the_button_everybody_else_gets_their_link(sandbox: Sandbox, tmp_path: Path) -> None:
    stop, reasons = threading.Event(), Counter[str | None]()

    def flood(server: Server, host: int) -> None:
        """Clicks without cookies, one after the other, all from one /64."""
        while not stop.is_set():
            click = server.get("/c/vip", {"X-Forwarded-For": f"2001:db8:0:1::{host:x}"})
            reasons[click.reason] += 1

    def come(server: Server, number: int) -> Reply:
        return server.get("/c/vip", {"X-Forwarded-For": f"198.51.100.{number}"})

    outbox = f"sqlite:///{tmp_path}/outbox.sqlite3"
    patient = environment(sandbox, outbox) | {"ADTARGET_INVITE_TIMEOUT": "10"}  # who gets a link, not how soon
    with serving.serving("uvicorn", patient, tmp_path) as server:
        crowd = [threading.Thread(target=flood, args=(server, host)) for host in range(PEOPLE)]
        for thread in crowd:
            thread.start()
        try:
            until(lambda: reasons.total() > 200, timeout=60)  # the bucket has lost what it could lose to them
            others = [come(server, number) for number in range(1, 11)]
        finally:
            stop.set()
            for thread in crowd:
                thread.join()
    assert [click.reason for click in others] == ["invite"] * len(others)
    assert FALLBACK not in {click.header("Location") for click in others}
    assert set(reasons) == {"invite", "invite-fallback"}
    assert reasons["invite"] < 10 + 2 * PEOPLE  # what half a bucket gives, and those under way when it was gone
