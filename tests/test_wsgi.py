"""The WSGI shell's own contract: correctness.md W1 to W7, against small hostile apps and servers."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from shell_world import CLICK, FALLBACK, HTML, PAGE, View, WsgiShell, kept, quiet

from adtarget_proxy.settings import Settings
from adtarget_proxy.wsgi import AdTargetMiddleware

SHELL = WsgiShell()
HEADERS = [("Content-Type", "text/html")]
Wrap = Callable[..., AdTargetMiddleware]


@pytest.fixture
def wrap() -> Iterator[Wrap]:
    wrapped: list[AdTargetMiddleware] = []

    def make(app: Any, settings: Settings | None = None) -> AdTargetMiddleware:
        wrapped.append(AdTargetMiddleware(app, settings or quiet()))
        return wrapped[-1]

    yield make
    for app in wrapped:
        app.close(0)


class Wire:
    """The server's side of one request: every call of start_response, and what was written the old way."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, tuple[Any, ...]]] = []
        self.named: list[dict[str, Any]] = []
        self.written: list[bytes] = []

    def start_response(self, status: str, headers: Any, *rest: Any, **named: Any) -> Any:
        self.calls.append((status, headers, rest))
        self.named.append(named)
        return self.write

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def cookies(self, call: int = 0) -> list[str]:
        return [value for name, value in self.calls[call][1] if name == "Set-Cookie"]


def ask(app: Any, environ: dict[str, Any] | None = None) -> tuple[Any, Wire]:
    wire = Wire()
    return app(environ or SHELL.environ(PAGE), wire.start_response), wire


# -- start_response ----------------------------------------------------------------------------------------------------------


def test_headers_are_decided_when_a_generator_gets_to_them(wrap: Wrap) -> None:
    """W1."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        yield b"hello"

    wrapped = wrap(app)
    body, wire = ask(wrapped)
    assert wire.calls == []
    assert kept(wrapped.tracker) == []
    assert next(body) == b"hello"
    assert len(wire.cookies()) == 4
    assert len(kept(wrapped.tracker)) == 1


def test_a_start_while_the_body_is_read_is_no_earlier(wrap: Wrap) -> None:
    class Lazy:
        def __init__(self, start_response: Any) -> None:
            self.start_response = start_response

        def __iter__(self) -> Iterator[bytes]:
            self.start_response("200 OK", HEADERS)
            return iter([b"hello"])

    body, wire = ask(wrap(lambda environ, start_response: Lazy(start_response)))
    assert wire.calls == []
    assert list(body) == [b"hello"]
    assert len(wire.cookies()) == 4


def test_exc_info_is_forwarded_only_when_given(wrap: Wrap) -> None:
    """W2."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        try:
            raise LookupError("the app's own")
        except LookupError:
            start_response("500 Oops", HEADERS, sys.exc_info())
        return []

    _, wire = ask(wrap(app))
    (first, _, nothing), (second, _, (info,)) = wire.calls
    assert (first, nothing, second, info[0]) == ("200 OK", (), "500 Oops", LookupError)
    assert wire.named == [{}, {}]


def test_exc_info_by_name_is_forwarded_by_name(wrap: Wrap) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS, exc_info=None)
        return []

    _, wire = ask(wrap(app))
    assert (wire.named, wire.calls[0][2]) == ([{"exc_info": None}], ())


@pytest.mark.parametrize(
    ("statuses", "cookies", "visits"),
    [
        (("200 OK", "500 Oops"), (4, 0), 1),
        (("500 Oops", "200 OK"), (0, 4), 1),
        (("200 OK", "200 OK"), (4, 4), 1),
        (("404 Not Found", "302 Found"), (0, 0), 0),
    ],
)
def test_a_second_start_is_decided_anew_and_nothing_is_told_twice(
    wrap: Wrap, statuses: tuple[str, str], cookies: tuple[int, int], visits: int
) -> None:
    """W2."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(statuses[0], HEADERS)
        start_response(statuses[1], HEADERS, (ValueError, ValueError(), None))
        return []

    wrapped = wrap(app)
    _, wire = ask(wrapped)
    assert (len(wire.cookies(0)), len(wire.cookies(1))) == cookies
    assert len(kept(wrapped.tracker)) == visits
    if cookies == (4, 4):
        assert wire.cookies(0) == wire.cookies(1)


def test_the_app_gets_the_servers_own_write(wrap: Wrap) -> None:
    """W3."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", HEADERS)
        write(b"the old way")
        return []

    _, wire = ask(wrap(app))
    assert wire.written == [b"the old way"]
    assert len(wire.cookies()) == 4


def test_what_start_response_raises_reaches_the_app(wrap: Wrap) -> None:
    error = AssertionError("headers already sent")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        with pytest.raises(AssertionError) as caught:
            start_response("200 OK", HEADERS)
        assert caught.value is error
        return [b"on we go"]

    def refusing(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise error

    assert wrap(app)(SHELL.environ(PAGE), refusing) == [b"on we go"]


def test_cookies_are_native_latin_1_strings_and_the_apps_list_is_left_alone(wrap: Wrap) -> None:
    """W5."""
    own = [("Content-Type", "text/html"), ("Cache-Control", "public")]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", own)
        return []

    hostile = PAGE.having(
        cookie='_fbp=fb.1.1700000000000.1\xe9\xff; _fbc="x\r\ny"', referer="https://shop.test/\xff\r\n"
    )
    _, wire = ask(wrap(app), SHELL.environ(replace(hostile, query="fbclid=a%0d%0ab&utm_source=\xff")))
    assert own == [("Content-Type", "text/html"), ("Cache-Control", "public")]
    headers = wire.calls[0][1]
    assert type(headers) is list
    assert all(type(part) is str and part.isascii() and part.isprintable() for pair in headers for part in pair)


@pytest.mark.parametrize("shape", [list, tuple, iter])
def test_headers_in_any_shape_a_server_takes(wrap: Wrap, shape: Callable[[Any], Any]) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", shape(HEADERS))
        return []

    _, wire = ask(wrap(app))
    assert wire.calls[0][1][0] == HEADERS[0]
    assert len(wire.cookies()) == 4


@pytest.mark.parametrize(
    ("status", "headers"),
    [("", HEADERS), ("OK", HEADERS), (200, HEADERS), (None, HEADERS), ("200 OK", None), ("200 OK", [("a", 1)])],
)
def test_a_start_that_is_odd_goes_to_the_server_to_judge(wrap: Wrap, status: Any, headers: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, headers)
        return []

    _, wire = ask(wrap(app))
    assert wire.calls == [(status, headers, ())]


# -- the iterable ------------------------------------------------------------------------------------------------------------


class Body:
    """An iterable with everything that servers look for."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"hello"])

    def __len__(self) -> int:
        return 1

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    "make",
    [Body, lambda: [b"a"], lambda: (b"a",), lambda: iter([b"a"]), lambda: FileWrapper(sys.stdin), lambda: b"abc"],
)
def test_the_apps_iterable_goes_back_as_the_object_it_is(wrap: Wrap, make: Callable[[], Any]) -> None:
    """W4: len, close, file_wrapper and laziness are its own."""
    body = make()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", HEADERS)
        return body

    returned, _ = ask(wrap(app))
    assert returned is body
    if isinstance(body, Body):
        assert body.closed == 0


def test_the_servers_file_wrapper_is_the_one_the_app_finds(wrap: Wrap) -> None:
    found: list[Any] = []
    environ = SHELL.environ(PAGE, **{"wsgi.file_wrapper": FileWrapper})
    ask(wrap(SHELL.app(HTML)), environ)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        found.append(environ["wsgi.file_wrapper"])
        start_response("200 OK", HEADERS)
        return []

    ask(wrap(app), SHELL.environ(PAGE, **{"wsgi.file_wrapper": FileWrapper}))
    assert found == [FileWrapper]


# -- the environ -------------------------------------------------------------------------------------------------------------


def test_the_apps_environ_is_the_servers_own_with_one_key_more(wrap: Wrap) -> None:
    found: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        found.append(environ)
        start_response("200 OK", HEADERS)
        return []

    environ = SHELL.environ(PAGE)
    before = dict(environ)
    ask(wrap(app), environ)
    assert found[0] is environ
    assert environ.keys() - before.keys() == {"adtarget"}
    assert {name: environ[name] for name in before} == before


class Input:
    """A request body that must not be read."""

    def read(self, *size: int) -> bytes:
        raise AssertionError("read")

    readline = readlines = __iter__ = read


@pytest.mark.parametrize("request_", [PAGE, CLICK, replace(PAGE, method="POST"), replace(CLICK, method="POST")])
def test_the_request_body_is_not_read(wrap: Wrap, request_: Any) -> None:
    """W6."""
    app = wrap(SHELL.app(HTML))
    answer = ask(app, SHELL.environ(request_, **{"wsgi.input": Input()}))
    assert answer[1].calls
    assert app.tracker.counts()["error"] == 0


class Mark:
    """Lives as long as the environ that holds it."""

    def __init__(self, lives: list[bool]) -> None:
        self.lives = lives

    def __del__(self) -> None:
        self.lives.append(False)


@pytest.mark.parametrize("request_", [PAGE, CLICK, PAGE.having(sec_fetch_dest="image"), replace(PAGE, method="POST")])
def test_the_environ_ends_with_its_request_without_waiting_for_the_collector(wrap: Wrap, request_: Any) -> None:
    """W6: what hangs on it, the socket included, is let go at once."""
    app = wrap(SHELL.app(HTML))
    ended: list[bool] = []
    gc.disable()
    try:
        ask(app, SHELL.environ(request_, mark=Mark(ended)))
        assert ended == [False]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("script", "path", "href"),
    [
        ("/shop", "/p", "https://shop.test/shop/p"),
        ("", "/\xc3\xa9", "https://shop.test/%C3%A9"),
        ("", "/\xff\xfe", "https://shop.test/%FF%FE"),
        ("", "", "https://shop.test"),
    ],
)
def test_the_url_is_script_name_and_path_info(wrap: Wrap, script: str, path: str, href: str) -> None:
    """W7."""
    app = wrap(SHELL.app(HTML))
    ask(app, SHELL.environ(PAGE, SCRIPT_NAME=script, PATH_INFO=path))
    assert [event.fields["href"] for event in kept(app.tracker)] == [href]


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "HTTP_COOKIE"])
def test_what_the_specification_makes_optional_may_be_absent(wrap: Wrap, name: str) -> None:
    environ = SHELL.environ(PAGE)
    environ.pop(name, None)
    _, wire = ask(wrap(SHELL.app(HTML)), environ)
    assert len(wire.cookies()) == 4


def test_an_environ_outside_the_specification_reaches_the_app(wrap: Wrap) -> None:
    body, wire = ask(wrap(SHELL.app(HTML)), {"REQUEST_METHOD": "GET"})
    assert body == [b"<h1>Hello</h1>"]
    assert wire.calls[0][:2] == ("200 OK", list(HTML.headers))


# -- between other people's layers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [PAGE, replace(PAGE, method="POST"), PAGE.having(sec_purpose="prefetch")])
def test_towards_the_server_the_shell_keeps_to_the_specification(wrap: Wrap, request_: Any) -> None:
    """PEP 3333, as wsgiref.validate reads it."""
    view = View(headers=(("Content-Type", "text/html"),))
    body = validator(wrap(SHELL.app(view)))(SHELL.environ(request_), Wire().start_response)
    assert b"".join(body) == b"<h1>Hello</h1>"
    body.close()  # type: ignore[attr-defined]


def test_a_click_answers_with_a_status_line(wrap: Wrap) -> None:
    body, wire = ask(wrap(SHELL.app(HTML)), SHELL.environ(CLICK.having(user_agent="")))
    status, headers, rest = wire.calls[0]
    assert (status, dict(headers)["Location"], rest, b"".join(body)) == ("302 Found", FALLBACK, (), b"")
