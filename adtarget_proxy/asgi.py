"""The ASGI shell: it translates a scope into facts and an outcome into headers. What happens is decided elsewhere.

It touches ``http.response.start`` alone; every other message, ``receive``, and every scope that is not HTTP pass by as they are. The app's
exceptions and cancellation go out unchanged, and a fault of ours never reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope

from adtarget_proxy.rescue import rescued
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracker import Facts, Outcome, Plan, Reply, Response, Tracker, Tracking, decides

Headers = Sequence[tuple[bytes, bytes]]


class AdTargetMiddleware:
    """Wraps an ASGI app; without ``settings`` they come from the environment. Raises SettingsError where they cannot work."""

    def __init__(self, app: Any, settings: Settings | None = None) -> None:
        self.app: ASGI3Application = app
        self.tracker = Tracker(settings)

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._lifespan(scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        if "adtarget" in scope:  # installed twice works once
            await self.app(scope, receive, send)
            return
        tracker = self.tracker
        planned: Plan | None = None
        reply: Reply | None = None
        try:
            facts = AsgiFacts(scope)
            if tracker.asks_async:
                await tracker.ask(facts)
            planned = tracker.plan(facts)
            scope["adtarget"] = Tracking(planned, tracker)  # type: ignore[typeddict-unknown-key]
            if tracker.takes_over(planned):
                reply = await tracker.answer_async(planned)
            elif tracker.watches(planned):
                send = self._finishing(send, planned)
        except Exception:
            reply = self._rescued(scope, planned)
        if reply is None:
            await self.app(scope, receive, send)
        else:
            await _send_reply(send, reply)

    def flush(self, timeout: float = 2.0) -> int:
        """Send what waits, for at most ``timeout`` seconds; returns how many events are left."""
        return self.tracker.flush(timeout)

    def close(self, timeout: float = 2.0) -> int:
        """Flush, then stop sending; returns how many events are left. They stay in the outbox for the next start."""
        return self.tracker.close(timeout)

    def _finishing(self, send: Any, planned: Plan) -> Any:
        tracker = self.tracker

        async def finishing(message: Any) -> None:
            if message["type"] == "http.response.start":
                try:
                    headers = message.get("headers") or ()
                    if not isinstance(headers, (list, tuple)):  # an iterator can be read only once
                        headers = list(headers)
                        message = {**message, "headers": headers}
                    outcome = tracker.finish(planned, Response(message["status"], _by_name(headers)))
                    message = {**message, "headers": with_outcome(headers, outcome, tracker.settings.debug)}
                except Exception:
                    with suppress(Exception):
                        tracker.fault("finish", planned)
            await send(message)

        return finishing

    async def _lifespan(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self._safely("start", self.tracker.start)
        await self.app(scope, receive, send)
        if (
            self.tracker.has_served
        ):  # an app that knows no lifespan returns at start-up, which must not wait for a backlog
            self._safely("close", self.tracker.close)

    def _safely(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            with suppress(Exception):
                self.tracker.fault(name)

    def _rescued(self, scope: Any, planned: Plan | None) -> Reply | None:
        def show(unplanned: Plan) -> None:
            scope["adtarget"] = Tracking(unplanned, self.tracker)

        return rescued(self.tracker, planned, scope.get("method", ""), lambda: _path(scope), lambda: _host(scope), show)


def _host(scope: Any) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)


class AsgiFacts(Facts):
    """The facts of an HTTP scope. Headers are decoded when they are asked for."""

    __slots__ = (
        "_headers",
        "_raw_path",
    )  # not the scope, which holds the Tracking that holds these: no cycle to collect

    def __init__(self, scope: Any) -> None:
        headers = scope["headers"]
        if not isinstance(headers, (list, tuple)):  # an iterator can be read only once, and the app comes after us
            scope["headers"] = headers = list(headers)
        table = dict(headers)
        self._headers = table if len(table) == len(headers) else _joined(headers)
        self.method = scope["method"]
        self.scheme = scope.get("scheme", "http")
        self.path = path = _path(scope) if scope.get("root_path") else scope["path"]
        # Where the mount point had to be added, the raw path lacks it too.
        self._raw_path: bytes | None = scope.get("raw_path") if path is scope["path"] else None
        self.query = scope.get("query_string", b"").decode("latin-1")
        client = scope.get("client")
        self.peer = client[0] if client else _unix_peer(scope)
        # No connection comes from port 0: uvicorn writes it where it took the address from X-Forwarded-For.
        self.hop = "" if client and client[1] == 0 else None

    def header(self, name: str) -> str | None:
        value = self._headers.get(_NAMES[name])
        return None if value is None else value.decode("latin-1")

    def has_any(self, names: frozenset[str]) -> bool:
        return not _GROUPS[names].isdisjoint(self._headers)

    def raw_headers(self, names: tuple[str, ...]) -> tuple[str | bytes | None, ...]:
        return tuple(map(self._headers.get, _ROWS[names]))

    @property
    def raw_path(self) -> str:
        raw = self._raw_path
        if not raw:
            return super().raw_path
        return (raw.partition(b"?")[0] if b"?" in raw else raw).decode("latin-1")


class _Rows(dict[tuple[str, ...], tuple[bytes, ...]]):
    """Rows of header names, each encoded once."""

    def __missing__(self, names: tuple[str, ...]) -> tuple[bytes, ...]:
        self[names] = encoded = tuple(_NAMES[name] for name in names)
        return encoded


class _Names(dict[str, bytes]):
    """Header names as the scope spells them, each encoded once."""

    def __missing__(self, name: str) -> bytes:
        self[name] = encoded = name.encode("latin-1")
        return encoded


class _Groups(dict[frozenset[str], frozenset[bytes]]):
    """Groups of header names, each encoded once."""

    def __missing__(self, names: frozenset[str]) -> frozenset[bytes]:
        self[names] = encoded = frozenset(_NAMES[name] for name in names)
        return encoded


_NAMES = _Names()
_GROUPS = _Groups()
_ROWS = _Rows()


def with_outcome(headers: Headers, outcome: Outcome, debug: bool) -> list[tuple[bytes, bytes]]:
    """A new header list: the app's, less what the outcome takes off, plus what it adds."""
    gone = outcome.dropped
    new = [pair for pair in headers if pair[0].decode("latin-1").lower() not in gone] if gone else list(headers)
    if outcome.cache_control is not None:
        new.append((b"cache-control", outcome.cache_control.encode("latin-1")))
    for cookie in outcome.cookies:
        new.append((b"set-cookie", cookie.encode("latin-1")))
    if debug:
        new.append((b"x-adtarget-reason", outcome.reason.encode("latin-1")))
    return new


def _by_name(headers: Headers) -> dict[str, str]:
    """What decides of a response's headers; few do, and names repeat."""
    table: dict[str, str] = {}
    for name, value in headers:
        key = _deciding_name(name)
        if key is not None:
            text = value.decode("latin-1")
            table[key] = f"{table[key]}, {text}" if key in table else text
    return table


@lru_cache(maxsize=1024)
def _deciding_name(name: bytes) -> str | None:
    text = name.decode("latin-1").lower()
    return text if decides(text) else None


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Repeated request headers joined as HTTP says; HTTP/2 may split a Cookie header (RFC 9113, 8.2.3)."""
    table: dict[bytes, bytes] = {}
    for name, value in headers:
        separator = b"; " if name == b"cookie" else b", "
        table[name] = table[name] + separator + value if name in table else value
    return table


def _path(scope: Any) -> str:
    """The path with its mount point, which servers before the ASGI specification 2.4 leave out of ``path`` (A10)."""
    path: str = scope["path"]
    root: str = (scope.get("root_path") or "").rstrip("/")
    if not root or (path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")):
        return path
    return root + path


def _unix_peer(scope: Any) -> str | None:
    server = scope.get("server")
    return "unix" if server and server[1] is None else None


async def _send_reply(send: Any, reply: Reply) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
