"""Django: the middleware under its sync and its async handler, through Django's own test clients and servers."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

import django
from django.conf import settings as django_settings

if not django_settings.configured:
    django_settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="only for these tests",
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["adtarget_proxy.django.AdTargetConfig"],
        MIDDLEWARE=["adtarget_proxy.django.AdTargetMiddleware"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    )
    django.setup()

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core import checks
from django.core.cache import cache
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import transaction
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from serving import Server, free_port
from shell_world import (
    CLICK,
    FALLBACK,
    KNOWN_CLICK,
    KNOWN_PAGE,
    PAGE,
    SIGNED,
    VISITOR,
    AsgiShell,
    Request,
    WsgiShell,
    kept,
    quiet,
    snapshot,
)

from adtarget_proxy import wsgi
from adtarget_proxy.django import AdTargetMiddleware, check_settings, tracker
from adtarget_proxy.errors import SettingsError
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.tracker import Tracker

LEAD = {"telegram_user_id": 1234567890, "event_type": "Lead"}
OURS = "adtarget_proxy.django.AdTargetMiddleware"
seen: list[Any] = []


def page(request: HttpRequest) -> HttpResponse:
    seen.append((request.adtarget, snapshot(request.adtarget), threading.get_ident()))
    return HttpResponse("<h1>Hello</h1>")


async def async_page(request: HttpRequest) -> HttpResponse:
    return page(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    seen.append(request.adtarget)
    return StreamingHttpResponse(iter([b"<h1>", b"Hello", b"</h1>"]))


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"<h1>Hello</h1>"

    return StreamingHttpResponse(pieces())


def cached(request: HttpRequest) -> HttpResponse:
    seen.append(request.adtarget)
    response = HttpResponse(
        "<h1>Hello</h1>", headers={"Cache-Control": "max-age=60", "CDN-Cache-Control": "max-age=60"}
    )
    response.set_cookie("own", "1", max_age=5)
    return response


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(io.BytesIO(b"bytes"), content_type="text/plain")


def buy(request: HttpRequest) -> HttpResponse:
    request.adtarget.conversion(**LEAD, idempotency_key="order_1")
    seen.append(len(kept(tracker())))
    return HttpResponse("thanks")


def buy_in_transaction(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        request.adtarget.conversion(**LEAD, idempotency_key="order_1")
        around = request.META.get("test.tracker")
        seen.append(len(kept(around or tracker())))
        if request.GET.get("fails"):
            transaction.set_rollback(True)
    return HttpResponse("thanks")


def wrong_conversion(request: HttpRequest) -> HttpResponse:
    with transaction.atomic(), pytest.raises(ValueError, match="event_type"):
        request.adtarget.conversion(telegram_user_id=1, event_type="Gift")
    return HttpResponse("thanks")


def broken(request: HttpRequest) -> HttpResponse:
    raise LookupError("the project's own")


urlpatterns = [
    path("", page),
    path("async", async_page),
    path("stream", stream),
    path("async-stream", async_stream),
    path("cached", cached),
    path("json", lambda request: JsonResponse({"a": 1})),
    path("file", file),
    path("buy", buy),
    path("buy-in-transaction", buy_in_transaction),
    path("wrong-conversion", wrong_conversion),
    path("broken", broken),
    path("c/vip", lambda request: HttpResponse("the project's own")),
]


@pytest.fixture(autouse=True)
def project() -> Iterator[None]:
    """A project of its own for each test."""
    seen.clear()
    cache.clear()
    with override_settings(ADTARGET=quiet()):
        yield


class SyncDjango:
    """Through Django's test client and WSGI handler."""

    def ask(self, request: Request) -> Any:
        client = Client(raise_request_exception=False, headers=dict(request.headers), REMOTE_ADDR=request.peer or "")
        return client.generic(request.method, f"{request.path}?{request.query}", secure=request.scheme == "https")


class AsyncDjango:
    """Through Django's test client and ASGI handler."""

    def ask(self, request: Request) -> Any:
        client = AsyncClient(raise_request_exception=False)
        return asyncio.run(
            client.request(
                method=request.method,
                path=request.path,
                query_string=request.query,  # as text, as this client does it itself
                scheme=request.scheme,
                headers=[(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()],
                client=[request.peer, 1],
            )
        )


@pytest.fixture(params=[SyncDjango(), AsyncDjango()], ids=["wsgi", "asgi"])
def site(request: pytest.FixtureRequest) -> Any:
    return request.param


def at(path: str, request: Request = PAGE, **over: Any) -> Request:
    return Request(path=path, headers=request.headers, **over)


def body_of(response: Any) -> bytes:
    if not response.streaming:
        return bytes(response.content)
    if response.is_async:

        async def gathered() -> bytes:
            return b"".join([part async for part in response])

        return asyncio.run(gathered())
    return b"".join(response)


def test_a_page_gains_the_cookies_that_its_view_already_saw(site: Any) -> None:
    response = site.ask(at("/", query="fbclid=abc"))
    ((_, ids, _),) = seen
    assert response.content == b"<h1>Hello</h1>"
    assert {
        name: response.cookies[name].value for name in ("adtarget_temp_id", "adtarget_session_id", "_fbp", "_fbc")
    } == {
        "adtarget_temp_id": ids["visitor_id"],
        "adtarget_session_id": ids["session_id"],
        "_fbp": ids["fbp"],
        "_fbc": ids["fbc"],
    }
    (visit,) = kept(tracker())
    assert (visit.fields["href"], visit.fields["client_ip"]) == ("https://shop.test/?fbclid=abc", "203.0.113.7")


def test_cookies_have_their_attributes_and_their_bytes(site: Any) -> None:
    response = site.ask(PAGE)
    state = response.cookies["adtarget_state"]
    assert (state["max-age"], state["path"], state["samesite"]) == ("31536000", "/", "Lax")
    assert (state["secure"], state["httponly"]) == (True, True)
    assert f"adtarget_state={state.value};" in state.OutputString()
    session = response.cookies["adtarget_session_id"]
    assert (session["max-age"], session["httponly"]) == ("1800", "")


def test_a_visitor_is_known_again_by_what_they_were_given(site: Any) -> None:
    first = site.ask(PAGE).cookies
    cookie = "; ".join(f"{name}={morsel.coded_value}" for name, morsel in first.items())
    again = site.ask(PAGE.having(cookie=cookie)).cookies
    assert again.keys() == {"adtarget_session_id"}
    assert again["adtarget_session_id"].value == first["adtarget_session_id"].value


@pytest.mark.parametrize("path_", ["/stream", "/async-stream"])
def test_a_streaming_page_streams_and_counts(site: Any, path_: str) -> None:
    response = site.ask(at(path_))
    assert response.streaming
    assert body_of(response) == b"<h1>Hello</h1>"
    assert response.cookies.keys() >= {"adtarget_temp_id"}
    assert len(kept(tracker())) == 1


@pytest.mark.parametrize(
    "request_",
    [
        at("/json"),
        at("/file"),
        at("/nowhere"),
        at("/broken"),
        Request(method="POST"),
        Request(method="HEAD"),
        PAGE.having(sec_gpc="1"),
        PAGE.having(user_agent="Googlebot"),
    ],
)
def test_what_is_no_page_view_is_left_as_it_is(site: Any, request_: Request) -> None:
    response = site.ask(request_)
    with override_settings(MIDDLEWARE=[], ROOT_URLCONF=bare_urls()):
        bare = site.ask(request_)
    assert (response.status_code, dict(response.items()), response.cookies) == (
        bare.status_code,
        dict(bare.items()),
        bare.cookies,
    )
    assert body_of(response) == body_of(bare)
    assert kept(tracker()) == []


def bare_urls() -> Any:
    """The same addresses for a project without us."""

    class Urls:
        pass

    Urls.urlpatterns = [  # type: ignore[attr-defined]
        path("", lambda request: HttpResponse("<h1>Hello</h1>")),
        *(pattern for pattern in urlpatterns if str(pattern.pattern) in ("json", "file", "broken")),
    ]
    return Urls


def test_the_projects_cookies_and_caches_are_respected(site: Any) -> None:
    response = site.ask(at("/cached"))
    assert response["Cache-Control"] == "private, max-age=60"
    assert "CDN-Cache-Control" not in response
    assert response.cookies["own"].OutputString() == "own=1; expires=" + response.cookies["own"]["expires"] + (
        "; Max-Age=5; Path=/"
    )


def test_a_page_from_the_cache_still_counts_and_no_cookie_gets_into_the_cache(site: Any) -> None:
    """C4."""
    layers = ["UpdateCacheMiddleware", "FetchFromCacheMiddleware"]
    with override_settings(MIDDLEWARE=[OURS, *(f"django.middleware.cache.{name}" for name in layers)]):
        first, second = site.ask(PAGE), site.ask(PAGE)
    assert len(seen) == 1
    assert first.cookies["adtarget_temp_id"].value != second.cookies["adtarget_temp_id"].value
    assert len(kept(tracker())) == 2


# -- invites -----------------------------------------------------------------------------------------------------------------


def test_a_click_ends_in_the_visitors_own_link(site: Any, adtarget_sandbox: Sandbox) -> None:
    given = {"API_KEY": adtarget_sandbox.api_key, "API_URL": adtarget_sandbox.api_url, "OUTBOX": "memory://"}
    invites = {"INVITES": {"vip": {"channel_id": "-100", "fallback_url": FALLBACK}}}
    with override_settings(ADTARGET=given | invites):
        response = site.ask(KNOWN_CLICK)
        assert response.status_code == 302
        assert response["Location"].startswith("https://t.me/+")
        assert (response["Cache-Control"], response["Referrer-Policy"]) == ("private, no-store", "no-referrer")
        assert "Content-Type" not in response
        (invite,) = adtarget_sandbox.wait_for(1, "invite")
        assert (invite["body"]["tempId"], invite["body"]["channelId"]) == (VISITOR, "-100")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (CLICK, 302),
        (CLICK.having(user_agent="TelegramBot"), 302),
        (Request("/c/vip", method="HEAD"), 302),
        (CLICK.having(sec_purpose="prefetch"), 503),
        (Request("/c/vip", method="POST"), 200),
    ],
)
def test_a_click_gets_what_the_shells_answer(site: Any, request_: Request, status: int) -> None:
    response = site.ask(request_)
    assert response.status_code == status
    assert response.get("Location") == (FALLBACK if status == 302 else None)
    assert bool(response.cookies) is (request_ is CLICK)


# -- conversions -------------------------------------------------------------------------------------------------------------


def test_a_conversion_outside_a_transaction_is_kept_at_once(site: Any) -> None:
    site.ask(at("/buy", KNOWN_PAGE, method="POST"))
    assert seen == [1]


@pytest.mark.parametrize(("query", "told"), [("", 1), ("fails=1", 0)])
def test_a_conversion_inside_a_transaction_waits_for_its_commit(site: Any, query: str, told: int) -> None:
    site.ask(at("/buy-in-transaction", KNOWN_PAGE, method="POST", query=query))
    assert seen == [0]
    assert [event.key for event in kept(tracker())] == ["order_1"] * told


def test_a_wrong_conversion_is_refused_where_it_is_written(site: Any) -> None:
    assert site.ask(at("/wrong-conversion", method="POST")).status_code == 200
    assert kept(tracker()) == []


def test_it_waits_for_the_commit_under_our_shell_too() -> None:
    outer = wsgi.AdTargetMiddleware(WSGIHandler(), quiet())
    try:
        shell, request = WsgiShell(), at("/buy-in-transaction", KNOWN_PAGE, method="POST")
        shell.ask(lambda environ, start: outer({**environ, "test.tracker": outer.tracker}, start), request)
        assert seen == [0]
        assert [event.key for event in kept(outer.tracker)] == ["order_1"]
    finally:
        outer.close(0)


# -- how it stands in the chain ------------------------------------------------------------------------------------------------


def test_it_is_one_factory_for_both_kinds_decided_once() -> None:
    """C5."""
    assert (AdTargetMiddleware.sync_capable, AdTargetMiddleware.async_capable) == (True, True)

    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert iscoroutinefunction(AdTargetMiddleware(answer))
    assert iscoroutinefunction(AdTargetMiddleware(markcoroutinefunction(lambda request: answer(request))))
    assert not iscoroutinefunction(AdTargetMiddleware(lambda request: HttpResponse()))


def test_an_async_view_stays_in_the_thread_of_its_loop() -> None:
    """C5."""
    AsyncDjango().ask(at("/async"))
    assert [thread for *_, thread in seen] == [threading.get_ident()]


def test_a_request_made_by_hand_is_served() -> None:
    middleware = AdTargetMiddleware(lambda request: HttpResponse("<h1>Hello</h1>"))
    for request in (RequestFactory().get("/", headers=dict(PAGE.headers)), HttpRequest()):
        assert middleware(request).content == b"<h1>Hello</h1>"
        assert request.adtarget.invite_url("vip") == "/c/vip"


@pytest.mark.parametrize("shell", [WsgiShell(), AsgiShell()], ids=["wsgi", "asgi"])
@pytest.mark.parametrize("doubled", [False, True], ids=["alone", "under our shell too"])
def test_it_works_under_djangos_handlers_and_once_where_a_shell_wraps_them(shell: Any, doubled: bool) -> None:
    """A12."""
    handler: Any = WSGIHandler() if isinstance(shell, WsgiShell) else ASGIHandler()
    outer = shell.middleware(handler, quiet()) if doubled else None
    try:
        answer = shell.ask(outer or handler, PAGE)
        assert answer.body == b"<h1>Hello</h1>"
        assert len(answer.all("set-cookie")) == 4
        assert len(kept(outer.tracker if outer else tracker())) == 1
        assert len(seen) == 1
    finally:
        if outer is not None:
            outer.close(0)


def test_the_answer_is_that_of_the_shell_around_the_same_project() -> None:
    def form(answer: Any) -> tuple[int, list[str], bytes]:
        names = sorted(cookie.strip().partition("=")[0] for cookie in answer.all("set-cookie"))
        others = sorted(f"{name.lower()}: {value}" for name, value in answer.headers if name.lower() != "set-cookie")
        return answer.status, names + others, answer.body

    for request in (PAGE, KNOWN_PAGE, CLICK, CLICK.having(sec_purpose="prefetch"), PAGE.having(sec_purpose="prefetch")):
        shell = WsgiShell()
        inside = form(shell.ask(WSGIHandler(), request))
        outer = wsgi.AdTargetMiddleware(WSGIHandler(), quiet())
        assert form(shell.ask(outer, request)) == inside
        outer.close(0)


# -- faults ------------------------------------------------------------------------------------------------------------------


def _broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("planted")


async def _broken_async(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("planted")


@pytest.mark.parametrize("fault_works", [True, False])
@pytest.mark.parametrize(
    "name", ["plan", "takes_over", "watches", "finish", "answer", "unplanned", "rescue", "fault", "_keep"]
)
def test_a_fault_of_ours_changes_no_page_and_kills_no_button(
    site: Any, name: str, fault_works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = site.ask(PAGE)
    monkeypatch.setattr(Tracker, name, _broken)
    if name == "answer":
        monkeypatch.setattr(Tracker, "answer_async", _broken_async)
    if not fault_works:
        monkeypatch.setattr(Tracker, "fault", _broken)
    response = site.ask(PAGE)
    assert (response.status_code, response.content) == (expected.status_code, expected.content)
    assert dict(response.items()) in (dict(expected.items()), {"Content-Type": "text/html; charset=utf-8"})
    if name != "rescue":
        assert site.ask(CLICK)["Location"] == FALLBACK


# -- consent -------------------------------------------------------------------------------------------------------------------


def my_consent(request: Any) -> Any:
    return request.cookies.get("my_consent") == "yes"


async def my_async_consent(request: Any) -> Any:
    return my_consent(request)


CACHED = [
    "adtarget_proxy.django.AdTargetMiddleware",
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
]


def test_a_withdrawal_deletes_cookies_on_every_domain_also_on_a_page_from_the_cache(site: Any) -> None:
    with override_settings(ADTARGET=quiet(consent=my_consent), MIDDLEWARE=CACHED):
        for _ in range(2):
            site.ask(KNOWN_PAGE.having(cookie=KNOWN_PAGE.headers["cookie"] + "; my_consent=yes"))
            response = site.ask(KNOWN_PAGE.having(cookie=SIGNED))
            gone = [(morsel.key, morsel["domain"]) for morsel in response.cookies.values() if morsel["max-age"] == "0"]
            names = ("adtarget_temp_id", "adtarget_session_id", "_fbp", "adtarget_state")
            assert sorted(gone) == sorted((name, domain) for name in names for domain in ("", "shop.test"))
            assert {morsel.OutputString().partition("=")[2][0] for morsel in response.cookies.values()} == {";"}
            assert response["Cache-Control"].split(", ")[0] == "private"
            assert kept(tracker()) == []
        assert len(seen) == 1  # the others came from the cache
        assert site.ask(PAGE).cookies == {}


def test_the_switch_works_on_a_page_from_the_cache(site: Any) -> None:
    with override_settings(ADTARGET=quiet(debug=True), MIDDLEWARE=CACHED):
        for _ in range(2):
            response = site.ask(at("/", query="adtarget=off"))
            assert response["X-Adtarget-Reason"] == "opted-out"
            assert response.cookies["adtarget_optout"]["httponly"]
            assert "private" in response["Cache-Control"]
        assert len(seen) == 1


def test_an_async_function_is_awaited_under_asgi_and_refused_under_wsgi() -> None:
    with override_settings(ADTARGET=quiet(consent=my_async_consent)):
        asked = PAGE.having(cookie="my_consent=yes")
        assert AsyncDjango().ask(asked).cookies.keys() >= {"adtarget_temp_id"}
        assert AsyncDjango().ask(PAGE).cookies == {}
        with pytest.raises(SettingsError, match=r"consent: is an async function.*ASGI"):
            SyncDjango().ask(asked)


# -- settings ----------------------------------------------------------------------------------------------------------------


def found() -> list[str]:
    return [message.id for message in checks.run_checks() if message.id.startswith("adtarget_proxy.")]


def grant(facts: Any) -> bool:
    return True


CHECKS: list[tuple[dict[str, Any], list[str]]] = [
    ({"ADTARGET": {"API_KEY": "atk_live_a_b", "CONSENT": grant}}, []),
    ({"ADTARGET": {"api_key": "atk_live_a_b", "consent": grant, "Outbox": "memory://"}}, []),
    ({"ADTARGET": {"API_KEY": "atk_live_a_b", "CONSENT": "didomi"}}, []),
    ({"ADTARGET": {"API_KEY": "atk_live_a_b", "CONSENT": "didomy"}}, ["adtarget_proxy.E001"]),
    ({"ADTARGET": {"API_KEY": "atk_live_a_b", "CONSENT": my_async_consent}}, ["adtarget_proxy.W004"]),
    ({"ADTARGET": {"API_KEY": "atk_live_a_b"}}, ["adtarget_proxy.W001"]),
    ({"ADTARGET": {}}, ["adtarget_proxy.E001"]),
    ({"ADTARGET": {"API_KEY": "atid_a", "COLOUR": 1, "RATE": "x"}}, ["adtarget_proxy.E001"]),
    ({"ADTARGET": {"API_KEY": "atid_a", "RATE": "x"}}, ["adtarget_proxy.E001"] * 2),
    ({"ADTARGET": {"API_KEY": "k", "CONSENT": grant}, "MIDDLEWARE": []}, ["adtarget_proxy.W002"]),
    (
        {
            "ADTARGET": {"API_KEY": "k", "CONSENT": grant},
            "MIDDLEWARE": ["django.middleware.security.SecurityMiddleware", OURS],
        },
        ["adtarget_proxy.W003"],
    ),
]


@pytest.mark.parametrize(("settings", "ids"), CHECKS)
def test_the_system_checks_name_what_is_wrong(settings: dict[str, Any], ids: list[str]) -> None:
    with override_settings(**settings):
        assert found() == ids


def test_wrong_settings_are_errors_and_the_rest_warnings() -> None:
    with override_settings(ADTARGET={}):
        (error,) = check_settings()
        assert error.level == checks.ERROR
        assert "api_key" in error.msg
    with override_settings(ADTARGET={"API_KEY": "k"}, MIDDLEWARE=[]):
        assert {message.level for message in check_settings()} == {checks.WARNING}


def test_without_the_setting_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADTARGET_API_KEY", "atk_live_env00000_s")
    monkeypatch.setenv("ADTARGET_OUTBOX", "memory://")
    with override_settings(ADTARGET=None):
        assert tracker().settings.api_key == "atk_live_env00000_s"


# -- real servers ------------------------------------------------------------------------------------------------------------


def wsgi_project() -> WSGIHandler:
    """For gunicorn: the project by its environment."""
    return WSGIHandler()


def asgi_project() -> ASGIHandler:
    """For uvicorn: the project by its environment."""
    return ASGIHandler()


@pytest.mark.server
@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_a_visit_and_a_click_reach_adtarget_from_a_real_server(
    server: str, adtarget_sandbox: Sandbox, tmp_path: Path
) -> None:
    pytest.importorskip(server)
    port = str(free_port())
    commands = {
        "gunicorn": ["-m", "gunicorn", "test_django:wsgi_project()", "--threads", "4", "-b", f"127.0.0.1:{port}"],
        "uvicorn": ["-m", "uvicorn", "--factory", "test_django:asgi_project", "--port", port],
    }
    environment = {
        "ADTARGET_API_KEY": adtarget_sandbox.api_key,
        "ADTARGET_API_URL": adtarget_sandbox.api_url,
        "ADTARGET_OUTBOX": f"sqlite:///{tmp_path / 'outbox.sqlite3'}",
        "ADTARGET_INVITES": '{"vip": "-100"}',
        "ADTARGET_FALLBACK_URL": FALLBACK,
    }
    running = Server([sys.executable, *commands[server]], int(port), environment, tmp_path / "log")
    try:
        first = running.get("/async-stream?fbclid=abc" if server == "uvicorn" else "/stream?fbclid=abc")
        click = running.get("/c/vip", {"Cookie": first.jar})
        (visit,) = adtarget_sandbox.wait_for(1, "visit")
        (invite,) = adtarget_sandbox.wait_for(1, "invite")
    finally:
        running.stop()
    assert (first.status, first.body) == (200, b"<h1>Hello</h1>")
    assert click.header("Location") == invite["answer"]["body"]["inviteLink"]
    given = first.cookies["adtarget_temp_id"].partition(";")[0]
    assert visit["body"]["tempId"] == invite["body"]["tempId"] == given
