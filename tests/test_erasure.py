"""Taking a visitor's lines out of journals that others are writing and reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.outbox.erasure import erase_lines
from adtarget_proxy.outbox.segments import Segments
from adtarget_proxy.tracking.events import PLAIN, Visit


def visit(name: str, visitor: str, **fields: object) -> Visit:
    return Visit(id=name, key=name, account="a", visitor=visitor, at=1.0, worth=PLAIN, fields=fields)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox.open(f"sqlite:///{tmp_path / 'outbox.sqlite3'}")


def files(outbox: Outbox) -> bytes:
    assert outbox.segments is not None
    return b"".join((outbox.segments.path / name).read_bytes() for name in outbox.segments.names())


def erase(outbox: Outbox, visitor: str) -> int:
    assert outbox.segments is not None
    return erase_lines(Segments(outbox.segments.path), visitor)


def waiting(outbox: Outbox) -> list[str]:
    return [each.event.id for each in outbox.store.waiting()]


@pytest.mark.parametrize("size", [10, 50_000], ids=["short lines", "lines longer than a stretch"])
def test_only_the_visitors_lines_go_and_the_writer_goes_on(outbox: Outbox, size: int) -> None:
    for n in range(3):
        outbox.append(visit(f"mine-{n}", "me", user_agent="Rare/7.3" * size))
        outbox.append(visit(f"other-{n}", "other", href="h" * size))
    assert erase(outbox, "me") == 3
    assert b"Rare" not in files(outbox)
    outbox.append(visit("after", "other"))
    Pump(outbox).own(2.0)
    assert outbox.lost == {}
    assert waiting(outbox) == ["other-0", "other-1", "other-2", "after"]
    assert erase(outbox, "me") == 0
    outbox.close()


def test_what_the_pump_has_moved_is_overwritten_too_and_not_moved_again(outbox: Outbox) -> None:
    outbox.append(visit("mine", "me"))
    Pump(outbox).own(2.0)
    assert erase(outbox, "me") == 1
    outbox.append(visit("other", "other"))
    assert Pump(outbox).own(2.0) == 1
    outbox.close()


def test_a_journal_of_a_dead_process_with_a_torn_end_is_cleaned(outbox: Outbox) -> None:
    outbox.append(visit("mine", "me"))
    outbox.append(visit("other", "other"))
    assert outbox.segments is not None
    (name,) = outbox.segments.names()
    path = outbox.segments.path / name
    with path.open("ab") as file:
        file.write(b'0badc0de {"k":"vis')
    assert erase(outbox, "me") == 1
    assert path.read_bytes().endswith(b'{"k":"vis')
    outbox.close()


def test_without_a_journal_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert erase_lines(Segments(tmp_path / "none"), "me") == 0
