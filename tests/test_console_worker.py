"""``adtarget-proxy worker``: a real process that sends what others have kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from delivery_world import until
from redis_server import empty, redis_server

from adtarget_proxy.cli import main
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import PLAIN, Visit


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(port=0, rate=0) as box:
        yield box


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    url: str = request.getfixturevalue("redis_url")
    empty(url)
    return f"{url}?journal={tmp_path / 'outbox'}"


@pytest.fixture
def settings(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "API_KEY": box.api_key,
        "API_URL": box.api_url,
        "DELIVER": "worker",
        "RATE": "100000",
        "BURST": "1000",
    }.items():
        monkeypatch.setenv(f"ADTARGET_{name}", value)


@pytest.fixture
def outbox(place: str, settings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    """The outbox of a web process that leaves sending to a worker."""
    monkeypatch.setenv("ADTARGET_OUTBOX", place)
    outbox = Outbox.open(os.environ["ADTARGET_OUTBOX"])
    yield outbox
    outbox.close()


def keep(outbox: Outbox, number: int, account: str | None = None) -> set[str]:
    account = account or Settings().accounts[0].id
    ids = {f"{account}-{n}" for n in range(number)}
    for name in ids:
        fields = {"href": "https://shop.example/", "user_agent": "Rare/7.3"}
        outbox.append(
            Visit(id=name, key=name, account=account, visitor=name, at=time.time(), worth=PLAIN, fields=fields)
        )
    return ids


def worker(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "adtarget_proxy.cli", "worker", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def arrived(box: Sandbox) -> set[str]:
    return {event["idempotency_key"] for event in box.events()}


@pytest.mark.server
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT])
def test_it_sends_what_comes_and_ends_cleanly_when_told(box: Sandbox, outbox: Outbox, ended_by: signal.Signals) -> None:
    ids = keep(outbox, 20)
    process = worker("--report", "1")
    until(lambda: arrived(box) == ids)
    more = ids | keep(outbox, 40)
    until(lambda: arrived(box) == more)
    process.send_signal(ended_by)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert f"worker of {outbox.place} for" in said
    assert "worker ends: 40 sent, 0 wait" in said
    assert "Rare/7.3" not in said
    assert box.api_key not in said
    assert outbox.store.counts().waiting == 0


@pytest.mark.server
def test_it_ends_within_its_deadline_while_adtarget_hangs_and_loses_nothing(box: Sandbox, outbox: Outbox) -> None:
    keep(outbox, 5)
    box.faults(hang=True)
    process = worker("--deadline", "0.2")
    until(lambda: box.requests())
    process.terminate()
    _, said = process.communicate(timeout=15)
    assert process.returncode == 0, said
    counts = outbox.store.counts()
    assert (counts.waiting, counts.claimed, counts.sent) == (5, 0, 0)


@pytest.mark.server
def test_two_workers_share_and_send_each_event_once(box: Sandbox, outbox: Outbox) -> None:
    ids = keep(outbox, 200)
    both = [worker("--until-empty") for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    keys = [event["idempotency_key"] for event in box.events()]
    assert (set(keys), len(keys)) == (ids, 200)


@pytest.mark.server
def test_it_takes_over_from_a_worker_that_was_killed(box: Sandbox, outbox: Outbox) -> None:
    ids = keep(outbox, 30)
    box.faults(hang=True)
    first = worker()
    until(lambda: outbox.store.counts().claimed)
    first.kill()
    first.communicate()
    box.heal()
    second = worker("--until-empty")
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert arrived(box) == ids


@pytest.mark.server
def test_events_of_an_unknown_account_are_said_and_kept(box: Sandbox, outbox: Outbox) -> None:
    ids = keep(outbox, 2)
    keep(outbox, 3, "5d41402abc4b2a76")
    process = worker("--until-empty")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "3 events belong to accounts that are not in these settings" in said
    assert arrived(box) == ids
    assert outbox.store.counts(["5d41402abc4b2a76"]).waiting == 3


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ADTARGET_API_KEY": ""}, "api_key: missing"),
        ({"ADTARGET_API_KEY": "", "ADTARGET_OUTBOX": "nowhere"}, "must be sqlite:////abs/path"),
        ({"ADTARGET_OUTBOX": "memory://"}, "memory:// lives inside its own process"),
        ({"ADTARGET_MODE": "off"}, "nothing is to be sent"),
        ({"ADTARGET_OUTBOX": "sqlite:////dev/null/outbox.sqlite3"}, "outbox /dev/null"),
    ],
)
def test_settings_that_cannot_work_are_said_without_a_traceback(
    settings: None, environment: dict[str, str], said: str
) -> None:
    result = CliRunner().invoke(main, ["worker"], env=environment)
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert said in result.output
