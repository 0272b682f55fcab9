"""Nothing lost: servers are killed under load while AdTarget fails, drops connections and goes away; then all is counted."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from delivery_world import until
from redis_server import redis_server
from serving import Server, serving

from adtarget_proxy.outbox import Outbox
from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

VISITORS = 6  # at once
PAUSE = 0.01  # seconds between two visitors of one thread: the machine has to kill and to count as well
RECOVERY = 60.0  # seconds that a test waits at most for what is owed


class Crowd:
    """First-time visitors of ``server``, every third of whom clicks: who received a response, and with it a tempId."""

    def __init__(self, server: Callable[[], Server]) -> None:
        self.owed: set[tuple[str, str]] = set()  # endpoint and tempId
        self._server = server
        self._gone = threading.Event()
        self._threads = [threading.Thread(target=self._come) for _ in range(VISITORS)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        for thread in self._threads:
            thread.join()

    def _come(self) -> None:
        number = 0
        while not self._gone.wait(PAUSE):
            number += 1
            try:
                self._visit(clicks=number % 3 == 0)
            except Exception:  # killed in the middle of it: nothing was received, nothing is owed
                continue

    def _visit(self, *, clicks: bool) -> None:
        page = self._server().get("/", timeout=5)
        visitor = page.cookies["adtarget_temp_id"].partition(";")[0]
        self.owed.add(("visit", visitor))
        if clicks:
            click = self._server().get("/c/vip", {"Cookie": page.jar}, timeout=5)
            assert click.status == 302
            self.owed.add(("invite", visitor))


@contextmanager
def trouble(sandbox: Sandbox) -> Iterator[None]:
    """30 % errors, 20 % dropped connections (before or after the event was counted), and a full stop now and then.

    Answers take their time, so that a kill finds events on their way.
    """
    stop = threading.Event()

    def flap() -> None:
        while not stop.wait(0.7):
            sandbox.close_port()
            stop.wait(0.4)
            sandbox.open_port()

    sandbox.faults(error_rate=0.3, drop_rate=0.2, drop_when="either", jitter=0.4)
    thread = threading.Thread(target=flap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sandbox.heal()


def counted(sandbox: Sandbox) -> dict[tuple[str, str], list[str]]:
    """The keys of what counted, by endpoint and visitor."""
    return _keys(sandbox.events())


def check(sandbox: Sandbox, owed: set[tuple[str, str]]) -> None:
    """Wait for what is owed; then nothing may be missing, counted twice, or ever sent under two keys."""
    assert len({visitor for _, visitor in owed}) > 50, "there was no load to speak of"
    end = time.monotonic() + RECOVERY
    while owed - counted(sandbox).keys() and time.monotonic() < end:
        time.sleep(0.3)
    assert owed - counted(sandbox).keys() == set()
    assert {event: keys for event, keys in counted(sandbox).items() if len(keys) > 1} == {}
    assert {event: keys for event, keys in _keys(sandbox.requests()).items() if len(set(keys)) > 1} == {}


def _keys(rows: list[dict[str, object]]) -> dict[tuple[str, str], list[str]]:
    found = defaultdict(list)
    for row in rows:
        found[row["endpoint"], row["fields"]["tempId"]].append(row["idempotency_key"])
    return found


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate=0, keep=200_000) as it:
        yield it


def settings(sandbox: Sandbox, outbox: str, **more: str) -> dict[str, str]:
    return {
        "ADTARGET_API_KEY": sandbox.api_key,
        "ADTARGET_API_URL": sandbox.api_url,
        "ADTARGET_OUTBOX": outbox,
        "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
        "ADTARGET_FALLBACK_URL": "https://t.me/fallback",
        "ADTARGET_RATE": "100000",
        "ADTARGET_BURST": "1000",
        **more,
    }


def test_a_server_that_is_killed_again_and_again(sandbox: Sandbox, tmp_path: Path) -> None:
    """SQLite, one worker process: every kill takes all that runs, the next start goes on."""
    environment = settings(sandbox, f"sqlite:///{tmp_path}/outbox.sqlite3")
    chance, owed = random.Random(3), set[tuple[str, str]]()
    with trouble(sandbox):
        for number in range(4):
            with serving(("uvicorn", "gunicorn")[number % 2], environment, tmp_path) as server:
                with Crowd(lambda server=server: server) as crowd:
                    time.sleep(chance.uniform(0.3, 1.2))  # a kill comes at any moment
                    server.kill()
                owed |= crowd.owed
    with serving("uvicorn", environment, tmp_path) as server:
        wake(server)
        check(sandbox, owed)


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_four_workers_that_are_killed_one_by_one_and_at_last_together(
    sandbox: Sandbox, tmp_path: Path, kind: str
) -> None:
    """SQLite, four worker processes on one outbox: the server restarts those that die, the others take over."""
    environment = settings(sandbox, f"sqlite:///{tmp_path}/outbox.sqlite3")
    chance, killed = random.Random(4), set()
    with serving(kind, environment, tmp_path, workers=4) as server, trouble(sandbox):
        until(lambda: len(server.workers()) == 4)
        with Crowd(lambda: server) as crowd:
            for _ in range(6):
                time.sleep(chance.uniform(0.2, 0.8))
                until(lambda: len(server.workers()) > 1)
                victim = chance.choice(server.workers())
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
            time.sleep(chance.uniform(0.2, 0.8))
            server.kill()
    assert len(killed) == 6
    with serving(kind, environment, tmp_path, workers=4) as server:
        wake(server)
        check(sandbox, crowd.owed)


@pytest.mark.parametrize("deliver", ["worker", "thread"])
def test_two_web_processes_and_two_workers_of_which_one_never_comes_back(
    sandbox: Sandbox, tmp_path: Path, deliver: str
) -> None:
    """Redis, each process on a machine of its own as far as its journal goes; web processes are killed and come back."""
    chance, owed = random.Random(5), set[tuple[str, str]]()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis", "--appendonly", "yes"))
        outage = stack.enter_context(ExitStack())
        outage.enter_context(trouble(sandbox))

        def machine(name: str) -> dict[str, str]:
            outbox = f"redis://127.0.0.1:{redis.port}/0?journal={tmp_path / name}"
            return settings(sandbox, outbox, ADTARGET_DELIVER=deliver)

        doomed, other = (stack.enter_context(working(machine(name), tmp_path)) for name in ("third", "fourth"))
        queue = Outbox.open(machine("here")["ADTARGET_OUTBOX"])
        stack.callback(queue.close)
        for number in range(4):
            web = [stack.enter_context(serving("uvicorn", machine(name), tmp_path)) for name in ("first", "second")]
            with Crowd(lambda web=web: random.choice(web)) as crowd:
                time.sleep(chance.uniform(0.4, 1.2))
                if number == 1:
                    until(lambda: any(owner.startswith(f"{doomed.pid}-") for owner in queue.store.owners()))
                    doomed.kill()  # with claims in its hands
                for server in web:
                    server.kill()
            owed |= crowd.owed
        outage.close()
        for name in ("first", "second"):
            wake(stack.enter_context(serving("uvicorn", machine(name), tmp_path)))
        check(sandbox, owed)
        assert other.poll() is None
        assert doomed.poll() == -signal.SIGKILL


@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_what_writers_and_pumps_had_in_hand_when_they_were_killed_is_in_the_store_once_and_in_order(
    tmp_path: Path, engine: str
) -> None:
    """A short run of benchmarks/kills.py; the README has the long one's figures."""
    script = Path(__file__).parent.parent / "benchmarks" / "kills.py"
    command = [sys.executable, str(script), "--events", "20000", "--kills", "4"]
    with ExitStack() as stack:
        if engine == "redis":
            redis = stack.enter_context(redis_server(tmp_path / "redis"))
            command += ["--outbox", f"redis://127.0.0.1:{redis.port}/0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of writers, 4 of pumps" in done.stdout
    stored = re.search(r"in the store +([\d,]+)", done.stdout)
    assert stored is not None
    assert int(stored[1].replace(",", "")) >= 20_000


def wake(server: Server) -> None:
    """Delivery starts at a process' first request, whatever that is."""
    server.get("/style.css", {"Sec-Fetch-Dest": "style"})


@contextmanager
def working(environment: Mapping[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``adtarget-proxy worker``, until the block ends or somebody kills it."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "adtarget_proxy.cli", "worker"],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
