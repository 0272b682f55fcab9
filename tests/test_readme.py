"""The README says what is there: its settings table against the settings, its names against the package."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest

from adtarget_proxy import Settings
from adtarget_proxy.consent import READERS, Request
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.tracking.presets import PRESETS
from adtarget_proxy.tracking.rules import REASONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.partition("## Settings")[2].partition("## How it decides")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| `")]
SNIPPETS = re.findall(r"^### ([^\n]+)\n\n```python\n(.*?)```", README, re.MULTILINE | re.DOTALL)
PERSON = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/133.0", "Accept": "text/html"}


def test_every_setting_has_its_row_and_every_row_its_setting() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {field.name for field in fields(Settings) if field.init}


@pytest.mark.parametrize("row", ROWS)
def test_the_environment_column_is_the_settings_own_name(row: str) -> None:
    names = re.findall(r"`(\w+)`", row.split("|")[1])
    for variable in re.findall(r"`(ADTARGET_\w+)`", row.split("|")[2]):
        assert variable.removeprefix("ADTARGET_").lower() in names


def test_every_reason_is_told() -> None:
    assert [reason for reason in REASONS if f"`{reason}`" not in README] == []


def test_every_preset_has_its_row_with_its_header_its_hops_and_its_place() -> None:
    section = README.partition("## Whose address is sent")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    told = {row[1].strip("`"): row for row in rows}
    for name, preset in PRESETS.items():
        _, _, _, header, hops, place = told[name]
        assert (header.strip("`").lower(), hops) == (preset.header, str(preset.hops))
        assert re.findall(r"`([\w-]+)`", place.lower()) == list(preset.place.values())


def test_every_file_and_command_it_points_at_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert f"\n{name}:" in makefile


@pytest.fixture
def environment(adtarget_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user exports before the first start."""
    monkeypatch.setenv("ADTARGET_API_KEY", adtarget_sandbox.api_key)
    monkeypatch.setenv("ADTARGET_API_URL", adtarget_sandbox.api_url)
    monkeypatch.setenv("ADTARGET_OUTBOX", "memory://")


@pytest.mark.server
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("framework", ["FastAPI, Starlette", "Flask", "Any ASGI or WSGI app"])
def test_a_snippet_runs_as_printed(framework: str, adtarget_sandbox: Sandbox) -> None:
    app = run(dict(SNIPPETS)[framework])["app"]
    page = ask(app)
    assert (page.status_code, page.text) == (200, '<a href="/c/vip">Join</a>')
    assert page.cookies["adtarget_temp_id"] == adtarget_sandbox.wait_for(1, "visit")[0]["fields"]["tempId"]


def test_the_consent_snippet_runs_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADTARGET_API_KEY", "atk_live_readme00_s")
    monkeypatch.setenv("ADTARGET_OUTBOX", "memory://")
    (code,) = re.findall(r"```python\n([^`]*\nfrom adtarget_proxy\.consent import .*?)```", README, re.DOTALL)
    consent = run(code)["consent"]
    said = [
        consent(Request("GET", "/", "", None, {"cookie": cookie}.get))
        for cookie in ("", "my_consent=yes", "my_consent=no")
    ]
    assert said == [None, True, False]


@pytest.mark.parametrize("name", READERS)
def test_every_reader_is_told_with_its_defaults(name: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}("))
    for parameter in inspect.signature(READERS[name]).parameters.values():
        told = re.search(rf"\b{parameter.name}=((?:\([^)]*\)|[^,)])+)", row)
        assert told is not None, parameter.name
        value = told[1]
        assert value == "…" or ast.literal_eval(value) == parameter.default


@pytest.mark.server
def test_the_api_by_hand_runs_as_printed_but_for_its_key(adtarget_sandbox: Sandbox) -> None:
    (code,) = re.findall(r"```python\n(from adtarget_proxy import AdTarget\n.*?)```", README, re.DOTALL)
    placeholder = 'api_key="atk_live_…"'
    assert placeholder in code
    run(code.replace(placeholder, f"api_key={adtarget_sandbox.api_key!r}, api_url={adtarget_sandbox.api_url!r}"))
    assert adtarget_sandbox.events("conversion")[0]["idempotency_key"] == "lead_77"


@pytest.mark.server
def test_the_test_for_users_runs_as_printed(adtarget_sandbox: Sandbox) -> None:
    (code,) = re.findall(r"```python\n(import httpx\n.*?)```", README, re.DOTALL)
    run(code)["test_the_button_survives_an_outage"](adtarget_sandbox)


def run(code: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace


def ask(app: Any) -> httpx.Response:
    """The page of an app of either protocol, as a person's browser asks for it."""
    if inspect.iscoroutinefunction(type(app).__call__):
        return asyncio.run(ask_async(app))
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="https://shop.example") as browser:
        return browser.get("/", headers=PERSON)


async def ask_async(app: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://shop.example") as browser:
        return await browser.get("/", headers=PERSON)
