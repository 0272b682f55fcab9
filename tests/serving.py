"""Starts the real servers for the tests: uvicorn, gunicorn, nginx. One process each, on a free port, gone with the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PERSON = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
)
NAVIGATION = {"User-Agent": PERSON, "Accept": "text/html", "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}


class Server:
    """A server in a process group of its own."""

    def __init__(self, command: list[str], port: int, environment: Mapping[str, str], log: Path) -> None:
        self.port = port
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=TESTS,
                env={**_plain_environment(), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_it_listens()

    def kill(self) -> None:
        """SIGKILL to every process of it that there still is."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def signal(self, number: int) -> None:
        """A signal to its first process, which is the master where there is one."""
        self._process.send_signal(number)

    def ends(self, within: float) -> bool:
        """Whether all its processes are gone within so many seconds."""
        deadline = time.monotonic() + within
        while self._process.poll() is None or self._has_orphans():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def _has_orphans(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def workers(self) -> list[int]:
        """The process ids of its worker processes, as ps shows them now."""
        listing = subprocess.run(["ps", "-Aww", "-o", "ppid=,pid=,args="], capture_output=True, text=True, check=True)
        rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
        return [int(pid) for parent, pid, *told in rows if int(parent) == self._process.pid and _works(*told)]

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not heard within 10 s."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def get(
        self, target: str, headers: Mapping[str, str] | None = None, method: str = "GET", timeout: float = 10
    ) -> Reply:
        """One request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, target, headers={**NAVIGATION, **(headers or {})})
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text(errors='replace')}")


class Reply:
    """A response, read to its end."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.getheaders()
        self.body = response.read()

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def cookies(self) -> dict[str, str]:
        """Set-Cookie by name: the whole value with its attributes."""
        lines = [value for key, value in self.headers if key.lower() == "set-cookie"]
        return {line.partition("=")[0]: line.partition("=")[2] for line in lines}

    @property
    def jar(self) -> str:
        """A Cookie header that brings all of them back."""
        return "; ".join(f"{name}={value.partition(';')[0]}" for name, value in self.cookies.items())

    @property
    def reason(self) -> str | None:
        return self.header("X-Adtarget-Reason")


@contextmanager
def serving(
    kind: str,
    environment: Mapping[str, str],
    folder: Path,
    workers: int = 1,
    *,
    app: str | None = None,
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """The landing site on uvicorn or gunicorn (threads), its settings from ``environment``.

    ``app`` is another factory of landing.py; ``options`` are more of the server's own.
    """
    port = free_port()
    commands = {
        "uvicorn": [
            "-m",
            "uvicorn",
            "--factory",
            f"landing:{app or 'asgi'}",
            "--no-proxy-headers",
            "--port",
            str(port),
            "--workers",
            str(workers),
        ],
        "gunicorn": [
            "-m",
            "gunicorn",
            f"landing:{app or 'wsgi'}()",
            "--threads",
            "8",
            "-b",
            f"127.0.0.1:{port}",
            "-w",
            str(workers),
        ],
    }
    server = Server([sys.executable, *commands[kind], *options], port, environment, folder / f"{kind}.log")
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def nginx_before(upstream: int, folder: Path) -> Iterator[Server]:
    """A real nginx in front of ``upstream``, as its manual sets X-Forwarded-*."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    require(Path(program).exists(), "nginx is not installed")
    port = free_port()
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}
        http {{
          access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
          uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; set_real_ip_from 127.0.0.1; real_ip_header X-Test-Client;
          server {{
            listen 127.0.0.1:{port};
            location / {{
              proxy_pass http://127.0.0.1:{upstream};
              proxy_set_header Host $http_host;
              proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
              proxy_set_header X-Forwarded-Proto https;
            }}
          }}
        }}"""
    )
    server = Server([program, "-c", str(config), "-e", str(folder / "error.log")], port, {}, folder / "nginx.log")
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require(is_there: bool, what: str) -> None:
    """Skip with the reason where something is not on this machine; a failure where everything is required."""
    if not is_there:
        if os.environ.get("ADTARGET_TEST_REQUIRE") == "all":
            pytest.fail(what)
        pytest.skip(what)


def _works(told: str = "") -> bool:
    """multiprocessing's own helper is no worker; nor is one that has died already."""
    return "resource_tracker" not in told and "<defunct>" not in told


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ADTARGET_")}
