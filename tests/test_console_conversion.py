"""``adtarget-proxy conversion``: from a shell into the outbox, and from there to AdTarget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adtarget_proxy.cli import main
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.sandbox.server import Sandbox

SALE = ["--telegram-user-id", "1234567890", "--event-type", "Purchase", "--value", "97", "--currency", "USD"]
ORDER = ["--channel-id=-1001234567890", "--idempotency-key", "order_12345"]


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(port=0, rate=0) as box:
        yield box


@pytest.fixture(autouse=True)
def _settings(box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "API_KEY": box.api_key,
        "API_URL": box.api_url,
        "OUTBOX": f"sqlite:///{tmp_path / 'outbox.sqlite3'}",
    }.items():
        monkeypatch.setenv(f"ADTARGET_{name}", value)


def run(*arguments: str, text: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(main, ["conversion", *arguments], input=text, env=environment)


@pytest.mark.server
def test_it_is_sent_once_however_often_it_is_reported(box: Sandbox) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "adtarget_proxy.cli", "conversion", *SALE, *ORDER],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "Sent under the key order_12345.\n"), done.stderr
    (event,) = box.events()
    assert event["idempotency_key"] == "order_12345"
    sent = {name: event["body"][name] for name in ("telegramUserId", "eventType", "value", "currency", "channelId")}
    assert sent == {
        "telegramUserId": 1234567890,
        "eventType": "Purchase",
        "value": 97.0,
        "currency": "USD",
        "channelId": "-1001234567890",
    }


@pytest.mark.server
def test_fields_come_as_json_too_and_options_win(box: Sandbox) -> None:
    fields = {
        "telegram_user_id": 1,
        "event_type": "Lead",
        "channel_id": "-1001234567890",
        "pii": {"email": "a@shop.example"},
        "value": 3.5,
    }
    result = run("--json", "-", "--telegram-user-id", "2", text=json.dumps(fields))
    assert result.exit_code == 0, result.output
    assert "a@shop.example" not in result.output
    (event,) = box.events()
    assert (event["body"]["telegramUserId"], event["body"]["pii"]) == (2, {"email": "a@shop.example"})
    assert event["idempotency_key"]


@pytest.mark.server
@pytest.mark.parametrize(
    ("faults", "environment", "arguments"),
    [
        ({"down": True}, {}, ["--wait", "0.5"]),
        ({}, {}, ["--wait", "0"]),
        ({}, {"ADTARGET_DELIVER": "worker"}, []),
    ],
    ids=["AdTarget is down", "not waited for", "a worker sends"],
)
def test_what_cannot_be_sent_now_is_kept(
    box: Sandbox, faults: dict[str, bool], environment: dict[str, str], arguments: list[str]
) -> None:
    box.faults(**faults)
    result = run(*SALE, *ORDER, *arguments, **environment)
    assert result.exit_code == 0, result.output
    assert "Kept under the key order_12345" in result.output
    outbox = Outbox.open(os.environ["ADTARGET_OUTBOX"])
    assert [each.event.key for each in outbox.store.waiting()] == ["order_12345"]
    outbox.close()


@pytest.mark.server
def test_a_refusal_is_a_failure_that_names_the_dead_letter(box: Sandbox) -> None:
    box.faults(status=400)
    result = run(*SALE, *ORDER)
    assert (result.exit_code, "AdTarget did not take it" in result.output) == (1, True)
    assert "outbox show" in result.output


@pytest.mark.server
def test_memory_keeps_nothing_and_says_so(box: Sandbox) -> None:
    box.faults(down=True)
    result = run(*SALE, *ORDER, "--wait", "0.3", ADTARGET_OUTBOX="memory://")
    assert (result.exit_code, "memory:// keeps nothing" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        ([], {}, 2, "telegram_user_id: must be a whole number"),
        ([*SALE[:-2]], {}, 2, "currency: must be three capital letters"),
        ([*SALE, "--idempotency-key", "x" * 129], {}, 2, "1 to 128 characters"),
        ([*SALE, "--site", "nobody"], {}, 2, "--site"),
        (["--json", "-"], {}, 2, "no JSON"),
        (SALE, {"ADTARGET_API_KEY": "", "ADTARGET_WEBSITE_ID": "atid_x"}, 2, "conversions need an API key"),
        (SALE, {"ADTARGET_API_KEY": ""}, 1, "api_key: missing"),
        (SALE, {"ADTARGET_MODE": "off"}, 1, "nothing is kept or sent"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_kept(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    result = run(*arguments, text="", **environment)
    assert (result.exit_code, result.exception.__class__) == (code, SystemExit)
    assert said in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_cannot_be_kept_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite3.journal").write_text("a file where the directory should be")
    result = run(*SALE, *ORDER, "--wait", "0")
    assert result.exit_code == 1
    assert "outbox.sqlite3.journal: File exists" in result.output
