"""The WSGI shell: it translates an environ into facts and an outcome into headers. What happens is decided elsewhere.

The app's iterable goes back unchanged, with its ``len``, its ``close`` and its laziness; headers are decided inside
``start_response``, which a generator calls at its first ``next``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from adtarget_proxy.rescue import rescued
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracker import Facts, Outcome, Plan, Reply, Response, Tracker, Tracking, decides

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HeaderList = list[tuple[str, str]]
_STATUS = {302: "302 Found", 503: "503 Service Unavailable"}


class AdTargetMiddleware:
    """Wraps a WSGI app; without ``settings`` they come from the environment. Raises SettingsError where they cannot work."""

    def __init__(self, app: WSGIApplication, settings: Settings | None = None) -> None:
        self.app = app
        self.tracker = Tracker(settings)
        self.tracker.require_sync()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "adtarget" in environ:  # installed twice works once
            return self.app(environ, start_response)
        tracker = self.tracker
        planned: Plan | None = None
        reply: Reply | None = None
        try:
            planned = tracker.plan(WsgiFacts(environ))
            environ["adtarget"] = Tracking(planned, tracker)
            if tracker.takes_over(planned):
                reply = tracker.answer(planned)
            elif tracker.watches(planned):
                start_response = self._finishing(start_response, planned)
        except Exception:
            reply = self._rescued(environ, planned)
        if reply is None:
            return self.app(environ, start_response)
        start_response(_STATUS[reply.status], list(reply.headers))
        return [b""]

    def flush(self, timeout: float = 2.0) -> int:
        """Send what waits, for at most ``timeout`` seconds; returns how many events are left."""
        return self.tracker.flush(timeout)

    def close(self, timeout: float = 2.0) -> int:
        """Flush, then stop sending; returns how many events are left. They stay in the outbox for the next start."""
        return self.tracker.close(timeout)

    def _finishing(self, start_response: StartResponse, planned: Plan) -> StartResponse:
        tracker = self.tracker

        def finishing(status: str, headers: HeaderList, *exc_info: Any, **named: Any) -> Any:
            try:
                if not isinstance(headers, list):  # an iterator could be read only once
                    headers = list(headers)
                outcome = tracker.finish(planned, Response(int(status[:3]), _by_name(headers)))
                headers = with_outcome(headers, outcome, tracker.settings.debug)
            except Exception:
                with suppress(Exception):
                    tracker.fault("finish", planned)
            return start_response(status, headers, *exc_info, **named)

        return finishing

    def _rescued(self, environ: WSGIEnvironment, planned: Plan | None) -> Reply | None:
        def show(unplanned: Plan) -> None:
            environ["adtarget"] = Tracking(unplanned, self.tracker)

        method, host = environ.get("REQUEST_METHOD", ""), environ.get("HTTP_HOST")
        return rescued(self.tracker, planned, method, lambda: _path(environ), lambda: host, show)


class WsgiFacts(Facts):
    """The facts of an environ, read while the request lasts."""

    __slots__ = ("_environ",)

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ.copy()  # the environ will hold the Tracking that holds these: no cycle to collect (W6)
        self.method = environ["REQUEST_METHOD"]
        self.scheme = environ["wsgi.url_scheme"]
        self.path = _path(environ)
        self.query = environ.get("QUERY_STRING", "")
        peer = environ.get("REMOTE_ADDR")
        self.peer = _peer(peer)
        fixed = environ.get("werkzeug.proxy_fix.orig")  # what ProxyFix, where it is outside of us, has written over
        self.hop = _hop(peer, fixed) if fixed is not None else None

    def header(self, name: str) -> str | None:
        value: str | None = self._environ.get(_KEYS[name])
        return value

    def has_any(self, names: frozenset[str]) -> bool:
        return not self._environ.keys().isdisjoint(_GROUPS[names])

    def raw_headers(self, names: tuple[str, ...]) -> tuple[str | bytes | None, ...]:
        return tuple(map(self._environ.get, _GROUPS[names]))

    @property
    def raw_path(self) -> str:
        path: str = self._environ.get("SCRIPT_NAME", "") + self._environ.get("PATH_INFO", "")
        return quote(path.encode("latin-1", "replace"), safe="!$&'()*+,-./:;=@_~")


class _Keys(dict[str, str]):
    """Header names as CGI spells them, each made once."""

    def __missing__(self, name: str) -> str:
        self[name] = key = "HTTP_" + name.upper().replace("-", "_")
        return key


class _Groups(dict[Collection[str], tuple[str, ...]]):
    """Groups of header names, each made once."""

    def __missing__(self, names: Collection[str]) -> tuple[str, ...]:
        self[names] = keys = tuple(_KEYS[name] for name in names)
        return keys


_KEYS = _Keys()
_GROUPS = _Groups()


def with_outcome(headers: HeaderList, outcome: Outcome, debug: bool) -> HeaderList:
    """A new header list: the app's, less what the outcome takes off, plus what it adds."""
    gone = outcome.dropped
    new = [pair for pair in headers if pair[0].lower() not in gone] if gone else list(headers)
    if outcome.cache_control is not None:
        new.append(("Cache-Control", outcome.cache_control))
    for cookie in outcome.cookies:
        new.append(("Set-Cookie", cookie))
    if debug:
        new.append(("X-Adtarget-Reason", outcome.reason))
    return new


def _by_name(headers: HeaderList) -> dict[str, str]:
    """What decides of a response's headers."""
    table: dict[str, str] = {}
    for name, value in headers:
        if decides(name):
            key = name.lower()
            table[key] = f"{table[key]}, {value}" if key in table else value
    return table


def _peer(text: str | None) -> str | None:
    return "unix" if text in ("", "unix:") else text


def _hop(peer: str | None, fixed: dict[str, str | None]) -> str | None:
    before = fixed.get("REMOTE_ADDR")
    return None if before == peer else _peer(before) or ""


def _path(environ: WSGIEnvironment) -> str:
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace")
