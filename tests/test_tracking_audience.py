"""Meta-cookies, "Who gets no ids, no visit, no invite"."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_world import AGENT, Request

from adtarget_proxy.tracking.audience import is_ahead_of_time, is_machine, signals_dnt, signals_gpc

IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
ANDROID = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36"


@pytest.mark.parametrize(
    "agent",
    [
        "",
        "   ",
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        "Facebot",
        "facebookcatalog/1.0",
        "meta-externalagent/1.1",
        "meta-externalfetcher/1.1",
        "meta-externalads/1.1",
        "meta-webindexer/1.1",
        "TelegramBot (like TwitterBot)",
        "WhatsApp/2.23.20.0 A",
        "Twitterbot/1.0",
        "Slackbot-LinkExpanding 1.0",
        "Mozilla/5.0 (compatible; Discordbot/2.0)",
        "Mozilla/5.0 (compatible; vkShare; +http://vk.com/dev/Share)",
        "SkypeUriPreview Preview/0.5",
        "Viber/13.3.0",
        "kube-probe/1.29",
        "ELB-HealthChecker/2.0",
        "GoogleHC/1.0",
        "Prometheus/2.51.0",
        "Blackbox Exporter/0.25",
        "Mozilla/5.0+(compatible; UptimeRobot/2.0)",
        "Pingdom.com",
        "curl/8.5.0",
        "Wget/1.21",
        "python-requests/2.31",
        "python-httpx/0.27",
        "Python/3.11 aiohttp/3.9",
        "Go-http-client/2.0",
        "okhttp/4.12.0",
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (compatible; YandexBot/3.0)",
        "Mozilla/5.0 (compatible; Baiduspider/2.0)",
        "Yahoo! Slurp",
        "SomeCrawler",
        "HeadlessChrome/126.0",
        f"{AGENT} Chrome-Lighthouse",
        "Google-InspectionTool/1.0",
        "CensysInspect/1.1",
        "securityscanner",
        "site monitor",
        "Google Web Preview",
        "FeedFetcher",
        "archive.org",
        # an in-app browser that also names a previewer
        f"{IPHONE} [FBAN/FBIOS] facebookexternalhit/1.1",
        "Instagram facebookexternalhit/1.1",
    ],
)
def test_bots_previews_monitors_and_libraries_are_machines(agent: str) -> None:
    assert is_machine(agent)


@pytest.mark.parametrize(
    "agent",
    [
        AGENT,
        IPHONE,
        ANDROID,
        f"{IPHONE} [FBAN/FBIOS;FBAV/469.0.0.38.105;FBBV/1;FBDV/iPhone15,2]",
        f"{ANDROID} [FB_IAB/FB4A;FBAV/469.0.0.38.105;]",
        f"{IPHONE} Instagram 335.0.0.28.93 (iPhone15,2; iOS 17_5)",
        f"{ANDROID} Telegram-Android/10.14.5 (Pixel 8; Android 14)",
        "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/126.0.0.0 Mobile Safari/537.36",
        # the in-app browsers come before the generic rule
        f"{IPHONE} [FBAN/FBIOS] FBPreview/scan",
        f"{IPHONE} Instagram 335.0 (feed)",
    ],
)
def test_browsers_and_in_app_browsers_are_people(agent: str) -> None:
    assert not is_machine(agent)


CORPUS: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "data" / "agents.json").read_text())
LISTED = CORPUS["known to the list of [bots] alone"]


def test_the_corpus_is_large_enough_to_tell() -> None:
    assert min(len(CORPUS["people"]), len(CORPUS["machines"])) > 75


@pytest.mark.parametrize("name", CORPUS["people"])
def test_nobody_real_is_taken_for_a_machine(name: str) -> None:
    assert not is_machine(CORPUS["people"][name])


@pytest.mark.parametrize("name", CORPUS["machines"])
def test_no_machine_is_taken_for_a_person(name: str) -> None:
    assert is_machine(CORPUS["machines"][name])


@pytest.mark.parametrize("name", LISTED)
def test_the_extra_bots_knows_machines_that_no_rule_would(name: str) -> None:
    assert is_machine(LISTED[name])


def test_without_the_extra_bots_our_own_rules_decide_alone() -> None:
    """In an interpreter where the list cannot be imported."""
    program = """
import json, sys
sys.modules["crawleruseragents"] = None
from adtarget_proxy.tracking.audience import is_machine
corpus = json.load(sys.stdin)
wrong = [n for n, agent in corpus["people"].items() if is_machine(agent)]
wrong += [n for n, agent in corpus["machines"].items() if not is_machine(agent)]
known = [n for n, agent in corpus["known to the list of [bots] alone"].items() if is_machine(agent)]
print(json.dumps([wrong, known]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(CORPUS), capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == [[], []]


def test_a_listed_word_in_an_in_app_browser_is_still_a_person() -> None:
    assert not is_machine(f"{IPHONE} [FBAN/FBIOS] Mediapartners-Google")


def test_an_endless_agent_is_decided_by_its_beginning_and_our_own_rules() -> None:
    assert not is_machine(ANDROID + " x" * 50_000 + " Mediapartners-Google")
    assert is_machine("Mediapartners-Google" + " x" * 50_000)
    assert is_machine(ANDROID + " x" * 50_000 + " Googlebot")


def test_a_cubot_phone_does_not_hide_a_bot() -> None:
    assert is_machine("Mozilla/5.0 (Linux; CUBOT X19; compatible; bingbot/2.0)")


@pytest.mark.parametrize(
    ("name", "value", "ahead"),
    [
        ("sec-purpose", "prefetch", True),
        ("sec-purpose", "prefetch;prerender", True),
        ("sec-purpose", "prefetch;anonymous-client-ip", True),
        ("purpose", "Prefetch", True),
        ("purpose", "preview", True),
        ("x-purpose", "preview", True),
        ("x-moz", "prefetch", True),
        ("x-sec-purpose", "prefetch", True),
        ("next-router-prefetch", "1", True),
        ("x-fb-http-engine", "Liger", True),
        ("sec-purpose", "", False),
        ("purpose", "shopping", False),
        ("x-moz", "microsummary", False),
        ("accept", "prefetch", False),
    ],
)
def test_what_is_fetched_ahead_of_time_says_so_in_a_header(name: str, value: str, ahead: bool) -> None:
    assert is_ahead_of_time(Request(headers={name: value})) is ahead


@pytest.mark.parametrize(("value", "signal"), [("1", True), ("0", False), ("", False), (None, False), ("true", False)])
def test_privacy_signals_are_exactly_one(value: str | None, signal: bool) -> None:
    assert signals_gpc(Request(headers={"sec-gpc": value})) is signal
    assert signals_dnt(Request(headers={"dnt": value})) is signal
