"""Consent in both shells: who is asked, what an answer does, withdrawal, the opt-out switch, and what a browser says by itself."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cookie_jar import CookieJar
from itsdangerous import Signer
from shell_world import (
    CLICK,
    FALLBACK,
    HTML,
    KNOWN,
    KNOWN_CLICK,
    KNOWN_PAGE,
    OURS,
    PAGE,
    PERSON,
    VISITOR,
    Answer,
    AsgiShell,
    Request,
    Shell,
    View,
    WsgiShell,
    kept,
    quiet,
    signed,
)

from adtarget_proxy.consent import Consent, onetrust
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.errors import SettingsError
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking import asking
from adtarget_proxy.tracking.events import Visit, Withdrawal

HTML_TYPE = ("content-type", "text/html; charset=utf-8")
KEY = "0123456789abcdef"
LEAD = {"telegram_user_id": 1234567890, "event_type": "Lead"}
ALL_OURS = f"{KNOWN}; _fbc=fb.1.1700000000000.abc; adtarget_state={VISITOR}!1750000000!1750000000!!x.forged"
Wrap = Callable[..., Any]


@pytest.fixture
def wrap(shell: Shell) -> Iterator[Wrap]:
    """Wraps an app of the shell's own kind; ends what it started with the test."""
    wrapped: list[Any] = []

    def make(view: View = HTML, **settings: Any) -> Any:
        wrapped.append(shell.middleware(shell.app(view), quiet(secret_key=KEY, **settings)))
        return wrapped[-1]

    yield make
    for app in wrapped:
        app.close(0)


def my_consent(request: Any) -> Any:
    """As the README has it."""
    said = request.cookies.get("my_consent")
    return None if said is None else said == "yes"


def saying(word: str, cookies: str = "", request: Request = PAGE) -> Request:
    """The request of a visitor who has answered the banner with ``word``."""
    return request.having(cookie=f"my_consent={word}; {cookies}")


def deleted(answer: Answer) -> set[tuple[str, str | None]]:
    """Name and Domain of every cookie that the answer deletes."""
    found = set()
    for line in answer.all("set-cookie"):
        pair, *attributes = line.split("; ")
        if "Max-Age=0" in attributes:
            domain = next((text.removeprefix("Domain=") for text in attributes if text.startswith("Domain=")), None)
            found.add((pair.removesuffix("="), domain))
    return found


def jar_of(answer: Answer) -> str:
    return "; ".join(f"{name}={value}" for name, value in answer.cookies.items())


# -- asking ------------------------------------------------------------------------------------------------------------------


def test_the_function_sees_the_same_request_in_both_shells(shell: Shell, wrap: Wrap) -> None:
    asked: list[Any] = []
    app = wrap(consent=lambda request: asked.append(request))
    shell.ask(app, Request("/l%C3%A4den/", "a=1", root="/shop", headers={**PAGE.headers, "cookie": "b=2; c=3"}))
    (request,) = asked
    assert (request.method, request.path, request.query, request.host) == ("GET", "/shop/läden/", "a=1", "shop.test")
    assert dict(request.cookies) == {"b": "2", "c": "3"}
    assert request.header("User-Agent") == request.header("user-agent") == PERSON


def _raising(request: Any) -> Any:
    raise LookupError("secret words")


async def _awaitable(request: Any) -> Any:
    return True


def said_of_consent(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log's lines about the function."""
    return [line for line in caplog.messages if "the consent function" in line]


ANSWERS: dict[str, tuple[Any, str, str | None]] = {
    "True": (lambda _: True, "tracked", None),
    "granted": (lambda _: "granted", "tracked", None),
    "Consent.GRANTED": (lambda _: Consent.GRANTED, "tracked", None),
    "False": (lambda _: False, "no-consent", None),
    "denied": (lambda _: "denied", "no-consent", None),
    "None": (lambda _: None, "no-consent", None),
    "unknown": (lambda _: "unknown", "no-consent", None),
    "another word": (lambda _: "yes", "no-consent", "answered with a str"),
    "a number": (lambda _: 1, "no-consent", "answered with a int"),
    "an awaitable": (lambda _: _awaitable(_), "no-consent", "async def"),
    "an exception": (_raising, "no-consent", "raised LookupError"),
    "a name": ("cookiebot", "no-consent", None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_decides_and_a_wrong_one_is_said_once(
    shell: Shell, wrap: Wrap, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    ask, reason, said = ANSWERS[name]
    app = wrap(consent=ask, debug=True)
    for _ in range(2):
        answer = shell.ask(app, PAGE)
        click = shell.ask(app, CLICK)
        assert (answer.status, answer.body, answer.all("x-adtarget-reason")) == (200, b"<h1>Hello</h1>", [reason])
        assert bool(answer.cookies) is (reason == "tracked")
        assert click.all("location") == [FALLBACK]
        assert click.all("x-adtarget-reason") == ["invite-fallback" if reason == "tracked" else "no-consent"]
    assert bool(kept(app.tracker)) is (reason == "tracked")
    lines = said_of_consent(caplog)
    assert [said in line for line in lines] == ([] if said is None else [True])
    assert "secret words" not in caplog.text


def test_a_visitor_is_asked_for_once_a_request_and_not_for_assets(shell: Shell, wrap: Wrap) -> None:
    asked: list[str] = []
    view = replace(HTML, look=lambda tracking: (tracking.conversion(**LEAD), tracking.invite("vip")))
    app = wrap(view, consent=lambda request: asked.append(request.path) or True)
    shell.ask(app, KNOWN_PAGE)
    assert asked == ["/"]
    for request in (PAGE.having(sec_fetch_dest="image"), PAGE.having(user_agent="Googlebot"), PAGE.having(sec_gpc="1")):
        shell.ask(wrap(consent=lambda request: asked.append(request.path)), replace(request, path="/elsewhere"))
    assert asked == ["/"]


def test_until_consent_no_id_is_made_and_the_first_page_with_it_sends_its_own_visit(shell: Shell, wrap: Wrap) -> None:
    seen: list[Any] = []
    app = wrap(
        replace(HTML, look=lambda t: seen.append((t.visitor_id, t.session_id, t.fbp, t.event_id))), consent=my_consent
    )
    for request in (replace(PAGE, query="fbclid=abc"), saying("no"), saying("odd")):
        answer = shell.ask(app, request)
        assert (answer.all("set-cookie"), answer.all("cache-control")) == ([], [])
    assert seen == [(None, None, None, None)] * 3
    assert kept(app.tracker) == []
    answer = shell.ask(app, replace(saying("yes"), path="/prices"))
    (visit,) = kept(app.tracker)
    assert (visit.kind, visit.fields["href"]) == ("visit", "https://shop.test/prices")
    assert visit.visitor == answer.cookies["adtarget_temp_id"]


@pytest.mark.parametrize("cookie", ["CookieConsent=-1", "CookieConsent=0", ""])
def test_a_tools_name_from_the_environment_is_its_reader(
    shell: Shell, wrap: Wrap, monkeypatch: pytest.MonkeyPatch, cookie: str
) -> None:
    monkeypatch.setenv("ADTARGET_CONSENT", "cookiebot")
    assert bool(shell.ask(wrap(), PAGE.having(cookie=cookie)).cookies) is (cookie == "CookieConsent=-1")


# -- async functions, which ASGI alone can await -------------------------------------------------------------------------------


def asgi_app(view: View = HTML, **settings: Any) -> Any:
    return AsgiShell.middleware(AsgiShell().app(view), quiet(**settings))


async def _granting(request: Any) -> Any:
    await asyncio.sleep(0)
    return my_consent(request)


@pytest.mark.parametrize(("word", "tracked"), [("yes", True), ("no", False)])
def test_an_async_function_is_awaited_before_the_app_is_called(word: str, tracked: bool) -> None:
    seen: list[Any] = []
    app = asgi_app(replace(HTML, look=lambda tracking: seen.append(tracking.visitor_id)), consent=_granting)
    answer = AsgiShell().ask(app, saying(word, KNOWN if tracked else ""))
    assert (seen == [VISITOR], bool(answer.cookies)) == (tracked, tracked)
    assert bool(kept(app.tracker)) is tracked
    assert AsgiShell().ask(app, saying(word, request=CLICK)).all("location") == [FALLBACK]
    assert bool(kept(app.tracker)) is tracked
    app.close(0)


@pytest.mark.parametrize("heeds", [True, False], ids=["hangs", "hangs and will not be cancelled"])
def test_an_async_function_that_hangs_does_not_hang_the_page(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, heeds: bool
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.05)
    let_go: list[asyncio.Event] = []

    async def hang(request: Any) -> bool:
        let_go.append(asyncio.Event())
        while not let_go[-1].is_set():
            try:
                await let_go[-1].wait()
            except asyncio.CancelledError:
                if heeds:
                    raise
        return True

    app = asgi_app(consent=hang)

    async def visit() -> tuple[Answer, bool]:
        shell = AsgiShell()
        answer = await shell.talk(app, shell.scope(PAGE))
        still_hangs = not let_go[-1].is_set()
        let_go[-1].set()
        return answer, still_hangs

    answer, still_hangs = asyncio.run(visit())
    assert (answer.body, answer.cookies, still_hangs) == (b"<h1>Hello</h1>", {}, True)
    assert "did not answer within" in caplog.text
    app.close(0)


def test_an_async_function_that_raises_or_misspeaks_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Any) -> Any:
        return _raising(request)

    app = asgi_app(consent=broken)
    for _ in range(2):
        assert AsgiShell().ask(app, PAGE).cookies == {}
    (line,) = said_of_consent(caplog)
    assert "raised LookupError" in line
    app.close(0)


def test_a_visitor_who_leaves_ends_the_asking() -> None:
    ended: list[str] = []

    async def hang(request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request.path)

    app = asgi_app(consent=hang)

    async def leave() -> None:
        shell = AsgiShell()
        task = asyncio.ensure_future(shell.talk(app, shell.scope(PAGE)))
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert ended == ["/"]
    app.close(0)


ASKED_FOR = {
    "a page": (PAGE, True),
    "a click": (CLICK, True),
    "a form": (replace(PAGE, method="POST"), True),
    "a picture": (PAGE.having(sec_fetch_dest="image"), False),
    "a script's fetch": (PAGE.having(sec_fetch_dest="empty"), False),
    "a bot": (PAGE.having(user_agent="Googlebot"), False),
    "GPC": (PAGE.having(sec_gpc="1"), False),
    "opted out": (PAGE.having(cookie="adtarget_optout=1"), False),
    "left out": (replace(PAGE, path="/admin/users"), False),
}


@pytest.mark.parametrize("name", ASKED_FOR)
def test_an_async_function_is_asked_where_the_answer_matters(name: str) -> None:
    asked: list[str] = []

    async def ask(request: Any) -> None:
        asked.append(request.path)

    request, is_asked = ASKED_FOR[name]
    app = asgi_app(consent=ask)
    AsgiShell().ask(app, request)
    assert len(asked) == is_asked
    app.close(0)


def test_an_async_answer_holds_for_forms_and_for_awaited_invites() -> None:
    shell = AsgiShell()
    app = asgi_app(replace(HTML, look=lambda tracking: tracking.conversion(**LEAD)), consent=_granting)
    shell.ask(app, replace(saying("yes", KNOWN), method="POST"))
    shell.ask(app, replace(saying("no", KNOWN), method="POST"))
    assert sorted("fbp" in event.fields for event in kept(app.tracker)) == [False, True]
    links: list[str] = []

    async def view(scope: Any, receive: Any, send: Any) -> None:
        links.append(await scope["adtarget"].ainvite("vip"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app.app = view
    shell.ask(app, saying("yes", KNOWN, PAGE.having(sec_fetch_dest="empty")))
    assert links == [FALLBACK]
    assert [event.kind for event in kept(app.tracker)] == ["invite"]
    app.close(0)


def test_under_wsgi_an_async_function_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"consent: is an async function.*ASGI"):
        WsgiShell.middleware(WsgiShell().app(HTML), quiet(consent=_granting))


# -- withdrawal --------------------------------------------------------------------------------------------------------------

HOSTS: dict[str, tuple[str, dict[str, Any], set[str | None]]] = {
    "a registrable domain": ("shop.test", {}, {None, "shop.test"}),
    "a sub-domain": ("www.shop.test", {}, {None, "www.shop.test", "shop.test"}),
    "with a port": ("www.shop.test:8443", {}, {None, "www.shop.test", "shop.test"}),
    "a public suffix of two labels": ("a.shop.co.uk", {}, {None, "a.shop.co.uk", "shop.co.uk"}),
    "an explicit domain": (
        "a.b.shop.test",
        {"cookie_domain": "b.shop.test"},
        {None, "a.b.shop.test", "b.shop.test", "shop.test"},
    ),
    "an explicit domain of another host": ("shop.test", {"cookie_domain": "other.test"}, {None, "shop.test"}),
    "many labels": (
        "a.b.c.d.e.f.g.shop.test",
        {"cookie_domain": "b.c.d.e.f.g.shop.test"},
        {
            None,
            "d.e.f.g.shop.test",
            "e.f.g.shop.test",
            "f.g.shop.test",
            "g.shop.test",
            "shop.test",
            "b.c.d.e.f.g.shop.test",
        },
    ),
    "localhost": ("localhost:8000", {}, {None}),
    "an address": ("192.0.2.7", {}, {None}),
    "an address of version 6": ("[2001:db8::1]:80", {}, {None}),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_withdrawal_deletes_our_cookies_on_every_domain_used(shell: Shell, wrap: Wrap, name: str) -> None:
    pytest.importorskip("publicsuffixlist")
    host, settings, domains = HOSTS[name]
    answer = shell.ask(wrap(consent=my_consent, **settings), saying("no", ALL_OURS).having(host=host))
    assert deleted(answer) == set(product(OURS, domains))
    assert all(line.count("Max-Age=0") == 1 for line in answer.all("set-cookie"))
    assert answer.all("cache-control") == ["private"]
    assert (answer.status, answer.body) == (200, b"<h1>Hello</h1>")


@pytest.mark.parametrize(
    "host",
    ["shop.test", "www.shop.test", "a.shop.co.uk", "shop.herokuapp.com", "localhost", "192.0.2.7", "www.shop.test."],
)
def test_a_browser_has_none_of_our_cookies_left_whatever_the_settings_were_that_set_them(
    shell: Shell, wrap: Wrap, host: str
) -> None:
    jar = CookieJar(time.time())
    explicit = host.rstrip(".") if "." in host and not host[0].isdigit() else None
    for settings in ({}, {"cookie_domain": explicit}):
        for line in shell.ask(wrap(**settings), PAGE.having(host=host, cookie=jar.header(host))).all("set-cookie"):
            jar.keep(line, host)
    for name in OURS:  # as before the public-suffix list was installed
        jar.keep(f"{name}=1; Path=/; Max-Age=9999", host)
    jar.keep("session=1; Path=/", host)
    assert {cookie.name for cookie in jar.sent(host)} == {*OURS, "session"}
    answer = shell.ask(wrap(consent=my_consent), saying("no", jar.header(host) or "").having(host=host))
    for line in answer.all("set-cookie"):
        jar.keep(line, host)
    assert jar.header(host) == "session=1"


BROUGHT: dict[str, tuple[str, set[str]]] = {
    "nothing": ("", set()),
    "the app's own": ("session=1; xadtarget_temp_id=1", set()),
    "the pixel's alone": ("_fbp=fb.1.1700000000000.553994311304994010; _fbc=fb.1.1700000000000.abc", set()),
    "a session": ("adtarget_session_id=s; _fbp=fb.1.1700000000000.1", {"adtarget_session_id", "_fbp"}),
    "an odd visitor": ("adtarget_temp_id=odd", {"adtarget_temp_id"}),
    "all, some twice": (f"{ALL_OURS}; {KNOWN}", set(OURS)),
}


@pytest.mark.parametrize("name", BROUGHT)
def test_what_a_denied_visitor_brought_of_ours_is_deleted_and_nothing_else(shell: Shell, wrap: Wrap, name: str) -> None:
    cookies, gone = BROUGHT[name]
    answer = shell.ask(wrap(consent=my_consent), saying("no", cookies))
    assert {cookie for cookie, _ in deleted(answer)} == gone
    assert bool(answer.all("cache-control")) is bool(gone)


@pytest.mark.parametrize("cache", ["protect", "skip", "leave"])
def test_a_page_that_deletes_cookies_is_kept_from_shared_caches_whatever_the_setting(
    shell: Shell, wrap: Wrap, cache: str
) -> None:
    view = View(headers=(HTML_TYPE, ("cache-control", "public, max-age=60"), ("cdn-cache-control", "max-age=60")))
    answer = shell.ask(wrap(view, consent=my_consent, cache=cache), saying("no", KNOWN))
    assert deleted(answer)
    assert (answer.all("cache-control"), answer.all("cdn-cache-control")) == (["private, max-age=60"], [])


NO_FAREWELL: dict[str, tuple[Request, View]] = {
    "not asked": (KNOWN_PAGE, HTML),
    "granted": (saying("yes", KNOWN), HTML),
    "a picture": (saying("no", KNOWN).having(sec_fetch_dest="image"), HTML),
    "a form": (replace(saying("no", KNOWN), method="POST"), HTML),
    "HEAD": (replace(saying("no", KNOWN), method="HEAD"), HTML),
    "a click": (saying("no", KNOWN, CLICK), HTML),
    "not found": (saying("no", KNOWN), View("404 Not Found")),
    "moved": (saying("no", KNOWN), View("302 Found", (HTML_TYPE, ("location", "/")), ())),
    "not modified": (saying("no", KNOWN), View("304 Not Modified", (), ())),
    "json": (saying("no", KNOWN), View(headers=(("content-type", "application/json"),))),
    "a download": (saying("no", KNOWN), View(headers=(HTML_TYPE, ("content-disposition", "attachment")))),
}


@pytest.mark.parametrize("name", NO_FAREWELL)
def test_cookies_are_deleted_on_pages_alone(shell: Shell, wrap: Wrap, name: str) -> None:
    request, view = NO_FAREWELL[name]
    assert deleted(shell.ask(wrap(view, consent=my_consent), request)) == set()


def test_after_yes_no_drops_what_waits_and_the_next_yes_begins_anew(shell: Shell, wrap: Wrap) -> None:
    view = replace(HTML, look=lambda tracking: tracking.conversion(**LEAD) if tracking.event_id else None)
    app = wrap(view, consent=my_consent, debug=True)
    first = shell.ask(app, saying("yes"))
    shell.ask(app, saying("yes", jar_of(first)))
    shell.ask(app, saying("yes", jar_of(first), CLICK))
    stranger = shell.ask(app, saying("yes"))
    no = shell.ask(app, saying("no", jar_of(first)))
    assert no.all("x-adtarget-reason") == ["no-consent"]
    assert {name for name, _ in deleted(no)} == first.cookies.keys()
    assert shell.ask(app, saying("no")).all("set-cookie") == []
    again = shell.ask(app, saying("yes"))
    assert again.cookies["adtarget_temp_id"] != first.cookies["adtarget_temp_id"]
    events = kept(app.tracker)
    visits = [event.visitor for event in events if event.kind == "visit"]
    assert sorted(visits) == sorted(answer.cookies["adtarget_temp_id"] for answer in (stranger, again))
    conversions = [event for event in events if event.kind == "conversion"]
    assert {event.kind for event in events} == {"visit", "conversion"}
    mine = [event for event in conversions if event.visitor == first.cookies["adtarget_temp_id"]]
    assert [event.fields.keys() & {"fbp", "client_ip", "user_agent"} for event in mine] == [set()]


@pytest.mark.parametrize(
    ("click", "is_kept"),
    [
        (saying("no", signed(KEY), CLICK), False),
        (saying("no", KNOWN, CLICK), True),
        (saying("no", f"{KNOWN}; adtarget_state={VISITOR}!1750000000!1750000000!!x.forged", CLICK), True),
        (saying("no", request=CLICK), True),
        (KNOWN_CLICK, True),
    ],
    ids=["no", "no, without the state", "no, with a forged state", "no, of a stranger", "not asked"],
)
def test_a_no_at_the_click_drops_what_waits_for_there_may_be_no_page_after_it(
    shell: Shell, wrap: Wrap, click: Request, is_kept: bool
) -> None:
    app = wrap(consent=my_consent, debug=True)
    shell.ask(app, saying("yes", KNOWN))
    answer = shell.ask(app, click)
    assert (answer.all("location"), answer.all("x-adtarget-reason")) == ([FALLBACK], ["no-consent"])
    assert [event.kind for event in kept(app.tracker)] == (["visit"] if is_kept else [])


def test_a_no_outlives_the_death_of_its_process_and_reaches_what_another_left(tmp_path: Path) -> None:
    """Each request is served by a process that is killed when its response has left; nobody had time to send."""
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    script = (
        "import os, signal, sys\n"
        "from shell_world import HTML, SIGNED, WsgiShell, quiet\n"
        "from test_consent_shells import my_consent, saying\n"
        "shell = WsgiShell()\n"
        "app = shell.middleware(shell.app(HTML), quiet(outbox=sys.argv[1], consent=my_consent))\n"
        "shell.ask(app, saying(sys.argv[2], SIGNED))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for word in ("yes", "no", "yes"):
        done = subprocess.run([sys.executable, "-c", script, url, word], env=environment, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
    outbox = Outbox.open(url)
    Pump(outbox).machine(time.time())
    assert [each.event.kind for each in outbox.store.waiting()] == ["visit"]
    outbox.close()


def test_a_no_reaches_what_another_process_still_has_in_its_journal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    other, mine = Outbox.open(url), Outbox.open(url)
    shared: dict[str, Any] = {"account": "a", "visitor": "v", "worth": 4}
    other.append(Visit(id="before", key="k", at=1.0, **shared))
    mine.append(Withdrawal(id="no", key="k", at=2.0, **shared))
    mine.append(Visit(id="after", key="k", at=3.0, **shared))
    assert Pump(mine).own(4.0) == 1
    assert Pump(mine).machine(5.0) == 0
    assert [each.event.id for each in mine.store.waiting()] == ["after"]
    other.close()
    mine.close()


# -- the switch --------------------------------------------------------------------------------------------------------------

OFF = replace(PAGE, query="adtarget=off")
ON = replace(PAGE, query="adtarget=on")


def test_off_sets_a_signed_cookie_and_the_page_goes_out_untracked(shell: Shell, wrap: Wrap) -> None:
    view = View(headers=(HTML_TYPE, ("cache-control", "public, max-age=60")))
    app = wrap(view, debug=True, cache="leave")
    answer = shell.ask(app, OFF)
    assert answer.all("x-adtarget-reason") == ["opted-out"]
    assert answer.all("cache-control") == ["private, no-store"]
    (line,) = answer.all("set-cookie")
    pair, *attributes = line.split("; ")
    name, _, value = pair.partition("=")
    assert name == "adtarget_optout"
    assert set(attributes) >= {"Max-Age=34560000", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"}
    signer = Signer(KEY, salt=b"adtarget_proxy.optout", digest_method=hashlib.sha256)
    assert int(signer.unsign(value)) > 1_700_000_000
    later = shell.ask(app, PAGE.having(cookie=pair))
    assert (later.all("x-adtarget-reason"), later.all("set-cookie")) == (["opted-out"], [])
    click = shell.ask(app, CLICK.having(cookie=pair))
    assert (click.all("location"), click.all("x-adtarget-reason")) == ([FALLBACK], ["opted-out"])
    assert kept(app.tracker) == []


def test_off_also_takes_leave_of_the_visitor(shell: Shell, wrap: Wrap) -> None:
    app = wrap()
    shell.ask(app, KNOWN_PAGE)
    answer = shell.ask(app, OFF.having(cookie=f"{signed(KEY)}; _fbc=fb.1.1700000000000.abc"))
    assert {name for name, _ in deleted(answer)} == OURS
    assert answer.cookies["adtarget_optout"]
    assert kept(app.tracker) == []


@pytest.mark.parametrize("value", ["1", "forged", "1700000000.c2lnbmF0dXJl"])
def test_an_opt_out_counts_whoever_signed_it_until_on(shell: Shell, wrap: Wrap, value: str) -> None:
    app = wrap(debug=True)
    assert shell.ask(app, PAGE.having(cookie=f"adtarget_optout={value}")).all("x-adtarget-reason") == ["opted-out"]
    answer = shell.ask(app, ON.having(cookie=f"adtarget_optout={value}"))
    assert answer.all("x-adtarget-reason") == ["tracked"]
    assert {name for name, _ in deleted(answer)} == {"adtarget_optout"}
    assert (None in {domain for _, domain in deleted(answer)}, answer.all("cache-control")) == (
        True,
        ["private, no-store"],
    )
    (visit,) = kept(app.tracker)
    assert visit.fields["href"] == "https://shop.test/"


@pytest.mark.parametrize("word", ["off", "on"])
@pytest.mark.parametrize("cache", ["protect", "skip", "leave"])
def test_a_browser_keeps_no_page_with_a_switch_so_that_throwing_it_again_reaches_us(
    shell: Shell, wrap: Wrap, word: str, cache: str
) -> None:
    view = View(
        headers=(
            HTML_TYPE,
            ("cache-control", "private, max-age=600"),
            ("etag", '"1"'),
            ("cdn-cache-control", "max-age=9"),
        )
    )
    answer = shell.ask(wrap(view, cache=cache), replace(PAGE, query=f"adtarget={word}"))
    assert (answer.all("cache-control"), answer.all("cdn-cache-control")) == (["private, no-store"], [])


SWITCHED = {
    "on, for who has not consented": (ON, {"consent": lambda _: None}, "no-consent", True),
    "off, before consent": (OFF, {"consent": lambda _: None}, "opted-out", True),
    "off, for GPC": (OFF.having(sec_gpc="1"), {}, "opted-out", True),
    "on, for GPC": (ON.having(sec_gpc="1"), {}, "gpc", True),
    "among others": (replace(PAGE, query="a=1&adtarget=off&b=2"), {}, "opted-out", True),
    "the last counts": (replace(PAGE, query="adtarget=off&adtarget=on"), {}, "tracked", True),
    "another value": (replace(PAGE, query="adtarget=offer"), {}, "tracked", False),
    "another name": (replace(PAGE, query="xadtarget=off"), {}, "tracked", False),
    "a picture": (OFF.having(sec_fetch_dest="image"), {}, "not-a-page", False),
    "a form": (replace(OFF, method="POST"), {}, "not-a-page", False),
    "left out": (replace(OFF, path="/admin/"), {}, "excluded", False),
    "a prefetch": (OFF.having(sec_purpose="prefetch"), {}, "prefetch", False),
    "switched off": (OFF, {"mode": "off"}, "off", False),
    "no host": (OFF.having(host=None), {}, "unknown-host", False),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_the_switch_is_thrown_on_pages_that_somebody_sees(shell: Shell, wrap: Wrap, name: str) -> None:
    request, settings, reason, is_thrown = SWITCHED[name]
    answer = shell.ask(wrap(debug=True, **settings), request)
    assert answer.all("x-adtarget-reason") == [reason]
    assert ("adtarget_optout" in answer.cookies) is is_thrown


@pytest.mark.parametrize("scrub", [True, False])
def test_adtarget_is_told_of_no_switch(shell: Shell, wrap: Wrap, scrub: bool) -> None:
    app = wrap(scrub=scrub, invites={"vip": "-1", "gold": "-2"})
    first = shell.ask(app, replace(PAGE, query="utm_source=x&adtarget=on"))
    came = PAGE.having(cookie=jar_of(first), referer="https://shop.test/?utm_source=x&adtarget=on")
    shell.ask(app, came)
    shell.ask(app, replace(came, path="/c/vip"))
    shell.ask(app, replace(CLICK, path="/c/gold").having(cookie=jar_of(first)))
    events = kept(app.tracker)
    assert sorted(event.kind for event in events) == ["invite", "invite", "visit", "visit"]
    told = [event.fields[name] for event in events for name in ("href", "referrer") if name in event.fields]
    assert "https://shop.test/?utm_source=x" in told
    assert not any("adtarget=" in url for url in told)


# -- what a browser says by itself -------------------------------------------------------------------------------------------

SIGNALS: dict[str, tuple[dict[str, Any], dict[str, str], bool]] = {
    "GPC": ({}, {"sec_gpc": "1"}, True),
    "GPC, not heeded": ({"respect_gpc": False}, {"sec_gpc": "1"}, False),
    "no GPC": ({}, {"sec_gpc": "0"}, False),
    "DNT": ({}, {"dnt": "1"}, False),
    "DNT, heeded": ({"respect_dnt": True}, {"dnt": "1"}, True),
    "DNT, heeded instead": ({"respect_dnt": True, "respect_gpc": False}, {"sec_gpc": "1", "dnt": "0"}, False),
    "GPC though there is consent": ({"consent": lambda _: True}, {"sec_gpc": "1"}, True),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_browsers_own_no_holds_for_pages_clicks_and_conversions(shell: Shell, wrap: Wrap, name: str) -> None:
    settings, headers, is_no = SIGNALS[name]
    app = wrap(replace(HTML, look=lambda tracking: tracking.conversion(**LEAD)), debug=True, **settings)
    page = shell.ask(app, KNOWN_PAGE.having(**headers))
    click = shell.ask(app, KNOWN_CLICK.having(**headers))
    shell.ask(app, replace(KNOWN_PAGE.having(**headers), method="POST"))
    assert page.all("x-adtarget-reason") == ["gpc" if is_no else "tracked"]
    assert click.all("x-adtarget-reason") == ["gpc" if is_no else "invite-fallback"]
    assert (click.all("location"), bool(page.cookies)) == ([FALLBACK], not is_no)
    events = kept(app.tracker)
    assert sorted(event.kind for event in events) == [
        "conversion",
        "conversion",
        *([] if is_no else ["invite", "visit"]),
    ]
    lent = {"fbp", "client_ip", "user_agent"}
    assert [event.fields.keys() & lent for event in events if event.kind == "conversion"] == [
        set() if is_no else lent
    ] * 2


@pytest.mark.parametrize(("word", "lent"), [("yes", True), ("no", False), ("", False)])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_conversion_without_consent_goes_without_fbp_fbc_and_address(
    shell: Shell, wrap: Wrap, word: str, lent: bool, method: str
) -> None:
    app = wrap(replace(HTML, look=lambda tracking: tracking.conversion(**LEAD)), consent=my_consent)
    cookies = f"{KNOWN}; _fbc=fb.1.1700000000000.abc"
    shell.ask(app, replace(saying(word, cookies) if word else PAGE.having(cookie=cookies), method=method))
    (event,) = [event for event in kept(app.tracker) if event.kind == "conversion"]
    borrowed = event.fields.keys() & {"fbp", "fbc", "client_ip", "user_agent"}
    assert borrowed == ({"fbp", "fbc", "client_ip", "user_agent"} if lent else set())


@pytest.mark.parametrize("path", ["/", "/admin/orders"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_has_opted_out_lends_a_conversion_nothing_wherever_it_is_reported(
    shell: Shell, wrap: Wrap, path: str, method: str
) -> None:
    app = wrap(replace(HTML, look=lambda tracking: tracking.conversion(**LEAD)))
    out = KNOWN_PAGE.having(cookie=f"{KNOWN}; adtarget_optout=1")
    shell.ask(app, replace(out, path=path, method=method))
    (event,) = kept(app.tracker)
    assert event.fields.keys() & {"fbp", "fbc", "client_ip", "user_agent"} == set()
    assert event.visitor != VISITOR


def test_settings_take_a_function_a_tools_name_or_nothing() -> None:
    assert quiet(consent=my_consent).consent is my_consent
    assert quiet(consent="").consent is None
    for wrong in (1, ["onetrust"]):
        with pytest.raises(SettingsError, match=r"consent: must be a function .* onetrust, cookiebot"):
            quiet(consent=wrong)
    with pytest.raises(SettingsError, match=r"consent: is a reader without its parentheses"):
        quiet(consent=onetrust)


def test_a_tools_name_may_stand_in_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "adtarget.toml"
    path.write_text('consent = "onetrust"\napi_key = "atk_live_tests000_s"\noutbox = "memory://"\n', encoding="utf-8")
    monkeypatch.setenv("ADTARGET_CONFIG", str(path))
    assert callable(Settings().consent)
