"""A real server on a real disk that fails: the page is served, nothing is lost, one line says what it is, and it mends itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from delivery_world import until
from serving import Server, require, serving

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server
SMALL = 2 * 1024 * 1024  # bytes


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as it:
        yield it


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    require(mounted, "a file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def shop(box: Sandbox, place: Path, logs: Path) -> Iterator[Server]:
    """The landing site on uvicorn, its outbox in ``place``."""
    environment = {
        "ADTARGET_API_KEY": box.api_key,
        "ADTARGET_API_URL": box.api_url,
        "ADTARGET_OUTBOX": f"sqlite:///{place / 'outbox.sqlite3'}",
        "ADTARGET_RATE": "1000000",
        "ADTARGET_BURST": "10000",
    }
    with serving("uvicorn", environment, logs) as server:
        yield server


def visit(server: Server, number: int) -> set[str]:
    """Visitors, each served; their tempIds."""
    visitors = set()
    for _ in range(number):
        reply = server.get("/?utm_source=" + "x" * 60)
        assert reply.status == 200
        visitors.add(reply.cookies["adtarget_temp_id"].partition(";")[0])
    return visitors


def reported(box: Sandbox) -> set[str]:
    return {event["fields"]["tempId"] for event in box.events("visit")}


def fill(path: Path) -> None:
    """To the last byte."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    with suppress(OSError):
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)


def said(server: Server, *words: str) -> list[str]:
    """Lines of the log about a fault, without uvicorn's own and the look at start."""
    lines = server.log.read_text().splitlines()
    own = [line for line in lines if not line.startswith("INFO:") and "(tmpfs)" not in line]
    return [line for line in own if "AdTarget does not answer" not in line and all(word in line for word in words)]


def test_a_disk_that_others_have_filled(box: Sandbox, disk: Path, tmp_path: Path) -> None:
    with shop(box, disk, tmp_path) as server:
        box.faults(down=True)
        visitors = visit(server, 100)
        fill(disk / "other")
        visitors |= visit(server, 600)
        until(lambda: said(server, "full"))
        (disk / "other").unlink()
        box.heal()
        until(lambda: reported(box) == visitors, timeout=60)
        until(lambda: said(server, "outbox is well again"), timeout=20)
    assert [len(said(server, word)) for word in ("full", "outbox is well again", "0 events were given up")] == [1, 1, 1]
    assert len(said(server)) == 2


def test_a_disk_that_waiting_events_have_filled_is_emptied_by_sending_them(
    box: Sandbox, disk: Path, tmp_path: Path
) -> None:
    with shop(box, disk, tmp_path) as server:
        box.faults(down=True)
        visitors = visit(server, 1500)
        until(lambda: said(server, "full"))
        box.heal()
        until(lambda: len(reported(box)) > 500, timeout=60)
        assert reported(box) <= visitors
        assert len(said(server)) == 1


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


def test_a_place_that_is_read_only_at_first(box: Sandbox, disk: Path, tmp_path: Path) -> None:
    remount(disk, "ro")
    with shop(box, disk, tmp_path) as server:
        visitors = visit(server, 50)
        remount(disk, "rw")
        until(lambda: reported(box) == visitors, timeout=30)
        until(lambda: said(server, "outbox is well again"), timeout=20)
    assert len(said(server, "cannot be written by this user")) == 1
    assert len(said(server)) == 3


Fault = Callable[[Path], Callable[[], object]]  # begins it, and returns what ends it


def vanished(place: Path) -> Callable[[], object]:
    shutil.rmtree(place)
    return lambda: None


def replaced_by_a_file(place: Path) -> Callable[[], object]:
    shutil.rmtree(place)
    place.write_text("")
    return place.unlink


def deleted(place: Path) -> Callable[[], object]:
    for name in ("", "-wal", "-shm"):
        (place / f"outbox.sqlite3{name}").unlink()
    return lambda: None


def locked(place: Path) -> Callable[[], object]:
    other = sqlite3.connect(place / "outbox.sqlite3", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other.close


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (vanished, None),
        (replaced_by_a_file, "pages are served"),
        (deleted, None),
        (locked, "locked"),
    ],
)
def test_a_store_that_fails_under_a_running_server(
    box: Sandbox, tmp_path: Path, fault: Fault, line: str | None
) -> None:
    place = tmp_path / "outbox"
    with shop(box, place, tmp_path) as server:
        visitors = visit(server, 20)
        until(lambda: reported(box) == visitors)
        mend = fault(place)
        visitors |= visit(server, 50)
        if line is not None:
            until(lambda: said(server, line), timeout=20)
        mend()
        visitors |= visit(server, 10)
        until(lambda: reported(box) == visitors, timeout=30)
        if line is not None:
            until(lambda: said(server, "outbox is well again"), timeout=20)
    if line is not None:
        assert len(said(server, "pages are served")) == 1
    assert len(said(server)) <= 2  # it, and that it is over


def test_a_store_that_broke_is_set_aside_and_the_journals_fill_the_next(box: Sandbox, tmp_path: Path) -> None:
    place = tmp_path / "outbox"
    box.faults(down=True)
    with shop(box, place, tmp_path) as server:
        visitors = visit(server, 30)
        server.kill()
    for name in ("outbox.sqlite3", "outbox.sqlite3-wal"):
        size = (place / name).stat().st_size
        (place / name).write_bytes(b"no database " * (size // 12 + 1))
    box.heal()
    with shop(box, place, tmp_path) as server:
        visitors |= visit(server, 10)
        until(lambda: reported(box) == visitors, timeout=30)
        until(lambda: said(server, "set aside"))
    assert len(list(place.glob("outbox.sqlite3.broken-*[0-9]"))) == 1
    assert len(said(server)) == 1
