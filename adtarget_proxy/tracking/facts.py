"""What a shell tells the core about a request and a response: plain values, no framework, nothing read before it is needed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from adtarget_proxy.consent import Consent

_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_NOT_URL = re.compile(r"[^!$&-;=?-Z_a-z~%\[\]]")  # whatever RFC 3986 does not allow in a path or a query
_URL_SAFE = "!$%&'()*+,-./:;=?@[]_~"
_PATH_SAFE = "!$&'()*+,-./:;=@[]_~"  # a path's own percent and question mark were encoded
_MAX_HOST = 260  # characters: a domain name's 253 and a port
MAX_URL = 8192
MAX_AGENT = 1024


class Facts:
    """A request, as its shell saw it. A shell hands in a subclass that knows how to read a header.

    ``path`` is decoded and begins with the mount point; ``query`` is as it came, without the question mark; ``peer`` is the
    address at the other end of the socket, ``"unix"`` for a Unix socket, or None. ``hop`` is None, unless the server has put an
    address of its own reading in the peer's place: then it is the peer's, or ``""`` where the server kept no record of it.
    """

    __slots__ = ("consent", "hop", "method", "path", "peer", "query", "scheme")

    consent: Consent  # once it has been asked for

    def __init__(
        self, method: str, scheme: str, path: str, query: str, peer: str | None, hop: str | None = None
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.path = path
        self.query = query
        self.peer = peer
        self.hop = hop

    def header(self, name: str) -> str | None:
        """A request header by its lower-case name, its lines joined as HTTP says, or None."""
        raise NotImplementedError

    def has_any(self, names: frozenset[str]) -> bool:
        """Whether the request has any of these headers; asked of all that are rare, so that a page pays for one look."""
        return any(self.header(name) is not None for name in names)

    def raw_headers(self, names: tuple[str, ...]) -> tuple[str | bytes | None, ...]:
        """These headers as the server handed them on, undecoded: only to see that they are the same again."""
        return tuple(map(self.header, names))

    @property
    def raw_path(self) -> str:
        """The path as the visitor's address bar shows it, percent-encoded."""
        return quote(self.path, safe=_PATH_SAFE, errors="replace")


class Response(NamedTuple):
    """The head of a response: the status, and its headers by lower-case name (several lines joined by a comma)."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Geo:
    """Where a visitor is, as far as known: ISO country code, region, city."""

    country: str | None = None
    region: str | None = None
    city: str | None = None


def public_host(text: str | None) -> str | None:
    """A Host header as it may stand in a URL, in lower case; None where it is none."""
    return _public_host(text) if text and len(text) <= _MAX_HOST else None


@lru_cache(maxsize=1024)
def _public_host(text: str) -> str | None:
    if _HOST.fullmatch(text) is None:
        return None
    host = text.lower()
    return host if not host.startswith("[") or _is_ipv6(bare_host(host)) else None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def bare_host(host: str) -> str:
    """``host`` without port, brackets and trailing dot: what cookies and site patterns look at."""
    if host.startswith("["):
        return host[1 : host.index("]")]
    return host.partition(":")[0].rstrip(".")


def url_text(text: str) -> str:
    """``text`` with every character that a URL cannot hold percent-encoded as UTF-8; what is already encoded stays."""
    return text if _NOT_URL.search(text) is None else quote(bytes_of(text), safe=_URL_SAFE)


def bytes_of(text: str) -> bytes:
    """The bytes that were sent: shells hand headers on as latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
