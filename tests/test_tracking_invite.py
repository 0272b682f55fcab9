"""Design, "The invite click": what AdTarget is asked, on whose behalf, and what the visitor keeps."""

from __future__ import annotations

import re

import pytest
from tracking_world import VIP, World

from adtarget_proxy.tracking.cookies import SESSION_MAX_AGE
from adtarget_proxy.tracking.events import FROM_AN_AD, PAID_OR_AWAITED, PLAIN, InviteClick, Visit
from adtarget_proxy.tracking.invite import click_plan

LANDING = "https://shop.example/?fbclid=IwAR0_aB-c9&utm_source=fb&gclid=G1"
ROUTE = "https://shop.example/c/vip"
PIXEL = "fb.1.1699000000000.1111111111"
DAY = 86_400


def test_the_click_carries_the_visitor_and_the_last_touch() -> None:
    world = World()
    (visit,) = world.page(LANDING).events
    world.page("https://shop.example/offer")
    plan = world.click(headers={"referer": "https://shop.example/offer"})
    assert isinstance(plan.click, InviteClick)
    assert plan.before == ()
    assert plan.cookies == ()
    assert (plan.slug, plan.fallback_url, plan.known) == ("vip", "https://t.me/fallback", True)
    assert (plan.click.worth, plan.click.visitor, plan.click.account) == (PAID_OR_AWAITED, visit.visitor, visit.account)
    same = ("temp_id", "client_session_id", "fbp", "fbc", "client_ip", "user_agent", "utm_source", "gclid")
    assert {name: plan.click.fields[name] for name in same} == {name: visit.fields[name] for name in same}
    assert plan.click.fields["href"] == "https://shop.example/offer"
    assert plan.click.fields["channel_id"] == "-100123"
    assert "referrer" not in plan.click.fields


SAME_NETWORK = [
    ("203.0.113.9", "203.0.113.9", True),
    ("203.0.113.9", "::ffff:203.0.113.9", True),
    ("203.0.113.9", "203.0.113.10", False),
    ("2001:db8:1:2::9", "2001:db8:1:2:aaaa::1", True),
    ("2001:db8:1:2::9", "2001:db8:1:3::9", False),
]


@pytest.mark.parametrize(("one", "other", "same"), SAME_NETWORK)
def test_who_comes_without_cookies_is_known_by_their_network_and_its_name_tells_no_address(
    one: str, other: str, same: bool
) -> None:
    names = [World().click(peer=peer).network for peer in (one, other)]
    assert (names[0] == names[1]) is same
    for name in names:
        assert name is not None
        assert re.fullmatch("[0-9a-f]{16}", name)
    assert World(secret_key="another secret key").click(peer=one).network not in names


@pytest.mark.parametrize("ip", ["truncate", "none"])
def test_a_network_has_its_name_whatever_part_of_an_address_may_be_sent(ip: str) -> None:
    assert World(ip=ip).click().network == World().click().network


def test_nobody_has_a_network_whose_address_is_everybodys_or_who_brings_cookies() -> None:
    assert [World().click(peer=peer).network for peer in ("10.0.0.7", "127.0.0.1", "unix", None)] == [None] * 4
    world = World()
    assert world.click().network is not None
    assert world.click().network is None
    world.jar["adtarget_temp_id"] = "forged"
    assert world.click().network is not None


def test_every_click_has_a_key_of_its_own() -> None:
    world = World()
    world.page()
    one, two = world.click(), world.click()
    assert one.click.key != two.click.key


@pytest.mark.parametrize(
    ("age", "touch"),
    [(0, {"utm_source": "fb", "gclid": "G1"}), (89 * DAY, {"utm_source": "fb", "gclid": "G1"}), (91 * DAY, {})],
)
def test_a_touch_lasts_ninety_days(age: int, touch: dict[str, str]) -> None:
    world = World()
    world.page(LANDING)
    world.now += age
    fields = world.click().click.fields
    assert {name: value for name, value in fields.items() if name in ("utm_source", "gclid")} == touch


def test_a_newer_touch_replaces_the_older_one_whole() -> None:
    world = World()
    world.page(LANDING)
    world.page("https://shop.example/sale?utm_source=tiktok&ttclid=T1")
    fields = world.click().click.fields
    assert (fields["utm_source"], fields["ttclid"]) == ("tiktok", "T1")
    assert "gclid" not in fields
    assert fields["href"] == "https://shop.example/sale?utm_source=tiktok&ttclid=T1"


# -- the visit that is made at the click ------------------------------------------------------------------------------------------


def test_an_ad_that_links_straight_to_the_route_is_visit_and_landing() -> None:
    world = World()
    plan = world.click(f"{ROUTE}?fbclid=IwAR0_aB-c9&utm_source=fb&gclid=G1", {"referer": "https://l.facebook.com/"})
    (visit,) = plan.before
    assert isinstance(visit, Visit)
    assert visit.worth == FROM_AN_AD
    assert visit.fields["href"] == f"{ROUTE}?fbclid=IwAR0_aB-c9&utm_source=fb&gclid=G1"
    assert visit.fields["referrer"] == plan.click.fields["referrer"] == "https://l.facebook.com/"
    assert not plan.known
    for fields in (visit.fields, plan.click.fields):
        assert (fields["utm_source"], fields["gclid"]) == ("fb", "G1")
        assert fields["fbc"] == world.jar["_fbc"]
    assert plan.click.fields["temp_id"] == visit.fields["temp_id"] == world.jar["adtarget_temp_id"]
    assert set(world.set_cookies) == {"_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id", "adtarget_state"}
    assert world.click().click.fields["gclid"] == "G1"


def test_without_a_session_the_visit_is_made_at_the_click_and_the_session_is_set() -> None:
    world = World()
    world.page(LANDING)
    world.now += SESSION_MAX_AGE
    del world.jar["adtarget_session_id"]
    plan = world.click()
    (visit,) = plan.before
    assert visit.worth == FROM_AN_AD
    assert visit.fields["href"] == LANDING
    assert visit.fields["client_session_id"] == plan.click.fields["client_session_id"]
    assert set(world.set_cookies) == {"adtarget_session_id"}
    assert world.click().before == ()


@pytest.mark.parametrize(
    ("referer", "landed", "href", "touch", "worth"),
    [
        (
            "https://shop.example/offer?utm_source=fb&gclid=G1",
            False,
            "https://shop.example/offer?utm_source=fb&gclid=G1",
            "fb",
            FROM_AN_AD,
        ),
        ("https://shop.example/offer?utm_source=fb", False, "https://shop.example/offer?utm_source=fb", "fb", PLAIN),
        ("https://evil.test/?utm_source=evil&gclid=G1", False, ROUTE, None, PLAIN),
        (
            "https://shop.example/offer?utm_source=other",
            True,
            "https://shop.example/offer?utm_source=other",
            "fb",
            FROM_AN_AD,
        ),
        (None, True, LANDING, "fb", FROM_AN_AD),
        (None, False, ROUTE, None, PLAIN),
    ],
)
def test_the_href_is_the_same_site_referer_else_the_landing_else_the_route(
    referer: str | None, landed: bool, href: str, touch: str | None, worth: int
) -> None:
    world = World()
    if landed:
        world.page(LANDING)
        del world.jar["adtarget_session_id"]
    plan = world.click(headers={"referer": referer})
    assert plan.before[0].fields["href"] == plan.click.fields["href"] == href
    assert plan.before[0].fields.get("utm_source") == plan.click.fields.get("utm_source") == touch
    assert plan.before[0].worth == worth


def test_a_referers_click_id_makes_the_fbc() -> None:
    """An app's prefetched copy of the page: its cookies never reached the browser, its URL does."""
    world = World()
    plan = world.click(headers={"referer": LANDING})
    assert plan.click.fields["fbc"].endswith(".IwAR0_aB-c9")
    assert plan.before[0].worth == FROM_AN_AD
    assert world.jar["_fbc"] == plan.click.fields["fbc"]


def test_a_changed_fbp_is_told_before_the_visit_and_the_click() -> None:
    world = World()
    world.page()
    world.jar["_fbp"] = PIXEL
    del world.jar["adtarget_session_id"]
    plan = world.click()
    assert [event.kind for event in plan.before] == ["fbp-update", "visit"]
    assert plan.click.fields["fbp"] == PIXEL
    assert world.click().before == ()


@pytest.mark.parametrize(
    ("route", "site", "expected"),
    [
        (VIP, None, "-100123"),
        ({"fallback_url": "https://t.me/x"}, "-100999", "-100999"),
        ({"fallback_url": "https://t.me/x"}, None, None),
    ],
)
def test_the_channel_is_the_routes_else_the_sites(
    route: dict[str, str], site: str | None, expected: str | None
) -> None:
    world = World(invites={"vip": route}, channel_id=site)
    assert world.click().click.fields.get("channel_id") == expected


def test_a_request_that_does_not_count_is_no_click() -> None:
    world = World()
    planned = world.plan("https://shop.example/")
    with pytest.raises(ValueError, match="not a click"):
        click_plan(planned.facts, planned.gate, world.rules)
