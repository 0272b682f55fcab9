"""What only a real browser can show: it keeps the cookies, its prefetch is not a visit, its click is an invite."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from browser import chromium
from serving import serving

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server


def test_chromium_keeps_the_cookies_prefetches_without_a_visit_and_leaves_by_its_own_link(tmp_path: Path):
    with Sandbox() as sandbox:
        environment = {
            "ADTARGET_API_KEY": sandbox.api_key,
            "ADTARGET_API_URL": sandbox.api_url,
            "ADTARGET_OUTBOX": f"sqlite:///{tmp_path}/outbox.sqlite3",
            "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
            "ADTARGET_FALLBACK_URL": "https://t.me/fallback_channel",
        }
        with serving("uvicorn", environment, tmp_path) as server, chromium(tmp_path) as page:
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
