"""What ``consent=`` is asked about, what an answer means, and what the ready readers make of their tools' cookies."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies as st

from adtarget_proxy.consent import (
    READERS,
    Consent,
    Request,
    cookiebot,
    didomi,
    google_consent_mode,
    onetrust,
    tcf,
)
from adtarget_proxy.consent.answer import consent_of, is_async
from adtarget_proxy.consent.tcf import TCString

YES, NO, UNKNOWN = Consent.GRANTED, Consent.DENIED, Consent.UNKNOWN


def request(cookie: str = "", **headers: str) -> Request:
    table = {"cookie": cookie, **headers}
    return Request("GET", "/", "", "shop.test", table.get)


def test_a_request_shows_cookies_and_headers() -> None:
    asked = request('a=1; b="x y"; a=2;c; d=e=f ;; =', accept="text/html")
    assert dict(asked.cookies) == {"a": "1", "b": '"x y"', "d": "e=f", "": ""}
    assert (asked.header("Accept"), asked.header("X-None")) == ("text/html", None)
    assert "x y" not in repr(asked)


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        (True, YES),
        ("granted", YES),
        (Consent.GRANTED, YES),
        (False, NO),
        ("denied", NO),
        (Consent.DENIED, NO),
        (None, UNKNOWN),
        ("unknown", UNKNOWN),
        (Consent.UNKNOWN, UNKNOWN),
        (1, None),
        (0, None),
        ("yes", None),
        ("", None),
        ([], None),
        (object(), None),
    ],
)
def test_only_a_plain_yes_grants(answer: object, means: Consent | None) -> None:
    assert consent_of(answer) is means


class Called:
    def __call__(self, request: Request) -> bool:
        return True


class Awaited:
    async def __call__(self, request: Request) -> bool:
        return True

    async def method(self, request: Request) -> bool:
        return True


async def awaited(request: Request) -> bool:
    return True


@pytest.mark.parametrize(
    ("ask", "has_to_be_awaited"),
    [(None, False), (Called(), False), (bool, False), (awaited, True), (Awaited(), True), (Awaited().method, True)],
)
def test_an_async_function_is_told_by_itself(ask: Any, has_to_be_awaited: bool) -> None:
    assert is_async(ask) is has_to_be_awaited


# -- the readers -------------------------------------------------------------------------------------------------------------
# OptanonConsent and CookieConsent are requests' own, as they stand in public repositories, less the visitors' ids.

OPTANON = (
    "OptanonConsent=isGpcEnabled=0&datestamp=Thu+Jan+22+2026+15%3A26%3A49+GMT%2B0800+(%E4%B8%AD%E5%9B%BD)&version=202512.1.0"
    "&browserGpcFlag=0&isIABGlobal=false&hosts=&consentId=0&interactionCount=1&isAnonUser=1&landingPath=NotLandingPage"
    "&groups=C0001%3A1%2CC0002%3A1%2CC0003%3A1%2CC0004%3A1&intType=1&geolocation=HK%3B&AwaitingReconsent=false"
)
REFUSED = (
    "OptanonConsent=isGpcEnabled=0&datestamp=Sun+Apr+06+2025+17%3A01%3A47+GMT%2B0200+(heure+d%E2%80%99%C3%A9t%C3%A9)"
    "&version=202312.1.0&browserGpcFlag=0&isIABGlobal=false&consentId=0&interactionCount=18&hosts=&landingPath=NotLandingPage"
    "&groups=C0001%3A1%2CC0002%3A0%2CC0003%3A0%2CC0004%3A0%2CC0005%3A0%2CV2STACK42%3A0&genVendors=V2%3A0%2CV1%3A0%2C"
    "&geolocation=FR%3B&AwaitingReconsent=false"
)
CLOSED = (
    "OptanonAlertBoxClosed=2024-04-03T05:46:58.824Z; OptanonConsent=isGpcEnabled=0&datestamp=Wed+Apr+03+2024&version=202303.2.0"
    "&isIABGlobal=false&hosts=&landingPath=NotLandingPage&groups=C0002%3A1%2CC0003%3A1%2CC0004%3A1%2CC0001%3A1"
)
NUMBERED = "OptanonConsent=isGpcEnabled=0&version=202311.1.0&interactionCount=1&groups=2%3A1%2C3%3A1%2C1%3A1%2C4%3A1%2CV2STACK42%3A1"
UNASKED = OPTANON.replace("interactionCount=1", "interactionCount=0")
ONETRUST = [
    (onetrust(), OPTANON, YES),
    (onetrust(), REFUSED, NO),
    (onetrust("C0001"), REFUSED, YES),
    (onetrust(), CLOSED, YES),
    (onetrust("4"), NUMBERED, YES),
    (onetrust(), NUMBERED, UNKNOWN),
    (onetrust(), UNASKED, UNKNOWN),
    (onetrust(), UNASKED.replace("C0004%3A1", "C0004%3A0"), UNKNOWN),
    (onetrust(implied=True), UNASKED, YES),
    (onetrust(implied=True), UNASKED.replace("C0004%3A1", "C0004%3A0"), NO),
    (onetrust(), OPTANON.replace("AwaitingReconsent=false", "AwaitingReconsent=true"), UNKNOWN),
    (onetrust(), OPTANON.replace("C0004%3A1", "C0004%3A2"), UNKNOWN),
    (onetrust(), OPTANON.replace("%3A", ":").replace("%2C", ","), YES),
    (onetrust(), "OptanonAlertBoxClosed=2024-04-03T05:46:58.824Z", UNKNOWN),
    (onetrust(), "", UNKNOWN),
]

BOT_YES = (
    "CookieConsent={stamp:%27AAAA+AA/AA==%27%2Cnecessary:true%2Cpreferences:true%2Cstatistics:true%2Cmarketing:true"
    "%2Cmethod:%27explicit%27%2Cver:2%2Cutc:1745622155764%2Cregion:%27nz%27}"
)
BOT_NO = BOT_YES.replace("statistics:true", "statistics:false").replace("marketing:true", "marketing:false")
BOT_IAB = (
    "CookieConsent={stamp:%27AA==%27%2Cnecessary:true%2Cpreferences:false%2Cstatistics:false%2Cmarketing:false%2Cmethod:%27explicit%27"
    "%2Cver:1%2Cutc:1707240048272%2Ciab2:%27CP5jqEAP5jqEACGABBENAmEgAAAAAAAAAAAAAAAAAAAA.YAAAAAAAAAAA%27%2Cregion:%27nl%27}"
)
COOKIEBOT = [
    (cookiebot(), BOT_YES, YES),
    (cookiebot(), BOT_NO, NO),
    (cookiebot("preferences"), BOT_NO, YES),
    (cookiebot(), BOT_IAB, NO),
    # as its banner was seen to write it where nobody has to be asked
    (cookiebot(), BOT_YES.replace("AAAA+AA/AA==", "-1").replace("explicit", "implied"), YES),
    (cookiebot(), "CookieConsent=" + quote("{stamp:'x',necessary:true,marketing:false,ver:1}"), NO),
    (cookiebot(), "CookieConsent={stamp:%27reject%27%2C+necessary:true%2C+marketing:false%2C+ver:1}", NO),
    (cookiebot(), "CookieConsent=-1", YES),
    (cookiebot(), "CookieConsent=0", NO),
    (cookiebot(), "CookieConsent={stamp:%27x%27%2Cnot_marketing:true}", UNKNOWN),
    (cookiebot(), "CookieConsent={stamp:%27marketing:true%27}", UNKNOWN),
    (cookiebot(), "CookieConsent=true", UNKNOWN),
    (cookiebot(), "", UNKNOWN),
]

# support.didomi.io, "Didomi Cookies: storage"
DIDOMI_TOKEN = (
    "didomi_token=eyJ1c2VyX2lkIjoiMTc4NDExNGMtZjhiMy02NTkwLWE2ZGYtYjlmYjI0MGJkZWE1IiwiY3JlYXRlZCI6IjIwMjEtMDMtMTdUMTY6NDY6MzIu"
    "MzQ0WiIsInVwZGF0ZWQiOiIyMDIxLTAzLTE3VDE2OjQ2OjMyLjM0NFoiLCJ2ZW5kb3JzIjp7ImVuYWJsZWQiOlsiYW1hem9uIiwiZ29vZ2xlIiwiYzpyZXNl"
    "YXV4c28tVkZlcEtyTFIiLCJjOnBhcnRlbmFpcmUtWDlTRFdrZzIiLCJjOnBlcnNvbm5hbGktWDNWY3h6UkQiLCJjOmdvb2dsZWFuYS1oN0tjM2U3WSIsImM6"
    "cHVibGljaXRlLXRGUkY0ZDM5Il19LCJwdXJwb3NlcyI6eyJlbmFibGVkIjpbInA0ZW05YThtIiwicGFydGVuYWlyZS1jQXNEZThqQyIsIkNMLVQxUmdtNyIs"
    "Ik05TlJISmUzRyIsInE0emxKcWRjRCJdfSwidmVuZG9yc19saSI6eyJlbmFibGVkIjpbImdvb2dsZSJdfSwidmVyc2lvbiI6Mn0="
)
# fixtures of LiveRamp/iabconsent (v2_parsed_consent_fixture_test.go), made with the IAB's own encoder at iabtcf.com
ADS_ALLOWED = "COvzTO5OvzTO5BRAAAENAPCoALIAADgAAAAAAewAwABAAlAB6ABBFAADBQAQA9hAAAcAA"
NOTHING_ALLOWED = "CP5jqEAP5jqEACGABBENAmEgAAAAAAAAAAAAAAAAAAAA.YAAAAAAAAAAA"


def token(**lists: Any) -> str:
    return "didomi_token=" + b64encode(json.dumps({"user_id": "x", "version": 2, **lists}).encode()).decode()


ALL_ADS = ["cookies", "create_ads_profile", "select_personalized_ads", "measure_ad_performance"]
DIDOMI = [
    (didomi(["p4em9a8m", "CL-T1Rgm7"]), DIDOMI_TOKEN, YES),
    (didomi("p4em9a8m"), DIDOMI_TOKEN, YES),
    (didomi("p4em9a8m", vendors="c:googleana-h7Kc3e7Y"), DIDOMI_TOKEN, YES),
    (didomi("p4em9a8m", vendors="c:facebook"), DIDOMI_TOKEN, UNKNOWN),
    (didomi(), DIDOMI_TOKEN, UNKNOWN),
    (didomi(), f"{DIDOMI_TOKEN}; euconsent-v2={ADS_ALLOWED}", YES),
    (didomi(), f"{DIDOMI_TOKEN}; euconsent-v2={NOTHING_ALLOWED}", NO),
    (didomi(), f"euconsent-v2={NOTHING_ALLOWED}; didomi_dcs=CAAA", NO),
    (didomi(), token(purposes={"enabled": ALL_ADS, "disabled": []}), YES),
    (didomi(), token(purposes={"enabled": ALL_ADS[:3], "disabled": ALL_ADS[3:]}), NO),
    (didomi(), token(purposes={"enabled": ALL_ADS[:3]}), UNKNOWN),
    (didomi("a"), token(purposes={"enabled": ["a"], "disabled": ["a"]}), NO),
    (didomi("a"), token(purposes=["a"]), UNKNOWN),
    (didomi("a"), token(purposes={"enabled": "a"}), UNKNOWN),
    (didomi("a"), "didomi_token=eyJ", UNKNOWN),
    (didomi("a"), "", UNKNOWN),
]

TCF = [
    (tcf(), ADS_ALLOWED, YES),
    (tcf(vendor=37), ADS_ALLOWED, YES),
    (tcf(vendor=38), ADS_ALLOWED, NO),
    (tcf((1, 2)), ADS_ALLOWED, NO),
    (tcf(), NOTHING_ALLOWED, NO),
    (tcf(vendor=61), ADS_ALLOWED[:48], UNKNOWN),
    (tcf(), ADS_ALLOWED[:38], UNKNOWN),
    (tcf(), "BOEFEAyOEFEAyAHABDENAI4AAAB9vABAASA", UNKNOWN),  # version 1
    (tcf(), "", UNKNOWN),
]

GCM = "consentMode="
MODE = [
    (
        google_consent_mode(),
        GCM + '{"ad_storage":"granted","ad_user_data":"granted","analytics_storage":"denied"}',
        YES,
    ),
    (google_consent_mode(), GCM + quote('{"ad_storage":"granted","ad_user_data":"granted"}'), YES),
    (google_consent_mode(), GCM + '{"ad_storage":"granted","ad_user_data":"denied"}', NO),
    (google_consent_mode(), GCM + '{"ad_storage":"granted"}', UNKNOWN),
    (google_consent_mode(signals="ad_storage"), GCM + '{"ad_storage":"granted"}', YES),
    (google_consent_mode("consent_state"), 'consent_state={"ad_storage":"denied","ad_user_data":"denied"}', NO),
    (google_consent_mode(), GCM + '{"ad_storage":true,"ad_user_data":"granted"}', UNKNOWN),
    (google_consent_mode(), GCM + '["ad_storage"]', UNKNOWN),
    (google_consent_mode(), GCM + "[" * 5000, UNKNOWN),
    (google_consent_mode(), "", UNKNOWN),
]


@pytest.mark.parametrize(
    ("read", "cookie", "means"),
    [*ONETRUST, *COOKIEBOT, *DIDOMI, *((read, f"euconsent-v2={text}", means) for read, text, means in TCF), *MODE],
)
def test_a_reader_tells_what_the_visitor_chose(read: Any, cookie: str, means: Consent) -> None:
    assert read(request(f"before=1; {cookie}; after=2")) is means


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: tcf(()), "purposes"),
        (lambda: tcf(3), "purposes"),  # type: ignore[arg-type]
        (lambda: tcf("1,3"), "purposes"),  # type: ignore[arg-type]
        (lambda: tcf((0,)), "1 to 24"),
        (lambda: tcf((1, 25)), "1 to 24"),
        (lambda: tcf((True,)), "1 to 24"),
        (lambda: tcf(("1",)), "1 to 24"),  # type: ignore[arg-type]
        (lambda: tcf(vendor=0), "vendor"),
        (lambda: tcf(vendor=65_536), "vendor"),
        (lambda: tcf(vendor="755"), "vendor"),  # type: ignore[arg-type]
        (lambda: cookiebot("Marketing"), "necessary, preferences, statistics, marketing"),
        (lambda: cookiebot("advertising"), "'advertising'"),
        (lambda: didomi(()), "purposes or vendors"),
        (lambda: google_consent_mode(signals=()), "signals"),
    ],
)
def test_a_reader_that_could_grant_nobody_or_everybody_is_not_made(make: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()


def test_a_tc_string_may_have_another_cookie() -> None:
    assert tcf(cookie="tc")(request(f"tc={ADS_ALLOWED}")) is YES


MANY = (
    "2 6 8 12 18 23 37 42 47 48 53 61 65 66 72 88 98 127 128 129 133 153 163 192 205 215 224 243 248 281 294 304 "
    "350 351 358 371 422 424 440 447 467 486 498 502 512 516 553 556 571 587 612 613 618 626 648 653 656 657 665 "
    "676 681 683 684 686 687 688 690 691 694 702 703 707 708 711 712 714 716 719 720 "
)
# The first is the specification's own example; the others are LiveRamp/iabconsent's, with what its authors decoded.
PUBLISHED = [
    (
        "COvFyGBOvFyGBAbAAAENAPCAAOAAAAAAAAAAAEEUACCKAAA.IFoEUQQgAIQwgIwQABAEAAAAOIAACAIAAAAQAIAgEAACEAAAAAgAQBAAAAAAAGBAAgAAAAA"
        "AAFAAECAAAgAAQARAEQAAAAAJAAIAAgAAAYQEAAAQmAgBC3ZAYzUw",
        {1, 2, 3},
        {2, 6, 8},
    ),
    (
        "COvzTO5OvzTO5B7ABCENAPCYAKdAADkAAIqIFhwBAAGAAXAFGAsMAhYAgAMAAegBYAEKAAA.QE5QAwCvgHyATkA",
        {1, 3, 6, 7, 8, 10},
        {12, 23, 163, 707},
    ),
    (ADS_ALLOWED, {1, 3, 4, 7}, {2, 37, 61}),
    ("COvzTO5OvzTO5B7ABCENAPEYAIAAAIAAAIqIAAoAAoAA.QAAo.IAAo", {1}, {1}),
    (
        "COvzTO5OvzTO5BZAFMENAPCgAAAAAAAAAAwIFoEUQQgAIQwgIwQABAEAAAAOIAACAIAAAAQAIAgEAACEAAAAAgAQBAAAAAAAGBAAgAAAAAAAFAAECAAAgAAQ"
        "ARAEQAAAAAJAAIAAgAAAYQEAAAQmAgBC3ZAYzUwLQIoghAAQhhARggACAIAAAAcQAAEAQAAAAgAQBAIAAEIAAAABAAgCAAAAAAAMCABAAAAAAAAKAAIEAABAA"
        "AgAiAIgAAAAASAAQABAAAAwgIAAAhMBACFuyAxmpgAA",
        set(),
        set(map(int, MANY.split())),
    ),
]


@pytest.mark.parametrize(("text", "purposes", "vendors"), PUBLISHED, ids=[text[-8:] for text, _, _ in PUBLISHED])
def test_published_tc_strings_are_decoded_as_published(text: str, purposes: set[int], vendors: set[int]) -> None:
    found = TCString(text)
    assert {purpose for purpose in range(-1, 40) if found.allows(purpose)} == purposes
    assert {vendor for vendor in range(-1, 1000) if found.allows_vendor(vendor)} == vendors


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def encoded(purposes: set[int], ranges: list[tuple[int, int]]) -> str:
    """A TC string by the specification's table, bit by bit, with vendors in ranges; what comes before the purposes is zero."""
    bits = f"{2:06b}" + "0" * 146 + "".join("01"[purpose in purposes] for purpose in range(1, 25))
    bits += "0" * 37 + f"{max((last for _, last in ranges), default=0):016b}1{len(ranges):012b}"
    for first, last in ranges:
        bits += f"0{first:016b}" if first == last else f"1{first:016b}{last:016b}"
    bits += "0" * (-len(bits) % 6)
    return "".join(ALPHABET[int(bits[n : n + 6], 2)] for n in range(0, len(bits), 6))


IDS = st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@hypothesis.given(st.sets(st.integers(1, 24)), st.lists(IDS, max_size=6))
def test_what_the_specification_writes_is_read_back(purposes: set[int], ranges: list[tuple[int, int]]) -> None:
    found = TCString(encoded(purposes, ranges))
    assert {purpose for purpose in range(30) if found.allows(purpose)} == purposes
    meant = {vendor for first, last in ranges for vendor in range(first, last + 1)}
    assert {vendor for vendor in range(80) if found.allows_vendor(vendor)} == meant


SAMPLES = [
    OPTANON,
    REFUSED,
    BOT_YES,
    BOT_NO,
    DIDOMI_TOKEN,
    f"euconsent-v2={ADS_ALLOWED}",
    GCM + '{"ad_storage":"granted"}',
]
NAMES = ["OptanonConsent", "OptanonAlertBoxClosed", "CookieConsent", "didomi_token", "euconsent-v2", "consentMode"]


@st.composite
def bent(draw: st.DrawFn) -> str:
    """A sample with a piece of it replaced, or any text under a tool's name."""
    if draw(st.booleans()):
        return f"{draw(st.sampled_from(NAMES))}={draw(st.text())}"
    sample = draw(st.sampled_from(SAMPLES))
    start = draw(st.integers(0, len(sample)))
    return sample[:start] + draw(st.text(max_size=8)) + sample[start + draw(st.integers(0, 8)) :]


@hypothesis.given(st.lists(bent(), max_size=3))
def test_no_cookie_makes_a_reader_raise(cookies: list[str]) -> None:
    for make in READERS.values():
        assert make()(request("; ".join(cookies))) in set(Consent)
    assert tcf(vendor=700)(request("; ".join(cookies))) in set(Consent)


@hypothesis.given(st.sampled_from(NAMES), st.text(alphabet=st.characters(codec="latin-1")))
def test_garbage_is_unknown(name: str, garbage: str) -> None:
    hypothesis.assume(garbage.strip() not in ("-1", "0"))
    for make in READERS.values():
        assert make()(request(f"{name}={garbage}")) is UNKNOWN
