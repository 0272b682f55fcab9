"""Small writes of several threads in one transaction."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sqlite3 import Connection

import pytest

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox.database import Database
from adtarget_proxy.outbox.together import Together


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "o.sqlite3")


def lose(db: Connection, cause: str) -> int:
    db.execute("INSERT INTO lost VALUES (?, 1) ON CONFLICT DO UPDATE SET n = n + 1", (cause,))
    return int(db.execute("SELECT n FROM lost WHERE bound = ?", (cause,)).fetchone()[0])


def lost(database: Database) -> dict[str, int]:
    with database.reading() as db:
        return dict(db.execute("SELECT bound, n FROM lost"))


def test_every_write_gets_its_own_answer(database: Database) -> None:
    together = Together(database)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: together.write(lambda db: lose(db, "x")), range(200)))
    assert sorted(answers) == list(range(1, 201))
    assert lost(database) == {"x": 200}


def behind(database: Database, together: Together, *works: str) -> list[object]:
    """What becomes of writes that line up behind one that is under way."""
    under_way, go_on = threading.Event(), threading.Event()
    here = threading.Semaphore(0)

    def first(db: Connection) -> int:
        under_way.set()
        go_on.wait()
        return lose(db, "first")

    def work(cause: str) -> object:
        here.release()
        if cause == "bad":
            return together.write(lambda db: [lose(db, cause), 1 // 0])
        return together.write(lambda db: lose(db, cause))

    with ThreadPoolExecutor(len(works) + 1) as threads:
        leader = threads.submit(together.write, first)
        under_way.wait()
        others = [threads.submit(work, cause) for cause in works]
        for _ in others:
            here.acquire()
        go_on.set()
        assert leader.result() == 1
        return [other.exception() or other.result() for other in others]


def test_a_write_that_fails_takes_nobody_along_and_leaves_nothing(database: Database) -> None:
    good, bad, fine = behind(database, Together(database), "good", "bad", "fine")
    assert (good, type(bad), fine) == (1, ZeroDivisionError, 1)
    assert lost(database) == {"first": 1, "good": 1, "fine": 1}


def test_where_the_file_fails_all_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    together = Together(Database(tmp_path / "file" / "o.sqlite3"))
    with ThreadPoolExecutor(4) as threads:
        tries = [threads.submit(together.write, lambda db: lose(db, "x")) for _ in range(4)]
    assert {type(each.exception()) for each in tries} == {OutboxError}
