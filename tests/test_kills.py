"""Nothing lost: servers are killed under load while AdTarget fails, drops connections and goes away; then all is counted."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from serving import Server, serving

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

ROUNDS = 4
VISITORS = 6  # at once


class Crowd:
    """First-time visitors, until the server is gone: who of them received a response, and with it a tempId."""

    def __init__(self) -> None:
        self.served: set[str] = set()

    def load(self, server: Server) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._visit, args=(server,)) for _ in range(VISITORS)]
        for thread in threads:
            thread.start()
        return threads

    def _visit(self, server: Server) -> None:
        while True:
            try:
                cookies = server.get("/", timeout=5).cookies
            except Exception:
                return  # killed in the middle of it
            self.served.add(cookies["adtarget_temp_id"].partition(";")[0])


def flap(sandbox: Sandbox, stop: threading.Event) -> None:
    """30 % errors, 20 % dropped connections (before or after the event was counted), and a full stop now and then."""
    sandbox.faults(error_rate=0.3, drop_rate=0.2, drop_when="either")
    while not stop.wait(0.7):
        sandbox.close_port()
        stop.wait(0.3)
        sandbox.open_port()


def test_sigkills_under_load_and_an_outage_lose_no_event_whose_response_was_received(tmp_path: Path) -> None:
    chance, crowd, stop = random.Random(3), Crowd(), threading.Event()
    with Sandbox(rate=0) as sandbox:
        environment = {
            "ADTARGET_API_KEY": sandbox.api_key,
            "ADTARGET_API_URL": sandbox.api_url,
            "ADTARGET_OUTBOX": f"sqlite:///{tmp_path}/outbox.sqlite3",
            "ADTARGET_RATE": "100000",
            "ADTARGET_BURST": "1000",
        }
        trouble = threading.Thread(target=flap, args=(sandbox, stop))
        trouble.start()
        try:
            for number in range(ROUNDS):
                with serving(("uvicorn", "gunicorn")[number % 2], environment, tmp_path) as server:
                    threads = crowd.load(server)
                    time.sleep(chance.uniform(0.3, 1.2))  # a kill comes at any moment
                    server.kill()
                    for thread in threads:
                        thread.join()
        finally:
            stop.set()
            trouble.join()
        sandbox.heal()
        with serving("uvicorn", environment, tmp_path) as server:
            server.get("/style.css", {"Sec-Fetch-Dest": "style"})
            deadline = time.monotonic() + 90
            while crowd.served - told(sandbox) and time.monotonic() < deadline:
                time.sleep(0.2)
        events = sandbox.events("visit")
    assert len(crowd.served) > 50
    assert crowd.served - told(sandbox) == set()
    assert len({event["idempotency_key"] for event in events}) == len(events)
    assert len(told(sandbox)) == len(events), "a visitor was counted twice"


def told(sandbox: Sandbox) -> set[str]:
    return {event["fields"]["tempId"] for event in sandbox.events("visit")}
