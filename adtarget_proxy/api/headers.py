"""Header values made of what visitors send: whatever they hold, one header stays one header.

The exact value stays in the JSON body; only its copy in a header is made safe.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_MAX_VALUE = 1024  # servers refuse long header lines; no browser's User-Agent comes near
_MAX_REFERER = 4096  # Referrer Policy, 8.4: a longer URL is cut to its origin
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~-._"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def header_value(value: object) -> bytes | None:
    """``value`` as a header value (RFC 9110, 5.5), or None where nothing is left of it.

    Controls become spaces, what latin-1 lacks becomes ``?``; longer than 1 KB is cut.
    """
    if not isinstance(value, str):
        return None
    return _CONTROL.sub(" ", value)[:_MAX_VALUE].encode("latin-1", "replace").strip() or None


def address_value(value: object) -> bytes | None:
    """``value`` where it is exactly one IP address, else None: a list or a name is not passed on as one."""
    return _address(value) if isinstance(value, str) else None


@lru_cache(1024)  # a visitor has several events, and ipaddress reads an address in Python: 15 µs
def _address(value: str) -> bytes | None:
    try:
        return header_value(str(ip_address(value)))
    except ValueError:
        return None


def page_headers(href: object) -> list[tuple[bytes, bytes]]:
    """``Referer`` and ``Origin`` as a script on the page ``href`` would bring them; none where it is no web page's URL.

    The referrer is stripped as browsers do: no fragment, no user name, ASCII only, its origin alone where it is too long.
    """
    if not isinstance(href, str):
        return []
    try:
        parts = urlsplit(_CONTROL.sub("", href).strip())
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError:
        return []
    if parts.scheme not in _DEFAULT_PORTS or not host or quote(host, safe=":") != host:
        return []
    origin = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}"
    if port not in (None, _DEFAULT_PORTS[parts.scheme]):
        origin += f":{port}"
    query = f"?{parts.query}" if parts.query else ""
    referer = origin + quote((parts.path or "/") + query, safe=_URL_SAFE, errors="replace")
    if len(referer) > _MAX_REFERER:
        referer = origin + "/"
    return [(b"Referer", referer.encode("ascii")), (b"Origin", origin.encode("ascii"))]
