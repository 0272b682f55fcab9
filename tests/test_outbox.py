"""The outbox as a process sees it."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Outbox, Store
from adtarget_proxy.outbox.database import Database
from adtarget_proxy.outbox.place import Place
from adtarget_proxy.outbox.sqlite import SqliteStore
from adtarget_proxy.tracking.events import PLAIN, Visit


def visit(id: str) -> Visit:  # noqa: A002
    return Visit(id=id, key=id, account="a", visitor=id, at=0.0, worth=PLAIN)


@pytest.mark.parametrize("url", ["sqlite://relative", "sqlite:///", "postgres://x", "", "memory"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    if url == "sqlite:///":
        url = "sqlite:///relative"
    with pytest.raises(OutboxError, match="memory://"):
        Outbox.open(url)


def test_opening_touches_no_disk(tmp_path: Path) -> None:
    Outbox.open(f"sqlite:///{tmp_path / 'state' / 'outbox.sqlite3'}")
    assert list(tmp_path.iterdir()) == []


def test_the_secret_is_made_once_and_shared(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    secret = Outbox.open(url).secret()
    assert len(secret) == 64
    assert Outbox.open(url).secret() == secret
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_event_that_cannot_be_journalled_is_no_error_and_counted_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite3.journal").write_text("a file where the directory should be")
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.append(visit("a"))
    with pytest.raises(OutboxError, match="journal"):
        _ = outbox.owner
    outbox.close()
    assert outbox.lost == {"slow disk": 1}


def test_a_forked_child_has_a_journal_and_a_store_of_its_own(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.append(visit("parent"))
    Pump(outbox).own(0.0)
    child = os.fork()
    if child == 0:
        outbox.append(visit("child"))
        os._exit(outbox.store.counts().waiting != 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Pump(outbox).machine(0.0) == 1
    assert outbox.store.counts().waiting == 2
    outbox.close()


def test_a_fork_does_not_wait_for_another_process_that_writes(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    outbox = Outbox.open(f"sqlite:///{path}")
    outbox.store.put([visit("before")], now=1.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    put = ThreadPoolExecutor(1).submit(outbox.store.put, [visit("meanwhile")], now=1.0)
    assert not put.done()
    child = os.fork()
    if child == 0:
        os._exit(outbox.store.counts().waiting != 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not put.done()  # had the fork waited for it, it would have given up by now
    other.execute("COMMIT")
    assert put.result() == 1
    other.close()
    outbox.close()


def test_a_child_forked_in_the_middle_of_a_transaction_keeps_off_the_file_and_its_parent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adtarget_proxy.outbox.database.FORK_TIMEOUT", 0.05)
    database = Database(tmp_path / "o.sqlite3")
    inside, leave = threading.Event(), threading.Event()

    def write() -> int:
        with database.writing() as db:
            inside.set()
            leave.wait()
            return int(db.execute("SELECT count(*) FROM events").fetchone()[0])

    written = ThreadPoolExecutor(1).submit(write)
    inside.wait()
    child = os.fork()
    if child == 0:
        try:
            SqliteStore(tmp_path / "o.sqlite3").counts()
        except OutboxError as error:
            os._exit("forked" not in str(error))
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave.set()
    assert written.result() == 0
    with database.reading() as db:
        assert db.execute("SELECT count(*) FROM events").fetchone() == (0,)
    database.close()


def test_a_child_that_lives_on_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.append(visit("parent"))
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)  # lives until the parent is done
        os._exit(0)
    outbox.close()
    other = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    moved = Pump(other).machine(0.0)
    left = list((tmp_path / "outbox.sqlite3.journal").glob("*.journal"))
    os.close(go)
    os.close(ready)
    os.waitpid(child, 0)
    assert (moved, left) == (1, [])
    other.close()


@pytest.mark.parametrize("place", ["memory://", "sqlite"])
def test_an_event_that_cannot_be_encoded_never_reaches_the_page_as_an_error(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox.open(place if "://" in place else f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    for name in ("a", "b"):
        outbox.append(replace(visit(name), fields={"href": {"203.0.113.9"}}))
    if place == "sqlite":
        assert outbox.lost == {"unwritable": 2}
        assert len(caplog.records) == 1
    assert "203.0.113.9" not in caplog.text
    outbox.close()


def test_a_process_that_only_sends_is_alive_for_others_until_it_closes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    worker, other = Outbox.open(url), Outbox.open(url)
    other.store.put([visit("a")], now=0.0)
    assert len(worker.store.claim(["a"], owner=worker.owner, now=1.0, limit=1)) == 1
    Pump(other).machine(0.0)
    assert other.store.owners() == {worker.owner}
    worker.close()
    Pump(other).machine(0.0)
    assert other.store.counts().waiting == 1
    other.close()


def test_closing_leaves_no_file_where_all_is_in_the_store_and_keeps_it_where_not(tmp_path: Path) -> None:
    for pumped in (True, False):
        outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
        outbox.append(visit(f"pumped-{pumped}"))
        if pumped:
            Pump(outbox).own(0.0)
        (segment,) = outbox.journal.segments if outbox.journal is not None else ()
        outbox.close()
        assert len(list((tmp_path / "outbox.sqlite3.journal").iterdir())) == (not pumped)
        assert outbox.store.offset(segment.name) == 0, "nobody asks for the offset of a file that is gone"
        outbox.close()


def test_an_event_that_comes_while_it_closes_is_kept(tmp_path: Path) -> None:
    """A request that is served meanwhile: its event comes between the look at what is in the store and what follows from it."""

    class Served(Place):
        def store(self) -> Store:
            store = super().store()
            offset = store.offset

            def asked(journal: str) -> int:
                found = offset(journal)
                if closing:
                    closing.clear()
                    outbox.append(visit("late"))
                return found

            store.offset = asked  # type: ignore[method-assign]
            return store

    closing: list[bool] = []
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    outbox = Outbox(Served.parse(url))
    outbox.append(visit("early"))
    Pump(outbox).own(0.0)
    closing.append(True)
    outbox.close()
    outbox.close()
    other = Outbox.open(url)
    Pump(other).machine(0.0)
    assert {each.event.id for each in other.store.waiting()} == {"early", "late"}
    other.close()


def test_an_event_after_closing_is_kept_for_the_next_start(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.close()
    outbox.append(visit("late"))
    other = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    assert Pump(other).machine(0.0) == 1
    other.close()


def test_memory_is_bounded_and_what_it_cannot_hold_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adtarget_proxy.outbox.outbox.IN_MEMORY", 3)
    outbox = Outbox.open("memory://")
    for name in "abcde":
        outbox.append(visit(name))
    assert outbox.lost == {"memory full": 2}
    assert Pump(outbox).own(0.0) == 3


def test_a_secret_that_its_maker_left_half_written_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite3.secret").write_text("abc")
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    assert len(Outbox.open(url).secret()) == 64
    assert Outbox.open(url).secret() == Outbox.open(url).secret()


def test_processes_that_need_a_secret_at_once_get_the_same(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    go_read, go_write = os.pipe()
    told_read, told_write = os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os.close(go_write)
            os.read(go_read, 1)  # until all are there
            os.write(told_write, outbox.secret().encode())
            os._exit(0)
        children.append(child)
    os.close(go_write)
    os.close(go_read)
    os.close(told_write)
    for child in children:
        os.waitpid(child, 0)
    told = os.read(told_read, 64 * 9).decode()
    os.close(told_read)
    assert told == outbox.secret() * 8


def test_where_no_secret_can_be_kept_one_of_this_process_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'file' / 'outbox.sqlite3'}")
    assert outbox.secret() == outbox.secret()
    assert outbox.secret() not in caplog.text
    assert len(caplog.records) == 1


def test_a_forked_child_keeps_the_secret_of_memory(tmp_path: Path) -> None:
    outbox = Outbox.open("memory://")
    secret = outbox.secret()
    outbox.append(visit("parent"))
    child = os.fork()
    if child == 0:
        os._exit(not (outbox.secret() == secret and Pump(outbox).own(0.0) == 0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Pump(outbox).own(0.0) == 1


def test_a_claim_of_a_parent_is_not_freed_by_the_end_of_its_child(tmp_path: Path) -> None:
    outbox = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    outbox.append(visit("a"))
    Pump(outbox).own(0.0)
    outbox.store.claim(["a"], owner=outbox.owner, now=1.0, limit=1)
    child = os.fork()
    if child == 0:
        outbox.append(visit("child"))
        outbox.close()
        os._exit(0)
    os.waitpid(child, 0)
    other = Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    Pump(other).machine(0.0)
    assert other.store.owners() == {outbox.owner}
    other.close()
    outbox.close()
