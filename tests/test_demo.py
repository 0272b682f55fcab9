"""The demo does what the README says of it, and notices when something is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from adtarget_proxy.demo.visitor import ADDRESS, AGENT, HOST, LANDING, Journey, missing

COOKIES = {"adtarget_temp_id": "t", "adtarget_session_id": "s", "_fbp": "p", "_fbc": "c"}
FIELDS = {"tempId": "t", "clientSessionId": "s", "fbp": "p", "fbc": "c", "clientIp": ADDRESS, "userAgent": AGENT}
AD = {"utmSource": "fb", "gclid": "G1", "href": f"https://{HOST}{LANDING}"}


def event(endpoint: str, key: str, **fields: str) -> dict[str, object]:
    return {"endpoint": endpoint, "surface": "keyed", "idempotency_key": key, "body": FIELDS | fields, "query": None}


WHOLE = [event("visit", "1", **AD), event("visit", "2"), event("invite", "3", **AD)]


@pytest.mark.parametrize(
    ("events", "link", "said"),
    [
        (WHOLE, "https://t.me/+abc", None),
        (WHOLE[:2], "https://t.me/+abc", "0 invite clicks"),
        (WHOLE[1:], "https://t.me/+abc", "1 visits"),
        (WHOLE, "https://t.me/fallback", "join button"),
        ([WHOLE[0], WHOLE[1] | {"idempotency_key": "1"}, WHOLE[2]], "https://t.me/+abc", "idempotency key"),
        ([event("visit", "1", **AD, fbp="other"), *WHOLE[1:]], "https://t.me/+abc", "fbp is not the visitor's"),
        ([event("visit", "1"), *WHOLE[1:]], "https://t.me/+abc", "utm_source"),
    ],
)
def test_whatever_is_missing_is_said(events, link, said):
    found = list(missing(Journey(COOKIES, link, {}), events))
    assert (said is None) == (not found)
    assert said is None or any(said in line for line in found)


@pytest.mark.server
@pytest.mark.parametrize("more", [[], ["--keyless"], ["--outbox", "memory://"]])
def test_one_visitor_goes_through_the_whole_job(more):
    done = subprocess.run(
        [sys.executable, "-m", "adtarget_proxy.cli", "demo", "--once", *more],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything arrived" in done.stdout
