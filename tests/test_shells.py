"""The contract of both shells: correctness.md A8 to A12, W1, W5, W7, C1 to C3, C9, and what design.md promises of a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from shell_world import (
    CLICK,
    FALLBACK,
    HTML,
    KNOWN_CLICK,
    KNOWN_PAGE,
    OURS,
    PAGE,
    PERSON,
    VISITOR,
    Answer,
    AsgiShell,
    HeaderPairs,
    Request,
    Shell,
    View,
    WsgiShell,
    kept,
    quiet,
    snapshot,
)

from adtarget_proxy.delivery import Delivery, InviteCall
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracker import Tracker
from adtarget_proxy.tracking.rules import Rules

HTML_TYPE = ("content-type", "text/html; charset=utf-8")
MARKUP: HeaderPairs = (HTML_TYPE,)


Wrap = Callable[..., Any]


@pytest.fixture
def wrap(shell: Shell) -> Iterator[Wrap]:
    """Wraps an app of the shell's own kind; ends what it started with the test."""
    wrapped: list[Any] = []

    def make(view: View = HTML, settings: Settings | None = None) -> Any:
        wrapped.append(shell.middleware(shell.app(view), settings or quiet()))
        return wrapped[-1]

    yield make
    for app in wrapped:
        app.close(0)


@pytest.fixture
def live(adtarget_sandbox: Sandbox) -> Settings:
    """Settings whose AdTarget is the sandbox."""
    return quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url, deliver="thread")


# -- the app's response ----------------------------------------------------------------------------------------------------

RESPONSES = {
    "a page": HTML,
    "a page in pieces": View(chunks=(b"<h1>", b"", b"Hel", b"lo</h1>")),
    "a page of nothing": View(chunks=()),
    "a page with cookies of its own": View(headers=(*MARKUP, ("set-cookie", "a=1; Path=/"), ("set-cookie", 'b="{1}"'))),
    "a page with a header twice": View(headers=(*MARKUP, ("link", "</a.css>"), ("X-Own", "1"), ("link", "</b.css>"))),
    "a page in latin-1": View(headers=(("Content-Type", "TEXT/HTML"), ("x-name", "Zo\xeb"))),
    "a cacheable page": View(headers=(*MARKUP, ("cache-control", "public, max-age=60"), ("vary", "accept"))),
    "a private page": View(headers=(*MARKUP, ("cache-control", "private, max-age=0"), ("etag", '"x"'))),
    "created": View("201 Created"),
    "no content": View("204 No Content", (), ()),
    "not modified": View("304 Not Modified", (("etag", '"x"'),), ()),
    "moved": View("302 Found", (HTML_TYPE, ("location", "/elsewhere")), ()),
    "not found": View("404 Not Found"),
    "broken": View("500 Internal Server Error"),
    "odd status": View("299 Whatever"),
    "json": View(headers=(("content-type", "application/json"),), chunks=(b"{}",)),
    "a style": View(headers=(("content-type", "text/css"), ("cache-control", "public, immutable")), chunks=(b"a{}",)),
    "a download": View(headers=(HTML_TYPE, ("content-disposition", "attachment; filename=a.html"))),
    "no headers": View(headers=()),
}
REQUESTS = {
    "a first visit": PAGE,
    "a visitor again": KNOWN_PAGE,
    "a click on an ad": replace(PAGE, query="fbclid=IwAR0_aB-c9&utm_source=fb"),
    "HEAD": replace(PAGE, method="HEAD"),
    "POST": replace(PAGE, method="POST"),
    "odd method": replace(PAGE, method="PROPFIND"),
    "a script's fetch": PAGE.having(sec_fetch_dest="empty"),
    "a picture": PAGE.having(sec_fetch_dest="image"),
    "a bot": PAGE.having(user_agent="Googlebot/2.1"),
    "GPC": PAGE.having(sec_gpc="1"),
    "opted out": PAGE.having(cookie="adtarget_optout=1"),
    "an unknown slug": replace(PAGE, path="/c/nobody"),
    "a POST to a route": replace(CLICK, method="POST"),
    "odd bytes": replace(PAGE, path="/%FF%C3%28", query="a=\xff&b=%zz").having(
        cookie='x="{\xe9,;}"; \xff', referer="http://["
    ),
    "no headers": Request(headers={}),
    "no peer": replace(PAGE, peer=None),
}
COUNTED = ("a first visit", "a visitor again", "a click on an ad", "an unknown slug", "odd bytes", "no peer")
PAGES = (
    *(
        "a page",
        "a page in pieces",
        "a page of nothing",
        "a page with cookies of its own",
        "a page with a header twice",
    ),
    *("a page in latin-1", "a cacheable page", "a private page", "created", "odd status"),
)


@pytest.mark.parametrize("response", RESPONSES)
def test_the_app_answers_byte_for_byte_as_it_did(shell: Shell, wrap: Wrap, response: str) -> None:
    view = RESPONSES[response]
    bare, wrapped = shell.app(view), wrap(view)
    for name, request in REQUESTS.items():
        expected, answer = shell.ask(bare, request), shell.ask(wrapped, request)
        assert answer.without_ours() == expected.without_ours(), name
        touched = response in PAGES and name in COUNTED
        assert bool(OURS & answer.cookies.keys()) is touched, name
        if not touched:
            assert answer == expected, name


CACHE_HEADERS = [
    (None, "private"),
    ("public, max-age=60", "private, max-age=60"),
    ("no-store", "no-store"),
    ("max-age=60", "private, max-age=60"),
]


@pytest.mark.parametrize(("given", "becomes"), CACHE_HEADERS)
def test_a_page_that_gains_cookies_is_kept_from_shared_caches(
    shell: Shell, wrap: Wrap, given: str | None, becomes: str
) -> None:
    view = View(headers=MARKUP if given is None else (*MARKUP, ("Cache-Control", given)))
    assert shell.ask(wrap(view), PAGE).all("cache-control") == [becomes]
    assert shell.ask(wrap(view, quiet(cache="leave")), PAGE).all("cache-control") == ([given] if given else [])


def test_headers_that_speak_to_a_cdn_go_and_the_others_stay_in_order(shell: Shell, wrap: Wrap) -> None:
    own = (
        ("X-A", "1"),
        ("CDN-Cache-Control", "max-age=9"),
        HTML_TYPE,
        ("Surrogate-Control", "max-age=9"),
        ("x-b", "2"),
    )
    answer = shell.ask(wrap(View(headers=own)), PAGE)
    assert answer.without_ours().headers == (("X-A", "1"), HTML_TYPE, ("x-b", "2"))


AHEAD = [  # name, value, whether it says that nobody has asked to see the page yet; by containment
    ("sec_purpose", "prefetch", True),
    ("sec_purpose", "prefetch;prerender", True),
    ("sec_purpose", "prefetch;anonymous-client-ip", True),
    ("sec_purpose", "Prerender", True),
    ("purpose", "prefetch", True),
    ("purpose", "preview", True),
    ("x_purpose", "preview; link", True),
    ("x_moz", "prefetch", True),
    ("x_sec_purpose", "prefetch", True),
    ("next_router_prefetch", "1", True),
    ("x_fb_http_engine", "Liger", True),
    ("sec_purpose", "", False),
    ("purpose", "shopping", False),
    ("x_moz", "microsummary", False),
]


@pytest.mark.parametrize(("name", "value", "ahead"), AHEAD)
def test_a_prefetched_page_goes_out_untracked_with_no_store(
    shell: Shell, wrap: Wrap, name: str, value: str, ahead: bool
) -> None:
    app = wrap()
    answer = shell.ask(app, PAGE.having(**{name: value}))
    assert (answer.status, answer.body) == (200, b"<h1>Hello</h1>")
    assert answer.all("cache-control") == (["no-store"] if ahead else ["private"])
    assert bool(answer.cookies) is not ahead
    assert len(kept(app.tracker)) == (0 if ahead else 1)


@pytest.mark.parametrize(("name", "value", "ahead"), AHEAD)
def test_a_prefetch_can_be_refused_so_that_the_browser_asks_again(
    shell: Shell, wrap: Wrap, name: str, value: str, ahead: bool
) -> None:
    answer = shell.ask(wrap(settings=quiet(prefetch="refuse")), PAGE.having(**{name: value}))
    if ahead:
        assert (answer.status, answer.all("cache-control"), answer.body) == (503, ["no-store"], b"")
    else:
        assert (answer.status, bool(answer.cookies)) == (200, True)


def test_debug_says_the_reason_in_a_header(shell: Shell, wrap: Wrap) -> None:
    app = wrap(settings=quiet(debug=True))
    said = {name: shell.ask(app, request).all("x-adtarget-reason") for name, request in REQUESTS.items()}
    assert said["a first visit"] == ["tracked"]
    assert said["a bot"] == ["bot"]
    assert said["POST"] == ["not-a-page"]
    assert said["GPC"] == ["gpc"]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (CLICK, "invite-fallback"),
        (CLICK.having(user_agent="Googlebot/2.1"), "bot"),
        (CLICK.having(sec_gpc="1"), "gpc"),
        (CLICK.having(sec_purpose="prefetch"), "prefetch"),
    ],
)
def test_debug_says_the_reason_of_a_click_in_a_header(shell: Shell, wrap: Wrap, request_: Request, reason: str) -> None:
    assert shell.ask(wrap(settings=quiet(debug=True)), request_).all("x-adtarget-reason") == [reason]
    assert shell.ask(wrap(), request_).all("x-adtarget-reason") == []


# -- what is told ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("response", ["a page", "json", "not found", "moved", "not modified"])
def test_only_a_page_view_is_told_and_every_one_is_told_once(
    shell: Shell, wrap: Wrap, response: str, request_name: str
) -> None:
    app, request = wrap(RESPONSES[response]), REQUESTS[request_name]
    shell.ask(app, request)
    revalidated = response == "not modified" and request_name == "a visitor again"
    told = 1 if revalidated or (response == "a page" and request_name in COUNTED) else 0
    assert [event.kind for event in kept(app.tracker)] == ["visit"] * told
    assert sum(app.tracker.counts().values()) == 1


@pytest.mark.parametrize(
    ("request_", "href"),
    [
        (replace(PAGE, path="/a%20b/%C3%A9", query="x=%41&y=1"), "https://shop.test/a%20b/%C3%A9?x=%41&y=1"),
        (replace(PAGE, path="/p", root="/shop"), "https://shop.test/shop/p"),
        (replace(PAGE, path="/", root="/shop"), "https://shop.test/shop/"),
        (replace(PAGE, path="/shopping", root="/shop"), "https://shop.test/shop/shopping"),
        (replace(PAGE, scheme="http").having(host="shop.test:8000"), "http://shop.test:8000/"),
    ],
)
def test_the_visit_carries_the_url_in_the_address_bar(shell: Shell, wrap: Wrap, request_: Request, href: str) -> None:
    """A10 and W7."""
    app = wrap()
    shell.ask(app, request_)
    assert [event.fields["href"] for event in kept(app.tracker)] == [href]


def test_the_cookies_are_those_that_adtarget_is_told_of(shell: Shell, wrap: Wrap) -> None:
    app = wrap()
    cookies = shell.ask(app, replace(PAGE, query="fbclid=abc")).cookies
    (visit,) = kept(app.tracker)
    told = {name: visit.fields[name] for name in ("temp_id", "client_session_id", "fbp", "fbc")}
    assert told == {
        "temp_id": cookies["adtarget_temp_id"],
        "client_session_id": cookies["adtarget_session_id"],
        "fbp": cookies["_fbp"],
        "fbc": cookies["_fbc"],
    }


def test_a_returning_page_carries_the_session_cookie_and_nothing_else(shell: Shell, wrap: Wrap) -> None:
    app = wrap()
    first = shell.ask(app, PAGE).cookies
    again = shell.ask(app, PAGE.having(cookie="; ".join(f"{name}={value}" for name, value in first.items())))
    assert again.cookies == {"adtarget_session_id": first["adtarget_session_id"]}
    assert [event.visitor for event in kept(app.tracker)] == [first["adtarget_temp_id"]] * 2


def test_a_visitors_own_x_adtarget_headers_are_believed_by_nobody(shell: Shell, wrap: Wrap) -> None:
    """C9."""
    app = wrap()
    forged = {
        "x_adtarget_client_ip": "198.51.100.1",
        "x_adtarget_client_user_agent": "forged",
        "x_adtarget_reason": "bot",
    }
    answer = shell.ask(app, PAGE.having(**forged))
    (visit,) = kept(app.tracker)
    assert (visit.fields["client_ip"], visit.fields["user_agent"]) == ("203.0.113.7", PERSON)
    assert not {"198.51.100.1", "forged"} & set(map(str, visit.fields.values()))
    assert answer.all("x-adtarget-reason") == []


def test_installed_twice_works_once(shell: Shell, wrap: Wrap) -> None:
    """A12."""
    inner = wrap()
    outer = shell.middleware(inner, quiet())
    try:
        answer = shell.ask(outer, PAGE)
        assert len(answer.all("set-cookie")) == len(answer.cookies)
        assert (len(kept(outer.tracker)), len(kept(inner.tracker))) == (1, 0)
        assert shell.ask(outer, CLICK).status == 302
    finally:
        outer.close(0)


# -- what the app sees -----------------------------------------------------------------------------------------------------


def seen_by(shell: Shell, wrap: Wrap, request: Request, **settings: Any) -> tuple[dict[str, str | None], Answer]:
    found: list[dict[str, str | None]] = []
    app = wrap(replace(HTML, look=lambda tracking: found.append(snapshot(tracking))), quiet(**settings))
    answer = shell.ask(app, request)
    return found[0], answer


def test_the_ids_are_there_before_the_app_runs_also_on_a_first_visit(shell: Shell, wrap: Wrap) -> None:
    seen, answer = seen_by(shell, wrap, replace(PAGE, query="fbclid=abc"))
    assert seen["visitor_id"] == answer.cookies["adtarget_temp_id"]
    assert seen["session_id"] == answer.cookies["adtarget_session_id"]
    assert seen["fbp"] == answer.cookies["_fbp"]
    assert seen["fbc"] == answer.cookies["_fbc"]
    assert seen["reason"] is None


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_elsewhere_the_ids_are_what_the_cookies_held(shell: Shell, wrap: Wrap, method: str) -> None:
    seen, _ = seen_by(shell, wrap, replace(KNOWN_PAGE, method=method))
    assert (seen["visitor_id"], seen["session_id"]) == (VISITOR, "s-1")
    assert (seen["fbp"], seen["fbc"], seen["event_id"]) == ("fb.1.1700000000000.1234567890", None, None)
    assert seen["reason"] == "not-a-page"


def test_elsewhere_without_cookies_there_is_nobody(shell: Shell, wrap: Wrap) -> None:
    seen, _ = seen_by(shell, wrap, replace(PAGE, method="POST"))
    assert {seen[name] for name in ("visitor_id", "session_id", "fbp", "fbc", "event_id")} == {None}


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "address"),
    [
        ("203.0.113.7", None, (), "203.0.113.7"),
        ("203.0.113.7", "198.51.100.9", (), "203.0.113.7"),
        ("10.0.0.1", "198.51.100.9", ("10.0.0.0/8",), "198.51.100.9"),
        ("10.0.0.1", None, (), "10.0.0.1"),
        (None, None, (), None),
    ],
)
def test_the_client_ip_is_a_string_or_none(
    shell: Shell, wrap: Wrap, peer: str | None, forwarded: str | None, trusted: Any, address: str | None
) -> None:
    request = replace(PAGE, peer=peer).having(x_forwarded_for=forwarded)
    seen, _ = seen_by(shell, wrap, request, trusted_proxies=trusted)
    assert seen["client_ip"] == address


def test_the_reason_is_known_once_the_response_has_started(shell: Shell, wrap: Wrap) -> None:
    found: list[Any] = []
    app = wrap(replace(HTML, look=found.append))
    for request in (PAGE, PAGE.having(sec_gpc="1")):
        shell.ask(app, request)
    assert [tracking.reason for tracking in found] == ["tracked", "gpc"]


def test_the_event_id_is_the_key_under_which_the_visit_is_told(shell: Shell, wrap: Wrap) -> None:
    found: list[Any] = []
    app = wrap(replace(HTML, look=lambda tracking: found.append(tracking.event_id)))
    shell.ask(app, PAGE)
    assert [event.key for event in kept(app.tracker)] == found


def test_identify_goes_with_the_visit_of_the_page(shell: Shell, wrap: Wrap) -> None:
    app = wrap(replace(HTML, look=lambda tracking: tracking.identify(42)))
    shell.ask(app, PAGE)
    assert [event.fields["external_user_id"] for event in kept(app.tracker)] == ["42"]


def test_a_template_gets_the_path_of_an_invite_route_and_a_wrong_slug_is_named(shell: Shell, wrap: Wrap) -> None:
    found: list[Any] = []

    def look(tracking: Any) -> None:
        found.append(tracking.invite_url("vip"))
        with pytest.raises(LookupError, match=r"'gold'.*vip"):
            tracking.invite_url("gold")

    shell.ask(wrap(replace(HTML, look=look), quiet(invite_path="/join/{slug}/now")), PAGE)
    assert found == ["/join/vip/now"]


# -- the invite click ------------------------------------------------------------------------------------------------------

PROTECTIVE = {"cache-control": "private, no-store", "x-robots-tag": "noindex", "referrer-policy": "no-referrer"}


def test_a_click_ends_in_the_visitors_own_link_and_a_second_tap_in_the_same(
    shell: Shell, wrap: Wrap, live: Settings, adtarget_sandbox: Sandbox
) -> None:
    app = wrap(settings=live)
    first = shell.ask(app, CLICK)
    cookie = "; ".join(f"{name}={value}" for name, value in first.cookies.items())
    second = shell.ask(app, CLICK.having(cookie=cookie))
    assert (first.status, first.body) == (302, b"")
    assert {name: first.all(name) for name in PROTECTIVE} == {name: [value] for name, value in PROTECTIVE.items()}
    assert first.all("location") == second.all("location")
    assert first.all("location")[0].startswith("https://t.me/+")
    assert second.cookies == {}
    (invite,) = adtarget_sandbox.wait_for(1, "invite")
    assert invite["body"]["tempId"] == first.cookies["adtarget_temp_id"]
    assert app.tracker.counts()["invite"] == 1
    assert app.tracker.counts()["invite-repeat"] == 1


NO_CALL = {
    "HEAD": replace(CLICK, method="HEAD"),
    "a bot": CLICK.having(user_agent="TelegramBot (like TwitterBot)"),
    "GPC": CLICK.having(sec_gpc="1"),
    "opted out": CLICK.having(cookie="adtarget_optout=1"),
}


@pytest.mark.parametrize("name", NO_CALL)
def test_a_click_that_does_not_count_gets_the_fallback_without_a_call_or_a_cookie(
    shell: Shell, wrap: Wrap, live: Settings, adtarget_sandbox: Sandbox, name: str
) -> None:
    app = wrap(settings=live)
    answer = shell.ask(app, NO_CALL[name])
    assert (answer.status, answer.all("location"), answer.cookies) == (302, [FALLBACK], {})
    assert app.close() == 0
    assert adtarget_sandbox.requests() == []


def test_a_prefetched_route_is_refused_with_nothing(shell: Shell, wrap: Wrap) -> None:
    answer = shell.ask(wrap(), CLICK.having(sec_purpose="prefetch"))
    assert (answer.status, answer.all("cache-control"), answer.body) == (503, ["no-store"], b"")
    assert answer.all("location") == []


def test_a_click_while_adtarget_is_gone_gets_the_fallback_and_its_cookies(shell: Shell, wrap: Wrap) -> None:
    app = wrap()
    answer = shell.ask(app, CLICK)
    assert answer.all("location") == [FALLBACK]
    assert answer.cookies["adtarget_temp_id"]
    assert [event.kind for event in kept(app.tracker)] == ["visit", "invite"]


@pytest.mark.parametrize("mode", ["off", "dry-run"])
def test_a_click_works_without_adtarget(shell: Shell, wrap: Wrap, mode: str) -> None:
    assert shell.ask(wrap(settings=quiet(mode=mode)), KNOWN_CLICK).all("location") == [FALLBACK]


@pytest.mark.parametrize(
    "request_", [replace(CLICK, method="POST"), replace(CLICK, path="/c/nobody"), replace(CLICK, path="/c/vip/more")]
)
def test_other_methods_and_unknown_slugs_are_the_apps(shell: Shell, wrap: Wrap, request_: Request) -> None:
    assert shell.ask(wrap(), request_).body == b"<h1>Hello</h1>"


def test_a_redirect_view_of_the_apps_own_gets_link_and_cookies_of_one_visitor(
    shell: Shell, wrap: Wrap, live: Settings, adtarget_sandbox: Sandbox
) -> None:
    found: list[Any] = []

    def look(tracking: Any) -> None:
        found.append((tracking.visitor_id, tracking.invite("vip")))

    view = View("302 Found", (("location", "/elsewhere"),), (), look)
    answer = shell.ask(wrap(view, live), replace(PAGE, path="/join"))
    ((visitor, link),) = found
    assert link.startswith("https://t.me/+")
    assert answer.cookies["adtarget_temp_id"] == visitor
    assert answer.all("cache-control") == ["private, no-store"]
    (invite,) = adtarget_sandbox.wait_for(1, "invite")
    (visit,) = adtarget_sandbox.wait_for(1, "visit")
    assert invite["body"]["tempId"] == visit["body"]["tempId"] == visitor


def test_a_view_that_asks_for_two_links_makes_one_visit(shell: Shell, wrap: Wrap) -> None:
    view = replace(HTML, look=lambda tracking: [tracking.invite(slug) for slug in ("vip", "gold")])
    app = wrap(view, quiet(invites={"vip": "-1", "gold": "-2"}))
    shell.ask(app, PAGE)
    assert sorted(event.kind for event in kept(app.tracker)) == ["invite", "invite", "visit"]


def test_a_page_whose_view_asked_for_a_link_is_a_page_view_as_well(shell: Shell, wrap: Wrap) -> None:
    view = replace(HTML, look=lambda tracking: tracking.invite("vip"))
    app = wrap(view)
    answer = shell.ask(app, KNOWN_PAGE)
    assert sorted(event.kind for event in kept(app.tracker)) == ["invite", "visit"]
    assert "adtarget_session_id" in answer.cookies
    assert answer.all("cache-control") == ["private"]
    assert app.tracker.counts()["invite-fallback"] == 1
    assert app.tracker.counts()["tracked"] == 0


def test_what_a_user_may_not_expect_is_said_once_and_without_a_key(
    shell: Shell, wrap: Wrap, caplog: pytest.LogCaptureFixture
) -> None:
    app = wrap(HTML, quiet())
    with caplog.at_level("INFO", "adtarget_proxy"):
        for _ in range(3):
            shell.ask(app, PAGE)
    said = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert sum("memory://" in line for line in said) == 1
    assert sum("consent" in line for line in said) == 1
    assert "atk_live" not in caplog.text


def test_a_redirect_view_may_answer_a_form(shell: Shell, wrap: Wrap) -> None:
    view = View("303 See Other", (("location", "/elsewhere"),), (), lambda tracking: tracking.invite("vip"))
    app = wrap(view)
    answer = shell.ask(app, replace(PAGE, path="/join", method="POST"))
    visit, invite = kept(app.tracker)
    assert answer.cookies["adtarget_temp_id"] == visit.visitor == invite.visitor
    assert answer.all("cache-control") == ["private, no-store"]


# -- conversions -----------------------------------------------------------------------------------------------------------

LEAD = {"telegram_user_id": 1234567890, "event_type": "Lead"}
LENT = {"fbp": "fb.1.1700000000000.1234567890", "client_ip": "203.0.113.7", "user_agent": PERSON}
WEBHOOK = Request(
    "/hook", method="POST", headers={"host": "shop.test", "user-agent": "Stripe/1.0 (+https://stripe.com)"}
)
LENDERS: dict[str, tuple[Request, dict[str, str]]] = {
    "a visitor's page": (KNOWN_PAGE, LENT),
    "a visitor's form": (replace(KNOWN_PAGE, method="POST"), LENT),
    "a webhook": (WEBHOOK, {}),
    "a webhook with a visitor's cookies": (WEBHOOK.having(cookie=KNOWN_PAGE.headers["cookie"]), {}),
    "a person without a tempId": (replace(PAGE, method="POST"), {}),
    "a bot with cookies": (KNOWN_PAGE.having(user_agent="Googlebot/2.1"), {}),
    "GPC": (KNOWN_PAGE.having(sec_gpc="1"), {}),
    "opted out": (KNOWN_PAGE.having(cookie=KNOWN_PAGE.headers["cookie"] + "; adtarget_optout=1"), {}),
}


@pytest.mark.parametrize("name", LENDERS)
def test_a_conversion_borrows_from_a_visitors_own_request_alone(shell: Shell, wrap: Wrap, name: str) -> None:
    request, lent = LENDERS[name]
    view = View(headers=(), look=lambda tracking: tracking.conversion(**LEAD, idempotency_key="order_1"))
    app = wrap(view)
    shell.ask(app, request)
    (event,) = kept(app.tracker)
    borrowed = {name: value for name, value in event.fields.items() if name not in (*LEAD, "event_time")}
    assert (event.kind, event.key, borrowed) == ("conversion", "order_1", lent)


def test_a_conversion_is_in_the_outbox_when_the_call_returns(shell: Shell, wrap: Wrap) -> None:
    durable: list[int] = []
    apps: list[Any] = []

    def look(tracking: Any) -> None:
        tracking.conversion(**LEAD)
        durable.append(len(kept(apps[0].tracker)))

    apps.append(wrap(replace(HTML, look=look)))
    shell.ask(apps[0], replace(KNOWN_PAGE, method="POST"))
    assert durable == [1]


def test_without_consent_a_conversion_goes_without_its_visitor(shell: Shell, wrap: Wrap) -> None:
    app = wrap(replace(HTML, look=lambda tracking: tracking.conversion(**LEAD)), quiet(consent=lambda facts: None))
    shell.ask(app, KNOWN_PAGE)
    (event,) = kept(app.tracker)
    assert event.fields.keys() == {*LEAD, "event_time"}


# -- faults of our own -----------------------------------------------------------------------------------------------------


def _broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("planted")


async def _broken_async(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("planted")


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "Tracker.plan": (Tracker, "plan", _broken),
    "Tracker.takes_over": (Tracker, "takes_over", _broken),
    "Tracker.watches": (Tracker, "watches", _broken),
    "Tracker.finish": (Tracker, "finish", _broken),
    "Tracker.answer": (Tracker, "answer", _broken),
    "Tracker.answer_async": (Tracker, "answer_async", _broken_async),
    "Tracker.unplanned": (Tracker, "unplanned", _broken),
    "Tracker.rescue": (Tracker, "rescue", _broken),
    "InviteCall.wait": (InviteCall, "wait", _broken),
    "InviteCall.wait_async": (InviteCall, "wait_async", _broken_async),
    "Outbox.append": (Outbox, "append", _broken),
    "Outbox.secret": (Outbox, "secret", _broken),
    "Delivery.start": (Delivery, "start", _broken),
    "Delivery.wake": (Delivery, "wake", _broken),
    "Delivery.invite": (Delivery, "invite", _broken),
    "visit.plan": ("adtarget_proxy.tracker", "plan", _broken),
    "visit.finish": ("adtarget_proxy.tracker", "finish", _broken),
    "Rules.gate": (Rules, "gate", _broken),
    "Rules.invite_gate": (Rules, "invite_gate", _broken),
    "invite.click_plan": ("adtarget_proxy.clicks", "click_plan", _broken),
    "the headers added": ("shell", "with_outcome", _broken),
    "Tracking": ("shell", "Tracking", _broken),
    "Response": ("shell", "Response", _broken),
}


@pytest.fixture(params=FAULTS)
def planted(request: pytest.FixtureRequest, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> str:
    """A function of ours that raises, from the first request on."""
    where, name, broken = FAULTS[request.param]
    if where == "shell":
        where = type(shell).middleware.__module__
    if isinstance(where, str):
        monkeypatch.setattr(f"{where}.{name}", broken)
    else:
        monkeypatch.setattr(where, name, broken)
    return str(request.param)


@pytest.mark.parametrize("reporting", ["fault works", "fault raises", "the log raises"])
def test_a_fault_of_ours_never_changes_the_apps_response(
    shell: Shell, wrap: Wrap, planted: str, reporting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reporting == "fault raises":
        monkeypatch.setattr(Tracker, "fault", _broken)
    if reporting == "the log raises":
        monkeypatch.setattr(logging.Logger, "handle", _broken)
    app, bare = wrap(), shell.app(HTML)
    for request in (PAGE, KNOWN_PAGE, replace(PAGE, method="POST"), PAGE.having(sec_purpose="prefetch")):
        assert shell.ask(app, request).without_ours() == shell.ask(bare, request)


UNFELT_BY_A_CLICK = {
    *("Tracker.watches", "Tracker.finish", "visit.finish", "the headers added", "Response"),  # of pages alone
    *("Tracker.rescue", "Tracker.unplanned", "Outbox.secret"),  # not asked for without another fault, or not here
}
OF_THE_OTHER_SHELL = {
    AsgiShell: {"Tracker.answer", "InviteCall.wait"},
    WsgiShell: {"Tracker.answer_async", "InviteCall.wait_async"},
}


@pytest.mark.parametrize("reporting", ["fault works", "fault raises"])
def test_a_fault_of_ours_never_makes_a_dead_button(
    shell: Shell, wrap: Wrap, planted: str, reporting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reporting == "fault raises":
        monkeypatch.setattr(Tracker, "fault", _broken)
    answer = shell.ask(wrap(), CLICK)
    assert (answer.status, answer.all("location")) == (302, [FALLBACK])
    assert {name: answer.all(name) for name in PROTECTIVE} == {name: [value] for name, value in PROTECTIVE.items()}
    felt = planted not in UNFELT_BY_A_CLICK | OF_THE_OTHER_SHELL[type(shell)]
    assert answer.cookies == {} if felt else answer.cookies.keys() >= {"adtarget_temp_id"}


@pytest.mark.parametrize("second", ["unplanned", "rescue"])
def test_where_the_rescue_fails_too_the_app_answers(
    shell: Shell, wrap: Wrap, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plan", second):
        monkeypatch.setattr(Tracker, name, _broken)
    assert shell.ask(wrap(), CLICK) == shell.ask(shell.app(HTML), CLICK)


def test_a_fault_of_ours_is_said_once_and_counted_each_time(
    shell: Shell, wrap: Wrap, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adtarget_proxy.tracker.plan", _broken)
    app = wrap()
    for _ in range(3):
        shell.ask(app, PAGE)
    assert [record.levelname for record in caplog.records if "failed in" in record.message] == ["ERROR"]
    assert app.tracker.counts()["error"] == 3


def test_the_log_says_where_a_fault_was_and_nothing_of_its_visitor(
    shell: Shell, wrap: Wrap, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def telling(*args: Any) -> None:
        raise ValueError(f"odd: {VISITOR} at {PAGE.peer} with {quiet().api_key}")

    monkeypatch.setattr("adtarget_proxy.tracker.plan", telling)
    shell.ask(wrap(), KNOWN_PAGE)
    assert "failed in plan (ValueError)" in caplog.text
    assert "in telling" in caplog.text
    assert not [word for word in (VISITOR, PAGE.peer, quiet().api_key) if str(word) in caplog.text]


@pytest.mark.parametrize("planted_at", ["plan", "finish"])
def test_the_reason_of_a_request_that_we_failed_on_is_error(
    shell: Shell, wrap: Wrap, planted_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"adtarget_proxy.tracker.{planted_at}", _broken)
    found: list[Any] = []
    app = wrap(replace(HTML, look=found.append))
    shell.ask(app, PAGE)
    assert found[0].reason == "error"
    assert app.tracker.counts()["error"] == 1


def test_an_app_that_uses_its_tracking_runs_on_where_planning_failed(
    shell: Shell, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adtarget_proxy.tracker.plan", _broken)
    found: list[Any] = []

    def look(tracking: Any) -> None:
        tracking.identify("me")
        tracking.conversion(**LEAD)
        found.append((snapshot(tracking), tracking.invite_url("vip"), tracking.invite("vip")))
        with pytest.raises(LookupError):
            tracking.invite_url("gold")

    app = wrap(replace(HTML, look=look))
    assert shell.ask(app, KNOWN_PAGE).body == b"<h1>Hello</h1>"
    ((seen, path, link),) = found
    assert set(seen.values()) == {None, "error"}
    assert (path, link) == ("/c/vip", FALLBACK)
    assert [event.kind for event in kept(app.tracker)] == ["conversion"]


@pytest.mark.parametrize("log", ["works", "raises"])
def test_an_invite_asked_by_the_apps_own_view_ends_in_the_fallback_where_we_fail(
    shell: Shell, wrap: Wrap, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if log == "raises":
        monkeypatch.setattr(logging.Logger, "handle", _broken)
    found: list[Any] = []
    app = wrap(replace(HTML, look=lambda tracking: found.append(tracking.invite("vip"))))
    for where in ("clicks.click_plan", "tracking.rules.Rules.invite_gate"):
        monkeypatch.setattr(f"adtarget_proxy.{where}", _broken)
        shell.ask(app, PAGE)
    assert found == [FALLBACK, FALLBACK]


def test_a_conversion_is_kept_alone_where_looking_at_its_request_fails(
    shell: Shell, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adtarget_proxy.tracking.lending.is_machine", _broken)
    app = wrap(replace(HTML, look=lambda tracking: tracking.conversion(**LEAD)))
    shell.ask(app, replace(KNOWN_PAGE, method="POST"))
    (event,) = kept(app.tracker)
    assert event.fields.keys() == {*LEAD, "event_time"}


def test_a_consent_callable_that_raises_grants_nothing_and_breaks_nothing(shell: Shell, wrap: Wrap) -> None:
    app = wrap(settings=quiet(consent=_broken))
    page, click = shell.ask(app, PAGE), shell.ask(app, CLICK)
    assert (page.body, page.cookies) == (b"<h1>Hello</h1>", {})
    assert (click.all("location"), click.cookies) == ([FALLBACK], {})
    assert kept(app.tracker) == []


# -- the apps' own faults --------------------------------------------------------------------------------------------------


class AppError(Exception):
    """What a hostile app raises."""


def test_the_apps_exception_goes_out_unchanged_before_its_response_starts(shell: Shell, wrap: Wrap) -> None:
    error = AppError("the app's own")

    def look(tracking: Any) -> None:
        raise error

    app = wrap(replace(HTML, look=look))
    with pytest.raises(AppError) as caught:
        shell.ask(app, PAGE)
    assert caught.value is error
    assert kept(app.tracker) == []


def test_a_garbled_status_of_the_apps_goes_out_as_it_is(shell: Shell, wrap: Wrap) -> None:
    """The server judges it, not we."""
    view = View("999 Strange", (HTML_TYPE,))
    assert shell.ask(wrap(view), PAGE) == shell.ask(shell.app(view), PAGE)


def test_flush_and_close_say_how_many_events_are_left(shell: Shell, wrap: Wrap, adtarget_sandbox: Sandbox) -> None:
    for settings, left in (
        (quiet(), 1),
        (quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url, deliver="thread"), 0),
    ):
        app = wrap(settings=settings)
        shell.ask(app, PAGE)
        assert (app.flush(), app.close(0.5)) == (left, left)
    assert len(adtarget_sandbox.events("visit")) == 1


def test_without_settings_they_come_from_the_environment(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("API_KEY", "atk_live_env00000_s"), ("OUTBOX", "memory://"), ("DELIVER", "worker")):
        monkeypatch.setenv(f"ADTARGET_{name}", value)
    app: Any = shell.middleware(shell.app(HTML))
    try:
        assert shell.ask(app, PAGE).cookies.keys() >= {"adtarget_temp_id"}
    finally:
        app.close(0)
