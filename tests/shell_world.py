"""Both shells behind one face: the same requests, the same small apps and the same answers for ASGI and WSGI."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import unquote_to_bytes

from adtarget_proxy import asgi, wsgi
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.request import Tracking
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracker import Tracker
from adtarget_proxy.tracking.events import Event
from adtarget_proxy.tracking.state import State, StateSigner, derived_key

FALLBACK = "https://t.me/fallback"
PERSON = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148"
BROWSER = {"host": "shop.test", "user-agent": PERSON, "accept": "text/html,*/*", "sec-fetch-dest": "document"}
OURS = frozenset({"_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id", "adtarget_state"})
VISITOR = "11111111-2222-4333-8444-555555555555"
KNOWN = f"adtarget_temp_id={VISITOR}; adtarget_session_id=s-1; _fbp=fb.1.1700000000000.1234567890"


def signed(key: str = derived_key("atk_live_tests000_secret")) -> str:
    """The known visitor's cookies with the state that ``key`` has signed for them."""
    state = State(VISITOR, "fb.1.1700000000000.1234567890", 1_750_000_000, 1_750_000_000)
    return f"{KNOWN}; adtarget_state={StateSigner((key,)).dump(state)}"


SIGNED = signed()
HeaderPairs = tuple[tuple[str, str], ...]


def quiet(**over: Any) -> Settings:
    """Settings that send nothing but a click, and that to a port where nobody listens."""
    given: dict[str, Any] = {
        "api_key": "atk_live_tests000_secret",
        "api_url": "http://127.0.0.1:9/api/v1",
        "tracker_url": "http://127.0.0.1:9/backend",
        "outbox": "memory://",
        "deliver": "worker",
        "invites": {"vip": "-1001234567890"},
        "fallback_url": FALLBACK,
    }
    return Settings(**{**given, **over})


@dataclass(frozen=True)
class Request:
    """A request as a browser sends it. ``root`` is the mount point, ``path`` what follows it, percent-encoded.

    ``again`` are further lines of headers, which a WSGI server joins. The peer of a Unix socket is empty.
    """

    path: str = "/"
    query: str = ""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=lambda: BROWSER)
    peer: str | None = "203.0.113.7"
    scheme: str = "https"
    root: str = ""
    again: HeaderPairs = ()

    def having(self, **headers: str | None) -> Request:
        """The same request with other headers (``-`` for ``_``); None takes one away."""
        changed = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return replace(self, headers={name: value for name, value in changed.items() if value is not None})


PAGE = Request()
CLICK = Request("/c/vip")
KNOWN_PAGE = PAGE.having(cookie=KNOWN)
KNOWN_CLICK = CLICK.having(cookie=KNOWN)


@dataclass(frozen=True)
class Answer:
    """What reached the server; header names as they came."""

    status: int
    headers: HeaderPairs
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def cookies(self) -> dict[str, str]:
        """Name → value of every cookie set."""
        jar: SimpleCookie = SimpleCookie()
        for line in self.all("set-cookie"):
            name, _, rest = line.partition("=")
            jar[name] = rest.partition(";")[0]
        return {name: morsel.value for name, morsel in jar.items()}

    def without_ours(self) -> Answer:
        """Less the five cookies, the opt-out and the documented Cache-Control: what must be the app's own, byte for byte."""
        kept = tuple(
            (name, value)
            for name, value in self.headers
            if name.lower() != "cache-control"
            and not (name.lower() == "set-cookie" and value.partition("=")[0] in {*OURS, "adtarget_optout"})
        )
        return replace(self, headers=kept)


@dataclass(frozen=True)
class View:
    """A small app: its answer, and what it does with the Tracking it finds."""

    status: str = "200 OK"
    headers: HeaderPairs = (("content-type", "text/html; charset=utf-8"),)
    chunks: tuple[bytes, ...] = (b"<h1>Hello</h1>",)
    look: Callable[[Any], object] = lambda tracking: None


HTML = View()


class AsgiShell:
    """The ASGI shell under a server of a few lines."""

    middleware = asgi.AdTargetMiddleware

    def app(self, view: View) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            view.look(scope.get("adtarget"))
            headers = [(name.encode(), value.encode("latin-1")) for name, value in view.headers]
            await send({"type": "http.response.start", "status": int(view.status[:3]), "headers": headers})
            for chunk in view.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        return app

    def ask(self, app: Any, request: Request) -> Answer:
        return asyncio.run(self.talk(app, self.scope(request)))

    async def talk(self, app: Any, scope: Any) -> Answer:
        sent: list[Any] = []
        body = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return body.pop() if body else await asyncio.Event().wait()  # the visitor stays

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        start = sent[0]
        pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"])
        return Answer(start["status"], pairs, b"".join(message.get("body", b"") for message in sent[1:]))

    def scope(self, request: Request, **over: Any) -> dict[str, Any]:
        path = request.root + request.path
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.scheme,
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode(),
            "query_string": request.query.encode("latin-1"),
            "root_path": request.root,
            "headers": [
                (name.encode(), value.encode("latin-1")) for name, value in (*request.headers.items(), *request.again)
            ],
            "client": (request.peer, 40000) if request.peer else None,
            "server": ("/run/shop.sock", None) if request.peer == "" else ("127.0.0.1", 80),
            **over,
        }


class WsgiShell:
    """The WSGI shell under a server of a few lines."""

    middleware = wsgi.AdTargetMiddleware

    def app(self, view: View) -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            view.look(environ.get("adtarget"))
            start_response(view.status, list(view.headers))
            return list(view.chunks)

        return app

    def ask(self, app: Any, request: Request) -> Answer:
        return self.talk(app, self.environ(request))

    def talk(self, app: Any, environ: Any) -> Answer:
        started: list[tuple[str, HeaderPairs]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started.append((status, tuple(headers)))
            return lambda data: None

        chunks = app(environ, start_response)
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        status, headers = started[-1]
        return Answer(int(status[:3]), headers, body)

    def environ(self, request: Request, **over: Any) -> dict[str, Any]:
        return {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": request.root,
            "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
            "QUERY_STRING": request.query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": request.peer or "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": request.scheme,
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            **self.variables((*request.headers.items(), *request.again)),
            **over,
        }

    def variables(self, headers: HeaderPairs) -> dict[str, str]:
        """Headers as CGI names them (RFC 3875, 4.1.18)."""
        found: dict[str, str] = {}
        for name, value in headers:
            key = "HTTP_" + name.upper().replace("-", "_")
            found[key] = f"{found[key]},{value}" if key in found else value
        return found


Shell = AsgiShell | WsgiShell


def kept(tracker: Tracker) -> list[Event]:
    """Takes what the outbox keeps, each visitor's events in their order, and settles it."""
    outbox, found = tracker.outbox, []
    Pump(outbox).own(time.time())
    accounts = [account.id for account in tracker.settings.accounts]
    later = time.time() + 3600  # also what is not due yet
    while claims := outbox.store.claim(accounts, owner="test", now=later, limit=100):
        for claim in claims:
            found.append(claim.event)
            outbox.store.settle(claim.event.id, now=later)
    return found


def snapshot(tracking: Tracking) -> dict[str, str | None]:
    """What an app reads of a Tracking while its request lasts."""
    names = ("visitor_id", "session_id", "fbp", "fbc", "client_ip", "event_id", "reason")
    return {name: getattr(tracking, name) for name in names}
