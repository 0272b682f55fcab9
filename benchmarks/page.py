"""What a page pays in process, as ratios against promise 4.

Each variant runs in child processes of its own, interleaved over several rounds. Measured is the CPU time of the thread that
serves the request, its share of the kernel's work included (the journal's write); the pump's and the lanes' threads, which a
page does not wait for, are not. Net is a variant less the bare app of the same round.

    python benchmarks/page.py [--rounds 7] [--requests 4000]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from time import thread_time_ns
from typing import Any

CASES = ("returning", "crowd", "first", "asset")
ASGI = ("bare", "pass", "memory", "durable", "starlette")
WSGI = ("bare", "pass", "memory", "durable")
CHUNK = 200  # requests built ahead, outside the clock
CROWD = 3000  # more visitors than any cache of the package holds
FORTH = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
}
PAGE_HEADERS = {
    "Host": "shop.example",
    **FORTH,
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.9",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "https://shop.example/",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-User": "?1",
    "Upgrade-Insecure-Requests": "1",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
}
ASSET_HEADERS = {
    **PAGE_HEADERS,
    "Accept": "image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Dest": "image",
    "Sec-Fetch-Mode": "no-cors",
}
OTHER_COOKIES = "theme=dark; _ga=GA1.1.1234567890.1690000000; csrftoken=8f2c1d0a9b7e6f5d4c3b2a1908f7e6d5"
AD = "fbclid=IwAR0_aB-c9&utm_source=fb&utm_medium=cpc&utm_campaign=spring&gclid=G1"
PAGE_BODY = b"<!doctype html><title>Shop</title>"


def settings(outbox: str) -> Any:
    from adtarget_proxy import Settings

    return Settings(
        api_key="atk_live_12345678_benchmark",
        api_url="http://127.0.0.1:9/api/v1",
        outbox=outbox,
        deliver="worker",
        trusted_proxies=["127.0.0.0/8"],
        invites={"vip": "-100123"},
        fallback_url="https://t.me/fallback",
    )


class Requests:
    """The requests of a case, as the headers of one and its path and query; ``answer`` serves one and returns its Set-Cookie values."""

    def __init__(self, answer: Callable[[str, str, dict[str, str]], list[str]]) -> None:
        self.one = self.cookies_of(answer, 0)
        self.crowd = [self.cookies_of(answer, number) for number in range(CROWD)]

    def cookies_of(self, answer: Callable[[str, str, dict[str, str]], list[str]], number: int) -> str:
        set_cookies = answer("/", AD.replace("c9", f"c{number}"), PAGE_HEADERS)
        return "; ".join([OTHER_COOKIES, *(text.partition(";")[0] for text in set_cookies)])

    def of(self, case: str) -> Iterator[tuple[str, str, dict[str, str]]]:
        number = 0
        while True:
            number += 1
            if case == "asset":
                yield f"/static/app.{number % 50}.png", "", {**ASSET_HEADERS, "Cookie": self.one}
            elif case == "first":
                yield "/", AD.replace("c9", f"c{number}"), {**PAGE_HEADERS, "Cookie": OTHER_COOKIES}
            else:
                cookie = self.one if case == "returning" else self.crowd[number % CROWD]
                yield f"/offer/{number % 50}", "", {**PAGE_HEADERS, "Cookie": cookie}


# -- ASGI ------------------------------------------------------------------------------------------------------------------------


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    kind = b"image/png" if scope["path"].startswith("/static/") else b"text/html; charset=utf-8"
    headers = [(b"content-type", kind), (b"content-length", b"34"), (b"x-frame-options", b"DENY"), (b"vary", b"Accept")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE_BODY})


class AsgiPass:
    """The least a middleware that looks at responses can do."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def inner(message: Any) -> None:
            await send(message)

        await self.app(scope, receive, inner)


def asgi_variant(name: str, outbox: str) -> Any:
    if name == "pass":
        return AsgiPass(asgi_app)
    if name == "starlette":
        from starlette.middleware.base import BaseHTTPMiddleware

        class Noop(BaseHTTPMiddleware):
            async def dispatch(self, request: Any, call_next: Any) -> Any:
                return await call_next(request)

        return Noop(asgi_app)
    if name in ("memory", "durable"):
        from adtarget_proxy.asgi import AdTargetMiddleware

        return AdTargetMiddleware(asgi_app, settings(outbox))
    return asgi_app


def asgi_scope(path: str, query: str, headers: dict[str, str]) -> dict[str, Any]:
    """A scope as a server makes it: every byte string new."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    return None


def serve_asgi(app: Any, count: int) -> dict[str, float]:
    async def answer(path: str, query: str, headers: dict[str, str]) -> list[str]:
        found: list[str] = []

        async def collect(message: Any) -> None:
            found.extend(value.decode() for name, value in message.get("headers", ()) if name == b"set-cookie")

        await app(asgi_scope(path, query, headers), receive, collect)
        return found

    async def measure(requests: Requests, case: str) -> float:
        source, spent = requests.of(case), []
        for _ in range(count // CHUNK):
            scopes = [asgi_scope(*next(source)) for _ in range(CHUNK)]
            started = thread_time_ns()
            for scope in scopes:
                await app(scope, receive, send)
            spent.append((thread_time_ns() - started) / CHUNK / 1000)
        return statistics.median(spent)

    with asyncio.Runner() as runner:
        requests = Requests(lambda *request: runner.run(answer(*request)))
        return {case: runner.run(measure(requests, case)) for case in CASES}


# -- WSGI ------------------------------------------------------------------------------------------------------------------------


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    kind = "image/png" if environ["PATH_INFO"].startswith("/static/") else "text/html; charset=utf-8"
    headers = [("Content-Type", kind), ("Content-Length", "34"), ("X-Frame-Options", "DENY"), ("Vary", "Accept")]
    start_response("200 OK", headers)
    return [PAGE_BODY]


class WsgiPass:
    """The least a middleware that looks at responses can do."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        def inner(status: str, headers: Any, *exc_info: Any) -> Any:
            return start_response(status, headers, *exc_info)

        return self.app(environ, inner)


def wsgi_variant(name: str, outbox: str) -> Any:
    if name == "pass":
        return WsgiPass(wsgi_app)
    if name in ("memory", "durable"):
        from adtarget_proxy.wsgi import AdTargetMiddleware

        return AdTargetMiddleware(wsgi_app, settings(outbox))
    return wsgi_app


def wsgi_environ(path: str, query: str, headers: dict[str, str]) -> dict[str, Any]:
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "RAW_URI": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "benchmark",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    environ.update(("HTTP_" + name.upper().replace("-", "_"), value) for name, value in headers.items())
    return environ


def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
    return None


def serve_wsgi(app: Any, count: int) -> dict[str, float]:
    def answer(path: str, query: str, headers: dict[str, str]) -> list[str]:
        found: list[str] = []

        def collect(status: str, headers: Any, exc_info: Any = None) -> Any:
            found.extend(value for name, value in headers if name == "Set-Cookie")

        app(wsgi_environ(path, query, headers), collect)
        return found

    def measure(requests: Requests, case: str) -> float:
        source, spent = requests.of(case), []
        for _ in range(count // CHUNK):
            environs = [wsgi_environ(*next(source)) for _ in range(CHUNK)]
            started = thread_time_ns()
            for environ in environs:
                app(environ, start_response)
            spent.append((thread_time_ns() - started) / CHUNK / 1000)
        return statistics.median(spent)

    requests = Requests(answer)
    return {case: measure(requests, case) for case in CASES}


# -- Meta's builder, alone: its inputs parsed beforehand, its cookies not written -------------------------------------------------


def serve_builder(count: int) -> dict[str, float]:
    from capi_param_builder import ParamBuilder

    def visit(query: dict[str, list[str]], cookies: dict[str, str]) -> dict[str, str]:
        builder = ParamBuilder(["shop.example"])
        found = builder.process_request("shop.example", query, cookies, "https://shop.example/")
        return {cookie.name: cookie.value for cookie in found}

    def measure(query: dict[str, list[str]], jars: list[dict[str, str]]) -> float:
        spent = []
        for _ in range(count // CHUNK):
            started = thread_time_ns()
            for number in range(CHUNK):
                visit(query, jars[number % len(jars)])
            spent.append((thread_time_ns() - started) / CHUNK / 1000)
        return statistics.median(spent)

    ad = {"fbclid": ["IwAR0_aB-c9"], "utm_source": ["fb"], "gclid": ["G1"]}
    jars = [visit(ad, {}) for _ in range(CHUNK)]
    return {"returning": measure({}, jars[:1]), "crowd": measure({}, jars), "first": measure(ad, [{}])}


# -- parent and child --------------------------------------------------------------------------------------------------------------


def child(variant: str, count: int) -> None:
    logging.disable(logging.CRITICAL)
    gc.freeze()
    shell, name = variant.split("/")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outbox = f"sqlite:///{folder}/outbox.sqlite3" if name == "durable" else "memory://"
        if shell == "meta":
            found = serve_builder(count)
        else:
            app = (asgi_variant if shell == "asgi" else wsgi_variant)(name, outbox)
            found = (serve_asgi if shell == "asgi" else serve_wsgi)(app, count)
            if name in ("memory", "durable"):
                app.close(0.1)
    print(json.dumps(found))


def run(variant: str, count: int) -> dict[str, float] | None:
    done = subprocess.run(
        [sys.executable, __file__, "--child", variant, "--requests", str(count)], capture_output=True, text=True
    )
    if done.returncode:
        print(f"{variant}: skipped ({(done.stderr.strip().splitlines() or ['no word'])[-1]})", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout)
    return found


class Table:
    """What was measured: variant → case → one figure a round, in µs."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, list[float]]] = {}

    def add(self, variant: str, found: dict[str, float]) -> None:
        for case, figure in found.items():
            self.figures.setdefault(variant, {}).setdefault(case, []).append(figure)

    def net(self, variant: str, case: str) -> list[float]:
        """Less the bare app of the same round; the builder stands alone."""
        figures = self.figures.get(variant, {}).get(case, [])
        bare = self.figures.get(variant.split("/")[0] + "/bare", {}).get(case, [0.0] * len(figures))
        return [one - other for one, other in zip(figures, bare, strict=True)]

    def show(self) -> None:
        print(f"\n{'net µs a request':<22}" + "".join(f"{case:>22}" for case in CASES))
        for variant in self.figures:
            bare = variant.endswith("/bare")
            cells = []
            for case in CASES:
                figures = self.figures[variant].get(case, []) if bare else self.net(variant, case)
                cells.append(spread(figures))
            print(f"{variant + (' (gross)' if bare else ''):<22}" + "".join(f"{cell:>22}" for cell in cells))

    def judge(self) -> None:
        print(f"\n{'promise 4':<58}{'ratio':>8}{'bound':>8}")
        for shell in ("asgi", "wsgi"):
            for case in ("returning", "crowd"):
                self.ratio(
                    f"{shell}: {case} page, memory / Meta's builder", f"{shell}/memory", "meta/builder", case, 0.35
                )
                self.ratio(
                    f"{shell}: {case} page, durable / Meta's builder", f"{shell}/durable", "meta/builder", case, 0.6
                )
            self.ratio(f"{shell}: asset / pass-through", f"{shell}/memory", f"{shell}/pass", "asset", 3.0)
        self.ratio(
            "asgi: no-op BaseHTTPMiddleware / returning page, durable",
            "asgi/starlette",
            "asgi/durable",
            "returning",
            4.0,
            most=False,
        )

    def ratio(self, name: str, over: str, under: str, case: str, bound: float, *, most: bool = True) -> None:
        above, below = self.net(over, case), self.net(under, case)
        if not above or not below:
            print(f"{name:<58}{'—':>8}{bound:>8}")
            return
        ratio = statistics.median(above) / statistics.median(below)
        kept = ratio <= bound if most else ratio >= bound
        print(f"{name:<58}{ratio:>8.2f}{bound:>8}  {'kept' if kept else 'BROKEN'}")


def spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):.1f} ({min(figures):.1f}-{max(figures):.1f})" if figures else "—"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=4000, help="of each case in a round")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.requests)
        return
    variants = [*(f"asgi/{name}" for name in ASGI), *(f"wsgi/{name}" for name in WSGI), "meta/builder"]
    table = Table()
    missing: set[str] = set()
    for _ in range(given.rounds):
        for variant in random.sample(variants, len(variants)):
            found = None if variant in missing else run(variant, given.requests)
            if found is None:
                missing.add(variant)
            else:
                table.add(variant, found)
    table.figures = {variant: table.figures[variant] for variant in variants if variant in table.figures}
    table.show()
    table.judge()


if __name__ == "__main__":
    main()
