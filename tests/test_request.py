"""The Tracking object: what an app may ask of it, against a Tracker without a shell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shell_world import BROWSER, FALLBACK, KNOWN_PAGE, VISITOR, kept, quiet

from adtarget_proxy.errors import SettingsError
from adtarget_proxy.request import Tracking
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracker import Facts, Response, Tracker

FBP = "fb.1.1700000000000.1234567890"
FBC = "fb.1.1740000000000.IwAR0"
PURCHASE: dict[str, Any] = {
    "telegram_user_id": 1234567890,
    "event_type": "Purchase",
    "value": 97.0,
    "currency": "USD",
}
Make = Callable[..., Tracking]


class GivenFacts(Facts):
    """Facts out of a plain mapping of headers."""

    __slots__ = ("_headers",)

    def __init__(self, path: str = "/", query: str = "", method: str = "GET", **headers: str) -> None:
        super().__init__(method, "https", path, query, "203.0.113.7")
        self._headers = {**BROWSER, **{name.replace("_", "-"): value for name, value in headers.items()}}

    def header(self, name: str) -> str | None:
        return self._headers.get(name)


@pytest.fixture
def tracker_of() -> Iterator[Callable[[Settings], Tracker]]:
    made: list[Tracker] = []

    def make(settings: Settings) -> Tracker:
        made.append(Tracker(settings))
        return made[-1]

    yield make
    for tracker in made:
        tracker.close(0)


@pytest.fixture
def tracker(tracker_of: Callable[[Settings], Tracker]) -> Tracker:
    return tracker_of(quiet())


def tracking_of(tracker: Tracker, **facts: Any) -> Tracking:
    return Tracking(tracker.plan(GivenFacts(**facts)), tracker)


# -- the ids -----------------------------------------------------------------------------------------------------------------

COOKIES: list[tuple[str, dict[str, str | None]]] = [
    ("", {"visitor_id": None, "session_id": None, "fbp": None, "fbc": None}),
    (KNOWN_PAGE.headers["cookie"], {"visitor_id": VISITOR, "session_id": "s-1", "fbp": FBP, "fbc": None}),
    (f"_fbp={FBP}; _fbc={FBC}", {"visitor_id": None, "session_id": None, "fbp": FBP, "fbc": FBC}),
    ("_fbp=nonsense; _fbc=x; adtarget_temp_id=1", {"visitor_id": None, "session_id": None, "fbp": None, "fbc": None}),
    (f"_fbc=fb.1.1730000000000.old; _fbc={FBC}", {"visitor_id": None, "session_id": None, "fbp": None, "fbc": FBC}),
]


@pytest.mark.parametrize(("cookie", "ids"), COOKIES)
def test_off_a_page_the_ids_are_the_valid_ones_of_the_cookies(
    tracker: Tracker, cookie: str, ids: dict[str, str | None]
) -> None:
    tracking = tracking_of(tracker, method="POST", cookie=cookie)
    assert {name: getattr(tracking, name) for name in ids} == ids


@pytest.mark.parametrize(("cookie", "ids"), COOKIES)
def test_on_a_page_what_the_cookies_lack_is_there_already(
    tracker: Tracker, cookie: str, ids: dict[str, str | None]
) -> None:
    tracking = tracking_of(tracker, cookie=cookie)
    found = {name: getattr(tracking, name) for name in ids}
    assert {name: value for name, value in found.items() if ids[name] is not None} == {
        name: value for name, value in ids.items() if value is not None
    }
    assert found["fbc"] == ids["fbc"]
    assert None not in (tracking.visitor_id, tracking.session_id, tracking.fbp, tracking.event_id)


def test_the_same_question_twice_has_the_same_answer(tracker: Tracker) -> None:
    tracking = tracking_of(tracker, query="fbclid=abc")
    names = ("visitor_id", "session_id", "fbp", "fbc", "client_ip", "event_id")
    assert [getattr(tracking, name) for name in names] == [getattr(tracking, name) for name in names]


def test_its_repr_shows_no_id(tracker: Tracker) -> None:
    tracking = tracking_of(tracker, cookie=KNOWN_PAGE.headers["cookie"])
    assert repr(tracking) == "<Tracking reason=None>"


# -- invites -----------------------------------------------------------------------------------------------------------------


def test_invite_and_its_awaitable_twin_give_one_visitor_one_link(
    tracker_of: Callable[[Settings], Tracker], adtarget_sandbox: Sandbox
) -> None:
    tracker = tracker_of(quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url))
    tracking = tracking_of(tracker, cookie=KNOWN_PAGE.headers["cookie"])
    link = tracking.invite("vip")
    assert link.startswith("https://t.me/+")
    assert asyncio.run(tracking.ainvite("vip")) == link
    assert tracking.reason == "invite-repeat"
    (invite,) = adtarget_sandbox.wait_for(1, "invite")
    assert (invite["body"]["tempId"], invite["body"]["channelId"]) == (VISITOR, "-1001234567890")


NOBODY: dict[str, dict[str, str]] = {
    "a bot": {"user_agent": "Googlebot"},
    "GPC": {"sec_gpc": "1"},
    "a prefetch": {"sec_purpose": "prefetch"},
    "opted out": {"cookie": "adtarget_optout=1"},
}


@pytest.mark.parametrize("who", NOBODY)
def test_who_does_not_count_gets_the_fallback_without_a_call(
    tracker_of: Callable[[Settings], Tracker], adtarget_sandbox: Sandbox, who: str
) -> None:
    tracker = tracker_of(quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url, deliver="thread"))
    tracking = tracking_of(tracker, **NOBODY[who])
    assert (tracking.invite("vip"), asyncio.run(tracking.ainvite("vip"))) == (FALLBACK, FALLBACK)
    assert tracker.flush() == 0
    assert adtarget_sandbox.requests() == []


def test_a_form_may_ask_for_an_invite_too(tracker: Tracker) -> None:
    tracking = tracking_of(tracker, method="POST", cookie=KNOWN_PAGE.headers["cookie"])
    assert tracking.invite("vip") == FALLBACK  # nobody listens; but the click counts
    assert [(event.kind, event.visitor) for event in kept(tracker)] == [("invite", VISITOR)]


@pytest.mark.parametrize("ask", ["invite_url", "invite", "ainvite"])
def test_a_slug_that_is_not_configured_is_named_with_those_that_are(tracker: Tracker, ask: str) -> None:
    tracking = tracking_of(tracker)

    async def asked() -> Any:
        found = getattr(tracking, ask)("gold")
        return await found if ask == "ainvite" else found

    with pytest.raises(LookupError, match=r"'gold'.*has: vip"):
        asyncio.run(asked())


# -- conversions and identity --------------------------------------------------------------------------------------------------


def test_a_conversion_returns_the_key_under_which_it_is_told(tracker: Tracker) -> None:
    tracking = tracking_of(tracker, method="POST")
    made = [tracking.conversion(**PURCHASE), tracking.conversion(**PURCHASE, idempotency_key="order_12345")]
    assert made[1] == "order_12345"
    assert sorted(event.key for event in kept(tracker)) == sorted(made)


def test_one_key_is_one_conversion(tracker: Tracker) -> None:
    for _ in range(2):
        tracking_of(tracker, method="POST").conversion(**PURCHASE, idempotency_key="order_12345")
    assert len(kept(tracker)) == 1


def test_what_the_caller_says_wins_over_what_the_request_lends(tracker: Tracker) -> None:
    tracking = tracking_of(tracker, method="POST", cookie=KNOWN_PAGE.headers["cookie"])
    tracking.conversion(**PURCHASE, fbp="anything", client_ip="198.51.100.1")
    (event,) = kept(tracker)
    assert (event.fields["fbp"], event.fields["client_ip"]) == ("anything", "198.51.100.1")
    assert event.fields["user_agent"] == BROWSER["user-agent"]
    assert event.visitor == VISITOR


def test_a_minted_fbp_is_lent_to_nobody(tracker: Tracker) -> None:
    tracking_of(tracker, cookie=f"adtarget_temp_id={VISITOR}").conversion(**PURCHASE)
    (event,) = kept(tracker)
    assert "fbp" not in event.fields


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"telegram_user_id": "1234567890"}, "telegram_user_id"),
        ({"event_type": "Gift"}, "event_type"),
        ({"value": None}, "value"),
        ({"value": float("nan")}, "value"),
        ({"currency": "usd"}, "currency"),
        ({"event_type": "Custom"}, "custom_event_name"),
    ],
)
def test_a_conversion_that_adtarget_would_refuse_is_refused_at_once(
    tracker: Tracker, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        tracking_of(tracker, method="POST").conversion(**{**PURCHASE, **change})
    assert kept(tracker) == []


def test_without_a_key_a_conversion_says_what_to_set(tracker_of: Callable[[Settings], Tracker]) -> None:
    keyless = tracker_of(Settings(website_id="atid_test", outbox="memory://", deliver="worker"))
    with pytest.raises(SettingsError, match="ADTARGET_API_KEY"):
        tracking_of(keyless).conversion(**PURCHASE)


def test_with_both_credentials_the_conversion_goes_over_the_key(tracker_of: Callable[[Settings], Tracker]) -> None:
    both = tracker_of(quiet(website_id="atid_test"))
    tracking_of(both, method="POST").conversion(**PURCHASE)
    keyed, keyless = both.settings.all_sites[0].conversion_account, both.settings.all_sites[0].tracking_account
    assert keyed is not None
    assert keyless is not None
    assert [event.account for event in kept(both)] == [keyed.id]
    assert keyed.id != keyless.id


@pytest.mark.parametrize("external", ["user-7", 7])
def test_identify_reaches_the_visit_as_text(tracker: Tracker, external: str | int) -> None:
    planned = tracker.plan(GivenFacts())
    Tracking(planned, tracker).identify(external)
    tracker.finish(planned, Response(200, {"content-type": "text/html"}))
    (visit,) = kept(tracker)
    assert visit.fields["external_user_id"] == str(external)
