"""Meta's own builder and ours on one site, one after the other: each takes the other's values for its own, in both shells.

Its licence is not open source, so it is no dependency: ``make interop`` installs it and runs this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from shell_browser import Browser
from shell_world import PAGE, AsgiShell, Shell, WsgiShell

pytestmark = pytest.mark.interop

SHELLS: dict[str, Shell] = {"asgi": AsgiShell(), "wsgi": WsgiShell()}
HOSTS = (
    "example.com",
    "www.example.com",
    "a.b.example.co.uk",
    "app.herokuapp.com",
    "localhost:8000",
    "203.0.113.9:8000",
)
DOMAINS = ("example.com", "example.co.uk", "app.herokuapp.com")
CLICKS = ("", "fbclid=IwAR0_aB-c9", "fbclid=" + "x" * 500, "utm_source=fb&fbclid=-_-")


@pytest.fixture
def builder_class() -> Any:
    return pytest.importorskip(
        "capi_param_builder", reason="Meta's builder is not installed; make interop installs it"
    ).ParamBuilder


@pytest.fixture(params=SHELLS)
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    made = Browser(SHELLS[request.param])
    yield made
    made.close()


def meta(builder_class: Any, browser: Browser, host: str, query: str = "") -> Any:
    """A page of a site that Meta's builder looks after; the browser keeps what it sets."""
    builder = builder_class(list(DOMAINS))
    cookies = {cookie.name: cookie.value for cookie in browser.jar.sent(host)}
    for new in builder.process_request(host, parse_qs(query), cookies):
        domain = "" if "[" in new.domain else f"Domain={new.domain}; "  # it puts every address in brackets
        assert browser.jar.keep(f"{new.name}={new.value}; {domain}Path=/; Max-Age={new.max_age}; SameSite=Lax", host)
    return builder


def parts(value: str | None) -> list[str]:
    """A value without Meta's token."""
    return (value or "").split(".")[:4]


@pytest.mark.parametrize("query", CLICKS, ids=lambda query: query[:24] or "no click")
@pytest.mark.parametrize("host", HOSTS)
def test_metas_builder_accepts_what_we_mint(builder_class: Any, browser: Browser, host: str, query: str) -> None:
    browser.open(host, replace(PAGE, query=query))
    (fbp,), fbc = browser.values("_fbp"), browser.values("_fbc")
    for again in ("", query):  # it finds them, then meets the same click once more
        builder = meta(builder_class, browser, host, again)
        assert (parts(builder.get_fbp()), parts(builder.get_fbc())) == (parts(fbp), parts(fbc[0] if fbc else None))
    before = browser.values("_fbp"), browser.values("_fbc")
    assert before == ([builder.get_fbp()], [builder.get_fbc()] if fbc else [])
    told = browser.told()
    for _ in range(3):
        browser.open(host, replace(PAGE, query=query))
        told += browser.told()
    assert (browser.values("_fbp"), browser.values("_fbc")) == before
    assert told[-1].fields["fbp"] == builder.get_fbp()
    assert told[-1].fields.get("fbc") == builder.get_fbc()
    assert [event.kind for event in told] == ["visit", "fbp-update", *["visit"] * 3]


@pytest.mark.parametrize("query", CLICKS, ids=lambda query: query[:24] or "no click")
@pytest.mark.parametrize("host", HOSTS)
def test_we_accept_what_metas_builder_mints(builder_class: Any, browser: Browser, host: str, query: str) -> None:
    builder = meta(builder_class, browser, host, query)
    minted = browser.values("_fbp"), browser.values("_fbc")
    answer = browser.open(host, replace(PAGE, query=query))
    assert not {"_fbp", "_fbc"} & answer.cookies.keys()
    (visit,) = browser.told()
    assert (visit.fields["fbp"], visit.fields.get("fbc")) == (builder.get_fbp(), builder.get_fbc())
    meta(builder_class, browser, host, query)
    assert (browser.values("_fbp"), browser.values("_fbc")) == minted


def test_we_accept_a_thousand_of_its_random_values(builder_class: Any, browser: Browser) -> None:
    for _ in range(1000):
        browser.jar = type(browser.jar)(browser.jar.now)
        builder = meta(builder_class, browser, "www.example.com", "fbclid=IwAR0_aB-c9")
        assert "_fbp" not in browser.open("www.example.com").cookies
        assert browser.values("_fbp") == [builder.get_fbp()]


def test_it_accepts_a_thousand_of_ours(builder_class: Any, browser: Browser) -> None:
    for _ in range(1000):
        browser.jar = type(browser.jar)(browser.jar.now)
        fbp = browser.open("www.example.com").cookies["_fbp"]
        assert parts(meta(builder_class, browser, "www.example.com").get_fbp()) == fbp.split(".")


def test_a_new_click_is_new_to_both(builder_class: Any, browser: Browser) -> None:
    """Each writes over the other's ``_fbc`` where the click differs, and leaves it where it does not."""
    host = "www.example.com"
    browser.open(host, replace(PAGE, query="fbclid=first"))
    builder = meta(builder_class, browser, host, "fbclid=second")
    assert parts(builder.get_fbc())[3] == "second"
    assert "_fbc" not in browser.open(host, replace(PAGE, query="fbclid=second")).cookies
    assert parts(browser.open(host, replace(PAGE, query="fbclid=third")).cookies["_fbc"])[3] == "third"
    assert parts(meta(builder_class, browser, host, "fbclid=third").get_fbc())[3] == "third"
    assert len(browser.values("_fbc")) == 1
