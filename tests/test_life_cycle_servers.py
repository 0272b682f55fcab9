"""The life of a process on real servers: forked, reloaded, ended under load while AdTarget hangs, and started again.

Every visit and click whose response was received is AdTarget's once, in the end; and no server takes longer to end than it needs itself
and our deadline.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import HOSTS, hosted
from serving import Server

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

FALLBACK = "https://t.me/fallback_channel"
VISITORS = 4  # at once
ENDED = 2.0 + 8.0  # seconds: our deadline, and what a server may need for its own
HANGING = ("gunicorn, threads", "gunicorn, gevent", "uvicorn, workers", "uWSGI")  # where it refuses, all is over sooner
RELOADED = [name for name in HOSTS if HOSTS[name].hup]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as running:
        yield running


def environment(sandbox: Sandbox, folder: Path, **more: str) -> dict[str, str]:
    return {
        "ADTARGET_API_KEY": sandbox.api_key,
        "ADTARGET_API_URL": sandbox.api_url,
        "ADTARGET_OUTBOX": f"sqlite:///{folder}/outbox.sqlite3",
        "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
        "ADTARGET_FALLBACK_URL": FALLBACK,
        "ADTARGET_INVITE_TIMEOUT": "1.0",
        "ADTARGET_RATE": "100000",
        "ADTARGET_BURST": "1000",
        **more,
    }


class Crowd:
    """First-time visitors who look at a page and click, until they are told to stop: whose page and whose click was answered."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pages: list[str] = []
        self.clicks: list[tuple[str, str]] = []  # tempId, where to
        self.failed: list[Exception] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(VISITORS)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, pages: int, clicks: int) -> None:
        """So many more answers than there are now."""
        pages, clicks = len(self.pages) + pages, len(self.clicks) + clicks
        until(lambda: len(self.pages) >= pages and len(self.clicks) >= clicks, f"no answers: {self.failed[-3:]}")

    def _visit(self) -> None:
        while not self._over.is_set():
            try:
                page = self.server.get("/", timeout=10)
                visitor = page.cookies["adtarget_temp_id"].partition(";")[0]
                self.pages.append(visitor)
                click = self.server.get("/c/vip", {"Cookie": page.jar}, timeout=10)
                assert click.status == 302
                self.clicks.append((visitor, click.header("Location") or ""))
            except Exception as error:  # a server that starts, ends or reloads
                self.failed.append(error)
                time.sleep(0.02)


def until(condition: Callable[[], object], otherwise: str, timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def arrived(sandbox: Sandbox, kind: str) -> Counter[str]:
    return Counter(event["fields"]["tempId"] for event in sandbox.events(kind))


def all_arrive_once(sandbox: Sandbox, crowd: Crowd) -> None:
    """Wait for every answered page and click to be AdTarget's; none may be there twice."""
    pages, clicks = set(crowd.pages), {visitor for visitor, _ in crowd.clicks}
    end = time.monotonic() + 60
    while (pages - arrived(sandbox, "visit").keys()) or (clicks - arrived(sandbox, "invite").keys()):
        if time.monotonic() > end and "the journal's disk is slow" in crowd.server.log.read_text():
            break  # the one excuse that the outbox has, and it says so: a line that the disk did not take within 50 ms
        assert time.monotonic() < end, (
            f"missing: {len(pages - arrived(sandbox, 'visit').keys())} of {len(pages)} visits, "
            f"{len(clicks - arrived(sandbox, 'invite').keys())} of {len(clicks)} clicks"
        )
        time.sleep(0.05)
    for kind in ("visit", "invite"):
        assert not {visitor: number for visitor, number in arrived(sandbox, kind).items() if number > 1}, kind


def workers_turn(settings: dict[str, str]) -> None:
    """What a cron job does for servers that do not send."""
    command = [sys.executable, "-m", "adtarget_proxy.cli", "worker", "--until-empty"]
    subprocess.run(command, env=settings, timeout=60, check=True, capture_output=True)


@pytest.mark.parametrize("name", HOSTS)
def test_a_server_that_ends_under_load_while_adtarget_hangs_ends_in_time_and_the_next_sends_the_rest(
    name: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = environment(sandbox, tmp_path)
    with hosted(name, settings, tmp_path) as server, Crowd(server) as crowd:
        crowd.wait_for(pages=40, clicks=20)
        if HOSTS[name].threads:
            until(lambda: any(url != FALLBACK for _, url in crowd.clicks), "no click got a link of its own")
        if name in HANGING:
            sandbox.faults(hang=True)
        else:
            sandbox.close_port()
        crowd.wait_for(pages=20, clicks=10)
        server.signal(signal.SIGTERM)
        assert server.ends(ENDED), server.log.read_text()
    if name in HANGING:
        sandbox.heal()
    else:
        sandbox.open_port()
    if HOSTS[name].threads:
        with hosted(name, settings, tmp_path) as server:
            server.get("/style.css", {"Sec-Fetch-Dest": "style"})
            all_arrive_once(sandbox, crowd)
    else:
        workers_turn(settings)
        all_arrive_once(sandbox, crowd)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("name", RELOADED)
def test_a_reload_under_load_loses_nothing_and_doubles_nothing(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    settings = environment(sandbox, tmp_path)
    with hosted(name, settings, tmp_path) as server:
        with Crowd(server) as crowd:
            crowd.wait_for(pages=20, clicks=10)
            server.signal(signal.SIGHUP)
            crowd.wait_for(pages=60, clicks=30)
        if not HOSTS[name].threads:
            workers_turn(settings)
        all_arrive_once(sandbox, crowd)


def test_uwsgi_without_threads_starts_none_and_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = environment(sandbox, tmp_path)
    with hosted("uWSGI of Debian, without threads", settings, tmp_path) as server:
        pages = [server.get("/") for _ in range(20)]
        clicks = [server.get("/c/vip", {"Cookie": page.jar}) for page in pages]
        told = [json.loads(server.get("/delivery").body) for _ in range(20)]
        log = server.log.read_text()
    assert {click.header("Location") for click in clicks} == {FALLBACK}
    assert sandbox.requests() == []
    for process in told:
        assert (process["ok"], process["running"], process["threads"]) == (False, False, [])
        assert process["hindrance"] == "uWSGI runs without threads"
    assert any(process["left"] for process in told)
    said = [line for line in log.splitlines() if "uWSGI runs without threads" in line]
    assert 1 <= len(said) <= 2, "once a process"
    assert "enable-threads" in said[0]
    assert "adtarget-proxy worker" in said[0]
    workers_turn(settings)
    visitors = {page.cookies["adtarget_temp_id"].partition(";")[0] for page in pages}
    assert arrived(sandbox, "visit") == arrived(sandbox, "invite") == dict.fromkeys(visitors, 1)


@pytest.mark.parametrize("name", [name for name in HOSTS if "uWSGI" in name and HOSTS[name].threads])
def test_uwsgi_with_threads_sends(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    with hosted(name, environment(sandbox, tmp_path), tmp_path) as server:
        server.get("/style.css", {"Sec-Fetch-Dest": "style"})
        until(lambda: json.loads(server.get("/delivery").body)["running"], "nothing is started")
        assert json.loads(server.get("/delivery").body)["hindrance"] == ""
