"""A world for the decision core: an owned clock, seeded entropy, requests as a browser makes them, and a browser that keeps cookies."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.facts import Facts, Response
from adtarget_proxy.tracking.invite import ClickPlan, click_plan
from adtarget_proxy.tracking.rules import Rules
from adtarget_proxy.tracking.visit import Outcome, Plan, finish, plan

NOW = 1_700_000_000.25
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
BROWSER = {
    "user-agent": AGENT,
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "sec-fetch-dest": "document",
    "sec-fetch-mode": "navigate",
}
KEY = "atk_live_12345678_abcdefgh"
VIP = {"channel_id": "-100123", "fallback_url": "https://t.me/fallback"}
HTML = {"content-type": "text/html; charset=utf-8"}


class Request(Facts):
    """A browser's request; ``headers`` go over a browser's own, None takes one off."""

    __slots__ = ("_headers",)

    def __init__(
        self,
        url: str = "https://shop.example/",
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "GET",
        peer: str | None = "203.0.113.9",
        hop: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        super().__init__(method, parts.scheme, unquote(parts.path) or "/", parts.query, peer, hop)
        table = {"host": parts.netloc, **BROWSER, **(headers or {})}
        self._headers = {name: value for name, value in table.items() if value is not None}

    def header(self, name: str) -> str | None:
        return self._headers.get(name)


class World:
    """The core behind one Settings object. ``jar`` is what the visitor's browser keeps, by name."""

    def __init__(self, **settings: Any) -> None:
        self.now = NOW
        self.random = Random(7)
        self.settings = Settings(**{"api_key": KEY, "outbox": "memory://", "invites": {"vip": VIP}} | settings)
        keys = self.settings.secret_key or ("0123456789abcdef",)
        self.rules = Rules(self.settings, lambda _: keys, clock=lambda: self.now, entropy=self.random.randbytes)
        self.jar: dict[str, str] = {}
        self.set_cookies: dict[str, str] = {}

    def request(
        self, url: str = "https://shop.example/", headers: Mapping[str, str | None] | None = None, **of: Any
    ) -> Request:
        """A request that brings the browser's cookies."""
        cookie = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        return Request(url, {"cookie": cookie or None, **(headers or {})}, **of)

    def plan(
        self, url: str = "https://shop.example/", headers: Mapping[str, str | None] | None = None, **of: Any
    ) -> Plan:
        return plan(self.request(url, headers, **of), self.rules)

    def page(
        self,
        url: str = "https://shop.example/",
        headers: Mapping[str, str | None] | None = None,
        *,
        status: int = 200,
        response: Mapping[str, str] = HTML,
        **of: Any,
    ) -> Outcome:
        """A request, its response, and the cookies kept by the browser."""
        outcome = finish(self.plan(url, headers, **of), Response(status, response), self.rules)
        self.keep(outcome.cookies)
        return outcome

    def click(
        self, url: str = "https://shop.example/c/vip", headers: Mapping[str, str | None] | None = None, **of: Any
    ) -> ClickPlan:
        """A click that counts."""
        planned = self.plan(url, headers, **of)
        click = click_plan(planned.facts, planned.gate, self.rules)
        self.keep(click.cookies)
        return click

    def keep(self, cookies: tuple[str, ...]) -> None:
        self.set_cookies = {}
        for cookie in cookies:
            pair, _, attributes = cookie.partition("; ")
            name, _, value = pair.partition("=")
            self.jar[name] = value
            self.set_cookies[name] = attributes
