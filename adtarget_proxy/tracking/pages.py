"""Is it a page view? May its response carry a cookie?

A page view is a GET for a document. Browsers say so in ``Sec-Fetch-Dest``; where none is sent, ``Accept`` holds ``text/html``.
Whole htmx (``HX-Boosted``), Turbo and Inertia visits count, fragments do not. The response is 2xx ``text/html`` and no download.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache

from adtarget_proxy.tracking.facts import Facts, Response

_NONE: frozenset[str] = frozenset()
_DECIDING = frozenset({"content-type", "content-disposition", "x-inertia", "cache-control", "expires"})
_SHARED = frozenset({"public", "s-maxage", "immutable"})
_MAX_AGE = re.compile(r'max-age\s*=\s*"?0*[1-9]', re.IGNORECASE)


def asks_for_page(facts: Facts) -> bool:
    """Whether the request is a navigation, by the request alone."""
    if facts.method != "GET":
        return False
    destination = facts.header("sec-fetch-dest")
    if destination == "document":
        return True
    if destination is not None and destination != "empty":
        return False
    return _fetched_whole_page(facts, by_script=destination is not None)


def _fetched_whole_page(facts: Facts, *, by_script: bool) -> bool:
    """A request without ``Sec-Fetch-Dest``, or one made by a script: does it want a whole page?"""
    header = facts.header
    if header("x-inertia"):
        return header("x-inertia-partial-data") is None and header("x-inertia-partial-component") is None
    if header("hx-request"):
        return header("hx-boosted") == "true"
    if header("turbo-frame") or "text/html" not in (header("accept") or "").lower():
        return False
    if by_script:
        return header("x-turbo-request-id") is not None or header("turbolinks-referrer") is not None
    return (header("x-requested-with") or "").lower() != "xmlhttprequest"


def is_page(response: Response, facts: Facts) -> bool:
    """Whether a 2xx response is a page: HTML (or Inertia's own JSON for an Inertia visit) and no download."""
    headers = response.headers
    if not _is_html(headers.get("content-type", "")) and not ("x-inertia" in headers and facts.header("x-inertia")):
        return False
    disposition = headers.get("content-disposition")
    return disposition is None or not disposition.lower().lstrip().startswith("attachment")


@lru_cache(maxsize=256)
def _is_html(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/html"


# -- caches ----------------------------------------------------------------------------------------------------------------


def speaks_to_cdn(name: str) -> bool:
    """Whether a response header (lower-case) is for a CDN alone."""
    return name in ("surrogate-control", "edge-control", "x-accel-expires") or name.endswith("cdn-cache-control")


@lru_cache(maxsize=1024)
def decides(name: str) -> bool:
    """Whether a response header, in any case, has a say here; a shell need not tell of any other."""
    name = name.lower()
    return name in _DECIDING or speaks_to_cdn(name)


def is_cacheable(headers: Mapping[str, str], now: float) -> bool:
    """Whether a shared cache may keep the response (the rule of ``cache="skip"``)."""
    if any(map(speaks_to_cdn, headers)):
        return True
    directives = _directives(headers.get("cache-control", ""))
    if _is_private(directives):
        return False
    if any(name in _SHARED or _MAX_AGE.match(text) for name, text in directives):
        return True
    return bool(headers.get("expires")) and _in_future(headers["expires"], now)


def protected(headers: Mapping[str, str]) -> tuple[str | None, frozenset[str]]:
    """What ``cache="protect"`` does to a page that gains cookies: the Cache-Control to write, and the headers to take off.

    None where Cache-Control stays as it is: ``public``, ``s-maxage`` and ``immutable`` give way to ``private``, all else stays.
    """
    value = headers.get("cache-control")
    cache_control = "private" if value is None else _made_private(value)
    dropped = _NONE
    for name in headers:
        if (name == "cache-control" and cache_control is not None) or (name not in _DECIDING and speaks_to_cdn(name)):
            dropped |= {name}
    return cache_control, dropped


@lru_cache(maxsize=256)
def _made_private(value: str) -> str | None:
    directives = _directives(value)
    kept = [text for name, text in directives if name not in _SHARED]
    if not _is_private(directives):
        kept.insert(0, "private")
    elif len(kept) == len(directives):
        return None
    return ", ".join(kept)


def _is_private(directives: list[tuple[str, str]]) -> bool:
    """``private="set-cookie"`` is not: it lets a shared cache keep all but that header (RFC 9111, 5.2.2.7)."""
    return any(text.lower() in ("private", "no-store") for _, text in directives)


def _directives(value: str) -> list[tuple[str, str]]:
    """Cache-Control's directives: the name in lower case, and the text as it stands."""
    pieces = re.findall(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', value)
    return [(name, text.strip()) for text in pieces if (name := text.partition("=")[0].strip().lower())]


def _in_future(text: str, now: float) -> bool:
    try:
        return parsedate_to_datetime(text).timestamp() > now
    except (TypeError, ValueError, OverflowError):
        return False
