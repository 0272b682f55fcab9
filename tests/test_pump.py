"""From the journals into the store: nothing lost, nothing doubled, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.outbox.journal import Journal
from adtarget_proxy.outbox.lines import frame
from adtarget_proxy.outbox.store import SETTLED_KEPT
from adtarget_proxy.tracking.events import PLAIN, Event, Visit

_fork = multiprocessing.get_context("fork")


def visit(id: str) -> Visit:  # noqa: A002
    return Visit(id=id, key=id, account="a", visitor=id, at=0.0, worth=PLAIN, fields={"href": "https://shop.example/"})


def waiting(outbox: Outbox) -> list[str]:
    return [claim.event.id for claim in outbox.store.claim({"a"}, owner=outbox.owner, now=1.0, limit=1_000_000)]


def settle_and_forget(outbox: Outbox) -> None:
    for name in waiting(outbox):
        outbox.store.settle(name, now=1.0)
    outbox.store.expire(now=2.0 + SETTLED_KEPT, max_age={})


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


def test_how_far_a_journal_was_moved_is_recorded_with_its_events(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    for name in ("a", "b"):
        outbox.append(visit(name))
        Pump(outbox).own(0.0)
        (journal,) = (tmp_path / "outbox.sqlite3.journal").iterdir()
        assert outbox.store.offset(journal.name) == journal.stat().st_size
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


def test_a_rolled_journal_is_moved_whole_in_order_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adtarget_proxy.outbox.outbox.Journal", partial(Journal, roll_at=1000, grace=0.0))
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    for i in range(40):
        outbox.append(visit(f"{i:03}"))
    owner, files = outbox.owner, tmp_path / "outbox.sqlite3.journal"
    assert len(list(files.iterdir())) > 2
    assert Pump(outbox).machine(0.0) == 40
    assert waiting(outbox) == [f"{i:03}" for i in range(40)]
    assert len(list(files.iterdir())) == 1
    assert outbox.store.owners() == {owner}
    outbox.append(visit("after"))
    assert Pump(outbox).own(0.0) == 1
    outbox.close()


def test_another_process_deletes_a_rolled_file_once_it_is_quiet_but_not_the_claims_of_who_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adtarget_proxy.outbox.outbox.Journal", partial(Journal, roll_at=1000))
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    one, two = Outbox.open(url), Outbox.open(url)
    one.append(visit("first"))
    Pump(one).own(0.0)
    assert waiting(one) == ["first"]
    for i in range(40):
        one.append(visit(f"{i:03}"))
    assert Pump(two).machine(0.0) == 40
    files = sorted(
        (tmp_path / "outbox.sqlite3.journal").glob(f"{one.owner}.*"), key=lambda path: (len(path.name), path)
    )
    assert len(files) > 2
    for file in files:
        os.utime(file, (0, 0))
    assert Pump(two).machine(0.0) == 0
    assert [file.exists() for file in files] == [False] * (len(files) - 1) + [True]
    assert two.store.owners() == {one.owner}
    assert Pump(one).own(0.0) == 0
    one.close()
    two.close()


def test_a_rolled_file_that_another_process_deleted_is_not_moved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ids are forgotten after 48 h, and so is the key at AdTarget: what came once more would count once more."""
    monkeypatch.setattr("adtarget_proxy.outbox.outbox.Journal", partial(Journal, roll_at=1000))
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    one, two = Outbox.open(url), Outbox.open(url)
    for i in range(40):
        one.append(visit(f"{i:03}"))
    assert Pump(two).machine(0.0) == 40
    settle_and_forget(two)
    files = list((tmp_path / "outbox.sqlite3.journal").glob(f"{one.owner}.*"))
    for file in files:
        os.utime(file, (0, 0))
    Pump(two).machine(0.0)
    assert [file.exists() for file in files].count(True) == 1
    assert Pump(one).own(0.0) == 0
    one.close()
    two.close()


def test_a_file_that_is_drained_while_another_pump_has_it_open_is_not_moved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    gone, one, two = Outbox.open(url), Outbox.open(url), Outbox.open(url)
    gone.append(visit("a"))
    assert Pump(one).machine(0.0) == 1
    settle_and_forget(one)
    offset = two.store.offset

    def later(journal: str) -> int:
        """What another process does while this one waits for its turn."""
        gone.close()
        Pump(one).machine(0.0)
        return offset(journal)

    monkeypatch.setattr(two.store, "offset", later)
    assert Pump(two).machine(0.0) == 0
    assert list(two.store.waiting()) == []
    one.close()
    two.close()


def test_a_click_looks_into_living_journals_and_leaves_those_of_the_dead(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    dead, alive, own = Outbox.open(url), Outbox.open(url), Outbox.open(url)
    for outbox, name in ((dead, "left"), (alive, "fresh"), (own, "mine")):
        outbox.append(visit(name))
    dead.close()
    assert Pump(own).living(1.0, until=time.monotonic() + 60) == 2
    assert {each.event.id for each in own.store.waiting()} == {"fresh", "mine"}
    assert Pump(own).living(1.0, until=time.monotonic()) == 0
    assert Pump(own).machine(1.0) == 1
    alive.close()
    own.close()


def test_a_click_does_not_wait_for_a_pump_longer_than_it_may(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.append(visit("a"))
    with outbox.turn:
        assert Pump(outbox).living(1.0, until=time.monotonic() + 0.05) == 0
    assert Pump(outbox).living(1.0, until=time.monotonic() + 60) == 1
    outbox.close()


def test_a_big_journal_of_a_dead_process_keeps_no_click_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    dead, own = Outbox.open(url), Outbox.open(url)
    for n in range(30):
        dead.append(visit(f"left-{n}"))
    dead.close()
    monkeypatch.setattr(type(own.store), "stretch", 100)  # bytes: one event a batch
    put, order = own.store.put, list[str]()

    def click() -> int:
        own.append(visit("mine"))
        return Pump(own).living(1.0, until=time.monotonic() + 60)

    def put_and_tell(events: Sequence[Event], **more: Any) -> int:
        order.extend(event.id for event in events)
        if order == ["left-0"]:
            clicks.append(threads.submit(click))
        return put(events, **more)

    clicks: list[Future[int]] = []
    monkeypatch.setattr(own.store, "put", put_and_tell)
    with ThreadPoolExecutor(1) as threads:
        moved = Pump(own).machine(1.0)
        assert moved + clicks[0].result() == 31
    assert 0 < order.index("mine") < 30
    own.close()


def test_who_claims_without_any_journal_is_dead(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.store.put([visit("a")], now=0.0)
    outbox.store.claim(["a"], owner="1-gone", now=0.0, limit=1)
    Pump(outbox).machine(0.0)
    assert waiting(outbox) == ["a"]
    Pump(outbox).machine(0.0)
    assert outbox.store.owners() == {outbox.owner}
    outbox.close()


def test_a_deleted_directory_loses_nothing_while_its_process_lives(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.append(visit("a"))
    shutil.rmtree(tmp_path / "outbox.sqlite3.journal")
    outbox.append(visit("b"))
    assert Pump(outbox).own(0.0) == 2
    outbox.append(visit("c"))
    assert len(list((tmp_path / "outbox.sqlite3.journal").iterdir())) == 1
    assert Pump(outbox).machine(0.0) == 1
    outbox.close()


def test_a_broken_store_gets_the_journals_anew(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    path.write_bytes(b"this is no database. " * 5000)
    outbox = Outbox.open(f"sqlite:///{path}")
    outbox.append(visit("a"))
    with pytest.raises(OutboxError):
        Pump(outbox).own(0.0)
    assert Pump(outbox).own(0.0) == 1
    outbox.close()


def test_memory_keeps_its_events_where_the_store_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox.open("memory://")
    for i in range(700):
        outbox.append(visit(f"{i:03}"))
    put = type(outbox.store).put
    refused = iter([True])

    def refuse_once(*args: Any, **more: Any) -> int:
        if next(refused, False):
            raise OutboxError("busy")
        return put(*args, **more)

    monkeypatch.setattr(type(outbox.store), "put", refuse_once)
    with pytest.raises(OutboxError):
        Pump(outbox).own(0.0)
    assert Pump(outbox).own(0.0) == 700
    assert waiting(outbox) == [f"{i:03}" for i in range(700)]


def test_one_put_takes_no_more_of_a_journal_than_the_store_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    engine, put = type(outbox.store), outbox.store.put
    puts: list[int] = []

    def noted(_: Any, events: Sequence[Event], **more: Any) -> int:
        puts.append(sum(len(frame(event.encode().encode())) for event in events))
        return put(events, **more)

    monkeypatch.setattr(engine, "put", noted)
    monkeypatch.setattr(engine, "stretch", 1_000)
    for i in range(40):
        outbox.append(visit(f"{i:03}"))
    assert Pump(outbox).own(0.0) == 40
    assert max(puts) <= 1_000
    assert waiting(outbox) == [f"{i:03}" for i in range(40)]
    outbox.close()


def test_a_line_that_holds_no_event_is_passed_over_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.append(visit("a"))
    (journal,) = (tmp_path / "outbox.sqlite3.journal").iterdir()
    with journal.open("ab") as file:
        file.write(frame(b'{"k":"from-the-future","secret":"1234"}'))
    outbox.append(visit("b"))
    assert Pump(outbox).own(0.0) == 2
    assert outbox.lost == {"unreadable": 1}
    assert "1234" not in caplog.text
    outbox.close()


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
