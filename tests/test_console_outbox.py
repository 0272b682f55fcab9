"""``adtarget-proxy outbox``: what it shows, what it asks for, what it does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adtarget_proxy.cli import main
from adtarget_proxy.outbox import DeadReason, Outbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import FROM_AN_AD, PAID_OR_AWAITED, PLAIN, Conversion, Event, Visit

KEY = "atk_live_00000000_secret"
OLD = "5d41402abc4b2a76"
ME = "0b9c1e7a-1111-4222-8333-444455556666"
SECRET = "Rare/7.3"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    monkeypatch.setenv("ADTARGET_OUTBOX", url)
    monkeypatch.setenv("ADTARGET_API_KEY", KEY)
    return url


@pytest.fixture
def account(url: str) -> str:
    return Settings().accounts[0].id


@pytest.fixture
def outbox(url: str, account: str) -> Iterator[Outbox]:
    """Two that wait, one of them an ad's, one claimed, three dead letters, and one of another account."""
    outbox = Outbox.open(url)
    now = time.time()

    def made(kind: type[Event], name: str, visitor: str, worth: int, of: str = account, **fields: Any) -> Event:
        return kind(id=name, key=f"key-{name}", account=of, visitor=visitor, at=now, worth=worth, fields=fields)

    dead = [made(Visit, name, name, PLAIN) for name in ("expired", "unknown")]
    sale = made(Conversion, "sale", "s", PAID_OR_AWAITED, telegram_user_id=1234567890, value=97.0)
    outbox.store.put([*dead, sale, made(Visit, "held", "h", FROM_AN_AD)], now=now)
    for event, reason in (
        *zip(dead, (DeadReason.EXPIRED, DeadReason.UNKNOWN), strict=True),
        (sale, DeadReason.REFUSED),
    ):
        outbox.store.bury(event.id, reason=reason, status=400, answer=f"{reason} for a@shop.example", now=now)
    assert len(outbox.store.claim([account], owner=outbox.owner, now=now, limit=1)) == 1
    plain = made(Visit, "plain", ME, PLAIN, href="https://shop.example/?q=1", user_agent=SECRET, utm_source="fb")
    ad, strange = made(Visit, "ad", "a", FROM_AN_AD), made(Visit, "strange", "x", PLAIN, of=OLD)
    outbox.store.put([plain, ad, strange], now=now)
    yield outbox
    outbox.close()


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["outbox", *arguments], input=answer, env={"COLUMNS": "200"})


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def names(result: Result) -> list[str]:
    return [line["id"] for line in lines(result)]


def test_status_counts_by_account(outbox: Outbox, account: str, url: str) -> None:
    (told,) = lines(run("status", "--json"))
    assert told["outbox"] == url
    rows = {row["account"]: row for row in told["accounts"]}
    assert {name: rows[account][name] for name in ("site", "waiting", "claimed", "dead", "sent")} == {
        "site": "adtarget.io",
        "waiting": 2,
        "claimed": 1,
        "dead": 3,
        "sent": 0,
    }
    assert (rows[OLD]["site"], rows[OLD]["waiting"]) == ("not in these settings", 1)
    shown = run("status").output
    assert account in shown
    assert "outbox adopt --from" in shown


def test_status_says_what_is_still_in_journals(outbox: Outbox) -> None:
    (before,) = lines(run("status", "--json"))
    outbox.append(Visit(id="new", key="new", account="a", visitor="n", at=1.0, worth=PLAIN))
    (after,) = lines(run("status", "--json"))
    assert (before["journals"]["bytes"], before["journals"]["files"], after["journals"]["files"]) == (0, 1, 1)
    assert after["journals"]["bytes"] > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["held", "ad", "plain", "strange", "expired", "unknown", "sale"]),
        (["--state", "waiting"], ["ad", "plain", "strange"]),
        (["--state", "claimed"], ["held"]),
        (["--state", "dead"], ["expired", "unknown", "sale"]),
        (["--state", "dead", "--state", "claimed"], ["held", "expired", "unknown", "sale"]),
        (["--kind", "conversion"], ["sale"]),
        (["--reason", "unknown", "--reason", "refused"], ["unknown", "sale"]),
        (["--site", "adtarget.io", "--kind", "visit", "--state", "waiting"], ["ad", "plain"]),
        (["--site", OLD[:6]], ["strange"]),
        (["--limit", "2"], ["held", "ad"]),
    ],
)
def test_list_and_export_choose(outbox: Outbox, options: list[str], expected: list[str]) -> None:
    assert names(run("list", "--json", *options)) == expected
    if "--limit" not in options:
        assert names(run("export", *options)) == expected


def test_a_site_that_is_none_is_said_with_those_there_are(outbox: Outbox) -> None:
    result = run("list", "--site", "nobody")
    assert result.exit_code == 2
    assert "adtarget.io" in result.output


def test_the_list_is_a_table_with_the_cause(outbox: Outbox) -> None:
    shown = run("list", "--state", "dead").output
    assert "refused for …" in " ".join(shown.split())
    assert "Nothing." in run("list", "--kind", "invite").output


@pytest.mark.parametrize("command", [["list", "--json"], ["export"], ["list"]])
def test_personal_data_is_masked_unless_revealed(outbox: Outbox, command: list[str]) -> None:
    masked, revealed = run(*command), run(*command, "--reveal")
    for secret in (ME, SECRET, "q=1", "a@shop.example", "1234567890"):
        assert secret not in masked.output
        assert secret in revealed.output or "--json" not in command
    assert KEY not in masked.output + revealed.output


def test_show_tells_all_of_one_event(outbox: Outbox) -> None:
    told = json.loads(run("show", "plain").output)
    assert (told["state"], told["idempotency_key"], told["fields"]["utm_source"]) == ("waiting", "key-plain", "fb")
    assert json.loads(run("show", "plain", "--reveal").output)["fields"]["user_agent"] == SECRET
    assert json.loads(run("show", "sale").output)["reason"] == "refused"
    gone = run("show", "nobody")
    assert (gone.exit_code, "nobody does not wait" in gone.output) == (1, True)


def test_export_writes_a_file(outbox: Outbox, tmp_path: Path) -> None:
    assert run("export", "--kind", "conversion", "--output", str(tmp_path / "out.jsonl")).exit_code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["fields"] == {"telegram_user_id": "…", "value": 97.0}


@pytest.mark.parametrize(
    ("arguments", "again", "said"),
    [
        (["sale"], {"sale"}, "1 wait"),
        (["unknown"], set(), "--may-count-twice"),
        (["unknown", "--may-count-twice"], {"unknown"}, "1 wait"),
        (["--all"], {"sale", "expired"}, "1 were sent without a definite answer"),
        (["--all", "--may-count-twice"], {"sale", "expired", "unknown"}, "3 wait"),
        (["--reason", "expired"], {"expired"}, "1 wait"),
        (["--kind", "conversion"], {"sale"}, "1 wait"),
        (["plain", "nobody"], set(), "plain is no dead letter: it is waiting"),
    ],
)
def test_replay(outbox: Outbox, arguments: list[str], again: set[str], said: str) -> None:
    result = run("replay", *arguments)
    assert result.exit_code == 0
    assert said in result.output
    assert {each.event.id for each in outbox.store.waiting()} == {"held", "ad", "plain", "strange"} | again
    assert outbox.store.counts().dead == 3 - len(again)


@pytest.mark.parametrize("command", ["replay", "purge"])
def test_what_is_meant_has_to_be_said(outbox: Outbox, command: str) -> None:
    assert run(command).exit_code == 2
    assert run(command, "sale", "--all").exit_code == 2
    assert outbox.store.counts().dead == 3


def test_purge_asks_first(outbox: Outbox) -> None:
    assert run("purge", "sale", answer="n\n").exit_code == 1
    assert outbox.store.counts().dead == 3
    assert "1 purged" in run("purge", "sale", answer="y\n").output
    assert "2 purged" in run("purge", "--all", "--yes").output
    assert outbox.store.counts().dead == 0


def test_erase_takes_a_visitor_out_of_store_and_journal(outbox: Outbox, tmp_path: Path, account: str) -> None:
    outbox.append(
        Visit(id="new", key="new", account=account, visitor=ME, at=1.0, worth=PLAIN, fields={"user_agent": SECRET})
    )
    assert run("erase", "--visitor", ME, answer="n\n").exit_code == 1
    result = run("erase", "--visitor", ME, "--yes")
    assert "2 events erased, 1 journal lines overwritten" in result.output
    assert ME not in result.output
    assert "plain" not in names(run("export"))
    held = [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert held == []


def test_a_file_that_was_set_aside_is_named_by_erase(outbox: Outbox, tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite3.broken-17").write_bytes(b"")
    assert "outbox.sqlite3.broken-17" in run("erase", "--visitor", ME, "--yes").output


def test_adopt_gives_events_to_the_only_account_there_is(outbox: Outbox, account: str) -> None:
    assert f"1 events of {OLD} are now {account}'s" in run("adopt", "--from", OLD).output
    assert outbox.store.counts([account]).waiting == 3
    assert run("adopt", "--from", "nobody").exit_code == 2


def test_adopt_needs_a_word_where_there_are_several(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    monkeypatch.setenv("ADTARGET_WEBSITE_ID", "atid_x")
    result = run("adopt", "--from", OLD)
    assert (result.exit_code, "--to" in result.output) == (2, True)
    assert run("adopt", "--from", OLD, "--to", account).exit_code == 0


def test_conversions_are_not_given_to_a_keyless_account(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    monkeypatch.delenv("ADTARGET_API_KEY")
    monkeypatch.setenv("ADTARGET_WEBSITE_ID", "atid_x")
    result = run("adopt", "--from", account)
    assert (result.exit_code, "which need an API key" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("memory://", "memory:// lives and dies"),
        ("sqlite:////nonexistent/outbox.sqlite3", "nothing was ever kept at"),
        ("postgres://x", "must be sqlite:////abs/path"),
    ],
)
def test_a_place_that_holds_nothing_is_said_without_a_traceback(place: str, said: str) -> None:
    result = run("--outbox", place, "status")
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert said in result.output


def test_another_outbox_can_be_named(outbox: Outbox, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADTARGET_OUTBOX", "memory://")
    monkeypatch.delenv("ADTARGET_API_KEY")
    assert names(run("--outbox", url, "list", "--json", "--limit", "1")) == ["held"]


def test_every_command_teaches() -> None:
    assert "adtarget-proxy outbox replay --reason refused" in run("--help").output
    for command in ("status", "list", "show", "replay", "purge", "export", "erase", "adopt"):
        assert run(command, "--help").exit_code == 0
