"""A plain ASGI app. Run: uvicorn --app-dir examples asgi_app:app"""

from adtarget_proxy import Settings
from adtarget_proxy.asgi import AdTargetMiddleware


async def page(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("HTTP only")
    body = f'<h1>Hello</h1><a href="{scope["adtarget"].invite_url("vip")}">Join</a>'.encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html; charset=utf-8")]}
    )
    await send({"type": "http.response.body", "body": body})


app = AdTargetMiddleware(page, Settings(invites={"vip": "-1001234567890"}, fallback_url="https://t.me/your_channel"))
