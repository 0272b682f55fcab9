"""FastAPI and Starlette: the middleware and the dependency, through their own test client."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.testclient import TestClient
from shell_world import BROWSER, FALLBACK, KNOWN_PAGE, VISITOR, quiet, snapshot

from adtarget_proxy import Settings
from adtarget_proxy.asgi import AdTargetMiddleware
from adtarget_proxy.fastapi import Tracking, current
from adtarget_proxy.sandbox.server import Sandbox

LEAD = {"telegram_user_id": 1234567890, "event_type": "Lead"}


@pytest.fixture
def live(adtarget_sandbox: Sandbox) -> Settings:
    return quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url, deliver="thread")


def app_of(settings: Settings) -> FastAPI:
    app = FastAPI()
    app.add_middleware(AdTargetMiddleware, settings=settings)
    return app


def visitor(app: FastAPI, **headers: str) -> TestClient:
    """A browser of the site; leaving it is the server's shutdown, which sends what waits."""
    given = {**BROWSER, **headers}
    return TestClient(app, base_url="https://shop.test", headers=given, follow_redirects=False)


def test_a_view_takes_its_visitor_as_a_dependency(live: Settings, adtarget_sandbox: Sandbox) -> None:
    app, seen = app_of(live), []

    @app.get("/", response_class=HTMLResponse)
    async def page(tracking: Tracking) -> str:
        seen.append(snapshot(tracking))
        return f'<a href="{tracking.invite_url("vip")}">Join</a>'

    @app.get("/sync", response_class=HTMLResponse)
    def sync_page(tracking: Tracking) -> str:
        return str(tracking.visitor_id)

    with visitor(app) as client:
        first = client.get("/")
        again = client.get("/sync")
    (ids,) = seen
    assert first.text == '<a href="/c/vip">Join</a>'
    assert first.cookies["adtarget_temp_id"] == again.text == ids["visitor_id"]
    assert [event["body"]["tempId"] for event in adtarget_sandbox.events("visit")] == [ids["visitor_id"]] * 2


def test_it_costs_no_thread() -> None:
    """FastAPI calls a plain function in its thread pool."""
    assert inspect.iscoroutinefunction(current)


def test_it_is_no_parameter_of_the_documented_api() -> None:
    app = app_of(quiet())

    @app.get("/")
    async def page(tracking: Tracking) -> None:
        return None

    assert "parameters" not in app.openapi()["paths"]["/"]["get"]


def test_a_redirect_view_of_the_apps_own_awaits_the_link(live: Settings, adtarget_sandbox: Sandbox) -> None:
    app = app_of(live)

    @app.get("/join")
    async def join(tracking: Tracking) -> RedirectResponse:
        return RedirectResponse(await tracking.ainvite("vip"), 302)

    with visitor(app) as client:
        answer = client.get("/join")
        route = client.get("/c/vip")
    assert answer.headers["location"].startswith("https://t.me/+")
    assert answer.cookies["adtarget_temp_id"]
    assert route.headers["location"] == answer.headers["location"]
    (invite,) = adtarget_sandbox.wait_for(1, "invite")
    assert invite["body"]["tempId"] == answer.cookies["adtarget_temp_id"]


def test_streams_background_tasks_and_conversions_go_on_as_they_did(live: Settings, adtarget_sandbox: Sandbox) -> None:
    app, ran = app_of(live), []

    @app.get("/stream")
    async def stream(tasks: BackgroundTasks) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "<h1>"
            yield "Hello</h1>"

        tasks.add_task(ran.append, "background")
        return StreamingResponse(pieces(), media_type="text/html", background=tasks)

    @app.post("/paid")
    async def paid(tracking: Tracking) -> str:
        return tracking.conversion(**LEAD, idempotency_key="order_1")

    with visitor(app, cookie=KNOWN_PAGE.headers["cookie"]) as client:
        assert client.get("/stream").text == "<h1>Hello</h1>"
        assert client.post("/paid").json() == "order_1"
    assert ran == ["background"]
    assert [event["body"]["tempId"] for event in adtarget_sandbox.events("visit")] == [VISITOR]
    (conversion,) = adtarget_sandbox.events("conversion")
    assert conversion["idempotency_key"] == "order_1"


def test_websockets_pass_and_have_no_visitor() -> None:
    app = app_of(quiet())

    @app.websocket("/ws")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())

    with visitor(app) as client, client.websocket_connect("/ws") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"


def test_a_mounted_app_sees_the_same_visitor_and_the_whole_address(live: Settings, adtarget_sandbox: Sandbox) -> None:
    app, shop = app_of(live), FastAPI()

    @shop.get("/page", response_class=HTMLResponse)
    async def page(tracking: Tracking) -> str:
        return str(tracking.visitor_id)

    app.mount("/shop", shop)
    with visitor(app) as client:
        answer = client.get("/shop/page")
    assert answer.text == answer.cookies["adtarget_temp_id"]
    assert [event["body"]["href"] for event in adtarget_sandbox.events("visit")] == ["https://shop.test/shop/page"]


def test_an_app_that_is_mounted_may_be_the_wrapped_one(live: Settings, adtarget_sandbox: Sandbox) -> None:
    """It never sees a lifespan."""
    app, shop = FastAPI(), app_of(live)

    @shop.get("/page", response_class=HTMLResponse)
    async def page(tracking: Tracking) -> str:
        return str(tracking.visitor_id)

    app.mount("/shop", shop)
    with visitor(app) as client:
        client.get("/shop/page")
    (visit,) = adtarget_sandbox.wait_for(1, "visit")
    assert visit["body"]["href"] == "https://shop.test/shop/page"


def test_without_the_middleware_the_error_says_what_to_add() -> None:
    app = FastAPI()

    @app.get("/")
    async def page(tracking: Tracking) -> None:
        return None

    with visitor(app) as client, pytest.raises(RuntimeError, match="add_middleware"):
        client.get("/")


def test_errors_of_the_app_stay_what_they_were(live: Settings, adtarget_sandbox: Sandbox) -> None:
    app = app_of(live)

    @app.get("/broken")
    async def broken() -> Any:
        raise LookupError("the app's own")

    with TestClient(app, headers=BROWSER, raise_server_exceptions=False) as client:
        answer = client.get("/broken")
    assert (answer.status_code, answer.headers.get("set-cookie")) == (500, None)
    assert adtarget_sandbox.events() == []


def test_a_click_without_adtarget_is_no_dead_button() -> None:
    with visitor(app_of(quiet())) as client:
        assert client.get("/c/vip").headers["location"] == FALLBACK
