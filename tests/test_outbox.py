"""The outbox as a process sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Outbox
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
