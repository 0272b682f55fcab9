"""Meta-cookies, "Cookies" (Domain): whatever the host, a browser keeps one ``_fbp`` and one ``tempId``, visit after visit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shell_browser import AD, Browser
from shell_world import OURS, PAGE, AsgiShell, Shell, WsgiShell, quiet

from adtarget_proxy.settings import Site

SHELLS: dict[str, Shell] = {"asgi": AsgiShell(), "wsgi": WsgiShell()}
VISITS = 100
GAP = (
    57_600  # seconds between two visits: all of them take 67 days, so the long-lived cookies are issued anew on the way
)
KEY = "atk_live_tests000_secret"
PER_SITE = {
    "shop.example": Site(api_key=KEY, cookie_domain="shop.example", invites={}),
    "*.shop.example": Site(api_key=KEY, cookie_domain="www.shop.example", invites={}),
    "*": Site(api_key=KEY, invites={}),
}

# hosts that the visits go round, settings, the Domain (None: host-only)
HOSTS: dict[str, tuple[tuple[str, ...], dict[str, Any], str | None]] = {
    "the registrable domain": (("example.com",), {}, "example.com"),
    "hosts of one domain": (("www.example.com", "example.com", "a.b.example.com"), {}, "example.com"),
    "under co.uk": (("www.example.co.uk", "example.co.uk"), {}, "example.co.uk"),
    "with a port": (("shop.example.com:8443", "shop.example.com"), {}, "example.com"),
    "in upper case": (("SHOP.Example.COM", "shop.example.com"), {}, "example.com"),
    "with a trailing dot": (("shop.example.com.",), {}, None),
    "with a trailing dot and a port": (("shop.example.com.:8443",), {}, None),
    "punycode": (("www.xn--e1aybc.xn--p1ai", "xn--e1aybc.xn--p1ai"), {}, "xn--e1aybc.xn--p1ai"),
    "a customer of a public suffix": (("app.herokuapp.com", "www.app.herokuapp.com"), {}, "app.herokuapp.com"),
    "a public suffix of a company": (("herokuapp.com",), {}, None),
    "a public suffix": (("co.uk",), {}, None),
    "a wildcard's suffix": (("a.kawasaki.jp",), {}, None),
    "a wildcard's exception": (("www.city.kawasaki.jp",), {}, "city.kawasaki.jp"),
    "IPv4": (("203.0.113.9",), {}, None),
    "IPv4 with a port": (("203.0.113.9:8000", "203.0.113.9"), {}, None),
    "IPv6": (("[2001:db8::1]",), {}, None),
    "IPv6 with a port": (("[2001:db8::1]:8000", "[2001:db8::1]"), {}, None),
    "localhost": (("localhost:8000",), {}, None),
    "one label": (("intranet",), {}, None),
    "set": (("a.shop.example.com", "b.shop.example.com"), {"cookie_domain": "shop.example.com"}, "shop.example.com"),
    "set in upper case with dots": (("www.example.com",), {"cookie_domain": ".EXAMPLE.com."}, "example.com"),
    "set for another host": (("www.example.com",), {"cookie_domain": "example.org"}, "example.com"),
    "set to a host that only ends alike": (("notexample.com",), {"cookie_domain": "example.com"}, "notexample.com"),
    "set to a public suffix": (("app.herokuapp.com",), {"cookie_domain": "herokuapp.com"}, "app.herokuapp.com"),
    "set, with a trailing dot": (("www.example.com.",), {"cookie_domain": "example.com"}, None),
    "set, an address": (("203.0.113.9",), {"cookie_domain": "example.com"}, None),
    "of a site": (("shop.example",), {"sites": PER_SITE}, "shop.example"),
    "of another site": (("www.shop.example", "a.www.shop.example"), {"sites": PER_SITE}, "www.shop.example"),
    "of any other site": (("a.b.example.com",), {"sites": PER_SITE}, "example.com"),
}
# the same without the public-suffix list: what is not set is host-only
WITHOUT_LIST: dict[str, tuple[tuple[str, ...], dict[str, Any], str | None]] = {
    name: (hosts[:1] if "cookie_domain" not in given else hosts, given, given.get("cookie_domain") and domain)
    for name, (hosts, given, domain) in HOSTS.items()
    if "sites" not in given and name not in ("set for another host", "set to a host that only ends alike")
} | {
    "set for another host": (("www.example.com",), {"cookie_domain": "example.org"}, None),
    "set to a host that only ends alike": (("notexample.com",), {"cookie_domain": "example.com"}, None),
}
del WITHOUT_LIST["set to a public suffix"]  # nobody could know


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    return SHELLS[request.param]


@pytest.fixture
def visitor(shell: Shell) -> Iterator[Browser]:
    browser = Browser(shell)
    yield browser
    browser.close()


def visits(browser: Browser, hosts: tuple[str, ...], scheme: str = "https") -> set[str | None]:
    """A hundred visits that keep one visitor throughout; returns the Domains of the cookies."""
    domains: set[str | None] = set()
    known: tuple[list[str], ...] = ()
    for number in range(VISITS):
        host = hosts[number % len(hosts)]
        request = replace(AD if number == 0 else PAGE, scheme=scheme)
        answer = browser.open(host, request, after=GAP)
        for line in answer.all("set-cookie"):
            attributes = dict(part.partition("=")[::2] for part in line.split("; ")[1:])
            domains.add(attributes.get("Domain"))
        now = tuple(browser.values(name) for name in ("_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id"))
        assert [len(values) for values in now] == [1, 1, 1, 1], (host, number)
        assert not known or now[:3] == known[:3], (host, number)
        known = now
    told = browser.told()
    assert [event.kind for event in told] == ["visit"] * VISITS
    assert {(event.fields["temp_id"], event.fields["fbp"]) for event in told} == {(known[2][0], known[0][0])}
    assert browser.thrown_away == []
    return domains


@pytest.mark.parametrize("name", HOSTS)
def test_a_browser_keeps_one_visitor_over_a_hundred_visits(visitor: Browser, name: str) -> None:
    hosts, settings, domain = HOSTS[name]
    visitor.wrap(quiet(**settings))
    assert visits(visitor, hosts) == {domain}


def test_a_browser_keeps_one_visitor_without_https(visitor: Browser) -> None:
    assert visits(visitor, ("www.example.com",), scheme="http") == {"example.com"}


def test_without_the_list_what_is_not_set_is_host_only() -> None:
    """In a process of its own, which cannot import the list."""
    program = "import sys, cookie_jar; sys.modules['publicsuffixlist'] = None; import test_cookie_domain as t; t.main()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [domain] for name, (_, _, domain) in WITHOUT_LIST.items()}


def main() -> None:
    found = {}
    for name, (hosts, settings, _) in WITHOUT_LIST.items():
        for shell in SHELLS.values():
            browser = Browser(shell, quiet(**settings))
            found[name] = list(visits(browser, hosts))
            browser.close()
    print(json.dumps(found))


@pytest.mark.parametrize("later", [60, 40 * 86_400])
@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "example.com"), ("shop.example.com", "example.com"), ("example.com", "shop.example.com")],
)
def test_a_change_of_the_domain_keeps_the_visitor_and_comes_to_rest(
    visitor: Browser, before: str | None, after: str, later: float
) -> None:
    """None: host-only, as before the list was installed."""
    host = "shop.example.com"
    visitor.wrap(quiet(cookie_domain=before or after))
    first = visitor.ask(host, AD)
    for line in first.all("set-cookie"):
        visitor.jar.keep(line if before else line.replace(f"Domain={after}; ", ""), host)
    ids = {name: visitor.values(name) for name in OURS - {"adtarget_session_id", "adtarget_state"}}
    visitor.wrap(quiet(cookie_domain=after))
    visitor.open(host, after=later)
    visitor.open(host)
    for _ in range(5):
        assert visitor.open(host).cookies.keys() == {"adtarget_session_id"}
    assert {name: sorted(set(visitor.values(name))) for name in ids} == ids
    assert [event.kind for event in visitor.told()] == ["visit"] * 7
