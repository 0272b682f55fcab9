"""Design, "Page view"; meta-cookies, "Caches"; correctness C2."""

from __future__ import annotations

import pytest
from tracking_world import HTML, NOW, Request

from adtarget_proxy.tracking.facts import Response
from adtarget_proxy.tracking.pages import asks_for_page, is_cacheable, is_page, protected

XHR = {"sec-fetch-dest": "empty", "sec-fetch-mode": "cors", "accept": "*/*"}
OLD = {"sec-fetch-dest": None, "sec-fetch-mode": None}  # a browser that sends no Sec-Fetch-*


@pytest.mark.parametrize(
    ("what", "method", "headers", "page"),
    [
        ("a navigation", "GET", {}, True),
        ("a navigation that accepts anything", "GET", {"accept": "*/*"}, True),
        ("HEAD", "HEAD", {}, False),
        ("POST", "POST", {}, False),
        ("lower-case get", "get", {}, False),
        *(
            (f"a browser's {kind}", "GET", {"sec-fetch-dest": kind}, False)
            for kind in ("image", "script", "style", "iframe", "empty", "font")
        ),
        ("an old browser's navigation", "GET", OLD, True),
        ("an old browser's TEXT/HTML", "GET", {**OLD, "accept": "TEXT/HTML"}, True),
        ("an old browser's picture", "GET", {**OLD, "accept": "image/webp,*/*;q=0.8"}, False),
        ("no Accept", "GET", {**OLD, "accept": None}, False),
        ("an old browser's XMLHttpRequest", "GET", {**OLD, "x-requested-with": "XMLHttpRequest"}, False),
        ("a script's request", "GET", XHR, False),
        ("a script that wants HTML", "GET", {**XHR, "accept": "text/html"}, False),
        ("an htmx fragment", "GET", {**XHR, "hx-request": "true", "accept": "text/html"}, False),
        ("an old browser's htmx fragment", "GET", {**OLD, "hx-request": "true"}, False),
        ("a boosted htmx visit", "GET", {**XHR, "hx-request": "true", "hx-boosted": "true"}, True),
        ("an old browser's boosted visit", "GET", {**OLD, "hx-request": "true", "hx-boosted": "true"}, True),
        (
            "a Turbo visit",
            "GET",
            {**XHR, "accept": "text/html, application/xhtml+xml", "x-turbo-request-id": "1"},
            True,
        ),
        (
            "a Turbolinks visit",
            "GET",
            {**XHR, "accept": "text/html", "turbolinks-referrer": "https://shop.example/"},
            True,
        ),
        (
            "a Turbo frame",
            "GET",
            {**XHR, "accept": "text/html", "turbo-frame": "cart", "x-turbo-request-id": "1"},
            False,
        ),
        ("a Turbo stream", "GET", {**XHR, "accept": "text/vnd.turbo-stream.html", "x-turbo-request-id": "1"}, False),
        ("an Inertia visit", "GET", {**XHR, "x-inertia": "true"}, True),
        ("a partial Inertia reload", "GET", {**XHR, "x-inertia": "true", "x-inertia-partial-data": "users"}, False),
        (
            "another partial Inertia reload",
            "GET",
            {**XHR, "x-inertia": "true", "x-inertia-partial-component": "Users"},
            False,
        ),
        ("an Inertia POST", "POST", {**XHR, "x-inertia": "true"}, False),
    ],
)
def test_a_page_view_is_told_by_the_request(what: str, method: str, headers: dict[str, str | None], page: bool) -> None:
    assert asks_for_page(Request(headers=headers, method=method)) is page, what


@pytest.mark.parametrize(
    ("headers", "inertia", "page"),
    [
        (HTML, False, True),
        ({"content-type": "Text/HTML"}, False, True),
        ({"content-type": " text/html ; charset=x"}, False, True),
        ({"content-type": "text/html", "content-disposition": "inline"}, False, True),
        ({"content-type": "text/html", "content-disposition": "Attachment; filename=a.html"}, False, False),
        ({"content-type": "text/htmlx"}, False, False),
        ({"content-type": "application/xhtml+xml"}, False, False),
        ({"content-type": "application/json"}, False, False),
        ({"content-type": "application/json", "x-inertia": "true"}, True, True),
        ({"content-type": "application/json", "x-inertia": "true"}, False, False),
        ({"content-type": "application/json"}, True, False),
        ({}, False, False),
    ],
)
def test_a_page_is_html_and_no_download(headers: dict[str, str], inertia: bool, page: bool) -> None:
    request = Request(headers={"x-inertia": "true" if inertia else None})
    assert is_page(Response(200, headers), request) is page


@pytest.mark.parametrize(
    ("value", "cacheable"),
    [
        (None, False),
        ("", False),
        ("no-cache", False),
        ("private, max-age=60", False),
        ("no-store", False),
        ("public, no-store", False),
        ("max-age=0", False),
        ("max-age=00, must-revalidate", False),
        ("max-age=60", True),
        ("Max-Age = 60", True),
        ('max-age="60"', True),
        ("public", True),
        ("PUBLIC, max-age=0", True),
        ("s-maxage=10", True),
        ("immutable", True),
        ("max-age=60, max-age=0", True),
        ("no-cache, max-age=60", True),
        ("stale-while-revalidate=60", False),
        (", ,", False),
        ('x="public, max-age=60"', False),
        # RFC 9111, 5.2.2.7: with field names it keeps a cache from these headers alone
        ('private="x-a, x-b", public', True),
        ('private="set-cookie"', False),
    ],
)
def test_cacheable_is_what_a_shared_cache_may_keep(value: str | None, cacheable: bool) -> None:
    assert is_cacheable({} if value is None else {"cache-control": value}, NOW) is cacheable


@pytest.mark.parametrize(
    ("headers", "cacheable"),
    [
        ({"expires": "Tue, 14 Nov 2023 23:00:00 GMT"}, True),
        ({"expires": "Tue, 14 Nov 2023 22:00:00 GMT"}, False),
        ({"expires": "0"}, False),
        ({"expires": "Tue, 14 Nov 2023 23:00:00 GMT", "cache-control": "private"}, False),
        ({"cdn-cache-control": "max-age=60"}, True),
        ({"cloudflare-cdn-cache-control": "max-age=60", "cache-control": "private"}, True),
        ({"surrogate-control": "max-age=60"}, True),
        ({"edge-control": "cache-maxage=60"}, True),
        ({"x-accel-expires": "60"}, True),
    ],
)
def test_what_speaks_to_a_cdn_and_a_future_expires_count_as_cacheable(headers: dict[str, str], cacheable: bool) -> None:
    assert is_cacheable(headers, NOW) is cacheable


@pytest.mark.parametrize(
    ("value", "after"),
    [
        (None, "private"),
        ("", "private"),
        ("no-cache", "private, no-cache"),
        ("max-age=60", "private, max-age=60"),
        ("public, max-age=60", "private, max-age=60"),
        ("public, max-age=60, s-maxage=600, immutable, must-revalidate", "private, max-age=60, must-revalidate"),
        ("PUBLIC", "private"),
        ("no-store, public", "no-store"),
        ("private, immutable", "private"),
        ('no-cache="set-cookie, x", public', 'private, no-cache="set-cookie, x"'),
        ('private="set-cookie", max-age=9', 'private, private="set-cookie", max-age=9'),
        ("max-age=0, max-age=60", "private, max-age=0, max-age=60"),
        ('x="public, a", s-maxage=1', 'private, x="public, a"'),
        # left as it is
        ("private", None),
        ("Private", None),
        ("NO-STORE, x", None),
        ("no-store", None),
        ("private, max-age=60", None),
    ],
)
def test_protect_makes_a_page_that_gains_cookies_private(value: str | None, after: str | None) -> None:
    taken_off = {"cache-control"} if value is not None and after is not None else set()
    assert protected({} if value is None else {"cache-control": value}) == (after, taken_off)


def test_protect_takes_off_what_speaks_to_a_cdn_alone() -> None:
    spoken = {"cdn-cache-control", "vercel-cdn-cache-control", "surrogate-control", "edge-control", "x-accel-expires"}
    headers = {"cache-control": "private", "vary": "Accept", "expires": "0", **dict.fromkeys(spoken, "1")}
    assert protected(headers) == (None, spoken)
