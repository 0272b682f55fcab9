"""A plain WSGI app. Run: gunicorn --threads 4 --chdir examples wsgi_app:app"""

from adtarget_proxy import Settings
from adtarget_proxy.wsgi import AdTargetMiddleware


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return [f'<h1>Hello</h1><a href="{environ["adtarget"].invite_url("vip")}">Join</a>'.encode()]


app = AdTargetMiddleware(page, Settings(invites={"vip": "-1001234567890"}, fallback_url="https://t.me/your_channel"))
