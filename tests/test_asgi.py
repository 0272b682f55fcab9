"""The ASGI shell's own contract: correctness.md A1 to A11, against small hostile apps and servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from shell_world import CLICK, FALLBACK, HTML, KNOWN_PAGE, PAGE, AsgiShell, kept, quiet

from adtarget_proxy.asgi import AdTargetMiddleware
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings

SHELL = AsgiShell()
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
BODY = {"type": "http.response.body", "body": b"hello"}
App = Callable[[Any, Any, Any], Awaitable[None]]
Wrap = Callable[..., AdTargetMiddleware]


@pytest.fixture
def wrap() -> Iterator[Wrap]:
    wrapped: list[AdTargetMiddleware] = []

    def make(app: App, settings: Settings | None = None) -> AdTargetMiddleware:
        wrapped.append(AdTargetMiddleware(app, settings or quiet()))
        return wrapped[-1]

    yield make
    for app in wrapped:
        app.close(0)


class Wire:
    """The server's side of one request: what it was sent, the very objects."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def run(app: App, scope: Any, wire: Wire | None = None) -> list[Any]:
    wire = wire or Wire()
    asyncio.run(app(scope, wire.receive, wire.send))  # type: ignore[arg-type]
    return wire.sent


def sending(*messages: Any) -> App:
    """An app that sends just these."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def page_scope(**over: Any) -> dict[str, Any]:
    return SHELL.scope(PAGE, **over)


def cookies(message: Any) -> list[bytes]:
    return [value for name, value in message["headers"] if name == b"set-cookie"]


# -- what is not ours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "something.new"])
def test_any_other_scope_gets_the_original_receive_and_send(wrap: Wrap, kind: str) -> None:
    """A2."""
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend((scope, receive, send))

    wire = Wire()
    scope = {"type": kind, "asgi": {"version": "3.0"}}
    receive, send = wire.receive, wire.send
    asyncio.run(wrap(app)(scope, receive, send))  # type: ignore[arg-type]
    assert [mine is theirs for mine, theirs in zip(given, (scope, receive, send), strict=True)] == [True] * 3
    assert scope.keys() == {"type", "asgi"}


def test_receive_is_not_wrapped(wrap: Wrap) -> None:
    """A7."""
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append(receive)

    wire = Wire()
    receive = wire.receive
    asyncio.run(wrap(app)(page_scope(), receive, wire.send))  # type: ignore[arg-type]
    assert given[0] is receive


@pytest.mark.parametrize(
    "request_", [PAGE.having(sec_fetch_dest="image"), PAGE.having(user_agent="Googlebot"), PAGE.having(sec_gpc="1")]
)
def test_a_request_that_cannot_become_a_page_view_gets_the_original_send(wrap: Wrap, request_: Any) -> None:
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append(send)

    wire = Wire()
    send = wire.send
    asyncio.run(wrap(app)(SHELL.scope(request_), wire.receive, send))  # type: ignore[arg-type]
    assert given[0] is send


OTHER_MESSAGES = [
    {"type": "http.response.debug", "info": {"template": "a.html"}},
    {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]},
    {"type": "http.response.push", "path": "/a.css", "headers": []},
    START,
    {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
    {"type": "http.response.pathsend", "path": "/a.html", "more_body": True},
    {"type": "http.response.body", "body": b"x", "more_body": True},
    {"type": "http.response.trailers", "headers": [(b"a", b"b")], "more_trailers": False},
    {"type": "http.something.new"},
]


def test_every_message_but_the_start_passes_at_once_as_the_object_it_is(wrap: Wrap) -> None:
    """A3; an early hint comes before the start."""
    sent = run(wrap(sending(*OTHER_MESSAGES)), page_scope())
    assert len(sent) == len(OTHER_MESSAGES)
    assert [message["type"] for message, given in zip(sent, OTHER_MESSAGES, strict=True) if message is not given] == [
        START["type"]
    ]


# -- the start ---------------------------------------------------------------------------------------------------------------


def test_the_start_leaves_before_the_app_has_a_body(wrap: Wrap) -> None:
    """A4."""
    seen: list[int] = []
    wire = Wire()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        seen.append(len(wire.sent))
        await send(BODY)

    run(wrap(app), page_scope(), wire)
    assert seen == [1]


def test_the_apps_message_and_header_list_are_left_alone(wrap: Wrap) -> None:
    """A5."""
    own = [(b"content-type", b"text/html"), (b"cache-control", b"public")]
    message = {"type": "http.response.start", "status": 200, "headers": own, "trailers": True}
    start, _ = run(wrap(sending(message, BODY)), page_scope())
    assert message["headers"] is own
    assert own == [(b"content-type", b"text/html"), (b"cache-control", b"public")]
    assert start["trailers"] is True
    assert start["headers"] is not own


def test_each_cookie_is_a_pair_of_its_own_and_names_are_lower_case_bytes(wrap: Wrap) -> None:
    """A5."""
    start, _ = run(wrap(sending(START, BODY)), page_scope())
    names = [cookie.partition(b"=")[0] for cookie in cookies(start)]
    assert sorted(names) == [b"_fbp", b"adtarget_session_id", b"adtarget_state", b"adtarget_temp_id"]
    assert all(isinstance(part, bytes) for pair in start["headers"] for part in pair)
    assert all(name == name.lower() for name, _ in start["headers"])


HEADERS: dict[str, Callable[[], Any]] = {
    "a list": lambda: [(b"content-type", b"text/html")],
    "a tuple": lambda: ((b"content-type", b"text/html"),),
    "pairs that are lists": lambda: [[b"content-type", b"text/html"]],
    "a generator": lambda: (pair for pair in [(b"content-type", b"text/html")]),
    "an iterator over a dict": lambda: {b"content-type": b"text/html"}.items(),
    "names in capitals": lambda: [(b"Content-Type", b"text/html")],
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_come_in_every_shape_that_a_server_takes(wrap: Wrap, kind: str) -> None:
    start, _ = run(wrap(sending({**START, "headers": HEADERS[kind]()}, BODY)), page_scope())
    assert next(tuple(pair) for pair in start["headers"]) == tuple(next(iter(HEADERS[kind]())))
    assert len(cookies(start)) == 4


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_in_any_shape_survive_a_fault_of_ours(wrap: Wrap, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*args: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("adtarget_proxy.tracker.finish", planted)
    start, _ = run(wrap(sending({**START, "headers": HEADERS[kind]()}, BODY)), page_scope())
    assert [tuple(pair) for pair in start["headers"]] == [tuple(pair) for pair in HEADERS[kind]()]


@pytest.mark.parametrize(
    "start",
    [
        {"type": "http.response.start", "status": 200},
        {"type": "http.response.start", "status": 200, "headers": None},
        {"type": "http.response.start", "status": 200, "headers": [("content-type", "text/html")]},
        {"type": "http.response.start", "status": 200, "headers": [b"nonsense"]},
        {"type": "http.response.start", "status": None, "headers": []},
        {"type": "http.response.start"},
    ],
)
def test_a_start_that_is_odd_goes_to_the_server_to_judge(wrap: Wrap, start: dict[str, Any]) -> None:
    """A9."""
    sent, _ = run(wrap(sending(start, BODY)), page_scope())
    assert {**sent, "headers": sent.get("headers") or []} == {**start, "headers": start.get("headers") or []}


def test_a_second_start_of_a_buggy_app_reaches_the_server_once_more_and_is_told_once(wrap: Wrap) -> None:
    app = wrap(sending(START, START, BODY))
    first, second, _ = run(app, page_scope())
    assert (len(cookies(first)), len(cookies(second))) == (4, 4)
    assert len(kept(app.tracker)) == 1


# -- scopes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "over",
    [
        {"client": None, "server": None},
        {"client": None, "server": ("/run/app.sock", None)},
        {"client": ("testclient", 50000)},
        {"client": ["203.0.113.7", 1]},
        {"raw_path": None},
        {"root_path": None},
        {"query_string": b"\xff=\xfe"},
        {"extensions": None, "state": {}},
    ],
)
def test_what_a_scope_may_lack_is_not_missed(wrap: Wrap, over: dict[str, Any]) -> None:
    """A9."""
    app = wrap(sending(START, BODY))
    start, _ = run(app, page_scope(**over))
    assert len(cookies(start)) == 4
    assert len(kept(app.tracker)) == 1


@pytest.mark.parametrize("name", ["scheme", "query_string", "root_path", "raw_path", "client", "server"])
def test_what_the_specification_makes_optional_may_be_absent(wrap: Wrap, name: str) -> None:
    scope = page_scope()
    del scope[name]
    start, _ = run(wrap(sending(START, BODY)), scope)
    assert len(cookies(start)) == 4


def test_request_headers_that_can_be_read_only_once_are_there_for_the_app(wrap: Wrap) -> None:
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.extend(scope["headers"])
        await send(START)
        await send(BODY)

    headers = page_scope()["headers"]
    start, _ = run(wrap(app), page_scope(headers=iter(headers)))
    assert found == headers
    assert len(cookies(start)) == 4


def test_a_cookie_header_split_in_lines_is_read_as_one(wrap: Wrap) -> None:
    """RFC 9113, 8.2.3."""
    scope = SHELL.scope(PAGE)
    scope["headers"] += [(b"cookie", part.encode()) for part in KNOWN_PAGE.headers["cookie"].split("; ")]
    start, _ = run(wrap(sending(START, BODY)), scope)
    names = [cookie.partition(b"=")[0] for cookie in cookies(start)]
    assert names == [b"adtarget_session_id", b"adtarget_state"]


@pytest.mark.parametrize(
    ("root", "path", "href"),
    [
        ("", "/p", "https://shop.test/p"),
        ("/shop", "/shop/p", "https://shop.test/shop/p"),
        ("/shop", "/p", "https://shop.test/shop/p"),
        ("/shop", "/shopping", "https://shop.test/shop/shopping"),
        ("/shop/", "/p", "https://shop.test/shop/p"),
        ("/shop", "/shop", "https://shop.test/shop"),
    ],
)
def test_the_mount_point_is_prefixed_where_the_path_lacks_it(wrap: Wrap, root: str, path: str, href: str) -> None:
    """A10."""
    app = wrap(sending(START, BODY))
    run(app, page_scope(root_path=root, path=path, raw_path=path.encode()))
    assert [event.fields["href"] for event in kept(app.tracker)] == [href]


def test_under_a_mount_point_the_invite_route_answers_below_it(wrap: Wrap) -> None:
    app = wrap(sending(START, BODY), quiet(invite_path="/shop/c/{slug}"))
    start, _ = run(app, SHELL.scope(CLICK, root_path="/shop"))
    assert (start["status"], dict(start["headers"])[b"location"]) == (302, FALLBACK.encode())


def test_a_context_variable_that_the_app_sets_reaches_the_layers_around(wrap: Wrap) -> None:
    """A1."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        variable.set("by the app")
        await send(START)
        await send(BODY)

    async def around(scope: Any, receive: Any, send: Any) -> None:
        await wrap(app)(scope, receive, send)
        found.append(variable.get())

    found: list[str] = []
    run(around, page_scope())
    assert found == ["by the app"]


# -- time --------------------------------------------------------------------------------------------------------------------


def test_the_visit_is_kept_at_the_response_start_while_background_work_still_runs(wrap: Wrap) -> None:
    """A6."""
    told: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        told.append(len(kept(wrapped.tracker)))
        await send(BODY)
        await asyncio.sleep(0)  # a background task, after the body
        told.append(len(kept(wrapped.tracker)))

    wrapped = wrap(app)
    run(wrapped, page_scope())
    assert told == [1, 0]


def test_a_slow_reader_slows_the_app(wrap: Wrap) -> None:
    made: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for number in range(3):
            made.append(number)
            await send({**BODY, "more_body": True})

    async def main() -> None:
        ready, gate = asyncio.Semaphore(0), asyncio.Semaphore(0)

        async def send(message: Any) -> None:
            ready.release()
            await gate.acquire()

        task = asyncio.create_task(wrap(app)(page_scope(), Wire().receive, send))  # type: ignore[arg-type]
        for taken in range(3):
            await ready.acquire()
            assert len(made) == taken
            gate.release()
        await ready.acquire()
        gate.release()
        await task

    asyncio.run(main())
    assert made == [0, 1, 2]


# -- what goes wrong ---------------------------------------------------------------------------------------------------------


class AppError(Exception):
    """What a hostile app raises."""


def test_an_exception_after_the_start_goes_out_unchanged(wrap: Wrap) -> None:
    error = AppError("the app's own")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        raise error

    with pytest.raises(AppError) as caught:
        run(wrap(app), page_scope())
    assert caught.value is error


def test_the_servers_own_exception_reaches_the_app_as_it_is(wrap: Wrap) -> None:
    error = OSError("the visitor has gone")
    caught: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(START)
        except OSError as failure:
            caught.append(failure)

    async def send(message: Any) -> None:
        raise error

    asyncio.run(wrap(app)(page_scope(), Wire().receive, send))  # type: ignore[arg-type]
    assert caught == [error]


def test_cancellation_reaches_the_app_and_goes_out(wrap: Wrap) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            told.append("began")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def main() -> None:
        wire = Wire()
        task = asyncio.create_task(wrap(app)(page_scope(), wire.receive, wire.send))  # type: ignore[arg-type]
        while not told:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert told == ["began", "cancelled"]


def test_a_visitor_who_leaves_during_the_invite_call_cancels_it(wrap: Wrap, adtarget_sandbox: Sandbox) -> None:
    adtarget_sandbox.faults(hang=True, endpoint="invite")
    app = wrap(sending(START), quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url))
    wire = Wire()

    async def main() -> None:
        task = asyncio.create_task(app(SHELL.scope(CLICK), wire.receive, wire.send))  # type: ignore[arg-type]
        while not any(row["endpoint"] == "visit" for row in adtarget_sandbox.requests()):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert wire.sent == []


def test_clicks_that_wait_do_not_hold_up_pages(wrap: Wrap, adtarget_sandbox: Sandbox) -> None:
    adtarget_sandbox.faults(hang=True)
    settings = quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url, invite_timeout=30)
    app = wrap(sending(START, BODY), settings)

    async def main() -> list[int]:
        clicks = [asyncio.create_task(SHELL.talk(app, SHELL.scope(CLICK))) for _ in range(5)]
        await asyncio.sleep(0)
        statuses = [(await SHELL.talk(app, page_scope())).status for _ in range(3)]
        waiting = [not click.done() for click in clicks]
        for click in clicks:
            click.cancel()
        await asyncio.gather(*clicks, return_exceptions=True)
        return statuses + waiting

    assert asyncio.run(main()) == [200, 200, 200, True, True, True, True, True]


# -- lifespan ----------------------------------------------------------------------------------------------------------------


def test_without_lifespan_everything_works(wrap: Wrap) -> None:
    """A11: a mounted app never sees it."""
    app = wrap(SHELL.app(HTML))
    assert SHELL.ask(app, PAGE).cookies.keys() >= {"adtarget_temp_id"}


def test_an_app_that_rejects_lifespan_is_heard(wrap: Wrap) -> None:
    """A11: Django's handler does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")

    with pytest.raises(ValueError, match="lifespan"):
        run(wrap(app), {"type": "lifespan"})


def test_the_lifespans_end_sends_what_waits_and_stops_sending(wrap: Wrap, adtarget_sandbox: Sandbox) -> None:
    """A11. Were anything still running, the interpreter's exit would wait for it as long again."""
    settings = quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url, deliver="thread")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await SHELL.app(HTML)(scope, receive, send)

    wrapped = wrap(app, settings)

    async def main() -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        wire = Wire()
        lifespan = asyncio.create_task(wrapped({"type": "lifespan"}, events.get, wire.send))  # type: ignore[arg-type,typeddict-item]
        await events.put({"type": "lifespan.startup"})
        await SHELL.talk(wrapped, page_scope())
        await events.put({"type": "lifespan.shutdown"})
        await lifespan
        assert [message["type"] for message in wire.sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]

    asyncio.run(main())
    assert len(adtarget_sandbox.events("visit")) == 1
    assert not wrapped.tracker.delivery.is_running
    assert SHELL.ask(wrapped, PAGE).cookies.keys() >= {"adtarget_temp_id"}  # a lifespan may begin again
    assert adtarget_sandbox.wait_for(2, "visit")
    wrapped.close()


@pytest.mark.parametrize("name", ["start", "close"])
@pytest.mark.parametrize("fault_works", [True, False])
def test_a_fault_of_ours_does_not_end_the_lifespan(wrap: Wrap, name: str, fault_works: bool) -> None:
    def planted(*args: Any) -> None:
        raise RuntimeError("planted")

    done = {"type": "lifespan.startup.complete"}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(f"adtarget_proxy.tracker.Tracker.{name}", planted)
        monkeypatch.setattr("adtarget_proxy.tracker.Tracker.has_served", True)
        if not fault_works:
            monkeypatch.setattr("adtarget_proxy.tracker.Tracker.fault", planted)
        assert run(wrap(sending(done)), {"type": "lifespan"}) == [done]


# -- other people's ASGI -----------------------------------------------------------------------------------------------------


async def _numbers() -> AsyncIterator[bytes]:
    for number in range(3):
        yield str(number).encode()


def test_a_starlette_app_streams_and_its_background_task_runs(wrap: Wrap) -> None:
    """A1, A6."""
    responses = pytest.importorskip("starlette.responses")
    from starlette.background import BackgroundTask

    ran: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = BackgroundTask(lambda: ran.append(len(kept(wrapped.tracker))))
        await responses.StreamingResponse(_numbers(), media_type="text/html", background=task)(scope, receive, send)

    wrapped = wrap(app)
    answer = SHELL.ask(wrapped, PAGE)
    assert (answer.body, ran) == (b"012", [1])
