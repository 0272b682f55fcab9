"""One visitor, one ``_fbp``: two tabs at once, the pixel's own beside ours, and what never mints (meta-cookies, "Cookies"; C1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from shell_browser import AD, Browser
from shell_world import CLICK, HTML, OURS, PAGE, Answer, AsgiShell, Request, Shell, View, WsgiShell, quiet

SHELLS: dict[str, Shell] = {"asgi": AsgiShell(), "wsgi": WsgiShell()}
HOST = "shop.example.com"
KEPT = ("_fbp", "adtarget_temp_id", "adtarget_session_id", "adtarget_state")


@pytest.fixture(params=SHELLS)
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    made = Browser(SHELLS[request.param])
    yield made
    made.close()


def lines(answer: Answer) -> dict[str, str]:
    return {line.partition("=")[0]: line for line in answer.all("set-cookie")}


# -- two tabs at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", list(product("AB", repeat=len(KEPT))), ids="".join)
def test_two_tabs_at_once_end_in_one_visitor_with_the_next_page(browser: Browser, last: tuple[str, ...]) -> None:
    """``last``: whose cookie of each name came last, since the answers of two connections may mingle."""
    answers = {tab: lines(browser.ask(HOST, AD)) for tab in "AB"}
    for tab in "AB":
        for line in answers[tab].values():
            browser.jar.keep(line, HOST)
    for name, tab in zip(KEPT, last, strict=True):
        browser.jar.keep(answers[tab][name], HOST)
    first = browser.told()
    assert len({event.fields["temp_id"] for event in first}) == len({event.fields["fbp"] for event in first}) == 2

    browser.open(HOST)
    fbp, temp_id = browser.values("_fbp"), browser.values("adtarget_temp_id")
    told = browser.told()
    assert (len(fbp), len(temp_id)) == (1, 1)
    assert {(event.fields["temp_id"], event.fields["fbp"]) for event in told} == {(temp_id[0], fbp[0])}
    of = dict(zip(KEPT, last, strict=True))
    differs = of["adtarget_state"] == of["adtarget_temp_id"] != of["_fbp"]
    assert [event.kind for event in told] == ["fbp-update", "visit"] if differs else ["visit"]

    assert browser.open(HOST).cookies.keys() == {"adtarget_session_id"}
    assert (browser.values("_fbp"), browser.values("adtarget_temp_id")) == (fbp, temp_id)
    assert [event.kind for event in browser.told()] == ["visit"]


def test_nobody_is_merged_by_address_or_agent(browser: Browser) -> None:
    cookies = [browser.ask(HOST, AD).cookies for _ in range(20)]
    for name in ("_fbp", "adtarget_temp_id", "adtarget_session_id"):
        assert len({jar[name] for jar in cookies}) == 20
    told = browser.told()
    assert len({event.visitor for event in told}) == len({event.fields["fbp"] for event in told}) == 20
    assert len({(event.fields["client_ip"], event.fields["user_agent"]) for event in told}) == 1


# -- what never mints ------------------------------------------------------------------------------------------------------

ASSETS = (
    *("audio", "audioworklet", "embed", "empty", "fencedframe", "font", "frame", "iframe", "image", "json", "manifest"),
    *("object", "paintworklet", "report", "script", "serviceworker", "sharedworker", "style", "track", "video"),
    *("webidentity", "worker", "xslt", "anything-new"),
)
NEVER: dict[str, Request] = {
    **{f"Sec-Fetch-Dest: {kind}": PAGE.having(sec_fetch_dest=kind) for kind in ASSETS},
    "a fetch without Sec-Fetch-Dest": PAGE.having(sec_fetch_dest=None, accept="*/*"),
    "XMLHttpRequest": PAGE.having(sec_fetch_dest=None, x_requested_with="XMLHttpRequest"),
    "an htmx fragment": PAGE.having(sec_fetch_dest="empty", hx_request="true"),
    "a Turbo frame": PAGE.having(sec_fetch_dest="empty", turbo_frame="cart"),
    "a prefetch": PAGE.having(sec_purpose="prefetch"),
    "POST": replace(PAGE, method="POST"),
    "HEAD": replace(PAGE, method="HEAD"),
}


@pytest.mark.parametrize("name", NEVER)
def test_only_a_navigation_mints(browser: Browser, name: str) -> None:
    """Also where the answer is a whole page."""
    browser.open(HOST, replace(NEVER[name], query=AD.query))
    assert [browser.values(cookie) for cookie in OURS] == [[]] * len(OURS)
    assert browser.told() == []


def test_what_a_page_loads_beside_it_mints_nothing_before_or_after(browser: Browser) -> None:
    """The page's own answer is the last to come: what it loads went out without cookies."""
    page = browser.ask(HOST, AD)
    for request in NEVER.values():
        browser.open(HOST, request)
    browser.keep(HOST, page)
    for request in NEVER.values():
        browser.open(HOST, request)
    assert browser.values("_fbp") == [page.cookies["_fbp"]]
    assert [event.kind for event in browser.told()] == ["visit"]


# -- the pixel's own beside ours -------------------------------------------------------------------------------------------

YOUNGER, OLDER = 1_000, -400 * 86_400_000  # ms between ours and the pixel's, whose clock may be wrong
TOKEN = ".AQIAAQEC"


def host_only(answer: Answer) -> list[str]:
    """What was set before the list was installed."""
    return [line.replace("Domain=example.com; ", "") for line in answer.all("set-cookie")]


def pixels(browser: Browser, age: int, payload: str = "1111111111", token: str = "") -> str:
    """The pixel's own, on the registrable domain, as its script sets it."""
    value = f"fb.1.{int(browser.jar.now * 1000) + age}.{payload}{token}"
    assert browser.jar.keep(f"_fbp={value}; Domain=example.com; Path=/; Max-Age=7776000; SameSite=Lax", HOST)
    return value


@pytest.mark.parametrize("token", ["", TOKEN], ids=["four parts", "five parts"])
@pytest.mark.parametrize("age", [YOUNGER, OLDER], ids=["younger", "older"])
@pytest.mark.parametrize("ours_is", ["on the host", "on the domain"])
def test_the_pixels_own_wins_and_is_reported_once(browser: Browser, ours_is: str, age: int, token: str) -> None:
    first = browser.ask(HOST, PAGE)
    for line in host_only(first) if ours_is == "on the host" else first.all("set-cookie"):
        browser.jar.keep(line, HOST)
    theirs = pixels(browser, age, token=token)
    assert set(browser.values("_fbp")) == {first.cookies["_fbp"], theirs} - (
        set() if ours_is == "on the host" else {first.cookies["_fbp"]}
    )
    told = browser.told()
    for _ in range(6):
        browser.open(HOST)
        assert browser.values("_fbp") == [theirs]
        told += browser.told()
    assert [event.kind for event in told] == ["visit", "fbp-update", *["visit"] * 6]
    assert [event.fields["fbp"] for event in told] == [first.cookies["_fbp"], *[theirs] * 7]
    assert len({event.visitor for event in told}) == 1


def test_the_pixels_next_one_wins_as_well(browser: Browser) -> None:
    for line in host_only(browser.ask(HOST)):
        browser.jar.keep(line, HOST)
    values, told = [], browser.told()
    for payload in ("1111111111", "2222222222"):
        values.append(pixels(browser, YOUNGER, payload))
        for _ in range(3):
            browser.open(HOST)
            assert browser.values("_fbp") == values[-1:]
            told += browser.told()
    assert [event.fields["fbp"] for event in told if event.kind == "fbp-update"] == values


def test_the_click_goes_by_the_pixels_own_as_the_page_does(browser: Browser) -> None:
    for line in host_only(browser.ask(HOST)):
        browser.jar.keep(line, HOST)
    theirs = pixels(browser, YOUNGER)
    browser.told()
    browser.open(HOST, CLICK)
    assert browser.values("_fbp") == [theirs]
    assert [(event.kind, event.fields["fbp"]) for event in browser.told()] == [
        ("fbp-update", theirs),
        ("invite", theirs),
    ]


def test_an_app_that_takes_a_form_sees_the_pixels_own(browser: Browser) -> None:
    seen: list[str | None] = []
    view: View = replace(HTML, look=lambda tracking: seen.append(tracking.fbp))
    posting = Browser(browser.shell, quiet(), view)
    try:
        for line in host_only(posting.ask(HOST)):
            posting.jar.keep(line, HOST)
        theirs = pixels(posting, YOUNGER)
        posting.open(HOST, replace(PAGE, method="POST"))
        assert seen[-1] == theirs
    finally:
        posting.close()


@pytest.mark.parametrize("order", ["ours first", "the pixel's first"])
def test_on_a_host_whose_cookies_are_its_own_the_chosen_one_takes_the_place_of_ours(
    browser: Browser, order: str
) -> None:
    """Without the list we cannot say which of two lies on the domain: ours is written over, so that both say the same."""
    host = "localhost"
    first, told = browser.open(host), browser.told()
    ours, theirs = first.cookies["_fbp"], "fb.1.1700000000000.1111111111"
    for _ in range(4):
        browser.jar.now += 60
        pair = [f"_fbp={browser.values('_fbp')[0]}", f"_fbp={theirs}"]
        if order != "ours first":
            pair.reverse()
        others = [f"{cookie.name}={cookie.value}" for cookie in browser.jar.sent(host) if cookie.name != "_fbp"]
        request = PAGE.having(host=host, cookie="; ".join([*pair, *others]))
        browser.keep(host, browser.shell.ask(browser.app, request))
        assert browser.values("_fbp") == [theirs]
        told += browser.told()
    assert [event.kind for event in told] == ["visit", "fbp-update", *["visit"] * 4]
    assert [event.fields["fbp"] for event in told] == [ours, *[theirs] * 5]
