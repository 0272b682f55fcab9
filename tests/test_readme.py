"""The README says what is there: its settings table against the settings, its names against the package."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from adtarget_proxy import Settings
from adtarget_proxy.tracking.rules import REASONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.partition("## Settings")[2].partition("## How it decides")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| `")]
CODE_ONLY = {"consent"}


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


def test_every_file_and_command_it_points_at_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert f"\n{name}:" in makefile
