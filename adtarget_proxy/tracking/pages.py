"""Is it a page view? May its response carry a cookie?

A page view is a GET for a document. Browsers say so in ``Sec-Fetch-Dest``; where none is sent, ``Accept`` holds ``text/html``.
Whole htmx (``HX-Boosted``), Turbo and Inertia visits count, fragments do not. The response is 2xx ``text/html`` and no download.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from adtarget_proxy.tracking.facts import Facts, Response

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


def is_page(response: Response, *, inertia: bool) -> bool:
    """Whether a 2xx response is a page: HTML (or Inertia's own JSON for an Inertia visit) and no download."""
    headers = response.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/html" and not (inertia and headers.get("x-inertia")):
        return False
    return not headers.get("content-disposition", "").lower().lstrip().startswith("attachment")


# -- caches ----------------------------------------------------------------------------------------------------------------


def _speaks_to_cdn(name: str) -> bool:
    return name in ("surrogate-control", "edge-control", "x-accel-expires") or name.endswith("cdn-cache-control")


def is_cacheable(headers: Mapping[str, str], now: float) -> bool:
    """Whether a shared cache may keep the response (the rule of ``cache="skip"``)."""
    if any(_speaks_to_cdn(name) for name in headers):
        return True
    directives = _directives(headers.get("cache-control", ""))
    if directives.keys() & {"private", "no-store"}:
        return False
    if directives.keys() & _SHARED or any(_MAX_AGE.match(text) for text in directives.values()):
        return True
    return bool(headers.get("expires")) and _in_future(headers["expires"], now)


def protected(headers: Mapping[str, str]) -> tuple[str | None, frozenset[str]]:
    """What ``cache="protect"`` does to a page that gains cookies: its new Cache-Control, and the headers to take off.

    None where Cache-Control stays as it is: ``public``, ``s-maxage`` and ``immutable`` give way to ``private``, all else stays.
    """
    dropped = frozenset(name for name in headers if _speaks_to_cdn(name))
    value = headers.get("cache-control")
    if value is None:
        return "private", dropped
    directives = _directives(value)
    kept = [text for name, text in directives.items() if name not in _SHARED]
    if not directives.keys() & {"private", "no-store"}:
        kept.insert(0, "private")
    elif len(kept) == len(directives):
        return None, dropped
    return ", ".join(kept), dropped


def _directives(value: str) -> dict[str, str]:
    """Cache-Control's directives: lower-case name → the text as it stands."""
    found = {}
    for text in re.findall(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', value):
        name = text.partition("=")[0].strip().lower()
        if name:
            found[name] = text.strip()
    return found


def _in_future(text: str, now: float) -> bool:
    try:
        return parsedate_to_datetime(text).timestamp() > now
    except (TypeError, ValueError, OverflowError):
        return False
