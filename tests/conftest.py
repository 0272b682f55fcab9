"""What every test starts from: no settings but its own, and no skip where the check says that everything is there."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from shell_world import AsgiShell, Shell, WsgiShell

_REQUIRED = os.environ.get("ADTARGET_TEST_REQUIRE") == "all"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own ADTARGET_* variables must not decide a test."""
    for name in [name for name in os.environ if name.startswith("ADTARGET_") and not name.startswith("ADTARGET_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture(params=[AsgiShell(), WsgiShell()], ids=["asgi", "wsgi"])
def shell(request: pytest.FixtureRequest) -> Shell:
    """Whatever holds of one shell holds of the other."""
    made: Shell = request.param
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    return _demanded((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return _demanded((yield))


def _demanded(report: Any) -> Any:
    """With ADTARGET_TEST_REQUIRE=all a skipped test is a failed one: what it needs ought to be here, Meta's builder apart."""
    if _REQUIRED and report.skipped and not hasattr(report, "wasxfail") and "interop" not in report.keywords:
        report.outcome = "failed"
        report.longrepr = f"skipped, but ADTARGET_TEST_REQUIRE=all: {report.longrepr}"
    return report
