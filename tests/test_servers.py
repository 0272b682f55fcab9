"""The main job on real servers: uvicorn and gunicorn with threads, nginx in front, the sandbox behind, processes that are killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import landing
import pytest
import serving
from serving import PERSON, Server, nginx_before

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

SERVERS = ("uvicorn", "gunicorn")
SURFACES = ("keyed", "tracker")
VISITOR = "93.184.215.14"
FALLBACK = "https://t.me/fallback_channel"
FORWARDED = {"X-Forwarded-For": VISITOR, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "www.example.com"}
AD = "/?fbclid=IwAR0_aB-c9&utm_source=fb&gclid=G1"
FROM_AD = {**FORWARDED, "Referer": "https://l.facebook.com/"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as running:
        yield running


@pytest.fixture
def environment(sandbox: Sandbox, tmp_path: Path) -> Callable[..., dict[str, str]]:
    def of(surface: str = "keyed", **more: str) -> dict[str, str]:
        credential = {
            "keyed": ("ADTARGET_API_KEY", sandbox.api_key),
            "tracker": ("ADTARGET_WEBSITE_ID", sandbox.website_id),
        }
        name, value = credential[surface]
        return {
            name: value,
            "ADTARGET_API_URL": sandbox.api_url,
            "ADTARGET_TRACKER_URL": sandbox.tracker_url,
            "ADTARGET_OUTBOX": f"sqlite:///{tmp_path}/outbox.sqlite3",
            "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
            "ADTARGET_FALLBACK_URL": FALLBACK,
            "ADTARGET_TRUSTED_PROXIES": "127.0.0.0/8",
            "ADTARGET_DEBUG": "true",
            "ADTARGET_RATE": "100000",
            "ADTARGET_BURST": "1000",
            **more,
        }

    return of


def fields(event: dict[str, Any]) -> dict[str, Any]:
    return event["fields"]


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_first_page_view_from_an_ad_sends_one_visit_and_changes_nothing_but_cookies(
    kind, surface, sandbox, environment, tmp_path
):
    with serving.serving(kind, environment(surface), tmp_path) as server:
        page = server.get(AD, FROM_AD)
        visits = sandbox.wait_for(1, "visit", timeout=10)
    assert page.status == 200
    assert page.body == landing.HTML
    assert page.reason == "tracked"
    assert set(page.cookies) == {"_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id", "adtarget_state"}
    for name, value in page.cookies.items():
        assert "Path=/" in value
        assert "Secure" in value
        assert "SameSite=Lax" in value
        assert ("HttpOnly" in value) == (name == "adtarget_state")
    assert page.header("Cache-Control") == "private"

    (visit,) = visits
    value_of = {name: text.partition(";")[0] for name, text in page.cookies.items()}
    told = fields(visit)
    assert told["href"] == f"https://www.example.com{AD}"
    assert told["tempId"] == value_of["adtarget_temp_id"]
    assert told["clientSessionId"] == value_of["adtarget_session_id"]
    assert told["fbp"] == value_of["_fbp"]
    assert told["fbc"] == value_of["_fbc"]
    assert told["fbc"].endswith(".IwAR0_aB-c9")
    assert (told["utmSource"], told["gclid"], told["referrer"]) == ("fb", "G1", "https://l.facebook.com/")
    assert (told["clientIp"], told["userAgent"]) == (VISITOR, PERSON)
    headers = visit["headers"]
    assert (headers["x-adtarget-client-ip"], headers["x-adtarget-client-user-agent"]) == (VISITOR, PERSON)
    if surface == "keyed":
        assert visit["idempotency_key"]
        assert "authorization" in headers
    else:
        assert told["websiteId"] == sandbox.website_id
        assert "authorization" not in headers
        assert headers["user-agent"] == PERSON
        assert headers["x-forwarded-for"] == VISITOR
        assert headers["referer"] == f"https://www.example.com{AD}"
        assert headers["origin"] == "https://www.example.com"


NOT_TRACKED = [
    ("GET", "/style.css", {"Sec-Fetch-Dest": "style"}, 200, "not-a-page"),
    ("GET", "/data.json", {}, 200, "not-html"),
    ("GET", "/nowhere", {}, 404, "status"),
    ("GET", "/moved", {}, 302, "status"),
    ("GET", "/download", {}, 200, "not-html"),
    ("HEAD", "/", {}, 200, "not-a-page"),
    ("POST", "/", {}, 200, "not-a-page"),
    ("GET", "/", {"Sec-Purpose": "prefetch;prerender"}, 200, "prefetch"),
    ("GET", "/", {"User-Agent": "facebookexternalhit/1.1"}, 200, "bot"),
    (
        "GET",
        "/",
        {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"},
        200,
        "bot",
    ),
    ("GET", "/", {"Sec-GPC": "1"}, 200, "gpc"),
    ("GET", "/healthz", {}, 404, "excluded"),
]


@pytest.mark.parametrize("kind", SERVERS)
def test_what_is_no_page_view_of_a_person_leaves_no_trace_but_its_reason(kind, sandbox, environment, tmp_path):
    with serving.serving(kind, environment(), tmp_path) as server:
        for method, target, headers, status, reason in NOT_TRACKED:
            reply = server.get(target, headers, method)
            assert (reply.status, reply.reason, reply.cookies) == (status, reason, {}), (method, target)
        for headers in ({"User-Agent": "TelegramBot (like TwitterBot)"}, {"Sec-GPC": "1"}):
            reply = server.get("/c/vip", headers)
            assert (reply.status, reply.header("Location"), reply.cookies) == (302, FALLBACK, {})
        reply = server.get("/c/vip", method="HEAD")
        assert (reply.status, reply.header("Location"), reply.cookies) == (302, FALLBACK, {})
        reply = server.get("/c/vip", {"Purpose": "prefetch"})
        assert (reply.status, reply.header("Cache-Control"), reply.body) == (503, "no-store", b"")
        # one page view after them all: whatever they had sent would have arrived before it
        server.get("/", FORWARDED)
        sandbox.wait_for(1, "visit", timeout=10)
    assert [event["endpoint"] for event in sandbox.events()] == ["visit"]


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_returning_visitor_keeps_every_id_and_leaves_by_a_link_of_their_own(
    kind, surface, sandbox, environment, tmp_path
):
    with serving.serving(kind, environment(surface), tmp_path) as server:
        first = server.get(AD, FROM_AD)
        jar = {"Cookie": first.jar}
        second = server.get("/second", {**FORWARDED, **jar})
        click = server.get("/c/vip", {**FORWARDED, **jar, "Referer": "https://www.example.com/second"})
        again = server.get("/c/vip", {**FORWARDED, **jar, "Referer": "https://www.example.com/second"})
        sandbox.wait_for(3, timeout=10)
    assert set(second.cookies) == {"adtarget_session_id"}
    assert "Max-Age=1800" in second.cookies["adtarget_session_id"]
    assert click.status == again.status == 302
    assert click.header("Location").startswith("https://t.me/+")
    assert again.header("Location") == click.header("Location")
    assert click.header("Cache-Control") == "private, no-store"
    assert click.header("X-Robots-Tag") == "noindex"
    assert click.header("Referrer-Policy") == "no-referrer"

    endpoints = [event["endpoint"] for event in sandbox.events()]
    assert sorted(endpoints) == ["invite", "visit", "visit"]
    told = [fields(event) for event in sandbox.events()]
    for name in ("tempId", "clientSessionId", "fbp", "fbc"):
        assert len({one[name] for one in told}) == 1, name
    invite = next(fields(event) for event in sandbox.events("invite"))
    assert (invite["utmSource"], invite["gclid"]) == ("fb", "G1")
    assert (invite["channelId"], invite["href"]) == ("-1001234567890", "https://www.example.com/second")
    assert endpoints.index("visit") < endpoints.index("invite")


def test_an_ad_that_links_straight_to_the_invite_route_makes_the_visit_at_the_click(sandbox, environment, tmp_path):
    with serving.serving("uvicorn", environment(), tmp_path) as server:
        click = server.get("/c/vip?fbclid=IwAR0_aB-c9&utm_source=fb", FROM_AD)
        sandbox.wait_for(2, timeout=10)
    assert click.header("Location").startswith("https://t.me/+")
    assert [event["endpoint"] for event in sandbox.events()] == ["visit", "invite"]
    assert {"_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id"} <= set(click.cookies)
    visit, invite = (fields(event) for event in sandbox.events())
    assert visit["tempId"] == invite["tempId"] == click.cookies["adtarget_temp_id"].partition(";")[0]
    assert visit["utmSource"] == invite["utmSource"] == "fb"


def test_a_changed_fbp_is_told_once_before_the_page_that_brought_it(sandbox, environment, tmp_path):
    with serving.serving("gunicorn", environment(), tmp_path) as server:
        first = server.get("/", FORWARDED)
        sandbox.wait_for(1, "visit", timeout=10)
        pixel = f"fb.1.{int(time.time() * 1000)}.1234567890"
        old = first.cookies["_fbp"].partition(";")[0]
        jar = {"Cookie": first.jar.replace(f"_fbp={old}", f"_fbp={pixel}")}
        server.get("/second", {**FORWARDED, **jar})
        server.get("/second", {**FORWARDED, **jar})
        sandbox.wait_for(4, timeout=10)
    endpoints = [event["endpoint"] for event in sandbox.events()]
    assert endpoints == ["visit", "update-fbp", "visit", "visit"]
    assert fields(sandbox.events("update-fbp")[0])["fbp"] == pixel


TROUBLES = {
    "down": {"down": True},
    "hanging": {"hang": True},
    "429": {"status": 429, "retry_after": 1},
    "401": {"status": 401},
    "500": {"status": 500},
    "html": {"html": True},
    "a link on another host": {"foreign_link": True},
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_click_never_ends_in_a_dead_button(kind, trouble, sandbox, environment, tmp_path):
    with serving.serving(kind, environment(ADTARGET_INVITE_TIMEOUT="0.5"), tmp_path) as server:
        first = server.get("/", FORWARDED)
        sandbox.wait_for(1, "visit", timeout=10)
        sandbox.faults(**TROUBLES[trouble])
        click = server.get("/c/vip", {**FORWARDED, "Cookie": first.jar}, timeout=5)
        assert (click.status, click.header("Location")) == (302, FALLBACK)
        assert click.header("Cache-Control") == "private, no-store"
        sandbox.heal()
        (invite,) = sandbox.wait_for(1, "invite", timeout=60)
    assert fields(invite)["tempId"] == first.cookies["adtarget_temp_id"].partition(";")[0]
    assert len({event["idempotency_key"] for event in sandbox.events("invite")}) == len(sandbox.events("invite")) == 1


@pytest.mark.parametrize("kind", SERVERS)
def test_through_an_outage_under_load_only_the_first_few_clicks_ask(kind, sandbox, environment, tmp_path):
    with serving.serving(kind, environment(ADTARGET_INVITE_TIMEOUT="0.5"), tmp_path) as server:
        sandbox.faults(hang=True)

        def click(_: int) -> str | None:
            return server.get("/c/vip", FORWARDED, timeout=10).header("Location")

        with ThreadPoolExecutor(8) as visitors:
            assert set(visitors.map(click, range(24))) == {FALLBACK}
        asked = len([request for request in sandbox.requests() if request["endpoint"] == "invite"])
        with ThreadPoolExecutor(8) as visitors:
            assert set(visitors.map(click, range(200))) == {FALLBACK}
        asked_later = len([request for request in sandbox.requests() if request["endpoint"] == "invite"])
    assert asked_later - asked <= 8  # probes at most: the outage is known


@pytest.mark.parametrize("kind", SERVERS)
def test_events_of_a_killed_process_go_out_after_a_restart_under_one_key(kind, sandbox, environment, tmp_path):
    sandbox.close_port()
    with serving.serving(kind, environment(), tmp_path) as server:
        pages = [server.get(f"/?n={n}", FORWARDED) for n in range(20)]
        server.kill()
    wanted = {page.cookies["adtarget_temp_id"].partition(";")[0] for page in pages}
    sandbox.open_port()
    with serving.serving(kind, environment(), tmp_path) as server:
        server.get("/style.css", {"Sec-Fetch-Dest": "style"})
        visits = sandbox.wait_for(20, "visit", timeout=60)
    assert {fields(visit)["tempId"] for visit in visits} == wanted
    assert len({visit["idempotency_key"] for visit in visits}) == 20


def test_events_of_a_killed_worker_go_out_by_another_that_lives(sandbox, environment, tmp_path):
    sandbox.close_port()
    with (
        serving.serving("uvicorn", environment(), tmp_path) as dying,
        serving.serving("gunicorn", environment(), tmp_path) as living,
    ):
        living.get("/style.css", {"Sec-Fetch-Dest": "style"})
        pages = [dying.get(f"/?n={n}", FORWARDED) for n in range(10)]
        dying.kill()
        sandbox.open_port()
        visits = sandbox.wait_for(10, "visit", timeout=60)
    assert {fields(visit)["tempId"] for visit in visits} == {
        page.cookies["adtarget_temp_id"].partition(";")[0] for page in pages
    }


@pytest.mark.parametrize("kind", SERVERS)
def test_behind_nginx_the_visitors_own_address_host_and_scheme_are_told(kind, sandbox, environment, tmp_path):
    with (
        serving.serving(kind, environment(), tmp_path) as server,
        nginx_before(server.port, tmp_path / "nginx") as front,
    ):
        forged = {"X-Forwarded-For": "1.1.1.1", "X-Test-Client": VISITOR, "Host": "shop.example.com"}
        page = front.get("/?a=1", forged)
        (visit,) = sandbox.wait_for(1, "visit", timeout=10)
    assert page.body == landing.HTML
    assert "Secure" in page.cookies["_fbp"]
    assert (fields(visit)["clientIp"], fields(visit)["href"]) == (VISITOR, "https://shop.example.com/?a=1")


def test_several_workers_share_one_outbox_and_lose_nothing(sandbox, environment, tmp_path):
    with serving.serving("gunicorn", environment(), tmp_path, workers=3) as server:

        def page(n: int) -> str:
            return server.get(f"/?n={n}", FORWARDED).cookies["adtarget_temp_id"].partition(";")[0]

        with ThreadPoolExecutor(8) as visitors:
            wanted = set(visitors.map(page, range(60)))
        visits = sandbox.wait_for(60, "visit", timeout=30)
    assert {fields(visit)["tempId"] for visit in visits} == wanted
    assert len(sandbox.events("visit")) == 60


def test_the_log_and_the_files_show_no_key_and_no_address(sandbox, environment, tmp_path):
    with serving.serving("uvicorn", environment(), tmp_path) as server:
        sandbox.faults(status=401)
        first = server.get(AD, FROM_AD)
        server.get("/c/vip", {**FORWARDED, "Cookie": first.jar})
        sandbox.heal()
    log = server.log.read_text()
    assert sandbox.api_key not in log
    assert VISITOR not in log
    assert isinstance(server, Server)
    for path in tmp_path.rglob("outbox*"):
        assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file():
            assert sandbox.api_key.encode() not in path.read_bytes()
