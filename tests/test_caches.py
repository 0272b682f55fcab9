"""C2 through both shells: what the three settings of ``cache`` do to a page's headers, and whom they track (meta-cookies, "Caches").

"A page that gains cookies must not be stored by a shared cache."
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from shell_world import KNOWN_PAGE, OURS, PAGE, HeaderPairs, Shell, View, kept, quiet

HTML: HeaderPairs = (("content-type", "text/html; charset=utf-8"),)
LATER, EARLIER = "Fri, 01 Jan 2100 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"


@dataclass(frozen=True)
class Case:
    """A page's own headers; its Cache-Control once it is protected (None: as it was); whether a shared cache may keep it."""

    own: HeaderPairs
    becomes: str | None
    cacheable: bool


def cc(value: str, becomes: str | None, cacheable: bool) -> Case:
    return Case((("cache-control", value),), becomes, cacheable)


CASES: dict[str, Case] = {
    "nothing": Case((), "private", False),
    "empty": cc("", "private", False),
    "commas": cc(", ,", "private", False),
    "public": cc("public", "private", True),
    "public, capitals": cc("PUBLIC", "private", True),
    "public, max-age": cc("public, max-age=60", "private, max-age=60", True),
    "public, max-age 0": cc("public, max-age=0, must-revalidate", "private, max-age=0, must-revalidate", True),
    "max-age": cc("max-age=60", "private, max-age=60", True),
    "max-age, capitals and spaces": cc("Max-Age = 60", "private, Max-Age = 60", True),
    "max-age, quoted": cc('max-age="60"', 'private, max-age="60"', True),
    "max-age 0": cc("max-age=0", "private, max-age=0", False),
    "max-age 00": cc("max-age=00", "private, max-age=00", False),
    "max-age twice": cc("max-age=60, max-age=0", "private, max-age=60, max-age=0", True),
    "max-age, nonsense": cc("max-age=soon", "private, max-age=soon", False),
    "s-maxage": cc("s-maxage=600", "private", True),
    "s-maxage 0": cc("s-maxage=0", "private", True),
    "all that is shared": cc("public, s-maxage=9, immutable, max-age=9", "private, max-age=9", True),
    "immutable": cc("max-age=31536000, immutable", "private, max-age=31536000", True),
    "no-cache": cc("no-cache", "private, no-cache", False),
    "no-cache with a field": cc('no-cache="set-cookie", public', 'private, no-cache="set-cookie"', True),
    "no-cache, max-age": cc("no-cache, max-age=60", "private, no-cache, max-age=60", True),
    "must-revalidate": cc("must-revalidate", "private, must-revalidate", False),
    "stale-while-revalidate": cc(
        "max-age=1, stale-while-revalidate=59", "private, max-age=1, stale-while-revalidate=59", True
    ),
    "no-transform": cc("no-transform", "private, no-transform", False),
    "an extension": cc('x="public, max-age=60"', 'private, x="public, max-age=60"', False),
    "private": cc("private", None, False),
    "private, capitals": cc("Private", None, False),
    "private, max-age": cc("private, max-age=60", None, False),
    "private with a field": cc('private="set-cookie"', 'private, private="set-cookie"', False),
    "public, private with a field": cc('public, private="x-a"', 'private, private="x-a"', True),
    "private and public": cc("private, public", "private", False),
    "private and s-maxage": cc("private, s-maxage=60", "private", False),
    "no-store": cc("no-store", None, False),
    "no-store and all the rest": cc("no-cache, no-store, must-revalidate", None, False),
    "no-store and public": cc("no-store, public", "no-store", False),
    "two lines": Case((("cache-control", "public"), ("cache-control", "max-age=60")), "private, max-age=60", True),
    "two lines, one private": Case((("cache-control", "private"), ("cache-control", "max-age=60")), None, False),
    "Expires later": Case((("expires", LATER),), "private", True),
    "Expires earlier": Case((("expires", EARLIER),), "private", False),
    "Expires 0": Case((("expires", "0"),), "private", False),
    "Expires -1": Case((("expires", "-1"),), "private", False),
    "Expires later, private": Case((("expires", LATER), ("cache-control", "private")), None, False),
    "Expires later, no-cache": Case((("expires", LATER), ("cache-control", "no-cache")), "private, no-cache", True),
    "Pragma": Case((("pragma", "no-cache"),), "private", False),
    "CDN-Cache-Control": Case((("cdn-cache-control", "max-age=60"),), "private", True),
    "CDN-Cache-Control, private": Case((("cdn-cache-control", "max-age=60"), ("cache-control", "private")), None, True),
    "Cloudflare-CDN-Cache-Control": Case((("cloudflare-cdn-cache-control", "max-age=60"),), "private", True),
    "Vercel-CDN-Cache-Control": Case((("vercel-cdn-cache-control", "s-maxage=60"),), "private", True),
    "Netlify-CDN-Cache-Control": Case((("netlify-cdn-cache-control", "public, durable"),), "private", True),
    "Surrogate-Control": Case((("surrogate-control", "max-age=60"),), "private", True),
    "Edge-Control": Case((("edge-control", "cache-maxage=1m"),), "private", True),
    "X-Accel-Expires": Case((("x-accel-expires", "60"),), "private", True),
    "Vary": Case((("vary", "Accept-Encoding"), ("cache-control", "private")), None, False),
    "Vary: *": Case((("vary", "*"),), "private", False),
    "an ETag": Case((("etag", '"x"'), ("cache-control", "no-cache")), "private, no-cache", False),
}
TO_CDNS = ("surrogate-control", "edge-control", "x-accel-expires")


@pytest.fixture
def wrap(shell: Shell) -> Iterator[Callable[..., Any]]:
    wrapped: list[Any] = []

    def make(own: HeaderPairs, cache: str, status: str = "200 OK") -> Any:
        wrapped.append(shell.middleware(shell.app(View(status, (*HTML, *own))), quiet(cache=cache)))
        return wrapped[-1]

    yield make
    for app in wrapped:
        app.close(0)


def beside(headers: HeaderPairs, *names: str) -> HeaderPairs:
    """Less our cookies and these names."""
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in names and not (name.lower() == "set-cookie" and value.partition("=")[0] in OURS)
    )


@pytest.mark.parametrize("name", CASES)
def test_protect_keeps_a_page_with_cookies_out_of_shared_caches_and_all_else_as_it_was(
    shell: Shell, wrap: Callable[..., Any], name: str
) -> None:
    case = CASES[name]
    answer = shell.ask(wrap(case.own, "protect"), PAGE)
    assert "adtarget_temp_id" in answer.cookies
    given = [value for key, value in case.own if key == "cache-control"]
    assert answer.all("cache-control") == (given if case.becomes is None else [case.becomes])
    to_cdns = tuple(key for key, _ in case.own if key in TO_CDNS or key.endswith("cdn-cache-control"))
    assert beside(answer.headers, "cache-control") == (*HTML, *beside(case.own, "cache-control", *to_cdns))


@pytest.mark.parametrize("name", CASES)
def test_leave_sets_cookies_and_changes_nothing(shell: Shell, wrap: Callable[..., Any], name: str) -> None:
    answer = shell.ask(wrap(CASES[name].own, "leave"), PAGE)
    assert "adtarget_temp_id" in answer.cookies
    assert beside(answer.headers) == (*HTML, *CASES[name].own)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("known", [False, True], ids=["new visitor", "known visitor"])
def test_skip_leaves_cacheable_pages_alone_and_counts_whoever_carries_a_temp_id(
    shell: Shell, wrap: Callable[..., Any], name: str, known: bool
) -> None:
    case = CASES[name]
    app = wrap(case.own, "skip")
    answer = shell.ask(app, KNOWN_PAGE if known else PAGE)
    assert beside(answer.headers) == (*HTML, *case.own)
    assert bool(answer.cookies) is not case.cacheable
    assert len(kept(app.tracker)) == (0 if case.cacheable and not known else 1)
    assert app.tracker.counts()["cacheable" if case.cacheable and not known else "tracked"] == 1


@pytest.mark.parametrize("cache", ["protect", "skip", "leave"])
@pytest.mark.parametrize("known", [False, True], ids=["new visitor", "known visitor"])
def test_a_304_gets_no_cookie_and_counts_whoever_carries_a_temp_id(
    shell: Shell, wrap: Callable[..., Any], cache: str, known: bool
) -> None:
    own = (("etag", '"x"'), ("cache-control", "public, max-age=60"), ("cdn-cache-control", "max-age=60"))
    app = wrap(own, cache, "304 Not Modified")
    answer = shell.ask(app, KNOWN_PAGE if known else PAGE)
    assert (answer.cookies, answer.headers) == ({}, (*HTML, *own))
    assert len(kept(app.tracker)) == int(known)
