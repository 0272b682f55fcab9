"""What a ``consent`` function is asked about, and what its answer means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from asgiref.sync import iscoroutinefunction


class Consent(StrEnum):
    """What a visitor has said to tracking. *Unknown* (not asked yet, or unreadable) stores and sends nothing, like *denied*."""

    GRANTED = "granted"
    DENIED = "denied"
    UNKNOWN = "unknown"


class Request:
    """The request that ``consent`` is asked about: the same object under ASGI, WSGI, Django, Flask and FastAPI. Read-only.

    ``path`` is decoded and begins with the mount point, ``query`` is as it came, ``host`` is the one that the visitor sees, with its
    port where it has one, or None.
    """

    __slots__ = ("_cookies", "_header", "host", "method", "path", "query")

    def __init__(
        self, method: str, path: str, query: str, host: str | None, header: Callable[[str], str | None]
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.host = host
        self._header = header
        self._cookies: Mapping[str, str] | None = None

    def header(self, name: str) -> str | None:
        """A request header, its name in any case, its lines joined as HTTP says; None where there is none."""
        return self._header(name.lower())

    @property
    def cookies(self) -> Mapping[str, str]:
        """Name → value as the browser sent it, neither unquoted nor percent-decoded; of a name that came twice the first."""
        if self._cookies is None:
            self._cookies = _cookies(self._header("cookie") or "")
        return self._cookies

    def __repr__(self) -> str:
        """The path alone: cookies and query are personal data."""
        return f"<Request {self.method} {self.path}>"


def consent_of(answer: object) -> Consent | None:
    """What an answer means: True, False, None, or a Consent or its word. None for anything else."""
    if answer is None or isinstance(answer, bool):
        return Consent.UNKNOWN if answer is None else Consent.GRANTED if answer else Consent.DENIED
    return next((consent for consent in Consent if consent == answer), None)


def is_async(ask: Callable[..., Any] | None) -> bool:
    """Whether a ``consent`` function has to be awaited, which only ASGI can."""
    if ask is None or inspect.isclass(ask):
        return False
    return iscoroutinefunction(ask) or iscoroutinefunction(getattr(ask, "__call__", None))  # noqa: B004


def _cookies(header: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in header.split(";"):
        name, sign, value = pair.partition("=")
        if sign:
            found.setdefault(name.strip(), value.strip())
    return found
