"""One visitor: lands from an ad, reads a second page, clicks on the join button. A real client on a real socket.

It also plays the proxy in front: it says which address and which host the visitor has, as nginx would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

HOST = "harbour-light.example"
ADDRESS = "93.184.215.14"
AGENT = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 "
    "[FBAN/FBIOS;FBAV/487.0.0.36.109;FBDV/iPhone15,2]"
)
LANDING = "/?fbclid=IwAR0_aB-c9&utm_source=fb&utm_campaign=autumn&gclid=G1"
REFERRER = "https://l.facebook.com/"


@dataclass(frozen=True, slots=True)
class Journey:
    """What the visitor saw: their cookies, and where the join button led."""

    cookies: Mapping[str, str]
    link: str | None
    statuses: Mapping[str, int]


def travel(site_url: str, slug: str) -> Journey:
    """Go through the site once. Raises OSError where the site does not answer."""
    cookies: dict[str, str] = {}
    statuses: dict[str, int] = {}
    link: str | None = None
    steps = (
        (LANDING, "document", REFERRER),
        ("/style.css", "style", f"https://{HOST}/"),
        ("/picture.svg", "image", f"https://{HOST}/"),
        ("/about", "document", f"https://{HOST}/"),
        (f"/c/{slug}", "document", f"https://{HOST}/about"),
    )
    for target, destination, referrer in steps:
        status, headers = _get(site_url, target, destination, referrer, cookies)
        statuses[target.partition("?")[0]] = status
        for name, value in headers:
            if name.lower() == "set-cookie":
                cookies.update({key: morsel.value for key, morsel in SimpleCookie(value).items()})
            elif name.lower() == "location":
                link = value
    return Journey(cookies, link, statuses)


def missing(journey: Journey, events: list[dict[str, Any]]) -> Iterator[str]:
    """What did not arrive as it should have, a sentence each."""
    by_endpoint: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_endpoint.setdefault(event["endpoint"], []).append(event)
    visits, invites = by_endpoint.get("visit", []), by_endpoint.get("invite", [])
    if len(visits) != 2:
        yield f"AdTarget received {len(visits)} visits instead of 2"
    if len(invites) != 1:
        yield f"AdTarget received {len(invites)} invite clicks instead of 1"
    if not journey.link or not journey.link.startswith("https://t.me/+"):
        yield "the join button did not lead to an invite link of the visitor's own"
    wanted = {
        "tempId": journey.cookies.get("adtarget_temp_id"),
        "clientSessionId": journey.cookies.get("adtarget_session_id"),
        "fbp": journey.cookies.get("_fbp"),
        "fbc": journey.cookies.get("_fbc"),
        "clientIp": ADDRESS,
        "userAgent": AGENT,
    }
    for event in visits + invites:
        fields = event["body"] or event["query"]
        for name, value in wanted.items():
            if value is None or fields.get(name) != value:
                yield f"{event['endpoint']}: {name} is not the visitor's"
    if visits and visits[0]["body"].get("href") != f"https://{HOST}{LANDING}":
        yield "the first visit's href is not what the visitor saw"
    for event in visits[:1] + invites:
        fields = event["body"] or event["query"]
        if fields.get("utmSource") != "fb" or fields.get("gclid") != "G1":
            yield f"{event['endpoint']}: the ad's utm_source and gclid are missing"
    keys = [
        event["idempotency_key"] for event in events if event["surface"] == "keyed"
    ]  # the keyless surface knows none
    if None in keys or len(set(keys)) != len(keys):
        yield "an event has no idempotency key of its own"


def _get(
    site_url: str, target: str, destination: str, referrer: str, cookies: Mapping[str, str]
) -> tuple[int, list[tuple[str, str]]]:
    parts = urlsplit(site_url)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=10)
    headers = {
        "Accept": "text/html,application/xhtml+xml" if destination == "document" else "*/*",
        "Referer": referrer,
        "Sec-Fetch-Dest": destination,
        "User-Agent": AGENT,
        "X-Forwarded-For": ADDRESS,
        "X-Forwarded-Host": HOST,
        "X-Forwarded-Proto": "https",
    }
    if cookies:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    try:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status, response.getheaders()
    finally:
        connection.close()
