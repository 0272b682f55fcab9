"""Many sites in one process (issue 12, point 9): host pattern → Site, from TOML.

Each has its key, channels, domain and rate; an unknown host passes through untracked; keys never mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shell_world import CLICK, HTML, PAGE, Answer, Request, Shell, kept

from adtarget_proxy.errors import SettingsError
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings

LEAD = {"telegram_user_id": 1, "event_type": "Lead", "channel_id": "-1001234567890"}
KEYS = {"own": "atk_live_topkey00_x", "a": "atk_live_siteaaaa_x", "c": "atk_live_sitecccc_x"}
TOML = """
api_key = "atk_live_topkey00_x"
api_url = "http://127.0.0.1:9/api/v1"
tracker_url = "http://127.0.0.1:9/backend"
outbox = "memory://"
deliver = "worker"
fallback_url = "https://t.me/everybody"
rate = 120
trusted_proxies = "nginx"

[sites."a.example"]
api_key = "atk_live_siteaaaa_x"
channel_id = "-100a"
fallback_url = "https://t.me/site_a"
rate = 60
burst = 5
[sites."a.example".invites]
vip = "-100avip"

[sites."*.b.example"]
website_id = "atid_b"
cookie_domain = "b.example"
invites = { vip = { channel_id = "-100bvip", fallback_url = "https://t.me/site_b" } }

[sites."c.example"]
api_key = "atk_live_sitecccc_x"
website_id = "atid_c"
rate = 30
invites = { club = "-100c" }

[sites."d.example"]
channel_id = "-100d"
"""


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    path = tmp_path / "adtarget.toml"
    path.write_text(TOML, encoding="utf-8")
    monkeypatch.setenv("ADTARGET_CONFIG", str(path))
    return Settings()


Wrap = Callable[..., Any]


@pytest.fixture
def wrap(shell: Shell, settings: Settings) -> Iterator[Wrap]:
    wrapped: list[Any] = []

    def make(look: Callable[[Any], object] = lambda _: None) -> Any:
        wrapped.append(shell.middleware(shell.app(replace(HTML, look=look)), settings))
        return wrapped[-1]

    yield make
    for app in wrapped:
        app.close(0)


def credential(settings: Settings, account: str) -> str | None:
    """The key or website id behind an event's account."""
    (found,) = [one for one in settings.accounts if one.id == account]
    return found.api_key or found.website_id


# host, credential of visits and clicks, of conversions, the cookies' domain, requests a minute, burst
SITES = [
    ("a.example", KEYS["a"], KEYS["a"], None, 60, 5),
    ("A.Example:8443", KEYS["a"], KEYS["a"], None, 60, 5),
    ("www.b.example", "atid_b", None, "b.example", 120, 50),
    ("deep.www.b.example", "atid_b", None, "b.example", 120, 50),
    ("c.example", "atid_c", KEYS["c"], None, 30, 50),
    ("d.example", KEYS["own"], KEYS["own"], None, 120, 50),
]
UNKNOWN = ["b.example", "example", "a.example.evil.example", "xa.example", "a.example.", "127.0.0.1", "[::1]:80"]


@pytest.mark.parametrize(("host", "tracks", "converts", "domain", "rate", "burst"), SITES)
def test_a_host_has_the_key_the_domain_and_the_rate_of_its_site(
    shell: Shell,
    wrap: Wrap,
    settings: Settings,
    host: str,
    tracks: str,
    converts: str | None,
    domain: str | None,
    rate: float,
    burst: float,
) -> None:
    raised: list[SettingsError] = []

    def look(tracking: Any) -> None:
        try:
            tracking.conversion(**LEAD)
        except SettingsError as error:
            raised.append(error)

    app = wrap(look)
    answer = shell.ask(app, PAGE.having(host=host))
    events = {event.kind: event for event in kept(app.tracker)}
    assert credential(settings, events["visit"].account) == tracks
    converted = credential(settings, events["conversion"].account) if "conversion" in events else None
    assert (converted, bool(raised)) == (converts, converts is None)
    assert {f"Domain={domain}" in line for line in answer.all("set-cookie")} == {domain is not None}
    (account,) = [one for one in settings.accounts if one.id == events["visit"].account]
    assert (account.rate, account.burst) == (rate, burst)


@pytest.mark.parametrize(
    ("host", "slug", "channel", "fallback"),
    [
        ("a.example", "vip", "-100avip", "https://t.me/site_a"),
        ("www.b.example", "vip", "-100bvip", "https://t.me/site_b"),
        ("c.example", "club", "-100c", "https://t.me/everybody"),
    ],
)
def test_a_slug_leads_to_the_channel_of_its_site(
    shell: Shell, wrap: Wrap, settings: Settings, host: str, slug: str, channel: str, fallback: str
) -> None:
    app = wrap()
    answer = shell.ask(app, replace(CLICK, path=f"/c/{slug}").having(host=host))
    assert (answer.status, answer.all("location")) == (302, [fallback])
    (click,) = [event for event in kept(app.tracker) if event.kind == "invite"]
    site = settings.site_for(host)
    assert site is not None
    assert site.tracking_account is not None
    assert (click.fields["channel_id"], click.account) == (channel, site.tracking_account.id)


def untouched(shell: Shell, app: Any, request: Request) -> bool:
    bare: Answer = shell.ask(shell.app(HTML), request)
    return shell.ask(app, request) == bare and kept(app.tracker) == []


@pytest.mark.parametrize("host", UNKNOWN)
def test_an_unknown_host_passes_through_untracked(shell: Shell, wrap: Wrap, host: str) -> None:
    if host == "a.example.":  # a trailing dot is the same name (RFC 1034, 3.1)
        assert not untouched(shell, wrap(), PAGE.having(host=host))
        return
    raised: list[SettingsError] = []

    def look(tracking: Any) -> None:
        with pytest.raises(SettingsError, match="host") as caught:
            tracking.conversion(**LEAD)
        raised.append(caught.value)

    assert untouched(shell, wrap(look), PAGE.having(host=host))
    assert raised
    assert untouched(shell, wrap(), CLICK.having(host=host))


@pytest.mark.parametrize(("host", "path"), [("a.example", "/c/club"), ("c.example", "/c/vip"), ("d.example", "/c/vip")])
def test_a_slug_of_another_site_is_the_apps(shell: Shell, wrap: Wrap, host: str, path: str) -> None:
    app = wrap()
    answer = shell.ask(app, replace(CLICK, path=path).having(host=host))
    assert (answer.status, answer.body) == (200, b"<h1>Hello</h1>")
    assert [event.kind for event in kept(app.tracker)] == ["visit"]


@pytest.mark.parametrize(
    ("peer", "shown", "tracks"),
    [
        ("203.0.113.9", "c.example", KEYS["a"]),  # a visitor's own word
        ("127.0.0.1", "c.example", "atid_c"),  # a proxy's
        ("127.0.0.1", "c.example, a.example", KEYS["a"]),
        ("127.0.0.1", "not a host", KEYS["a"]),
    ],
)
def test_the_site_is_that_of_the_host_which_a_trusted_hop_saw(
    shell: Shell, wrap: Wrap, settings: Settings, peer: str, shown: str, tracks: str
) -> None:
    app = wrap(lambda tracking: tracking.conversion(**LEAD))
    request = replace(PAGE, peer=peer).having(host="a.example", x_forwarded_host=shown, x_forwarded_for="203.0.113.9")
    shell.ask(app, request)
    events = kept(app.tracker)
    assert {event.kind: credential(settings, event.account) for event in events} == {
        "visit": tracks,
        "conversion": KEYS["c"] if tracks == "atid_c" else tracks,
    }


def test_each_sites_events_reach_its_own_account_and_no_other(shell: Shell) -> None:
    """Two AdTargets, each of which refuses every key but its own: visits, clicks and conversions of both sites."""
    with Sandbox(rate=0, api_key=KEYS["a"]) as one, Sandbox(rate=0, api_key=KEYS["c"]) as other:
        sites = {
            name: {"api_key": box.api_key, "api_url": box.api_url, "invites": {"vip": "-1"}}
            for name, box in (("one.example", one), ("other.example", other))
        }
        settings = Settings(sites=sites, outbox="memory://", fallback_url="https://t.me/f", rate=6000, burst=500)
        view = replace(HTML, look=lambda tracking: tracking.conversion(**LEAD))
        app = shell.middleware(shell.app(view), settings)
        try:
            for host in ("one.example", "other.example", "other.example", "one.example"):
                shell.ask(app, PAGE.having(host=host))
                shell.ask(app, CLICK.having(host=host))
            for box in (one, other):
                box.wait_for(8, timeout=15)
        finally:
            app.close(5)
        for box, host in ((one, "one.example"), (other, "other.example")):
            assert {request["status"] for request in box.requests()} == {200}
            told = box.events()
            assert sorted(event["endpoint"] for event in told) == ["conversion"] * 2 + ["invite"] * 2 + ["visit"] * 4
            hrefs = {event["fields"]["href"] for event in told if event["endpoint"] != "conversion"}
            assert {href.split("/")[2] for href in hrefs} == {host}
            shown = {event["headers"]["authorization"].rstrip("…") for event in told}  # the sandbox shows no whole key
            assert [one for one in shown if f"Bearer {box.api_key}".startswith(one) and len(one) > 20] == list(shown)


@pytest.mark.parametrize("planted_at", ["tracker.plan", "clicks.click_plan"])
@pytest.mark.parametrize(
    ("host", "fallback"),
    [
        ("a.example", "https://t.me/site_a"),
        ("www.b.example", "https://t.me/site_b"),
        ("B.EXAMPLE.:443", "https://t.me/site_a"),  # of no site: the first that has the slug, for no button is dead
    ],
)
def test_a_fault_of_ours_sends_nobody_to_another_sites_channel(
    shell: Shell, wrap: Wrap, planted_at: str, host: str, fallback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("planted")

    app = wrap()
    monkeypatch.setattr(f"adtarget_proxy.{planted_at}", broken)
    answer = shell.ask(app, replace(CLICK, path="/c/vip").having(host=host))
    if planted_at == "clicks.click_plan" and host == "B.EXAMPLE.:443":
        assert answer.status == 200  # of an unknown host: the app's own business
    else:
        assert answer.all("location") == [fallback]
