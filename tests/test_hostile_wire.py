"""Nasty requests over a real socket: each server answers as it does without us, and no byte of theirs is in a header of ours."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_bytes import LINE, STATE, VISITOR
from serving import PERSON, Server, free_port
from shell_world import KNOWN, OURS

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

SERVERS = {
    "uvicorn, h11": (
        ["uvicorn", "--no-proxy-headers", "--http", "h11"],
        ["--factory", "landing:asgi"],
        ["landing:bare_asgi"],
    ),
    "uvicorn, httptools": (
        ["uvicorn", "--no-proxy-headers", "--http", "httptools"],
        ["--factory", "landing:asgi"],
        ["landing:bare_asgi"],
    ),
    "gunicorn": (["gunicorn", "--threads", "4"], ["landing:wsgi()"], ["landing:bare_wsgi"]),
}
FBP = b"_fbp=fb.1.1700000000000.1234567890"
COOKIES = KNOWN.encode() + b"; adtarget_state=" + STATE.encode()
HOST = b"Host: shop.test"


def cookie(*values: bytes) -> list[bytes]:
    return [HOST, *(b"Cookie: " + value for value in values)]


ROWS: dict[str, tuple[bytes, list[bytes]]] = {
    "a good one": (b"/?fbclid=IwAR0", cookie(COOKIES)),
    "JSON beside ours": (b"/", cookie(b'prefs={"a": "b;c, \\"d\\""}; ' + COOKIES + b'; x="')),
    "stray latin-1": (b"/", cookie(b"n=Zo\xeb\xff; " + COOKIES + b"; \xfe")),
    "stray UTF-8": (b"/", cookie("имя=Зоя; ".encode() + COOKIES)),
    "digits of latin-1 in the state": (
        b"/",
        cookie(f"adtarget_temp_id={VISITOR}; adtarget_state={VISITOR}!".encode() + b"\xb2" * 10 + b"!1!!x.y"),
    ),
    "quoted values": (b"/", cookie(b'_fbp="fb.1.1700000000000.1"; adtarget_session_id="a b"')),
    "a control character": (b"/", cookie(COOKIES + b"; a=\x1b[31m\x7f")),
    "NUL": (b"/", cookie(b"a=\x00; " + COOKIES)),
    "a bare line feed": (b"/", cookie(b"a=1\nSet-Cookie: x=1; " + COOKIES)),
    "a folded line": (b"/", cookie(b"a=1;\r\n " + COOKIES)),
    "two lines": (b"/", cookie(COOKIES, FBP + b"1")),
    "each cookie five times": (b"/", cookie(b"; ".join([COOKIES] * 5))),
    "two hundred _fbp": (b"/", cookie(b"; ".join(FBP + str(n).encode() for n in range(200)))),
    "7 KB of cookies": (b"/", cookie(b"a=" + b"x" * 7_000 + b"; " + COOKIES)),
    "60 KB of cookies": (b"/", cookie(b"a=" + b"x" * 60_000 + b"; " + COOKIES)),
    "66 KB of cookies": (b"/", cookie(COOKIES + b"; a=" + b"x" * 66_000)),
    "60 KB of semicolons": (b"/", cookie(b"; " * 30_000)),
    "a click id that is a header": (b"/?fbclid=a%0D%0ASet-Cookie:%20x=1", [HOST]),
    "a query of raw bytes": (b"/?fbclid=\xff&utm_source=\xd1\x84&gclid=\x85", [HOST]),
    "a query of 6 KB": (b"/?utm_term=" + b"%F0%9F%98%80" * 500, [HOST]),
    "a path of raw bytes": (b"/\xff\xfe", [HOST]),
    "a path of encoded bytes": (b"/%ff%c3%28%00", [HOST]),
    "two slashes": (b"//evil.test/", [HOST]),
    "the absolute form": (b"http://shop.test/?fbclid=a", [HOST]),
    "a Referer of raw bytes": (b"/", [HOST, b"Referer: https://shop.test/\xff?fbclid=\xff"]),
    "a Referer that is none": (b"/", [HOST, b"Referer: http://[::1/?fbclid=a"]),
    "addresses that are none": (
        b"/",
        [HOST, b"X-Forwarded-For: \xff, ;;, [::1, 1.2.3.4:\xb2, ,,", b"X-Forwarded-Proto: \xff"],
    ),
    "a hundred hops": (b"/", [HOST, b"X-Forwarded-For: " + b"127.0.0.1, " * 100 + b"203.0.113.9"]),
    "a forwarded host that is none": (b"/", [HOST, b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-Host: a\xffb, \xff"]),
    "a host of raw bytes": (b"/", [b"Host: \xff\xfe"]),
    "a host that is none": (b"/", [b"Host: a b;c"]),
    "an open bracket": (b"/", [b"Host: [::1"]),
    "two hosts": (b"/", [HOST, b"Host: evil.test"]),
    "no host": (b"/", []),
    "a route": (b"/c/vip?fbclid=%FF", cookie(b"\xff=\xfe; " + COOKIES)),
}
OWN = ("date", "cache-control", "x-adtarget-reason")  # the time, and what we are known to add


@dataclass(frozen=True)
class Wire:
    """What came back, byte for byte."""

    status: bytes
    headers: tuple[tuple[str, bytes], ...]
    body: bytes

    def all(self, name: str) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def less_ours(self) -> Wire:
        kept = [
            (name, value)
            for name, value in self.headers
            if name not in OWN and not (name == "set-cookie" and value.decode("latin-1").partition("=")[0] in OURS)
        ]
        return Wire(self.status, tuple(kept), self.body)


def ask(server: Server, target: bytes, headers: list[bytes]) -> Wire:
    """One request, and all that comes back until the server closes."""
    agent = [b"User-Agent: " + PERSON.encode(), b"Accept: text/html", b"Sec-Fetch-Dest: document", b"Connection: close"]
    request = b"\r\n".join([b"GET " + target + b" HTTP/1.1", *headers, *agent, b"", b""])
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while received := connection.recv(65_536):
                answer += received
        except ConnectionResetError:  # it had said no before it read to the end
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return Wire(status, tuple((name.decode("latin-1").lower(), value.strip()) for name, _, value in pairs), body)


@contextmanager
def running(kind: str, app: str, environment: dict[str, str], folder: Path) -> Iterator[Server]:
    program, wrapped, bare = SERVERS[kind]
    port = free_port()
    at = ["-b", f"127.0.0.1:{port}"] if kind == "gunicorn" else ["--port", str(port)]
    command = [sys.executable, "-m", *program, *at, *(wrapped if app == "wrapped" else bare)]
    server = Server(command, port, environment, folder / f"{app}.log")
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_answers_a_nasty_request_as_it_does_without_us(kind: str, tmp_path: Path) -> None:
    with Sandbox(rate=0) as sandbox:
        environment = {
            "ADTARGET_API_KEY": sandbox.api_key,
            "ADTARGET_API_URL": sandbox.api_url,
            "ADTARGET_OUTBOX": f"sqlite:///{tmp_path}/outbox.sqlite3",
            "ADTARGET_SECRET_KEY": "a-secret-key-of-the-tests",
            "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
            "ADTARGET_FALLBACK_URL": "https://t.me/fallback_channel",
            "ADTARGET_TRUSTED_PROXIES": "127.0.0.0/8",
            "ADTARGET_RATE": "100000",
            "ADTARGET_DEBUG": "true",
        }
        tracked = 0
        with running(kind, "bare", {}, tmp_path) as bare, running(kind, "wrapped", environment, tmp_path) as wrapped:
            for name, (target, headers) in ROWS.items():
                expected, answer = ask(bare, target, headers), ask(wrapped, target, headers)
                if name == "a route":
                    assert answer.status.startswith(b"HTTP/1.1 302"), name
                    assert re.fullmatch(rb"https://t\.me/\S+", answer.all("location")[0]), name
                else:
                    assert answer.less_ours() == expected.less_ours(), name
                lines = [line.decode("latin-1") for line in answer.all("set-cookie")]
                assert [line for line in lines if not LINE.fullmatch(line)] == [], name
                tracked += answer.all("x-adtarget-reason") == [b"tracked"]
            visits = sandbox.wait_for(tracked, "visit", timeout=20)
        log = (tmp_path / "wrapped.log").read_text(errors="replace")
    assert "failed in" not in log
    assert "Traceback" not in log
    assert tracked >= 15
    for visit in visits:
        fields = visit["fields"]
        assert re.fullmatch(r"https?://[!-~]*", fields["href"])
        assert re.fullmatch(r"fb\.[0-9]\.[0-9]{13}\.[!-~]{1,500}", fields["fbp"])
