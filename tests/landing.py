"""The site that the server tests wrap: one app a protocol, with everything a landing page has. Settings come from the environment."""

import asyncio
import threading

from werkzeug.middleware.proxy_fix import ProxyFix

from adtarget_proxy.asgi import AdTargetMiddleware as AsgiMiddleware
from adtarget_proxy.wsgi import AdTargetMiddleware as WsgiMiddleware

HTML = b"<!doctype html><title>Landing</title><p>Hello \xc3\xa9"
RESPONSES = {
    "/": (200, "text/html; charset=utf-8", HTML),
    "/second": (200, "text/html; charset=utf-8", b"<p>Second"),
    "/ahead": (
        200,
        "text/html; charset=utf-8",
        b'<link rel="prefetch" href="/second"><p>Ahead <a id="join" href="/c/vip">Join</a>',
    ),
    "/together": (200, "text/html; charset=utf-8", b"<p>Together"),
    "/style.css": (200, "text/css", b"p{}"),
    "/data.json": (200, "application/json", b"{}"),
    "/moved": (302, "text/html", b""),
    "/download": (200, "text/html", b"<p>file"),
}
TWO = threading.Barrier(2)  # /together is answered when two have asked for it
MISSING = (404, "text/html", b"<p>Not here")
REASONS = {200: "OK", 302: "Found", 404: "Not Found"}


def _respond(path: str) -> tuple[int, list[tuple[str, str]], bytes]:
    status, kind, body = RESPONSES.get(path, MISSING)
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    if status == 302:
        headers.append(("Location", "/"))
    if path == "/download":
        headers.append(("Content-Disposition", "attachment; filename=page.html"))
    return status, headers, body


async def bare_asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/together":
        await asyncio.to_thread(TWO.wait, 15)
    status, headers, body = _respond(scope["path"])
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def bare_wsgi(environ, start_response):
    status, headers, body = _respond(environ["PATH_INFO"])
    start_response(f"{status} {REASONS[status]}", headers)
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


def asgi():
    """uvicorn --factory landing:asgi"""
    return AsgiMiddleware(bare_asgi)


def wsgi():
    """gunicorn 'landing:wsgi()'"""
    return WsgiMiddleware(bare_wsgi)


def fixed_outside():
    """ProxyFix around us: we see what it has written over."""
    return ProxyFix(wsgi())


def fixed_outside_with_host():
    return ProxyFix(wsgi(), x_host=1)


def fixed_twice_outside():
    """Two proxies in front, by ProxyFix' word."""
    return ProxyFix(wsgi(), x_for=2)


def fixed_inside():
    """ProxyFix between us and the app, which answers with what it sees."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']} {environ['HTTP_HOST']}".encode()]

    return WsgiMiddleware(ProxyFix(app, x_host=1))
