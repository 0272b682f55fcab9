"""Every request ends in one reason, the first that holds in the order of design.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tracking_world import AGENT, HTML, VIP, World

from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.facts import Response
from adtarget_proxy.tracking.rules import REASONS, Rules
from adtarget_proxy.tracking.visit import finish, plan

SITES = {
    "sites": {
        "shop.example": {"api_key": "atk_live_shopshop_x", "invites": {"vip": VIP}},
        "*.blog.example": {"website_id": "atid_blog"},
    },
    "invites": {},
}
OPT_OUT = {"cookie": "adtarget_optout=1"}
PNG = {"sec-fetch-dest": "image"}
AHEAD = {"sec-purpose": "prefetch"}
BOT = {"user-agent": "Googlebot"}
GPC = {"sec-gpc": "1"}
NO = {"consent": lambda facts: False}


@pytest.mark.parametrize(
    ("reason", "settings", "url", "headers"),
    [
        ("off", {"mode": "off"}, "https://shop.example/", {}),
        ("unknown-host", SITES, "https://other.example/", {}),
        ("unknown-host", SITES, "https://shop.example/", {"host": None}),
        ("unknown-host", {}, "https://shop.example/", {"host": None}),
        ("unknown-host", {}, "https://shop.example/", {"host": "not a host"}),
        ("unknown-host", {}, "https://shop.example/", {"host": "[20.1:db8::1]:80"}),
        ("unknown-host", {}, "https://shop.example/", {"host": "[::1::2]"}),
        (None, {}, "https://shop.example/", {"host": "[2001:DB8::1]:80"}),
        ("excluded", {}, "https://shop.example/admin/users", {}),
        ("excluded", {}, "https://shop.example/healthz", {}),
        ("excluded", {"include": ["/shop/*"]}, "https://shop.example/blog/", {}),
        ("excluded", {"include": ["/shop/*"], "exclude": ["*/cart"]}, "https://shop.example/shop/cart", {}),
        ("opted-out", {}, "https://shop.example/", OPT_OUT),
        ("not-a-page", {}, "https://shop.example/", PNG),
        ("prefetch", {}, "https://shop.example/", AHEAD),
        ("bot", {}, "https://shop.example/", BOT),
        ("bot", {}, "https://shop.example/", {"user-agent": None}),
        ("gpc", {}, "https://shop.example/", GPC),
        ("gpc", {"respect_dnt": True}, "https://shop.example/", {"dnt": "1"}),
        ("no-consent", NO, "https://shop.example/", {}),
        # what lets a request pass
        (None, {}, "https://shop.example/", {}),
        (None, {}, "https://shop.example/administration", {}),
        (None, {"exclude": []}, "https://shop.example/admin/users", {}),
        (None, {"include": ["/shop/*"]}, "https://shop.example/shop/shoes", {}),
        (None, {"respect_gpc": False}, "https://shop.example/", GPC),
        (None, {}, "https://shop.example/", {"dnt": "1"}),
        (None, {"consent": lambda facts: True}, "https://shop.example/", {}),
        (
            None,
            {},
            "https://shop.example/",
            {"cookie": "a=adtarget_optout; xadtarget_optout=1; adtarget_optout=  0 ; adtarget_optout="},
        ),
        (None, SITES, "https://news.blog.example/", {}),
        (None, SITES, "https://SHOP.example:8443/", {}),
    ],
)
def test_the_request_alone_decides(
    reason: str | None, settings: dict[str, Any], url: str, headers: Mapping[str, str | None]
) -> None:
    assert World(**settings).plan(url, headers).reason == reason


EVERYTHING: list[tuple[str, dict[str, Any], Mapping[str, str | None]]] = [
    ("off", {"mode": "off"}, {}),
    ("unknown-host", SITES, {"host": "other.example"}),
    ("excluded", {"exclude": ["/"]}, {}),
    ("opted-out", {}, OPT_OUT),
    ("not-a-page", {}, PNG),
    ("prefetch", {}, AHEAD),
    ("bot", {}, BOT),
    ("gpc", {}, GPC),
    ("no-consent", NO, {}),
]


@pytest.mark.parametrize("first", range(len(EVERYTHING)), ids=[name for name, _, _ in EVERYTHING])
def test_of_several_reasons_the_first_in_order_holds(first: int) -> None:
    settings: dict[str, Any] = {}
    headers: dict[str, str | None] = {}
    for _, setting, header in EVERYTHING[first:]:
        settings = {**setting, **settings}
        headers = {**header, **headers}
    if first > 1:
        settings = {name: value for name, value in settings.items() if name not in SITES}
        headers.pop("host", None)
    assert World(**settings).plan("https://shop.example/", headers).reason == EVERYTHING[first][0]


@pytest.mark.parametrize(
    ("reason", "status", "response", "settings"),
    [
        ("status", 404, HTML, {}),
        ("status", 302, HTML, {}),
        ("status", 500, HTML, {}),
        ("status", 304, {}, {}),
        ("not-html", 200, {"content-type": "application/json"}, {}),
        ("not-html", 204, {}, {}),
        ("not-html", 200, {**HTML, "content-disposition": "attachment"}, {}),
        ("cacheable", 200, {**HTML, "cache-control": "public"}, {"cache": "skip"}),
        ("tracked", 200, {**HTML, "cache-control": "public"}, {"cache": "protect"}),
        ("tracked", 200, HTML, {"cache": "skip"}),
        ("tracked", 201, HTML, {}),
    ],
)
def test_the_response_decides_the_rest(
    reason: str, status: int, response: dict[str, str], settings: dict[str, Any]
) -> None:
    outcome = World(**settings).page(status=status, response=response)
    assert outcome.reason == reason
    assert bool(outcome.events) is bool(outcome.cookies) is (reason == "tracked")


def test_the_reasons_are_a_closed_set_in_order() -> None:
    assert [name for name, _, _ in EVERYTHING] == list(REASONS[:9])


# -- invite routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "settings", "headers", "method"),
    [
        (None, {}, {}, "GET"),
        (None, {"exclude": ["/c/*"]}, {}, "GET"),
        (None, {"include": ["/shop/*"]}, {}, "GET"),
        (None, {}, PNG, "GET"),
        ("off", {"mode": "off"}, {}, "GET"),
        ("opted-out", {}, OPT_OUT, "GET"),
        ("not-a-page", {}, {}, "HEAD"),
        ("prefetch", {}, AHEAD, "GET"),
        ("bot", {}, {"user-agent": "TelegramBot"}, "GET"),
        ("gpc", {}, GPC, "GET"),
        ("no-consent", NO, {}, "GET"),
    ],
)
def test_an_invite_route_is_ours_whatever_include_and_exclude_say(
    reason: str | None, settings: dict[str, Any], headers: Mapping[str, str | None], method: str
) -> None:
    gate = World(**settings).plan("https://shop.example/c/vip", headers, method=method).gate
    assert (gate.slug, gate.reason) == ("vip", reason)
    assert gate.route is not None
    assert gate.route.fallback_url == "https://t.me/fallback"


@pytest.mark.parametrize(
    ("url", "method", "settings"),
    [
        ("https://shop.example/c/nobody", "GET", {}),
        ("https://shop.example/c/vip/", "GET", {}),
        ("https://shop.example/c/", "GET", {}),
        ("https://shop.example/C/vip", "GET", {}),
        ("https://shop.example/c/vip", "POST", {}),
        ("https://shop.example/c/vip", "GET", {"invite_path": "/join/{slug}.html"}),
        ("https://news.blog.example/c/vip", "GET", SITES),
        ("https://other.example/c/vip", "GET", SITES),
    ],
)
def test_any_other_path_and_method_is_the_apps(url: str, method: str, settings: dict[str, Any]) -> None:
    assert World(**settings).plan(url, method=method).gate.slug is None


def test_the_invite_path_may_surround_its_slug() -> None:
    world = World(invite_path="/join/{slug}.html")
    assert world.plan("https://shop.example/join/vip.html").gate.slug == "vip"
    assert world.rules.invite_path("vip") == "/join/vip.html"


def test_the_fallback_is_found_by_the_path_alone() -> None:
    rules = World().rules
    assert rules.fallback_for("/c/vip") == "https://t.me/fallback"
    assert rules.fallback_for("/c/vip", "shop.test") == "https://t.me/fallback"
    assert rules.fallback_for("/c/nobody") is None
    assert rules.fallback_for("/") is None


# -- several sites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "name"), [("shop.example", "shop.example"), ("news.blog.example", "*.blog.example")])
def test_a_visit_is_for_the_account_of_its_site(host: str, name: str) -> None:
    world = World(**SITES)
    site = world.settings.sites[name]
    (visit,) = world.page(f"https://{host}/").events
    assert visit.account == site.tracking_account.id
    assert visit.fields["href"] == f"https://{host}/"


def test_two_sites_do_not_read_each_others_state() -> None:
    """Each has its own account, so a state that one has signed says nothing to the other."""
    settings = Settings(**SITES, outbox="memory://")
    worlds = World(**SITES)
    shop = worlds.page("https://shop.example/?gclid=G1")
    assert shop.reason == "tracked"
    keys = {site.name: (site.name.rjust(16, "-"),) for site in settings.all_sites}
    rules = Rules(settings, lambda site: keys[site.name], clock=lambda: worlds.now, entropy=worlds.random.randbytes)
    planned = plan(worlds.request("https://news.blog.example/"), rules)
    assert planned.page is not None
    assert planned.page.state is None
    assert finish(planned, Response(200, HTML), rules).reason == "tracked"


def test_the_order_of_checks_reads_no_response_of_a_request_that_is_none_of_ours() -> None:
    world = World()
    for headers in (PNG, BOT, GPC):
        outcome = world.page(headers={"user-agent": AGENT, **headers})
        assert (outcome.cookies, outcome.cache_control, outcome.dropped, outcome.events) == ((), None, frozenset(), ())
