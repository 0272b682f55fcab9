"""The landing page: a plain ASGI app of four files, as its author would have written it without us, but for one line.

That line takes the join button's address from the middleware.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

_FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/about": ("about.html", b"text/html; charset=utf-8"),
    "/style.css": ("style.css", b"text/css; charset=utf-8"),
    "/picture.svg": ("picture.svg", b"image/svg+xml"),
}
SLUG = "vip"


async def landing(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI's own signature
    """Serves the page, its styles and its picture; everything else is a 404."""
    if scope["type"] != "http":
        raise RuntimeError("the landing page speaks HTTP alone")
    name, kind = _FILES.get(scope["path"], (None, b"text/plain; charset=utf-8"))
    if name is None:
        status, body = 404, b"Not here.\n"
    else:
        status, body = 200, files("adtarget_proxy.demo").joinpath("landing", name).read_bytes()
        if name.endswith(".html"):
            body = body.replace(b"{{ invite_url }}", scope["adtarget"].invite_url(SLUG).encode())
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
