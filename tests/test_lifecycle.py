"""Starting, forking, flushing and ending: real processes, real sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from delivery_world import FALLBACK, QUICK, until, world

from adtarget_proxy.delivery import Answer, State
from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as it:
        yield it


def ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("adtarget-")} - {
        "adtarget-sandbox"
    }


def run(script: str, folder: Path, box: Sandbox, *, timeout: float = 30.0, **environment: str) -> str:
    """A Python process of its own, with a world in it."""
    head = (
        "import sys, os, time, threading\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from adtarget_proxy.settings import Settings\n"
        "from adtarget_proxy.outbox import Outbox\n"
        "from adtarget_proxy.delivery import Delivery, Timing\n"
        "from adtarget_proxy.tracking.events import PLAIN, Visit\n"
        "import uuid\n"
        "settings = Settings(rate=1_000_000, burst=10_000)\n"
        "outbox = Outbox.open(settings.outbox)\n"
        "delivery = Delivery(settings, outbox, timing=Timing(call=1.0))\n"
        "def visit(visitor):\n"
        "    outbox.append(Visit(id=uuid.uuid4().hex, key=uuid.uuid4().hex, account=settings.accounts[0].id, "
        "visitor=visitor, at=time.time(), worth=PLAIN, fields={'href': 'https://shop.test/', 'temp_id': visitor}))\n"
        "    delivery.wake()\n"
    )
    known = {
        "ADTARGET_API_KEY": box.api_key,
        "ADTARGET_API_URL": box.api_url,
        "ADTARGET_OUTBOX": f"sqlite:///{folder / 'outbox.sqlite3'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", head + script],
        env={**os.environ, **known, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def visitors(box: Sandbox) -> list[str]:
    return sorted(event["fields"]["tempId"] for event in box.events("visit"))


ONE, TWO, THREE = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))


def test_configuring_starts_nothing_and_imports_no_httpx(box: Sandbox, tmp_path: Path) -> None:
    said = run(
        "print('httpx' in sys.modules, threading.active_count(), os.path.exists(settings.outbox[10:]))", tmp_path, box
    )
    assert said.split() == ["False", "1", "False"]


def test_starting_and_waking_touch_no_httpx_in_the_callers_thread(box: Sandbox, tmp_path: Path) -> None:
    script = (
        "seen = []\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'httpx':\n"
        "            seen.append(threading.current_thread() is threading.main_thread())\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"delivery.start(); visit({ONE!r})\n"
        "print(delivery.flush(10), seen)\n"
    )
    assert run(script, tmp_path, box).split() == ["0", "[False]"]


def test_starting_twice_starts_once(box: Sandbox, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with world(box, tmp_path) as it:
        threads = [threading.Thread(target=it.delivery.start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [thread.name for thread in set(threading.enumerate()) - before].count("adtarget-clerk") == 1


def test_a_process_that_ends_sends_what_waits_without_being_asked(box: Sandbox, tmp_path: Path) -> None:
    run(f"delivery.start(); visit({ONE!r}); visit({TWO!r})", tmp_path, box)
    assert visitors(box) == [ONE, TWO]


def test_a_process_that_ends_while_adtarget_hangs_leaves_its_events_to_the_next(box: Sandbox, tmp_path: Path) -> None:
    box.faults(hang=True)
    run(f"delivery.start(); visit({ONE!r})", tmp_path, box)
    box.heal()
    box.reset()
    with world(box, tmp_path, timing=replace(QUICK, poll=0.01)) as it:
        assert it.outbox.store.counts().claimed == 0
        assert it.delivery.flush(20) == 0
        assert visitors(box) == [ONE]


def test_a_process_that_never_started_keeps_its_events_for_the_next(box: Sandbox, tmp_path: Path) -> None:
    run(f"visit({ONE!r})", tmp_path, box)
    assert visitors(box) == []
    run("print(delivery.flush(10))", tmp_path, box)
    assert visitors(box) == [ONE]


def test_a_killed_process_loses_nothing(box: Sandbox, tmp_path: Path) -> None:
    script = (
        f"delivery.start(); visit({ONE!r}); visit({TWO!r})\n"
        "import signal\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        f"    delivery.start(); visit({THREE!r}); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.waitpid(pid, 0)\n"
    )
    run(script, tmp_path, box)
    run("delivery.start(); print(delivery.flush(10))", tmp_path, box)
    with world(box, tmp_path) as it:
        until(lambda: it.delivery.flush(0.2) == 0)
    assert sorted({*visitors(box)}) == [ONE, TWO, THREE]
    assert len(visitors(box)) == 3


@needs_fork
def test_a_forked_child_starts_anew_and_the_parent_goes_on(box: Sandbox, tmp_path: Path) -> None:
    script = (
        f"delivery.start(); visit({ONE!r}); assert delivery.flush(10) == 0\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        f"    visit({TWO!r}); left = delivery.flush(10)\n"
        "    names = sorted(t.name for t in threading.enumerate())\n"
        "    os._exit(0 if left == 0 and names.count('adtarget-clerk') == 1 else 1)\n"
        "_, status = os.waitpid(pid, 0)\n"
        f"visit({THREE!r})\n"
        "print(os.waitstatus_to_exitcode(status), delivery.flush(10))\n"
    )
    assert run(script, tmp_path, box).split() == ["0", "0"]
    assert visitors(box) == [ONE, TWO, THREE]


@needs_fork
def test_a_fork_in_the_middle_of_everything_neither_loses_nor_doubles(box: Sandbox, tmp_path: Path) -> None:
    box.faults(latency=0.01)
    script = (
        "delivery.start()\n"
        "children = []\n"
        "for number in range(5):\n"
        "    for _ in range(20):\n"
        "        visit(str(uuid.uuid4()))\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        delivery.start(); visit(str(uuid.uuid4())); delivery.close(10); os._exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children: os.waitpid(pid, 0)\n"
        "print(delivery.close(20))\n"
    )
    run(script, tmp_path, box)
    with world(box, tmp_path) as it:
        until(lambda: it.delivery.flush(0.2) == 0)
    assert len(box.events("visit")) == 105
    assert len({event["idempotency_key"] for event in box.events("visit")}) == 105


def test_closing_ends_the_threads_and_gives_back_what_they_hold(box: Sandbox, tmp_path: Path) -> None:
    box.faults(hang=True)
    before = ours()
    with world(box, tmp_path, timing=replace(QUICK, call=2.0)) as it:
        it.append(*(it.visit() for _ in range(20)))
        it.delivery.start()
        until(lambda: it.outbox.store.counts().claimed > 0)
        assert it.delivery.close(0.2) == 20
        counts = it.outbox.store.counts()
        assert (counts.waiting, counts.claimed) == (20, 0)
        box.heal()
        until(lambda: ours() <= before)


def test_after_closing_it_can_be_started_again(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path) as it:
        for _ in range(3):
            it.append(it.visit())
            it.delivery.start()
            assert it.delivery.close(10) == 0
        assert len(box.events()) == 3


def test_flush_counts_and_sends_what_waits_in_memory_for_the_disk(box: Sandbox, tmp_path: Path) -> None:
    in_the_way = tmp_path / "outbox.sqlite3.journal"
    in_the_way.write_text("a file where the directory should be")
    with world(box, tmp_path) as it:
        it.append(it.visit(), it.visit())
        assert it.delivery.flush(0.2) > 0
        in_the_way.unlink()
        assert it.delivery.flush(20) == 0
        assert len(box.events()) == 2


def test_flush_returns_what_is_left(box: Sandbox, tmp_path: Path) -> None:
    box.close_port()
    with world(box, tmp_path) as it:
        assert it.delivery.flush(0.1) == 0
        it.append(it.visit(), it.visit())
        assert it.delivery.flush(0.1) == 2
        box.open_port()
        until(lambda: it.delivery.flush(0.5) == 0)


def test_a_worker_sends_the_events_and_the_web_process_does_not(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path, deliver="worker") as it:
        it.append(it.visit())
        assert it.delivery.flush(0.2) == 1
        assert box.requests() == []
        with world(box, tmp_path) as worker:
            assert worker.delivery.flush(10) == 0
        assert len(box.events("visit")) == 1


def test_a_dry_run_sends_nothing_and_keeps_nothing(
    box: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with world(box, tmp_path, mode="dry-run") as it, caplog.at_level("INFO", logger="adtarget_proxy"):
        visit = it.visit(client_ip="203.0.113.77")
        it.append(visit)
        assert it.delivery.invite(it.click(), limit=4).wait() == Answer(FALLBACK, "invite-fallback")
        assert it.delivery.flush(10) == 0
        assert f"visit {visit.id} is not sent" in caplog.text
        assert "203.0.113.77" not in caplog.text
    assert box.requests() == []


def test_switched_off_nothing_starts(box: Sandbox, tmp_path: Path) -> None:
    before = ours()
    with world(box, tmp_path, mode="off") as it:
        it.delivery.start()
        it.delivery.wake()
        assert it.delivery.invite(it.click(), limit=4).wait() == Answer(FALLBACK, "invite-fallback")
        assert (it.delivery.flush(), it.delivery.close()) == (0, 0)
        assert ours() <= before
        assert not it.delivery.health().running
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_read_is_seen_in_the_health_and_is_not_none_left(box: Sandbox, tmp_path: Path) -> None:
    with world(box, tmp_path, outbox="sqlite:////dev/null/outbox.sqlite3") as it:
        it.append(it.visit())
        assert it.delivery.flush(0.1) == 1
        assert not it.delivery.health().ok


@pytest.mark.server
@pytest.mark.parametrize("end", ["flush", "close"])
def test_a_pump_that_takes_long_does_not_hold_up_the_end_and_is_not_none_left(
    box: Sandbox, tmp_path: Path, end: str
) -> None:
    with world(box, tmp_path) as it:
        it.delivery.start()
        with it.outbox.turn:
            it.append(it.visit())
            assert getattr(it.delivery, end)(0.1) == 1


@pytest.mark.server
def test_closing_asks_adtarget_nothing(box: Sandbox, tmp_path: Path) -> None:
    box.faults(hang=True)
    slow = replace(QUICK, call=5.0, probe_first=0.01)
    before = set(threading.enumerate())
    with world(box, tmp_path, timing=slow, deliver="worker") as it:
        calls = [
            it.delivery.invite(it.click(budget=0.5), limit=64) for _ in range(20)
        ]  # more than the lane has threads
        assert {call.wait().reason for call in calls} == {"invite-fallback"}
        assert it.delivery.health().accounts[0].state is State.OPEN
        probe = it.click()
        it.delivery.invite(probe, limit=64).wait()  # it waits for a thread, and nobody for it
        it.delivery.close(0.1)
        box.heal()
        until(lambda: not any(thread.name == "adtarget-clicks" for thread in set(threading.enumerate()) - before))
        assert probe.event.key not in {request["idempotency_key"] for request in box.requests()}


@pytest.mark.server
def test_no_thread_is_started_at_the_interpreters_exit(box: Sandbox, tmp_path: Path) -> None:
    script = f"""
import atexit, sys, threading, time
from adtarget_proxy.delivery import Delivery
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import PLAIN, Visit
settings = Settings(api_key={box.api_key!r}, api_url={box.api_url!r}, outbox="sqlite:///{tmp_path / "o.sqlite3"}")
outbox = Outbox.open(settings.outbox)
delivery = Delivery(settings, outbox)
delivery.start()
while not delivery.health().running or 'adtarget_proxy.api.transport' not in sys.modules:
    time.sleep(0.01)
for n in range(5):
    outbox.append(Visit(id=f'v{{n}}', key=f'k{{n}}', account=settings.accounts[0].id, visitor=f'p{{n}}', at=time.time(),
                        worth=PLAIN, fields={{'href': 'https://shop.test/'}}))
delivery.wake()
def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")  # Python 3.12
atexit.register(lambda: setattr(threading.Thread, 'start', refuse))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert len(box.events("visit")) == 5
