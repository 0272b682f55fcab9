"""Servers that rewrite the peer themselves: uvicorn's --proxy-headers, werkzeug's ProxyFix around us and within.

What they have rewritten is taken as the peer, nothing is trusted twice, and neither scheme nor host is lost by it (issue 12, point 4). Real
servers and real sockets: each request comes from 127.0.0.1, as from a proxy on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

VISITOR, LIAR, PROXY, CLOUDFLARE = "93.184.215.14", "198.51.100.66", "10.0.0.7", "173.245.48.5"
LOOPBACK = "127.0.0.0/8"
SHOWN = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "www.example.com", "Host": "inner.example"}
OUTSIDE, HALF, INNER = "https://www.example.com/", "https://inner.example/", "http://inner.example/"


def xff(*chain: str, **more: str) -> dict[str, str]:
    return {
        "X-Forwarded-For": ", ".join(chain),
        **SHOWN,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as running:
        yield running


def environment(sandbox: Sandbox, folder: Path, trusted: str) -> dict[str, str]:
    return {
        "ADTARGET_API_KEY": sandbox.api_key,
        "ADTARGET_API_URL": sandbox.api_url,
        "ADTARGET_OUTBOX": f"sqlite:///{folder}/outbox.sqlite3",
        "ADTARGET_TRUSTED_PROXIES": trusted,
        "ADTARGET_RATE": "100000",
        "ADTARGET_BURST": "1000",
    }


@dataclass(frozen=True)
class Setup:
    """A server, whom it trusts, whom we trust; then requests, each with the address and the URL that AdTarget is told."""

    kind: str
    trusted: str
    requests: list[tuple[dict[str, str], str | None, str]]
    app: str | None = None
    options: list[str] = field(default_factory=list)


def uvicorn(trusted: str, allowed: str, *requests: tuple[dict[str, str], str | None, str]) -> Setup:
    return Setup("uvicorn", trusted, [*requests], None, ["--proxy-headers", "--forwarded-allow-ips", allowed])


def gunicorn(app: str, trusted: str, *requests: tuple[dict[str, str], str | None, str]) -> Setup:
    return Setup("gunicorn", trusted, [*requests], app)


SETUPS = {
    "uvicorn, the same proxy trusted by both": uvicorn(
        LOOPBACK,
        "127.0.0.1",
        (xff(VISITOR), VISITOR, OUTSIDE),
        (xff(LIAR, VISITOR), VISITOR, OUTSIDE),
        (xff("127.0.0.1", LIAR, VISITOR), VISITOR, OUTSIDE),
        (xff(PROXY), None, OUTSIDE),
        (xff(LIAR, PROXY), None, OUTSIDE),
        (xff(LIAR, "unknown"), None, INNER.replace("http:", "https:")),
        # a port is not written as 0: nobody can tell it from a connection, and what needs trust is left alone
        (xff(LIAR, f"{VISITOR}:4711"), VISITOR, HALF),
    ),
    "uvicorn alone trusts": uvicorn("", "127.0.0.1", (xff(LIAR, VISITOR), VISITOR, HALF)),
    "uvicorn trusts nobody": uvicorn(LOOPBACK, "192.0.2.1", (xff(LIAR, VISITOR), VISITOR, OUTSIDE)),
    "uvicorn trusts fewer": uvicorn(
        f"{LOOPBACK},10.0.0.0/8", "127.0.0.1", (xff(LIAR, VISITOR, PROXY), VISITOR, OUTSIDE)
    ),
    "uvicorn trusts more, and its word stands": uvicorn(
        LOOPBACK, "127.0.0.1,10.0.0.0/8", (xff(LIAR, VISITOR, PROXY), VISITOR, HALF)
    ),
    "uvicorn trusts more than our hop count": uvicorn(
        "1",
        "127.0.0.1,10.0.0.0/8",
        (xff(LIAR, VISITOR, PROXY), VISITOR, OUTSIDE),
        (xff(LIAR, VISITOR), VISITOR, OUTSIDE),
    ),
    "uvicorn, two hops by our count": uvicorn("2", "127.0.0.1", (xff(LIAR, VISITOR, PROXY), VISITOR, OUTSIDE)),
    "uvicorn behind nginx behind cloudflare": uvicorn(
        "cloudflare",
        "127.0.0.1",
        (xff(LIAR, VISITOR, CLOUDFLARE, CF_Connecting_IP=VISITOR), VISITOR, HALF),
        (xff(LIAR, VISITOR, CF_Connecting_IP=LIAR), VISITOR, HALF),  # past the edge
        (xff(CLOUDFLARE, VISITOR, CF_Connecting_IP=LIAR), VISITOR, HALF),
    ),
    "uvicorn and the nginx preset": uvicorn("nginx", "127.0.0.1", (xff(LIAR, VISITOR), VISITOR, OUTSIDE)),
    "ProxyFix outside, its proxy trusted by us": gunicorn(
        "fixed_outside", LOOPBACK, (xff(VISITOR), VISITOR, OUTSIDE), (xff(LIAR, VISITOR), VISITOR, OUTSIDE)
    ),
    "ProxyFix outside, with the host": gunicorn(
        "fixed_outside_with_host", LOOPBACK, (xff(LIAR, VISITOR), VISITOR, OUTSIDE)
    ),
    "ProxyFix outside alone trusts": gunicorn("fixed_outside", "", (xff(LIAR, VISITOR), VISITOR, HALF)),
    "ProxyFix outside alone trusts, with the host": gunicorn(
        "fixed_outside_with_host", "", (xff(LIAR, VISITOR), VISITOR, OUTSIDE)
    ),
    "ProxyFix outside, another proxy trusted by us": gunicorn(
        "fixed_outside", "10.0.0.0/8", (xff(LIAR, VISITOR), VISITOR, HALF)
    ),
    "ProxyFix outside counts more hops": gunicorn(
        "fixed_twice_outside", "1", (xff(LIAR, VISITOR, PROXY), VISITOR, OUTSIDE)
    ),
    "ProxyFix inside is the app's own affair": gunicorn(
        "fixed_inside", LOOPBACK, (xff(LIAR, VISITOR), VISITOR, OUTSIDE)
    ),
    "ProxyFix inside is nothing to us": gunicorn("fixed_inside", "10.0.0.0/8", (xff(LIAR, VISITOR), None, HALF)),
}


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_what_a_server_has_rewritten_is_trusted_once(setup: Setup, sandbox: Sandbox, tmp_path: Path) -> None:
    given = environment(sandbox, tmp_path, setup.trusted)
    with serving(setup.kind, given, tmp_path, app=setup.app, options=setup.options) as server:
        for number, (headers, _, href) in enumerate(setup.requests):
            page = server.get(f"/?n={number}", headers)
            assert page.status == 200
            assert ("Secure" in page.cookies["adtarget_temp_id"]) == href.startswith("https:")
        visits = sandbox.wait_for(len(setup.requests), "visit", timeout=10)
    told: dict[str, dict[str, Any]] = {visit["fields"]["href"].partition("?n=")[2]: visit["fields"] for visit in visits}
    for number, (headers, address, href) in enumerate(setup.requests):
        fields = told[str(number)]
        assert (fields.get("clientIp"), fields["href"]) == (address, f"{href}?n={number}"), headers


def test_the_app_behind_an_inner_proxy_fix_sees_what_it_always_saw(sandbox: Sandbox, tmp_path: Path) -> None:
    with serving("gunicorn", environment(sandbox, tmp_path, ""), tmp_path, app="fixed_inside") as server:
        page = server.get("/", xff(LIAR, VISITOR))
    assert page.body.decode() == f"{VISITOR} https www.example.com"
