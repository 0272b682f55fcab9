"""What only a real browser can show: it keeps the cookies, its prefetch is not a visit, its click is an invite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from browser import Page, chromium
from serving import Server, serving

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

Visit = Callable[..., AbstractContextManager[tuple[Server, Page]]]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as running:
        yield running


@pytest.fixture
def visit(sandbox: Sandbox, tmp_path: Path) -> Visit:
    """The landing site on uvicorn, and a browser with an empty profile."""

    @contextmanager
    def started(**more: str) -> Iterator[tuple[Server, Page]]:
        environment = {
            "ADTARGET_API_KEY": sandbox.api_key,
            "ADTARGET_API_URL": sandbox.api_url,
            "ADTARGET_OUTBOX": f"sqlite:///{tmp_path}/outbox.sqlite3",
            "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
            "ADTARGET_FALLBACK_URL": "https://t.me/fallback_channel",
            **more,
        }
        with serving("uvicorn", environment, tmp_path) as server, chromium(tmp_path) as page:
            yield server, page

    return started


def test_chromium_keeps_the_cookies_prefetches_without_a_visit_and_leaves_by_its_own_link(
    sandbox: Sandbox, visit: Visit
) -> None:
    with visit() as (server, page):
        site = f"http://127.0.0.1:{server.port}"
        page.open(f"{site}/ahead?fbclid=IwAR0_aB-c9")
        cookies = page.cookies()
        readable = page.run("document.cookie")
        deadline = time.monotonic() + 20
        while '"GET /second' not in server.log.read_text():
            assert time.monotonic() < deadline, "Chromium did not prefetch"
            time.sleep(0.05)
        page.run("document.querySelector('#join').click()")
        (invite,) = sandbox.wait_for(1, "invite", timeout=15)
        visits = sandbox.events("visit")

    assert set(cookies) == {"_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id", "adtarget_state"}
    assert all(name in readable for name in ("_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id"))
    assert "adtarget_state" not in readable
    assert [visit["fields"]["href"] for visit in visits] == [f"{site}/ahead?fbclid=IwAR0_aB-c9"]
    for event in (*visits, invite):
        assert event["fields"]["tempId"] == cookies["adtarget_temp_id"]["value"]
        assert event["fields"]["fbp"] == cookies["_fbp"]["value"]
        assert event["fields"]["fbc"] == cookies["_fbc"]["value"]
    assert invite["answer"]["body"]["inviteLink"].startswith("https://t.me/+")


HOSTS = {
    "shop.example.com": ".example.com",
    "shop.example.com.": "shop.example.com.",
    "www.shop.example.co.uk": ".example.co.uk",
    "co.uk": "co.uk",
    "app.herokuapp.com": ".app.herokuapp.com",
    "www.xn--e1aybc.xn--p1ai": ".xn--e1aybc.xn--p1ai",
    "localhost": "localhost",
    "127.0.0.1": "127.0.0.1",
}


def test_chromium_keeps_one_fbp_on_every_host(visit: Visit, sandbox: Sandbox) -> None:
    """meta-cookies, "Cookies": Domain. A leading dot is Chromium's sign of a cookie that is not host-only."""
    with visit() as (server, page):
        for host, domain in HOSTS.items():
            seen = []
            for number in range(3):
                page.open(f"http://{host}:{server.port}/?{number}")
                seen.append([(cookie["value"], cookie["domain"]) for cookie in page.stored("_fbp")])
            assert seen == [[(seen[0][0][0], domain)]] * 3, host
            assert len(page.stored("adtarget_temp_id")) == 1, host
        visits = sandbox.wait_for(3 * len(HOSTS), "visit", timeout=30)
    assert len({event["fields"]["fbp"] for event in visits}) == len(HOSTS)


def test_two_tabs_at_once_are_one_visitor_with_the_next_page(visit: Visit, sandbox: Sandbox) -> None:
    with visit() as (server, first):
        site, second = f"http://shop.example.com:{server.port}", first.another()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda tab, name: tab.open(f"{site}/together?{name}"), (first, second), "ab"))
        first.open(f"{site}/second")
        stored = [(first.stored(name), second.stored(name, site)) for name in ("_fbp", "adtarget_temp_id")]
        visits = sandbox.wait_for(3, "visit", timeout=20)
    for seen, seen_by_other in stored:
        assert len(seen) == 1
        assert seen == seen_by_other
    fbp, temp_id = (seen[0]["value"] for seen, _ in stored)
    apart = [event["fields"] for event in visits if "/together" in event["fields"]["href"]]
    (last,) = [event["fields"] for event in visits if "/second" in event["fields"]["href"]]
    assert len({fields["tempId"] for fields in apart}) == len({fields["fbp"] for fields in apart}) == 2
    assert (last["tempId"], last["fbp"]) == (temp_id, fbp)


BESIDE = """
new Promise(done => {
  const all = [];
  for (const [tag, path] of [["iframe", "/second"], ["img", "/second"], ["script", "/second"], ["object", "/second"]]) {
    const made = document.createElement(tag);
    all.push(new Promise(next => { made.onload = made.onerror = next; }));
    made[tag === "object" ? "data" : "src"] = OTHER + path;
    document.body.append(made);
  }
  all.push(fetch(OTHER + "/second", {mode: "no-cors", credentials: "include"}));
  Promise.all(all).then(() => done("all"), done);
})
"""


def test_what_a_page_loads_beside_it_mints_nothing(visit: Visit, sandbox: Sandbox) -> None:
    """A frame, a picture, a script, an object and a fetch of pages, with and without the visitor's cookies.

    On hosts where Chromium says what it loads for: those of https, and localhost. Elsewhere a frame looks like a page.
    """
    with visit() as (server, page):
        site, other = f"http://shop.localhost:{server.port}", f"http://blog.localhost:{server.port}"
        page.open(f"{site}/")
        before = page.stored("_fbp")
        for there in (site, other):
            script = BESIDE.replace("OTHER", f'"{there}"')
            answer = page.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
            assert answer["result"]["value"] == "all"
        asked = server.log.read_text().count('"GET /second')
        after, elsewhere = page.stored("_fbp"), page.call("Network.getCookies", urls=[other])["cookies"]
        page.open(f"{site}/?last")
        visits = sandbox.wait_for(2, "visit", timeout=20)
    assert asked >= 10  # an object may be asked for twice
    assert (before, elsewhere) == (after, [])
    assert [event["fields"]["href"] for event in visits] == [f"{site}/", f"{site}/?last"]


PIXEL = "fb.1.1700000000000.1111111111"


@pytest.mark.parametrize("ours", ["on the host", "on a domain of its own"])
def test_the_pixels_own_fbp_wins_over_ours_and_is_reported_once(ours: str, visit: Visit, sandbox: Sandbox) -> None:
    settings = {} if ours == "on the host" else {"ADTARGET_COOKIE_DOMAIN": "shop.example.com"}
    with visit(**settings) as (server, page):
        site = f"http://shop.example.com:{server.port}"
        page.open(f"{site}/?0")
        minted = page.stored("_fbp")[0]["value"]
        if ours == "on the host":
            page.run(f"document.cookie = '_fbp={minted}; path=/; max-age=9999'")
        page.run(f"document.cookie = '_fbp={PIXEL}; path=/; domain=example.com; max-age=9999'")
        assert {cookie["value"] for cookie in page.stored("_fbp")} == {minted, PIXEL}
        sandbox.wait_for(1, "visit", timeout=15)
        for number in range(1, 4):
            page.open(f"{site}/?{number}")
            assert {cookie["value"] for cookie in page.stored("_fbp")} == {PIXEL}
            sandbox.wait_for(1 + number, "visit", timeout=15)
        left = len(page.stored("_fbp"))
        (update,) = sandbox.wait_for(1, "update-fbp", timeout=15)
        visits = sandbox.events("visit")
    assert left == (1 if ours == "on the host" else 2)
    assert update["fields"]["fbp"] == PIXEL
    assert [event["fields"]["fbp"] for event in visits] == [minted, PIXEL, PIXEL, PIXEL]
