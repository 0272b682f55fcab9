"""The 98 rows of what Meta's own builder does, beside what we do: equal, its token aside, but for the departures named here.

The rows without a domain list are compared by value only, and with the public-suffix list at hand: the builder guesses a domain.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tracking_world import HTML, World

from adtarget_proxy.tracking.facts import Response
from adtarget_proxy.tracking.visit import finish, plan

VECTORS = json.loads((Path(__file__).parent / "data" / "param-builder.json").read_text(encoding="utf-8"))
TOKENS = (".AQICAQMC", ".AQIAAQMC", ".AQIDAQMC")  # the builder's own: created, kept, changed
MINTED = "987654321"

ONLY_CLICK_CHARACTERS = "a click id is [A-Za-z0-9_-] after one decoding, up to 500 characters, or it is ignored"
EMPTY_CLICK = "an empty fbclid is no click"
HOST_ONLY = "a host-only cookie where the builder guesses a domain, or takes the host as it is spelled"
NO_FBP = "what is no valid _fbp is minted anew"
SAME_SITE = "a Referer counts from the same site, and only where there is no _fbc"
DEPARTURES = {
    "fbclid empty": EMPTY_CLICK,
    "fbclid without =": EMPTY_CLICK,
    "fbclid empty, existing fbc": EMPTY_CLICK,
    "fbclid repeated, first empty": EMPTY_CLICK,
    "empty query fbclid, referer has one": EMPTY_CLICK,
    "fbclid percent-encoded ; = space": ONLY_CLICK_CHARACTERS,
    "fbclid with plus": ONLY_CLICK_CHARACTERS,
    "fbclid with CR LF": ONLY_CLICK_CHARACTERS,
    "fbclid with NUL": ONLY_CLICK_CHARACTERS,
    "fbclid with comma and quote": ONLY_CLICK_CHARACTERS,
    "fbclid non-ASCII": ONLY_CLICK_CHARACTERS,
    "fbclid invalid UTF-8": ONLY_CLICK_CHARACTERS,
    "fbclid with dots": ONLY_CLICK_CHARACTERS,
    "fbclid with dots, second visit": ONLY_CLICK_CHARACTERS,
    "fbclid with one dot, cookie stored without appendix": ONLY_CLICK_CHARACTERS,
    "fbclid 501 chars": ONLY_CLICK_CHARACTERS,
    "fbclid 5000 chars": ONLY_CLICK_CHARACTERS,
    "fbclid with trailing fragment text": ONLY_CLICK_CHARACTERS,
    "amp;fbclid (double-escaped link)": "a link that was escaped twice still carries its click",
    "fbc creation time in the future": "a time more than a day ahead is not plausible",
    "unknown 2-char appendix": "the token is Meta's own business: any two or eight base64url characters",
    "8 odd characters as appendix": NO_FBP,
    "malformed fbp: a.b.c.d": NO_FBP,
    "malformed fbp: non-numeric time": NO_FBP,
    "malformed fbp: empty payload": NO_FBP,
    "malformed fbp: four dots only": NO_FBP,
    "quoted fbp": NO_FBP,
    "very long fbp": NO_FBP,
    "deep subdomain, no list": HOST_ONLY,
    "apex under co.uk, no list": HOST_ONLY,
    "private suffix, no list": HOST_ONLY,
    "host in upper case, list": HOST_ONLY,
    "trailing-dot host, list": HOST_ONLY,
    "localhost": HOST_ONLY,
    "localhost with port": HOST_ONLY,
    "IPv4": HOST_ONLY,
    "IPv4 with port": HOST_ONLY,
    "IPv6 bracketed with port": HOST_ONLY,
    "IPv6 bracketed": HOST_ONLY,
    "IPv6 bare": "no Host header looks like this: the request has no host",
    "empty host": "without a host nothing is tracked",
    "scheme in host": "no Host header looks like this: the request has no host",
    "fbclid only in foreign referer": SAME_SITE,
    "stale referer overwrites newer fbc": SAME_SITE,
    "referer percent-encoded CRLF": SAME_SITE,
    "referer broken IPv6 URL": "a broken Referer is no Referer; the builder raises",
    "two _fbp cookies": "of two valid _fbp the chosen one takes the place of ours",
    "referer without scheme": "no Referer looks like this",
}


def bare(value: str | None) -> str | None:
    """A value without the builder's token, and with the minted part alike."""
    for token in TOKENS:
        if value and value.endswith(token):
            return value.removesuffix(token)
    return value


def theirs(row: dict[str, Any]) -> dict[str, Any]:
    result = row["result"]
    if "raises" in result:
        return {"raises": result["raises"]}
    had = dict(pair.split("=", 1) for pair in row["cookie"].split("; ") if pair)
    new = {name: cookie for name, cookie in result["set"].items() if bare(cookie["value"]) != had.get(name)}
    domains = {cookie["domain"] for cookie in new.values()} if row["domain_list"] else set()
    return {"fbp": bare(result["fbp"]), "fbc": bare(result["fbc"]), "set": set(new), "domains": domains}


def ours(row: dict[str, Any]) -> dict[str, Any]:
    domain = row["domain_list"][0].removeprefix("https://").partition(":")[0] if row["domain_list"] else None
    world = World(cookie_domain=domain, scrub=False)
    world.now = VECTORS["now_ms"] / 1000
    host = row["host"] if row["host"].isascii() else row["host"].encode("idna").decode("ascii")  # as a browser sends it
    request = world.request(
        "https://x.example/", {"host": host, "cookie": row["cookie"] or None, "referer": row["referer"]}
    )
    request.query = row["query"]
    planned = plan(request, world.rules)
    page = planned.page
    if page is None:
        return {"reason": planned.reason}
    outcome = finish(planned, Response(200, HTML), world.rules)
    new = {text.partition("=")[0]: text for text in outcome.cookies if text.startswith(("_fbp=", "_fbc="))}
    fbp = page.fbp if not page.new_fbp else f"{page.fbp.rpartition('.')[0]}.{MINTED}"
    domains = {
        part.removeprefix("Domain=") for text in new.values() for part in text.split("; ") if part.startswith("Domain=")
    }
    return {"fbp": fbp, "fbc": page.fbc, "set": set(new), "domains": domains if row["domain_list"] else set()}


@pytest.mark.parametrize(
    "row", [row for row in VECTORS["rows"] if row["name"] not in DEPARTURES], ids=lambda row: row["name"]
)
def test_we_do_what_metas_builder_does(row: dict[str, Any]) -> None:
    if row["domain_list"] is None:
        pytest.importorskip("publicsuffixlist")
    assert ours(row) == theirs(row)


@pytest.mark.parametrize(
    "row", [row for row in VECTORS["rows"] if row["name"] in DEPARTURES], ids=lambda row: row["name"]
)
def test_a_departure_is_one(row: dict[str, Any]) -> None:
    """So that the list names no row on which both agree."""
    if row["domain_list"] is None:
        pytest.importorskip("publicsuffixlist")
    assert ours(row) != theirs(row), DEPARTURES[row["name"]]


def test_every_departure_names_a_row() -> None:
    assert DEPARTURES.keys() <= {row["name"] for row in VECTORS["rows"]}
    assert len(VECTORS["rows"]) == 98
