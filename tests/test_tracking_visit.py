"""A visitor's pages: design.md "Identity", "FbpUpdate"; meta-cookies "Cookies"; correctness C1, C2."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_world import AGENT, BROWSER, HTML, NOW, Request, World

from adtarget_proxy.tracking.cookies import REISSUE_AFTER, SESSION_MAX_AGE
from adtarget_proxy.tracking.events import FROM_AN_AD, PLAIN, FbpUpdate, Visit, decode
from adtarget_proxy.tracking.facts import Geo, Response
from adtarget_proxy.tracking.invite import click_plan
from adtarget_proxy.tracking.visit import finish, plan

LANDING = "https://shop.example/?fbclid=IwAR0_aB-c9&utm_source=fb&gclid=G1"
PIXEL = "fb.1.1699000000000.1111111111"
ALL = {"_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id", "adtarget_state"}
FACEBOOK = {"referer": "https://l.facebook.com/"}


def later(world: World, seconds: float) -> None:
    """Time passes, and the browser forgets a session that nobody slid."""
    world.now += seconds
    if seconds >= SESSION_MAX_AGE:
        world.jar.pop("adtarget_session_id", None)


# -- the first page ------------------------------------------------------------------------------------------------------------


def test_the_first_page_from_an_ad_yields_five_cookies_and_one_visit() -> None:
    world = World()
    outcome = world.page(LANDING, FACEBOOK)
    (visit,) = outcome.events
    assert isinstance(visit, Visit)
    assert outcome.reason == "tracked"
    assert set(world.set_cookies) == ALL
    assert visit.fields == {
        "client_ip": "203.0.113.9",
        "user_agent": AGENT,
        "temp_id": world.jar["adtarget_temp_id"],
        "client_session_id": world.jar["adtarget_session_id"],
        "fbp": world.jar["_fbp"],
        "fbc": world.jar["_fbc"],
        "href": LANDING,
        "referrer": "https://l.facebook.com/",
        "utm_source": "fb",
        "gclid": "G1",
    }
    assert world.jar["_fbc"].endswith(f".{int(NOW * 1000)}.IwAR0_aB-c9")
    assert UUID(world.jar["adtarget_temp_id"]).version == 4
    assert (visit.visitor, visit.at, visit.worth) == (world.jar["adtarget_temp_id"], NOW, FROM_AN_AD)
    assert visit.account == world.settings.all_sites[0].tracking_account.id
    assert decode(visit.encode()) == visit


def test_the_ids_are_there_before_the_app_runs() -> None:
    world = World()
    planned = world.plan(LANDING)
    outcome = finish(planned, Response(200, HTML), world.rules)
    assert planned.page is not None
    assert outcome.events[0].id == outcome.events[0].key == planned.event_id
    assert outcome.events[0].fields["temp_id"] == planned.page.temp_id
    assert f"adtarget_session_id={planned.page.session_id}" in " ".join(outcome.cookies)


def test_a_page_without_an_ad_is_a_plain_visit_without_fbc() -> None:
    world = World()
    (visit,) = world.page().events
    assert visit.worth == PLAIN
    assert set(world.set_cookies) == ALL - {"_fbc"}
    assert not {"fbc", "referrer", "gclid"} & visit.fields.keys()


@pytest.mark.parametrize("query", ["gclid=1", "ttclid=1", "sccid=1", "fbclid=IwAR"])
def test_a_click_id_makes_a_visit_worth_more(query: str) -> None:
    assert World().page(f"https://shop.example/?{query}").events[0].worth == FROM_AN_AD


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("_fbp", "Max-Age=7776000; Path=/; Secure; SameSite=Lax"),
        ("_fbc", "Max-Age=7776000; Path=/; Secure; SameSite=Lax"),
        ("adtarget_temp_id", "Max-Age=31536000; Path=/; Secure; SameSite=Lax"),
        ("adtarget_session_id", "Max-Age=1800; Path=/; Secure; SameSite=Lax"),
        ("adtarget_state", "Max-Age=31536000; Path=/; Secure; HttpOnly; SameSite=Lax"),
    ],
)
def test_cookies_have_their_attributes(name: str, attributes: str) -> None:
    world = World(cookie_domain="shop.example")
    world.page(LANDING)
    assert world.set_cookies[name] == f"Domain=shop.example; {attributes}"
    world = World(cookie_domain="shop.example")
    world.page(LANDING.replace("https", "http"))
    assert world.set_cookies[name] == f"Domain=shop.example; {attributes.replace(' Secure;', '')}"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "[2001:db8::1]:8000", "localhost:8000", "other.example"])
def test_a_domain_that_does_not_hold_the_host_is_not_set(host: str) -> None:
    world = World(cookie_domain="shop.example")
    world.page(f"http://{host}/")
    assert all("Domain=shop.example" not in text for text in world.set_cookies.values())


# -- the pages after -----------------------------------------------------------------------------------------------------------


def test_the_second_page_sends_a_second_visit_keeps_every_id_and_slides_the_session_alone() -> None:
    world = World()
    (first,) = world.page(LANDING).events
    before = dict(world.jar)
    later(world, 60)
    (second,) = world.page("https://shop.example/about", {"referer": LANDING}).events
    assert set(world.set_cookies) == {"adtarget_session_id"}
    assert world.jar == before
    assert first.id != second.id
    assert second.worth == PLAIN
    for name in ("temp_id", "client_session_id", "fbp", "fbc"):
        assert second.fields[name] == first.fields[name]
    assert "utm_source" not in second.fields


def test_after_thirty_idle_minutes_a_new_session_starts_with_the_same_visitor() -> None:
    world = World()
    (first,) = world.page().events
    later(world, SESSION_MAX_AGE)
    (second,) = world.page().events
    assert second.fields["client_session_id"] != first.fields["client_session_id"]
    assert second.fields["temp_id"] == first.fields["temp_id"]
    assert set(world.set_cookies) == {"adtarget_session_id"}


def test_a_session_without_a_visitor_is_none() -> None:
    world = World()
    world.page()
    old = world.jar.pop("adtarget_temp_id"), world.jar["adtarget_session_id"]
    world.page()
    assert world.jar["adtarget_temp_id"] != old[0]
    assert world.jar["adtarget_session_id"] != old[1]


def test_a_new_click_makes_a_new_fbc_and_the_same_click_keeps_its_time() -> None:
    world = World()
    world.page(LANDING)
    first = world.jar["_fbc"]
    later(world, 60)
    world.page(LANDING)
    assert world.jar["_fbc"] == first
    assert "_fbc" not in world.set_cookies
    world.page("https://shop.example/?fbclid=IwAR_other")
    assert world.jar["_fbc"] == f"{first.rsplit('.', 2)[0]}.{int(world.now * 1000)}.IwAR_other"
    assert "adtarget_state" in world.set_cookies
    kept = world.jar["_fbc"]
    world.page("https://shop.example/?fbclid=")
    assert world.jar["_fbc"] == kept


@pytest.mark.parametrize(
    ("referer", "has_fbc", "minted"),
    [
        ("https://shop.example/land?fbclid=IwREF", False, True),
        ("https://shop.example/land?fbclid=IwREF#x", False, True),
        ("https://shop.example./land?fbclid=IwREF", False, True),
        ("https://evil.test/?fbclid=IwREF", False, False),
        ("https://shop.example/land?fbclid=", False, False),
        ("https://shop.example/land?fbclid=IwREF", True, False),
        ("http://[::1/?fbclid=a", False, False),
        ("shop.example/?fbclid=a", False, False),
        ("https://shop.example/?fbclid=a%0D%0Ab", False, False),
    ],
)
def test_the_referers_click_counts_from_the_same_site_and_only_without_fbc(
    referer: str, has_fbc: bool, minted: bool
) -> None:
    world = World()
    if has_fbc:
        world.jar["_fbc"] = "fb.1.1699000000000.NEWER"
    world.page(headers={"referer": referer})
    assert ("_fbc" in world.set_cookies) is minted


def test_long_lived_cookies_are_issued_again_when_part_of_their_life_is_over() -> None:
    world = World()
    world.page(LANDING)
    before = dict(world.jar)
    later(world, REISSUE_AFTER - 1)
    world.page()
    assert set(world.set_cookies) == {"adtarget_session_id"}
    later(world, 60)
    world.page()
    assert set(world.set_cookies) == ALL
    for name in ("_fbp", "_fbc", "adtarget_temp_id"):
        assert world.jar[name] == before[name]
    world.page()
    assert set(world.set_cookies) == {"adtarget_session_id"}


def test_without_a_state_a_valid_value_is_left_alone() -> None:
    world = World()
    world.page(LANDING)
    del world.jar["adtarget_state"]
    later(world, 10 * REISSUE_AFTER)
    world.jar["adtarget_session_id"] = "s"
    world.page()
    assert set(world.set_cookies) == {"adtarget_session_id", "adtarget_state"}


# -- FbpUpdate -----------------------------------------------------------------------------------------------------------------


def test_a_changed_fbp_is_told_before_this_pages_own_visit() -> None:
    world = World()
    world.page()
    world.jar["_fbp"] = PIXEL
    update, visit = world.page().events
    assert isinstance(update, FbpUpdate)
    assert (update.fields["temp_id"], update.fields["fbp"]) == (world.jar["adtarget_temp_id"], PIXEL)
    assert visit.fields["fbp"] == PIXEL
    assert update.visitor == visit.visitor
    assert "adtarget_state" in world.set_cookies
    assert "_fbp" not in world.set_cookies
    assert [event.kind for event in world.page().events] == ["visit"]


def test_the_same_change_is_the_same_event() -> None:
    world = World()
    world.page()
    world.jar["_fbp"] = PIXEL
    old_jar = dict(world.jar)
    first = world.page().events[0]
    world.jar = old_jar
    world.now += 1
    second = world.page().events[0]
    assert (first.id, first.key) == (second.id, second.key)


@pytest.mark.parametrize("state", [None, "forged", "cut"])
def test_where_nothing_was_reported_there_is_no_update(state: str | None) -> None:
    world = World()
    world.page()
    world.jar["_fbp"] = PIXEL
    if state is None:
        del world.jar["adtarget_state"]
    else:
        world.jar["adtarget_state"] = "x!1!" if state == "forged" else world.jar["adtarget_state"][:-3] + "abc"
    assert [event.kind for event in world.page().events] == ["visit"]


def test_a_lost_fbp_is_minted_anew_without_an_update() -> None:
    world = World()
    world.page()
    del world.jar["_fbp"]
    outcome = world.page()
    assert [event.kind for event in outcome.events] == ["visit"]
    assert set(world.set_cookies) == {"_fbp", "adtarget_session_id", "adtarget_state"}


def test_of_two_fbp_the_pixels_own_is_reported() -> None:
    world = World()
    world.page()
    mine = world.jar["_fbp"]
    cookie = "; ".join([*(f"{name}={value}" for name, value in world.jar.items()), f"_fbp={PIXEL}"])
    update, visit = world.page(headers={"cookie": cookie}).events
    assert mine != PIXEL
    assert update.fields["fbp"] == visit.fields["fbp"] == PIXEL


# -- responses that carry no cookie --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "response", "of"),
    [
        (404, HTML, {}),
        (302, HTML, {}),
        (204, {}, {}),
        (200, {"content-type": "image/png"}, {}),
        (200, HTML, {"method": "HEAD"}),
        (200, HTML, {"method": "POST"}),
        (200, HTML, {"headers": {"sec-fetch-dest": "image"}}),
        (200, HTML, {"headers": {"user-agent": "curl/8"}}),
        (200, HTML, {"headers": {"sec-gpc": "1"}}),
    ],
)
def test_only_a_tracked_page_gains_cookies(status: int, response: Mapping[str, str], of: dict[str, Any]) -> None:
    outcome = World().page(LANDING, status=status, response=response, **of)
    assert (outcome.cookies, outcome.events, outcome.cache_control) == ((), (), None)


@pytest.mark.parametrize(
    ("status", "response", "settings"), [(304, {}, {}), (200, {**HTML, "cache-control": "public"}, {"cache": "skip"})]
)
def test_a_304_and_a_skipped_page_of_a_known_visitor_are_views_without_cookies(
    status: int, response: Mapping[str, str], settings: dict[str, Any]
) -> None:
    world = World(**settings)
    assert world.page(status=status, response=response).events == ()
    world.page()
    outcome = world.page(status=status, response=response)
    assert (outcome.reason, outcome.cookies, outcome.cache_control) == ("tracked", (), None)
    assert outcome.events[0].fields["client_session_id"] == world.jar["adtarget_session_id"]


def test_ids_whose_cookie_cannot_be_set_are_not_told() -> None:
    world = World()
    world.page()
    del world.jar["_fbp"]
    del world.jar["adtarget_session_id"]
    (visit,) = world.page(LANDING, status=304, response={}).events
    assert not {"fbp", "client_session_id"} & visit.fields.keys()
    assert visit.fields["temp_id"] == world.jar["adtarget_temp_id"]


def test_a_prefetched_page_goes_out_with_no_store_and_untracked() -> None:
    outcome = World().page(headers={"sec-purpose": "prefetch"})
    assert (outcome.reason, outcome.cookies, outcome.events, outcome.cache_control) == ("prefetch", (), (), "no-store")


@pytest.mark.parametrize(
    ("cache", "cache_control", "dropped"),
    [("protect", "private, max-age=60", {"cache-control", "surrogate-control"}), ("leave", None, set())],
)
def test_cache_headers_of_a_page_that_gains_cookies(cache: str, cache_control: str | None, dropped: set[str]) -> None:
    world = World(cache=cache)
    outcome = world.page(response={**HTML, "cache-control": "public, max-age=60", "surrogate-control": "max-age=9"})
    assert outcome.cookies
    assert (outcome.cache_control, outcome.dropped) == (cache_control, dropped)


def test_a_second_response_decides_anew() -> None:
    """correctness W2: start_response may be called again, with exc_info."""
    world = World()
    planned = world.plan(LANDING)
    once = finish(planned, Response(200, HTML), world.rules)
    assert finish(planned, Response(500, HTML), world.rules).reason == "status"
    again = finish(planned, Response(200, HTML), world.rules)
    assert (again.cookies, again.events) == (once.cookies, once.events)


# -- what AdTarget is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "peer", "headers", "expected"),
    [
        ({}, "203.0.113.9", {}, {"client_ip": "203.0.113.9"}),
        ({}, "192.168.1.4", {}, {"client_ip": None}),
        ({}, "unix", {}, {"client_ip": None}),
        ({"ip": "truncate"}, "203.0.113.9", {}, {"client_ip": "203.0.113.0"}),
        ({"ip": "none"}, "203.0.113.9", {}, {"client_ip": None}),
        (
            {"trusted_proxies": "10.0.0.0/8"},
            "10.0.0.1",
            {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"},
            {"client_ip": "203.0.113.7", "href": "https://shop.example/a"},
        ),
        (
            {"geo": lambda ip: Geo("DE", None, "Berlin")},
            "203.0.113.9",
            {},
            {"country": "DE", "city": "Berlin", "region": None},
        ),
        ({"geo": lambda ip: None}, "203.0.113.9", {}, {"country": None}),
        ({}, "203.0.113.9", {"user-agent": AGENT + "x" * 2000}, {"user_agent": (AGENT + "x" * 2000)[:1024]}),
        ({}, "203.0.113.9", {"referer": "javascript:alert(1)"}, {"referrer": None}),
        (
            {},
            "203.0.113.9",
            {"referer": "android-app://org.telegram.messenger/"},
            {"referrer": "android-app://org.telegram.messenger/"},
        ),
        (
            {},
            "203.0.113.9",
            {"referer": "https://x.example/?token=abc#f"},
            {"referrer": "https://x.example/?token=redacted"},
        ),
    ],
)
def test_the_visit_tells_who_and_where(
    settings: dict[str, Any], peer: str, headers: dict[str, str | None], expected: dict[str, str | None]
) -> None:
    (visit,) = World(**settings).page("http://shop.example/a", headers, peer=peer).events
    assert {name: visit.fields.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "url", "href"),
    [
        ({}, "https://Shop.Example:8443/a%20b?x=1", "https://shop.example:8443/a%20b?x=1"),
        ({}, "https://shop.example/?email=a@b.example", "https://shop.example/?email=redacted"),
        ({"scrub": False}, "https://shop.example/?email=a@b.example", "https://shop.example/?email=a@b.example"),
        ({}, "https://shop.example/?q=a b<>", "https://shop.example/?q=a%20b%3C%3E"),
        ({}, "https://shop.example/ж", "https://shop.example/%D0%B6"),
        ({}, "https://shop.example/\udcff", "https://shop.example/%3F"),
        ({}, "https://shop.example/a%3Fb%25", "https://shop.example/a%3Fb%25"),
        ({}, "https://shop.example/?utm_source=%D1%84%D0%B1", "https://shop.example/?utm_source=%D1%84%D0%B1"),
    ],
)
def test_the_href_is_the_visitors_own_without_secrets(settings: dict[str, Any], url: str, href: str) -> None:
    assert World(**settings).page(url).events[0].fields["href"] == href


@pytest.mark.parametrize(
    ("query", "touch"),
    [
        (
            "utm_source=a&utm_medium=b&utm_campaign=c&utm_content=d&utm_term=e",
            {"utm_source": "a", "utm_medium": "b", "utm_campaign": "c", "utm_content": "d", "utm_term": "e"},
        ),
        ("utm_source=%D1%84+x&amp;utm_medium=b", {"utm_source": "ф x", "utm_medium": "b"}),
        ("utm_source=&utm_source=b&utm_source=c", {"utm_source": "b"}),
        ("UTM_SOURCE=a&xutm_source=b", {}),
        ("utm_content=a;b&gclid=G%0D%0A1", {"utm_content": "a;b", "gclid": "G1"}),
        ("utm_term=" + "x" * 600, {"utm_term": "x" * 500}),
    ],
)
def test_the_touch_is_read_from_the_query(query: str, touch: dict[str, str]) -> None:
    fields = World().page(f"https://shop.example/?{query}").events[0].fields
    assert {name: value for name, value in fields.items() if name.startswith("utm_") or name == "gclid"} == touch


# -- hostile bytes -------------------------------------------------------------------------------------------------------------

READ = (
    *BROWSER,
    "host",
    "cookie",
    "referer",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "sec-gpc",
    "hx-request",
    "x-inertia",
)
BYTES = st.text(alphabet=st.characters(max_codepoint=255), max_size=60)
COOKIE_SAFE = frozenset("!#$%&'()*+-./:<=>?@[]^_`{|}~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
NAMES = st.sampled_from(["_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id", "adtarget_state", "x"])
GOOD = st.sampled_from([PIXEL, "3f2504e0-4f89-41d3-9a0c-0305e82c3301", f'"{PIXEL}"'])
COOKIES = st.lists(st.tuples(NAMES, BYTES | GOOD), max_size=6).map(
    lambda pairs: "; ".join(f"{name}={value}" for name, value in pairs)
)
WORLD = World(trusted_proxies=1)
FORWARDED = World(trusted_proxies=1, forwarded_header=True, cache="skip")


@settings(max_examples=150, deadline=None)
@given(
    headers=st.dictionaries(st.sampled_from(READ), BYTES | st.none(), max_size=8),
    cookie=st.none() | BYTES | COOKIES,
    response=st.dictionaries(
        st.sampled_from(["content-type", "cache-control", "expires", "content-disposition"]), BYTES, max_size=3
    ),
    path=BYTES,
    query=BYTES,
    peer=st.none() | BYTES,
)
def test_no_bytes_raise_and_every_cookie_that_leaves_is_safe(
    headers: dict[str, str | None],
    cookie: str | None,
    response: dict[str, str],
    path: str,
    query: str,
    peer: str | None,
) -> None:
    for world in (WORLD, FORWARDED):
        cookies: list[str] = []
        for place in ("/" + path, "/c/vip"):
            facts = Request("https://shop.example/", {"cookie": cookie, **headers}, peer=peer)
            facts.path, facts.query = place, query
            planned = plan(facts, world.rules)
            outcome = finish(planned, Response(200, {**HTML, **response}), world.rules)
            assert all(decode(event.encode()) == event for event in outcome.events)
            cookies.extend(outcome.cookies)
            if planned.gate.slug and planned.reason is None:
                click = click_plan(facts, planned.gate, world.rules)
                cookies.extend(click.cookies)
                assert decode(click.click.encode()) == click.click
        for text in cookies:
            name, _, value = text.partition("; ")[0].partition("=")
            assert name in ALL
            assert COOKIE_SAFE.issuperset(value)
            assert text.isascii()
            assert text.isprintable()


def test_no_header_however_long_fills_a_memory() -> None:
    world = World(trusted_proxies=1)
    world.page()
    names = ("user-agent", "host", "referer", "cookie", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(100):
            long = f"{AGENT}{number}" * 200
            for name in names:
                world.page(headers={name: f"https://shop.example/{long}" if name == "referer" else long})
            facts = world.request()
            facts.path = f"/{number}/{'x' * 20_000}"
            finish(plan(facts, world.rules), Response(200, HTML), world.rules)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000_000
