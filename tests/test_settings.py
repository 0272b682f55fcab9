"""Settings: from code, environment, TOML and mappings; one error that names every bad one; no key in any repr."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adtarget_proxy.errors import SettingsError
from adtarget_proxy.settings import InviteRoute, Settings, Site

KEY, SITE_ID = "atk_live_12345678_abcdefgh", "atid_12345678"
FALLBACK = "https://t.me/fallback"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ADTARGET_"):
            monkeypatch.delenv(name)


def problems(**given: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings(**given)
    return list(caught.value.problems)


def test_code_beats_environment_beats_toml_beats_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "adtarget.toml"
    path.write_text(f'api_key = "{KEY}"\ncache = "skip"\nrate = 100\nburst = 7\nexclude = ["/x"]\n')
    monkeypatch.setenv("ADTARGET_CONFIG", str(path))
    monkeypatch.setenv("ADTARGET_RATE", "200")
    monkeypatch.setenv("ADTARGET_CACHE", "leave")
    settings = Settings(cache="protect")
    assert (settings.cache, settings.rate, settings.burst, settings.ip) == ("protect", 200, 7, "full")
    assert (settings.api_key, settings.exclude) == (KEY, ("/x",))


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("ADTARGET_WEBSITE_ID", SITE_ID, "website_id", SITE_ID),
        ("ADTARGET_API_URL", "http://127.0.0.1:8000/api/v1/", "api_url", "http://127.0.0.1:8000/api/v1"),
        ("ADTARGET_OUTBOX", "memory://", "outbox", "memory://"),
        ("ADTARGET_OUTBOX", "sqlite:////var/lib/a.sqlite3", "outbox", "sqlite:////var/lib/a.sqlite3"),
        ("ADTARGET_DELIVER", "worker", "deliver", "worker"),
        ("ADTARGET_INVITE_PATH", "/go/{slug}", "invite_path", "/go/{slug}"),
        ("ADTARGET_INVITE_TIMEOUT", "0.8", "invite_timeout", 0.8),
        ("ADTARGET_FALLBACK_URL", "tg://resolve?domain=news", "fallback_url", "https://t.me/news"),
        ("ADTARGET_TRUSTED_PROXIES", "10.0.0.0/8, ::1,unix", "trusted_proxies", ("10.0.0.0/8", "::1/128", "unix")),
        ("ADTARGET_TRUSTED_PROXIES", "2", "trusted_proxies", 2),
        ("ADTARGET_TRUSTED_PROXIES", "", "trusted_proxies", ()),
        ("ADTARGET_COOKIE_DOMAIN", ".Example.com.", "cookie_domain", "example.com"),
        ("ADTARGET_SECRET_KEY", "a" * 16 + "," + "b" * 16, "secret_key", ("a" * 16, "b" * 16)),
        ("ADTARGET_INCLUDE", "/a/*,/b", "include", ("/a/*", "/b")),
        ("ADTARGET_EXCLUDE", "", "exclude", ()),
        ("ADTARGET_DEBUG", "true", "debug", True),
        ("ADTARGET_DEBUG", "0", "debug", False),
        ("ADTARGET_MODE", "dry-run", "mode", "dry-run"),
    ],
)
def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: Any) -> None:
    monkeypatch.setenv("ADTARGET_API_KEY", KEY)
    monkeypatch.setenv(name, text)
    assert getattr(Settings(), field) == value


def test_a_frameworks_mapping_may_be_in_upper_case() -> None:
    settings = Settings.from_mapping({"API_KEY": KEY, "cache": "skip", "RATE": 9}, rate=10)
    assert (settings.api_key, settings.cache, settings.rate) == (KEY, "skip", 10)


def test_an_unknown_name_is_an_error_that_guesses() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping({"API_KEY": KEY, "TRUSTED_PROXY": "1", "zzz": 1})
    assert caught.value.problems == (
        "trusted_proxy: no such setting; did you mean trusted_proxies?",
        "zzz: no such setting",
    )


def test_one_error_names_every_bad_setting() -> None:
    found = problems(
        api_url="ftp://x",
        outbox="sqlite:///relative",
        deliver="later",
        invite_timeout=0,
        trusted_proxies="10.0.0.0/99",
        cookie_domain="127.0.0.1",
        secret_key="short",
        cache="maybe",
        consent="yes",
        debug="perhaps",
        invites={"vip": "-100"},
    )
    named = [text.partition(":")[0] for text in found]
    assert named == [
        "api_url",
        "outbox",
        "deliver",
        "invite_timeout",
        "trusted_proxies",
        "cookie_domain",
        "secret_key",
        "cache",
        "consent",
        "debug",
        "invites['vip']",
        "api_key",
    ]


def test_an_error_reads_as_a_list_and_is_a_value_error() -> None:
    with pytest.raises(
        ValueError, match=r"cannot start with these settings:\n  - api_key: missing; set ADTARGET_API_KEY"
    ):
        Settings(outbox="memory://")


@pytest.mark.parametrize("mode", ["dry-run", "off"])
def test_a_key_is_needed_in_live_mode_alone(mode: str) -> None:
    assert Settings(mode=mode, outbox="memory://").api_key is None
    assert len(problems(outbox="memory://")) == 1


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"api_key": SITE_ID}, "write it as website_id"),
        ({"website_id": KEY}, "write it as api_key"),
        ({"api_key": KEY, "api_url": "https://user@x.example"}, "without user name"),
        ({"api_key": KEY, "outbox": "postgres://x"}, "memory://"),
        ({"api_key": KEY, "invite_path": "/c/"}, "{slug}"),
        ({"api_key": KEY, "invite_path": "/{slug}/{slug}"}, "{slug}"),
        ({"api_key": KEY, "trusted_proxies": 11}, "0 to 10"),
        ({"api_key": KEY, "trusted_proxies": True}, "networks"),
        ({"api_key": KEY, "trusted_proxies": "cloudfare"}, "cloudflare, aws-elb, nginx, fastly, vercel, azure"),
        ({"api_key": KEY, "trusted_proxies": "10.0.0.0/8,elb"}, "'elb' is no network and no preset"),
        ({"api_key": KEY, "trusted_proxies": ["cloudflare", "nginx"]}, "names 2 presets (cloudflare, nginx)"),
        ({"api_key": KEY, "trusted_proxies": "nginx", "forwarded_header": True}, "forwarded_header: the preset nginx"),
        ({"api_key": KEY, "fallback_url": "http://t.me/x"}, "https://"),
        ({"api_key": KEY, "invites": "{not json"}, "JSON"),
        ({"api_key": KEY, "invites": {"a b": {"fallback_url": FALLBACK}}}, "slug"),
        ({"api_key": KEY, "invites": {"vip": {"fallback": FALLBACK}}}, "fallback"),
        ({"api_key": KEY, "invites": {"vip": 1.5}, "fallback_url": FALLBACK}, "channel id"),
        ({"api_key": KEY, "invites": {"vip": {"fallback_url": "tg://msg"}}}, "tg:"),
        ({"api_key": KEY, "exclude": [1]}, "list of strings"),
        ({"api_key": KEY, "rate": "many"}, "number"),
        ({"api_key": KEY, "rate": True}, "number"),
        ({"api_key": KEY, "geo": "cloudflare"}, "geo"),
        ({"api_key": KEY, "sites": {"a.example": 1}}, "Site"),
        ({"sites": {"a.example": {"channel_id": "-1"}}}, "sites['a.example']: api_key: missing"),
        ({"sites": {"a.example": {"api_key": KEY, "rate": "many"}}}, "sites['a.example'].rate: must be a number"),
        ({"sites": {"a.example": {"api_key": KEY, "burst": 0}}}, "sites['a.example'].burst: must be a number"),
        ({"sites": {"a.example": {"api_key": KEY, "channel_id": -100}}}, "sites['a.example'].channel_id: must be a"),
        ({"sites": {"a.example": {"api_key": KEY, "website_id": 5}}}, "sites['a.example'].website_id: must be a"),
        (
            {"api_key": KEY, "sites": {"a.example": {"invits": {}}}},
            "sites['a.example'].invits: no such field; did you mean invites?",
        ),
        (
            {"api_key": KEY, "invites": {"vip": {"fallback": FALLBACK}}},
            "invites['vip'].fallback: no such field; did you mean fallback_url?",
        ),
        ({"api_key": KEY, "consent": "one-trust"}, "'one-trust' is no consent tool; did you mean onetrust?"),
        ({"api_key": KEY, "consent": "Cookiebot"}, "'Cookiebot' is no consent tool; did you mean cookiebot?"),
        ({"api_key": KEY, "consent": "yes"}, "'yes' is no consent tool; write one of onetrust, cookiebot, didomi"),
        (
            {"api_key": KEY, "sites": {"a.example": {"api_key": KEY, "invites": {"vip": "-1"}}}},
            "sites['a.example'].invites['vip']",
        ),
    ],
)
def test_a_setting_that_cannot_work_says_what_to_write(given: dict[str, Any], word: str) -> None:
    (text,) = problems(**{"outbox": "memory://", **given})
    assert word in text


def test_a_config_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    monkeypatch.setenv("ADTARGET_CONFIG", str(path))
    assert "ADTARGET_CONFIG" in problems(api_key=KEY)[0]
    path.write_text("api_key = \n")
    assert "TOML" in problems(api_key=KEY)[0]
    path.write_text('api_kee = "x"\n')
    assert "did you mean api_key?" in problems(api_key=KEY)[0]


@pytest.mark.parametrize(
    ("given", "channel"),
    [
        ("-100", "-100"),
        (-100, "-100"),
        ({"channel_id": "-100"}, "-100"),
        (InviteRoute("-100"), "-100"),
        ({}, None),
        (None, None),
    ],
)
def test_an_invite_route_is_written_in_many_forms(given: Any, channel: str | None) -> None:
    settings = Settings(api_key=KEY, outbox="memory://", invites={"vip": given}, fallback_url=FALLBACK)
    assert settings.invites["vip"] == InviteRoute(channel, FALLBACK)


def test_invites_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADTARGET_API_KEY", KEY)
    monkeypatch.setenv("ADTARGET_FALLBACK_URL", FALLBACK)
    monkeypatch.setenv(
        "ADTARGET_INVITES", json.dumps({"vip": "-1", "club": {"channel_id": "-2", "fallback_url": "https://t.me/club"}})
    )
    assert Settings().invites == {"vip": InviteRoute("-1", FALLBACK), "club": InviteRoute("-2", "https://t.me/club")}


def test_sites_come_from_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "adtarget.toml"
    path.write_text(
        f'fallback_url = "{FALLBACK}"\n[sites."*.a.example"]\napi_key = "{KEY}"\ninvites = {{ vip = "-1" }}\n'
        f'[sites."b.example"]\nwebsite_id = "{SITE_ID}"\ncookie_domain = "b.example"\n'
    )
    monkeypatch.setenv("ADTARGET_CONFIG", str(path))
    settings = Settings()
    one, other = settings.site_for("www.a.example"), settings.site_for("b.example")
    assert one is not None
    assert other is not None
    assert (one.api_key, one.invites["vip"].fallback_url) == (KEY, FALLBACK)
    assert (other.api_key, other.website_id, other.cookie_domain) == (None, SITE_ID, "b.example")
    assert settings.site_for("c.example") is None


def test_a_site_takes_from_the_settings_what_it_does_not_say_but_no_foreign_credential() -> None:
    settings = Settings(
        api_key=KEY,
        website_id=SITE_ID,
        channel_id="-1",
        rate=60,
        sites={"a.example": Site(website_id="atid_a"), "b.example": {"rate": 30}},
        outbox="memory://",
    )
    one, other = settings.site_for("a.example"), settings.site_for("b.example")
    assert one is not None
    assert other is not None
    assert (one.api_key, one.website_id, one.channel_id, one.rate) == (None, "atid_a", "-1", 60)
    assert (other.api_key, other.website_id, other.rate) == (KEY, SITE_ID, 30)


@pytest.mark.parametrize(
    ("given", "tracking", "conversion"),
    [
        ({"api_key": KEY}, KEY, KEY),
        ({"website_id": SITE_ID}, SITE_ID, None),
        ({"api_key": KEY, "website_id": SITE_ID}, SITE_ID, KEY),
    ],
)
def test_the_surface_follows_the_credential(given: dict[str, str], tracking: str, conversion: str | None) -> None:
    site = Settings(**given, outbox="memory://").all_sites[0]
    assert site.tracking_account is not None
    assert (site.tracking_account.api_key or site.tracking_account.website_id) == tracking
    assert (site.conversion_account.api_key if site.conversion_account else None) == conversion


def test_an_accounts_id_gives_no_key_away_and_tells_accounts_apart() -> None:
    one, other = (Settings(api_key=key, outbox="memory://").accounts[0].id for key in (KEY, KEY + "2"))
    assert one != other
    assert KEY not in one


def test_no_key_is_in_a_repr() -> None:
    settings = Settings(api_key=KEY, secret_key="s" * 16, sites={"a.example": {"api_key": KEY}}, outbox="memory://")
    for value in (settings, settings.all_sites, settings.accounts):
        assert KEY not in repr(value)
        assert "s" * 16 not in repr(value)


def test_the_default_outbox_lies_in_the_users_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Settings(api_key=KEY).outbox == f"sqlite:///{tmp_path}/adtarget-proxy/outbox.sqlite3"
    assert list(tmp_path.iterdir()) == []
