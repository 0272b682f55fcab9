"""``adtarget-proxy sandbox`` as a process: what it prints works, and it ends when told to."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from click.testing import CliRunner

from adtarget_proxy.cli import main

pytestmark = pytest.mark.server

EXPORT = re.compile(r"export (\w+)=(\S+)")


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The process and the environment it tells to set."""
    command = [sys.executable, "-m", "adtarget_proxy.cli", "sandbox", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            environment: dict[str, str] = {}
            for line in process.stdout:
                environment.update(EXPORT.findall(line))
                if "Ctrl-C" in line:
                    break
            yield process, environment
        finally:
            process.kill()


def visit(environment: dict[str, str]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {environment['ADTARGET_API_KEY']}"}
    url = f"{environment['ADTARGET_API_URL']}/events/visit"
    return httpx.post(url, json={"href": "https://shop.example/secret-page"}, headers=headers)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_environment_works_and_a_signal_ends_it(ending: signal.Signals) -> None:
    with running("--key", "atk_live_mine0001_s", "--website-id", "atid_mine") as (process, environment):
        assert environment["ADTARGET_API_KEY"] == "atk_live_mine0001_s"
        assert visit(environment).status_code == 200
        query = {"websiteId": environment["ADTARGET_WEBSITE_ID"]}
        assert httpx.get(f"{environment['ADTARGET_TRACKER_URL']}/track/invite", params=query).status_code == 200
        assert process.stdout is not None
        assert "visit" in process.stdout.readline()
        process.send_signal(ending)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--status", "503"], 503),
        (["--error-rate", "1", "--error-status", "502"], 502),
        (["--status", "503", "--fault-endpoint", "invite"], 200),
        (["--rate", "1", "--burst", "1"], 200),
    ],
)
def test_switches_reach_the_sandbox(arguments: list[str], status: int) -> None:
    with running(*arguments) as (_process, environment):
        assert visit(environment).status_code == status


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--check-referer"], "domain"),
        (["--invite-as", "xml"], "--invite-as"),
        (["--error-rate", "2"], "--error-rate"),
        (["--invite-field", "a.b.c"], "invite_field"),
    ],
)
def test_a_wrong_switch_is_named(arguments: list[str], named: str) -> None:
    answer = CliRunner().invoke(main, ["sandbox", "--port", "0", *arguments])
    assert answer.exit_code == 2
    assert named in answer.output


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = CliRunner().invoke(main, ["sandbox", "--port", str(taken.getsockname()[1])])
    assert answer.exit_code == 1
    assert "--port 0" in answer.output
