"""From the journals into the store: nothing lost, nothing doubled, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.tracking.events import PLAIN, Visit

_fork = multiprocessing.get_context("fork")


def visit(id: str) -> Visit:  # noqa: A002
    return Visit(id=id, key=id, account="a", visitor=id, at=0.0, worth=PLAIN, fields={"href": "https://shop.example/"})


def waiting(outbox: Outbox) -> list[str]:
    return [claim.event.id for claim in outbox.store.claim({"a"}, owner=outbox.owner, now=1.0, limit=1_000_000)]


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'outbox.sqlite3'}"


def test_own_events_are_moved_once(url: str) -> None:
    outbox = Outbox.open(url)
    pump = Pump(outbox)
    for i in range(700):
        outbox.append(visit(f"{i:03}"))
    assert (pump.own(0.0), pump.own(0.0), pump.machine(0.0)) == (700, 0, 0)
    assert waiting(outbox) == [f"{i:03}" for i in range(700)]
    outbox.close()


def test_a_living_processs_journal_is_read_and_left(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    one, two = Outbox.open(url), Outbox.open(url)
    one.append(visit("a"))
    assert Pump(two).machine(0.0) == 1
    assert len(list((tmp_path / "outbox.sqlite3.journal").iterdir())) == 1
    one.append(visit("b"))
    assert (Pump(one).own(0.0), Pump(two).machine(0.0)) == (1, 0)
    one.close()
    two.close()


def test_a_dead_processs_journal_is_drained_and_deleted_and_its_claims_freed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    one, two = Outbox.open(url), Outbox.open(url)
    one.append(visit("a"))
    Pump(one).own(0.0)
    assert waiting(one) == ["a"]
    one.append(visit("b"))
    (journal,) = (tmp_path / "outbox.sqlite3.journal").iterdir()
    one.close()
    with journal.open("ab") as file:
        file.write(b"01234567 {torn")
    assert Pump(two).machine(0.0) == 1
    assert (two.lost, journal.exists(), two.store.owners()) == ({"torn": 1}, False, set())
    assert waiting(two) == ["a", "b"]
    two.close()


def _write(url: str, report: int) -> None:
    outbox = Outbox.open(url)
    for i in count():
        name = f"{os.getpid()}-{i}"
        outbox.append(visit(name))
        os.write(report, f"{name}\n".encode())


def _pump(url: str) -> None:
    pump = Pump(Outbox.open(url))
    while True:
        pump.machine(0.0)


@pytest.mark.server
def test_sigkills_of_writer_and_pump_lose_and_double_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    path = tmp_path / "reported"
    report = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for _ in range(6):
        before = path.stat().st_size
        both = [_fork.Process(target=_write, args=(url, report)), _fork.Process(target=_pump, args=(url,))]
        for process in both:
            process.start()
        deadline = time.monotonic() + 20
        while path.stat().st_size < before + 30_000 and time.monotonic() < deadline:
            time.sleep(0.005)
        for process in both:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
    os.close(report)
    outbox = Outbox.open(url)
    Pump(outbox).machine(0.0)
    found = waiting(outbox)
    reported = path.read_text().split()
    assert len(reported) > 6_000
    assert len(found) == len(set(found))
    assert not set(reported) - set(found)
    assert len(set(found) - set(reported)) <= 6  # written, killed before it was reported
    outbox.close()
