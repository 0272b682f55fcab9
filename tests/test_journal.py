"""The journal: one line an event, what a reader makes of a damaged one, and disks that refuse."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import journal as module
from adtarget_proxy.outbox.journal import Journal
from adtarget_proxy.outbox.lines import Lines, frame, read_lines
from adtarget_proxy.outbox.segments import Segments, owner_of
from adtarget_proxy.tracking.events import PLAIN, Visit, decode

Damage = Callable[[bytes, bytes, bytes], bytes]


def visit(name: str) -> Visit:
    fields = {"href": "https://é.example/\ud800"}
    return Visit(id=name, key=name, account="a", visitor=name, at=0.0, worth=PLAIN, fields=fields)


@pytest.fixture
def segments(tmp_path: Path) -> Segments:
    return Segments(tmp_path / "j")


@pytest.fixture
def own(segments: Segments) -> Iterator[Journal]:
    journal = Journal(segments, slow=60.0)
    yield journal
    journal.close()


def read(path: Path, *, final: bool = True, offset: int = 0) -> Lines:
    with path.open("rb") as file:
        return read_lines(file.fileno(), offset, final=final)


def names(lines: Lines) -> list[str]:
    return [decode(body).id for body in lines.bodies]


def written(segments: Segments) -> list[str]:
    return [name for file in segments.names() for name in names(read(segments.path / file))]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    pause = threading.Event()
    for _ in islice(iter(lambda: pause.wait(0.005), True), 4000):
        if condition():
            return
    raise AssertionError("it never came to that")


# -- lines -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "final", "found", "torn"),
    [
        (lambda a, b, c: a + b + c, False, "abc", 0),
        (lambda a, b, c: a + b + c[:-9], False, "ab", 0),
        (lambda a, b, c: a + b + c[:-9], True, "ab", 1),
        (lambda a, b, c: a + b + c[:-1], True, "abc", 0),
        (lambda a, b, c: a + b[:20] + b"~\n" + c, True, "ac", 1),
        (lambda a, b, c: a + b[:20] + c, True, "ac", 1),
        (lambda a, b, c: a[:3] + b[:40] + c, False, "c", 1),
        (lambda a, b, c: a + b.replace(b"https", b"xxxxx") + c, True, "ac", 1),
        (lambda a, b, c: a + b"\0" * 100 + b, True, "ab", 1),
        (lambda a, b, c: a + b"\n" + b, True, "ab", 0),
        (lambda a, b, c: b"", True, "", 0),
    ],
)
def test_a_reader_passes_over_what_is_torn(tmp_path: Path, damage: Damage, final: bool, found: str, torn: int) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(damage(*(frame(visit(name).encode().encode()) for name in "abc")))
    lines = read(path, final=final)
    assert (names(lines), lines.torn) == (list(found), torn)
    assert lines.end == (path.stat().st_size if final else path.read_bytes().rfind(b"\n") + 1)


def test_a_line_longer_than_what_is_read_at_once_is_read_whole(tmp_path: Path) -> None:
    path, body = tmp_path / "long", b'{"k":"' + b"x" * 2_000_000 + b'"}'
    path.write_bytes(frame(body) + frame(b"{}"))
    lines = read(path, final=False)
    assert (lines.bodies, lines.torn) == ([body, b"{}"], 0)


def test_a_long_journal_is_read_stretch_by_stretch(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"".join(frame(b'{"n":%d}' % n) for n in range(50_000)))
    offset, stretches, bodies = 0, 0, []
    while (lines := read(path, offset=offset)).end > offset:
        offset, stretches, bodies = lines.end, stretches + 1, bodies + lines.bodies
    assert stretches > 2
    assert bodies == [b'{"n":%d}' % n for n in range(50_000)]


# -- the file --------------------------------------------------------------------------------------------------------------


def test_nothing_is_made_before_the_first_event(segments: Segments, own: Journal) -> None:
    assert own.segments == []
    assert not segments.path.exists()
    own.append(visit("a"))
    assert written(segments) == ["a"]


def test_an_event_comes_back_as_it_was_appended(segments: Segments, own: Journal) -> None:
    own.append(visit("a"))
    (body,) = read(segments.path / segments.names()[0]).bodies
    assert decode(body) == visit("a")


def test_files_are_private_and_locked_while_their_process_lives(segments: Segments, own: Journal) -> None:
    own.append(visit("a"))
    (name,) = segments.names()
    assert (segments.path.stat().st_mode & 0o777, (segments.path / name).stat().st_mode & 0o777) == (0o700, 0o600)
    assert segments.lock(name) is None
    own.close()
    fd = segments.lock(name)
    assert fd is not None
    assert segments.lock(name) is None
    segments.let_go(fd)


def test_threads_append_without_tearing_each_others_lines(segments: Segments, own: Journal) -> None:
    start = threading.Barrier(8)

    def run(thread: int) -> None:
        start.wait()
        for n in range(200):
            own.append(visit(f"{thread}-{n}"))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(segments.names()) == 1
    assert sorted(written(segments)) == sorted(f"{thread}-{n}" for thread in range(8) for n in range(200))


def test_it_is_rolled_at_its_bound_and_keeps_its_owner(segments: Segments) -> None:
    own = Journal(segments, roll_at=500)
    for n in range(12):
        own.append(visit(f"{n:02}"))
    assert len(segments.names()) > 2
    assert {owner_of(name) for name in segments.names()} == {own.owner}
    assert written(segments) == [f"{n:02}" for n in range(12)]
    own.close()


def test_a_rolled_file_is_dropped_only_when_no_write_to_it_can_be_under_way(segments: Segments) -> None:
    for grace, dropped in ((60.0, False), (0.0, True)):
        own = Journal(segments, roll_at=100, grace=grace)
        own.append(visit("a"))
        own.append(visit("b"))
        first, current = own.segments
        assert own.drop(first) is dropped
        assert not own.drop(current)
        assert (first.name in segments.names(), current.name in segments.names()) == (not dropped, True)
        own.close()


@pytest.mark.parametrize(("old", "events", "files"), [(0.0, 1, 2), (0.0, 0, 1), (3600.0, 1, 1)])
def test_an_old_file_gives_way_to_a_new_one_so_that_a_lost_store_reads_nothing_old_again(
    segments: Segments, old: float, events: int, files: int
) -> None:
    own = Journal(segments, old=old, grace=0.0)
    own.open()
    for n in range(events):
        own.append(visit(str(n)))
    own.renew()
    own.renew()  # the new one is empty, and stays
    assert len(segments.names()) == files
    if files == 2:
        assert own.drop(own.segments[0])
    own.append(visit("after"))
    assert written(segments)[-1] == "after"
    assert ("0" in written(segments)) is (files == 1 and events == 1)
    own.close()


def test_past_its_last_file_events_are_given_up_until_one_has_been_drained(
    segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("adtarget_proxy.outbox.detour.monotonic", lambda: clock[0])
    own = Journal(segments, roll_at=100, files=3)
    for n in range(6):
        own.append(visit(str(n)))
    assert written(segments) == ["0", "1", "2", "3"]
    segments.delete(segments.names()[0])
    clock[0] += 2
    own.append(visit("6"))
    assert written(segments) == ["2", "3", "6"]
    assert own.lost == {"journal full": 2}
    own.close()


def test_a_file_that_somebody_deleted_is_replaced_and_its_events_still_read(segments: Segments, own: Journal) -> None:
    own.append(visit("a"))
    segments.delete(segments.names()[0])
    own.append(visit("b"))
    own.mend()
    own.append(visit("c"))
    old, new = own.segments
    assert names(read_lines(old.fd, 0, final=False)) == ["a", "b"]
    assert names(read_lines(new.fd, 0, final=False)) == ["c"]


def test_an_event_after_the_end_opens_a_new_file(segments: Segments, own: Journal) -> None:
    own.append(visit("a"))
    own.close()
    own.append(visit("late"))
    assert written(segments) == ["a", "late"]


def test_a_place_where_none_can_be_made_is_an_error_for_who_asks(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("a file")
    with pytest.raises(OutboxError, match="journal"):
        Journal(Segments(tmp_path / "j")).open()


def test_a_file_that_died_at_birth_is_swept_away_after_a_minute(segments: Segments, own: Journal) -> None:
    own.append(visit("a"))
    for name, age in (("1-x.0.journal.new", 61), ("1-y.0.journal.new", 0)):
        (segments.path / name).touch()
        os.utime(segments.path / name, (segments.path.stat().st_mtime - age,) * 2)
    assert len(segments.names()) == 1
    assert [path.name for path in segments.path.glob("*.new")] == ["1-y.0.journal.new"]


# -- disks that refuse -----------------------------------------------------------------------------------------------------


class Disk:
    """Stands between the journal and the system's ``write``; ``fault`` decides what happens to a line."""

    def __init__(self) -> None:
        self.fault: Callable[[int, bytes], int] | None = None

    def write(self, fd: int, line: bytes) -> int:
        return os.write(fd, line) if self.fault is None else self.fault(fd, line)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(module, "write", disk.write)
    return disk


def refuse(fd: int, line: bytes) -> int:
    raise OSError(errno.EIO, "Input/output error")


def half(fd: int, line: bytes) -> int:
    return os.write(fd, line[: len(line) // 2])


@pytest.mark.parametrize("fault", [refuse, half], ids=["refuses", "full"])
@pytest.mark.parametrize("first", ["a", ""], ids=["in use", "from the first event on"])
def test_what_a_disk_refuses_waits_in_memory_and_follows_in_order(
    segments: Segments,
    own: Journal,
    disk: Disk,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[int, bytes], int],
    first: str,
) -> None:
    for name in first:
        own.append(visit(name))
    disk.fault = fault
    for name in "bcd":
        own.append(visit(name))
    assert written(segments) == list(first)
    disk.fault = None
    until(lambda: written(segments) == [*first, "b", "c", "d"])
    own.append(visit("e"))
    until(lambda: written(segments) == [*first, "b", "c", "d", "e"])
    own.close()
    assert +own.lost == {}
    assert len([record for record in caplog.records if "kept in memory" in record.message]) == 1


def test_memory_is_bounded_and_what_it_cannot_hold_is_counted(
    segments: Segments, own: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 2)
    disk.fault = refuse
    for name in "abcd":
        own.append(visit(name))
    disk.fault = None
    until(lambda: written(segments) == ["a", "b"])
    own.close()
    assert own.lost == {"slow disk": 2}


def test_a_journal_that_makes_way_writes_nothing_until_there_is_room(segments: Segments) -> None:
    room = threading.Event()
    asked = threading.Semaphore(0)

    def has_room() -> bool:
        asked.release()
        return room.is_set()

    own = Journal(segments, has_room=has_room)
    own.append(visit("a"))
    own.make_way()
    own.append(visit("b"))
    for _ in range(4):  # once by who made way, then by the thread, over and over
        assert asked.acquire(timeout=20)
    assert written(segments) == ["a"]
    room.set()
    until(lambda: written(segments) == ["a", "b"])
    own.close()


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_thread_that_could_not_be_had_is_asked_for_again(
    segments: Segments, own: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.fault = refuse
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        own.append(visit("a"))
        own.append(visit("b"))
    disk.fault = None
    own.append(visit("c"))
    until(lambda: written(segments) == ["a", "b", "c"])
    assert +own.lost == {}


def test_what_no_thread_could_be_had_for_is_written_at_the_end(
    segments: Segments, own: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    disk.fault = refuse
    own.append(visit("a"))
    disk.fault = None
    own.close()
    assert (written(segments), +own.lost) == (["a"], {})


def test_what_is_still_in_memory_at_the_end_is_counted(segments: Segments, own: Journal, disk: Disk) -> None:
    disk.fault = refuse
    own.append(visit("a"))
    own.close()
    assert own.lost == {"slow disk": 1}


def test_an_opening_that_takes_its_time_says_nothing_of_the_lines_that_follow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Crowded(Segments):
        def create(self, name: str) -> int:
            fd = super().create(name)
            threading.Event().wait(0.2)  # the directory is busy with other processes' files
            return fd

    segments = Crowded(tmp_path / "j")
    own = Journal(segments, slow=0.15)
    for name in ("a", "b", "c"):
        own.append(visit(name))
        assert written(segments)[-1] == name
    assert caplog.text == ""
    own.close()


def test_a_slow_append_leaves_the_next_ones_to_a_thread_until_one_is_quick(segments: Segments, disk: Disk) -> None:
    own = Journal(segments, slow=-1.0)  # every append is too slow
    here = threading.get_ident()
    writers: list[int] = []

    def watch(fd: int, line: bytes) -> int:
        writers.append(threading.get_ident())
        return os.write(fd, line)

    for name in "ab":
        own.append(visit(name))
    disk.fault = watch
    for name in "cde":
        own.append(visit(name))
    until(lambda: written(segments) == ["a", "b", "c", "d", "e"])
    assert here not in writers
    assert len(writers) == 3
    own.close()
    assert +own.lost == {}


def test_one_slow_append_is_a_busy_machine_and_two_in_a_row_are_a_slow_disk(
    segments: Segments, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, here = [0.0], threading.get_ident()
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    own = Journal(segments, slow=0.05)
    own.open()
    elsewhere: list[str] = []

    def append(names: str, *, seconds: float) -> None:
        def write(fd: int, line: bytes) -> int:
            if threading.get_ident() != here:
                elsewhere.append(json.loads(line[9:])["i"])
            clock[0] += seconds
            return os.write(fd, line)

        disk.fault = write
        for name in names:
            own.append(visit(name))

    append("a", seconds=0.06)
    append("b", seconds=0.0)
    append("cd", seconds=0.06)
    assert written(segments) == ["a", "b", "c", "d"]
    append("e", seconds=0.0)
    until(lambda: written(segments) == ["a", "b", "c", "d", "e"])
    assert elsewhere == ["e"]
    own.close()


def test_a_slow_disk_is_one_for_threads_whose_appends_overlap_too(
    segments: Segments, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each append ends only after the other thread's next one has begun, so none follows upon another's end."""
    clock, begun = [0.0], {name: threading.Event() for name in "abcde"}
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    own = Journal(segments, slow=0.05)
    own.open()
    elsewhere: list[str] = []

    def write(fd: int, line: bytes) -> int:
        name = json.loads(line[9:])["i"]
        if name == "e":
            elsewhere.append(threading.current_thread().name)
            return os.write(fd, line)
        number = os.write(fd, line)
        clock[0] += 0.06
        begun[name].set()
        assert begun[chr(ord(name) + 1)].wait(20)
        return number

    def other() -> None:
        assert begun["a"].wait(20)
        for name in "bd":
            own.append(visit(name))

    disk.fault = write
    thread = threading.Thread(target=other)
    thread.start()
    for name in "ac":
        own.append(visit(name))
    begun["e"].set()
    thread.join()
    own.append(visit("e"))
    until(lambda: written(segments) == ["a", "b", "c", "d", "e"])
    assert elsewhere == ["adtarget-journal"]
    own.close()


def test_a_place_that_becomes_writable_gets_what_waited(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("a file where the directory should be")
    segments = Segments(tmp_path / "j")
    own = Journal(segments)
    own.append(visit("a"))
    (tmp_path / "j").unlink()
    until(lambda: written(segments) == ["a"])
    own.close()
    assert +own.lost == {}
