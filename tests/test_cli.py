"""The command line's root: what it lists, and what it says where an extra is absent."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from adtarget_proxy.cli import COMMANDS, main

pytestmark = pytest.mark.server


def run_without(modules: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process where ``modules`` are not installed."""
    script = (
        f"import sys\nfor name in {modules!r}: sys.modules[name] = None\n"
        f"from adtarget_proxy.cli import main\nsys.argv = {['adtarget-proxy', *arguments]!r}\nmain()\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)


def test_help_lists_every_command_and_teaches() -> None:
    answer = CliRunner().invoke(main, ["--help"])
    assert answer.exit_code == 0
    assert all(name in answer.output for name in COMMANDS)
    assert "adtarget-proxy sandbox --error-rate" in answer.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    answer = CliRunner().invoke(main, [name, "--help"])
    assert (answer.exit_code, "Usage:" in answer.output) == (0, True)


def test_the_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("adtarget-proxy, version ")


def test_an_unknown_command_is_an_error() -> None:
    answer = CliRunner().invoke(main, ["sandbx"])
    assert answer.exit_code == 2
    assert "sandbx" in answer.output


@pytest.mark.parametrize(
    ("absent", "arguments"),
    [(["click"], ["--help"]), (["click"], ["sandbox", "--port", "0"]), (["aiohttp"], ["sandbox", "--port", "0"])],
)
def test_an_absent_extra_is_named_without_a_traceback(absent: list[str], arguments: list[str]) -> None:
    done = run_without(absent, *arguments)
    assert done.returncode == 1
    assert f"{absent[0]} is not installed" in done.stderr
    assert "pip install 'adtarget-proxy[cli,server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_works_without_the_server_extra() -> None:
    done = run_without(["aiohttp"], "--help")
    assert done.returncode == 0
    assert "aiohttp is not installed" in done.stdout


def test_help_of_the_root_needs_no_network_client() -> None:
    done = run_without(["httpx"], "sandbox", "--help")
    assert (done.returncode, done.stderr) == (0, "")
