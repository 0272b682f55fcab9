"""The sandbox over real sockets: AdTarget's contract on both surfaces."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adtarget_proxy.sandbox import Sandbox
from adtarget_proxy.sandbox.options import ACCOUNT_KEY, KNOWN_LEAD, PAUSED_KEY, REVOKED_KEY

pytestmark = pytest.mark.server

# One client, since each makes a TLS context; without keep-alive, since some tests cut connections.
HTTP = httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0))

TEMP = "0b1c2d3e-4f50-4617-8829-3a4b5c6d7e8f"
LINK = re.compile(r"https://t\.me/\+[A-Za-z0-9_-]{16}")
PURCHASE = {"telegramUserId": KNOWN_LEAD, "eventType": "Purchase", "value": 97.0, "currency": "USD"}
SURFACES = ("keyed", "keyless")
KEYED = {"visit": "/events/visit", "update-fbp": "/events/update-fbp", "invite": "/events/invite"}
KEYLESS = {"visit": "/track/init", "update-fbp": "/track/update-fbp", "invite": "/track/invite"}
BODIES: dict[str, dict[str, Any]] = {
    "visit": {"href": "https://shop.example/?fbclid=1", "tempId": TEMP, "fbp": "fb.1.1700000000000.1"},
    "update-fbp": {"tempId": TEMP, "fbp": "fb.1.1700000000000.2"},
    "invite": {"tempId": TEMP, "channelId": "-100200"},
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as running:
        yield running


@pytest.fixture
def sandbox(shared: Sandbox) -> Sandbox:
    shared.open_port()
    shared.heal()
    shared.reset()
    return shared


def keyed(sandbox: Sandbox, path: str, body: Any = None, key: str | None = None, **headers: str) -> httpx.Response:
    sent = {"Authorization": f"Bearer {key or sandbox.api_key}", **headers}
    method = "GET" if body is None else "POST"
    return HTTP.request(method, sandbox.api_url + path, json=body, headers=sent, timeout=5)


def keyless(sandbox: Sandbox, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    body = {"websiteId": sandbox.website_id, **body}
    url = sandbox.tracker_url + path
    if path == "/track/invite":
        return HTTP.get(url, params=body, headers=headers, timeout=5)
    return HTTP.post(url, json=body, headers=headers, timeout=5)


def call(sandbox: Sandbox, surface: str, endpoint: str, body: dict[str, Any] | None = None) -> httpx.Response:
    body = BODIES[endpoint] if body is None else body
    if surface == "keyed":
        return keyed(sandbox, KEYED[endpoint], body)
    return keyless(sandbox, KEYLESS[endpoint], body)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("surface", SURFACES)
def test_a_visit_is_answered_with_the_cookies_to_set(sandbox: Sandbox, surface: str) -> None:
    answer = call(sandbox, surface, "visit").json()
    assert answer["tempId"] == TEMP
    assert answer["cookies"]["tempId"] == {
        "name": "adtarget_temp_id",
        "value": TEMP,
        "maxAge": 31536000,
        "sameSite": "Lax",
    }
    assert answer["cookies"]["session"]["value"] == answer["clientSessionId"]
    (event,) = sandbox.wait_for(1, "visit")
    assert (event["surface"], event["status"], event["body"]["href"]) == (surface, 200, BODIES["visit"]["href"])


@pytest.mark.parametrize("surface", SURFACES)
def test_a_visit_without_ids_gets_them(sandbox: Sandbox, surface: str) -> None:
    answer = call(sandbox, surface, "visit", {"href": "https://a.example/"}).json()
    assert uuid.UUID(answer["tempId"])
    assert answer["clientSessionId"]


@pytest.mark.parametrize("surface", SURFACES)
def test_an_fbp_update_patches_the_newest_visit_alone(sandbox: Sandbox, surface: str) -> None:
    call(sandbox, surface, "visit")
    call(sandbox, surface, "visit")
    assert call(sandbox, surface, "update-fbp").json() == {"success": True}
    first, second = sandbox.events("visit")
    assert first["visit"]["fbp"] == BODIES["visit"]["fbp"]
    assert (second["visit"]["fbp"], second["visit"]["fbpPatched"]) == (BODIES["update-fbp"]["fbp"], True)
    state = HTTP.get(f"{sandbox.url}/_sandbox/visits/{TEMP}").json()
    assert (state["visits"], state["visit"]["fbp"]) == (2, BODIES["update-fbp"]["fbp"])


@pytest.mark.parametrize("surface", SURFACES)
def test_an_fbp_update_without_a_visit_misses(sandbox: Sandbox, surface: str) -> None:
    assert call(sandbox, surface, "update-fbp").json() == {"success": False}
    with Sandbox(fbp_miss="404") as strict:
        assert call(strict, surface, "update-fbp").status_code == 404


@pytest.mark.parametrize("surface", SURFACES)
def test_an_invite_is_the_visitors_own(sandbox: Sandbox, surface: str) -> None:
    first = call(sandbox, surface, "invite").json()["inviteLink"]
    other = call(sandbox, surface, "invite", {"tempId": str(uuid.uuid4()), "channelId": "-100200"}).json()["inviteLink"]
    assert LINK.fullmatch(first)
    assert first != other
    assert call(sandbox, surface, "invite").json()["inviteLink"] == first


@pytest.mark.parametrize("surface", SURFACES)
def test_an_invite_comes_in_the_form_asked_for(surface: str) -> None:
    with Sandbox(invite_as="redirect") as redirecting, Sandbox(invite_field="data.url") as nested:
        answer = call(redirecting, surface, "invite")
        assert answer.status_code == 302
        assert LINK.fullmatch(answer.headers["Location"])
        assert LINK.fullmatch(call(nested, surface, "invite").json()["data"]["url"])


@pytest.mark.parametrize("surface", SURFACES)
def test_a_channel_outside_the_list_is_not_found(surface: str) -> None:
    with Sandbox(channels=["-1"]) as listed:
        assert refusal(call(listed, surface, "invite")) == (404, "CHANNEL_NOT_FOUND")
        assert call(listed, surface, "invite", {"channelId": "-1"}).status_code == 200


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("atk_live_unknown1_x", (401, "INVALID_KEY")),
        (REVOKED_KEY, (401, "REVOKED_KEY")),
        (PAUSED_KEY, (402, "SUBSCRIPTION_INACTIVE")),
    ],
)
def test_keys_that_open_nothing(sandbox: Sandbox, key: str, expected: tuple[int, str]) -> None:
    assert refusal(keyed(sandbox, "/events/visit", BODIES["visit"], key)) == expected
    assert sandbox.events() == []


def test_no_key_no_entry(sandbox: Sandbox) -> None:
    answer = HTTP.post(f"{sandbox.api_url}/events/visit", json=BODIES["visit"])
    assert refusal(answer) == (401, "AUTH_REQUIRED")


def test_the_keyless_surface_takes_a_known_site_and_no_key(sandbox: Sandbox) -> None:
    assert keyless(sandbox, "/track/init", {**BODIES["visit"], "websiteId": "atid_other"}).status_code == 400
    leak = keyless(sandbox, "/track/init", BODIES["visit"], Authorization=f"Bearer {sandbox.api_key}")
    assert "Authorization" in leak.json()["error"]["message"]


@pytest.mark.parametrize("header", ["Referer", "Origin"])
def test_the_page_can_be_checked(header: str) -> None:
    with Sandbox(domain="shop.example", **{f"check_{header.lower()}": True}) as checking:
        for value, status in (
            ("https://shop.example", 200),
            ("https://www.shop.example", 200),
            ("https://notshop.example", 403),
            ("http://[", 403),
        ):
            assert keyless(checking, "/track/init", BODIES["visit"], **{header: value}).status_code == status
        assert keyless(checking, "/track/init", BODIES["visit"]).status_code == 403


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("visit", {}, "href"),
        ("visit", {"href": ""}, "href"),
        ("visit", {"href": "/relative"}, "href"),
        ("visit", {"href": 5}, "href"),
        ("visit", {"href": "https://a.example/", "tempId": "x"}, "tempId"),
        ("visit", {"href": "https://a.example/", "utmSource": 1}, "utmSource"),
        ("visit", {"href": "https://a.example/", "fbp": None}, "fbp"),
        ("visit", {"href": "https://a.example/", "clientIp": "1.1.1.1, 2.2.2.2"}, "clientIp"),
        ("update-fbp", {"fbp": "fb.1.1.1"}, "tempId"),
        ("update-fbp", {"tempId": TEMP}, "fbp"),
        ("invite", {"tempId": "x"}, "tempId"),
        ("invite", {"href": "nowhere"}, "href"),
    ],
)
def test_a_wrong_payload_is_refused_by_field(
    sandbox: Sandbox, surface: str, endpoint: str, body: dict[str, Any], field: str
) -> None:
    answer = call(sandbox, surface, endpoint, body)
    assert refusal(answer) == (400, "INVALID_PAYLOAD")
    assert field in answer.json()["error"]["message"]
    assert sandbox.events() == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"telegramUserId": "12"}, "telegramUserId"),
        ({"telegramUserId": True}, "telegramUserId"),
        ({"eventType": "Join"}, "eventType"),
        ({"eventType": "Custom"}, "customEventName"),
        ({"value": None}, "value"),
        ({"value": "97"}, "value"),
        ({"currency": None}, "currency"),
        ({"currency": "usd"}, "currency"),
        ({"pii": "a@b.example"}, "pii"),
        ({"pii": {"email": 1}}, "pii.email"),
        ({"eventTime": "now"}, "eventTime"),
        ({"telegramUserId": 77}, "channelId"),
    ],
)
def test_a_wrong_conversion_is_refused_by_field(sandbox: Sandbox, body: dict[str, Any], field: str) -> None:
    answer = keyed(sandbox, "/events/conversion", {**PURCHASE, **body})
    assert refusal(answer) == (400, "INVALID_PAYLOAD")
    assert field in answer.json()["error"]["message"]


def test_bodies_that_are_no_json_object(sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {sandbox.api_key}"}
    for raw in (b"", b"{", b"[]", b"\xff", b"[" * 60_000, b'{"href": "' + b"a" * 70_000 + b'"}'):
        answer = HTTP.post(f"{sandbox.api_url}/events/visit", content=raw, headers=headers)
        assert refusal(answer) == (400, "INVALID_PAYLOAD")


def test_conversions_of_known_and_cold_leads(sandbox: Sandbox) -> None:
    known = keyed(sandbox, "/events/conversion", PURCHASE).json()
    assert (known["capiStatus"], known["coldLead"], known["sends"][0]["platform"]) == ("pending", False, "meta")
    cold = {**PURCHASE, "telegramUserId": 77, "channelId": "-1"}
    assert "siteId" in keyed(sandbox, "/events/conversion", cold, ACCOUNT_KEY).json()["error"]["message"]
    answer = keyed(sandbox, "/events/conversion", cold).json()
    assert (answer["capiStatus"], answer["coldLead"]) == ("skipped", True)


def test_a_lead_its_events_and_a_late_value(sandbox: Sandbox) -> None:
    lead = f"/leads/{KNOWN_LEAD}"
    made = keyed(sandbox, f"{lead}/events", {"eventType": "Lead"}).json()["conversionId"]
    late = {"value": 5, "currency": "EUR"}
    assert keyed(sandbox, f"{lead}/conversions/{made}/value", late).status_code == 200
    (held,) = keyed(sandbox, lead).json()["conversions"]
    assert (held["conversionId"], held["value"], held["currency"]) == (made, 5, "EUR")
    assert refusal(keyed(sandbox, f"{lead}/conversions/none/value", late)) == (404, "CONVERSION_NOT_FOUND")
    assert refusal(keyed(sandbox, "/leads/5")) == (404, "LEAD_NOT_FOUND")
    assert refusal(keyed(sandbox, "/leads/x")) == (400, "INVALID_PAYLOAD")


def test_a_join_makes_a_visitor_a_lead(sandbox: Sandbox) -> None:
    call(sandbox, "keyed", "visit")
    sandbox.join(TEMP, 42)
    assert keyed(sandbox, "/leads/42").json()["tempId"] == TEMP


def test_a_repeated_key_brings_the_first_answer_whatever_the_body(sandbox: Sandbox) -> None:
    first = keyed(sandbox, "/events/visit", BODIES["visit"], **{"Idempotency-Key": "k"})
    again = keyed(sandbox, "/events/visit", {"href": 1}, **{"Idempotency-Key": "k"})
    assert again.headers["X-Idempotent-Replay"] == "true"
    assert "X-Idempotent-Replay" not in first.headers
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    (event,) = sandbox.events()
    assert (event["idempotency_key"], event["replays"]) == ("k", 1)
    assert [row["replayed"] for row in sandbox.requests()] == [False, True]


def test_an_idempotency_key_belongs_to_its_api_key(sandbox: Sandbox) -> None:
    for key in (sandbox.api_key, ACCOUNT_KEY):
        keyed(sandbox, "/events/visit", BODIES["visit"], key, **{"Idempotency-Key": "k"})
    assert len(sandbox.events()) == 2


@pytest.mark.parametrize(("length", "status"), [(128, 200), (129, 400)])
def test_the_longest_idempotency_key(sandbox: Sandbox, length: int, status: int) -> None:
    sent = {"Idempotency-Key": "k" * length}
    assert keyed(sandbox, "/events/visit", BODIES["visit"], **sent).status_code == status


@pytest.mark.parametrize(("replay_errors", "status"), [(False, 200), (True, 400)])
def test_only_success_is_replayed_unless_asked(replay_errors: bool, status: int) -> None:
    with Sandbox(replay_errors=replay_errors) as fresh:
        keyed(fresh, "/events/visit", {}, **{"Idempotency-Key": "k"})
        again = keyed(fresh, "/events/visit", BODIES["visit"], **{"Idempotency-Key": "k"})
        assert again.status_code == status


def test_the_rate_limit_says_when_to_come_back() -> None:
    with Sandbox(rate=1, burst=2) as limited:
        answers = [call(limited, "keyed", "visit") for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
        assert keyed(limited, "/events/visit", BODIES["visit"], ACCOUNT_KEY).status_code == 200
        assert call(limited, "keyless", "visit").status_code == 200


def test_preflight_and_unknown_routes(sandbox: Sandbox) -> None:
    preflight = HTTP.options(f"{sandbox.api_url}/events/visit")
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert call(sandbox, "keyed", "visit").headers["Access-Control-Allow-Origin"] == "*"
    assert keyed(sandbox, "/events/other", {}).status_code == 404
    assert keyed(sandbox, "/events/visit").status_code == 405


def test_the_key_is_shown_nowhere(sandbox: Sandbox) -> None:
    body = {"href": f"https://a.example/?k={sandbox.api_key}", "referrer": sandbox.api_key}
    keyed(sandbox, "/events/visit", body, **{"Idempotency-Key": sandbox.api_key})
    for path in ("events", "requests", f"visits/{TEMP}"):
        assert "sandbox1_secret" not in HTTP.get(f"{sandbox.url}/_sandbox/{path}").text
    (event,) = sandbox.events()
    assert event["headers"]["authorization"] == "Bearer atk_live_sandbox1_…"


def test_the_page_holds_nothing_that_arrived(sandbox: Sandbox) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    before = HTTP.get(sandbox.url).text
    call(sandbox, "keyed", "visit", {"href": f"https://a.example/{hostile}", "referrer": hostile})
    page = HTTP.get(sandbox.url)
    assert page.text == before
    assert "innerHTML" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"]
    rows = HTTP.get(f"{sandbox.url}/_sandbox/requests")
    assert rows.headers["Content-Type"].startswith("application/json")
    assert rows.json()[0]["body"]["referrer"] == hostile


@pytest.mark.parametrize("surface", SURFACES)
def test_the_real_client_is_who_the_headers_say(sandbox: Sandbox, surface: str) -> None:
    body = {**BODIES["visit"], "clientIp": "192.0.2.1", "userAgent": "body"}
    headers = {"X-Adtarget-Client-IP": "203.0.113.9", "X-Adtarget-Client-User-Agent": "visitor"}
    send = keyed if surface == "keyed" else keyless
    path = (KEYED if surface == "keyed" else KEYLESS)["visit"]
    assert send(sandbox, path, body, **headers).status_code == 200
    (event,) = sandbox.events("visit")
    assert (event["visit"]["clientIp"], event["visit"]["userAgent"]) == ("203.0.113.9", "visitor")
    assert event["fields"]["clientIp"] == "192.0.2.1"
    assert event["headers"]["x-adtarget-client-ip"] == "203.0.113.9"
    wrong = send(sandbox, path, body, **{"X-Adtarget-Client-IP": "203.0.113.9, 10.0.0.1"})
    assert "clientIp" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(("surface", "carrier"), [("keyed", "body"), ("keyless", "query")])
def test_the_fields_are_found_wherever_they_travelled(sandbox: Sandbox, surface: str, carrier: str) -> None:
    call(sandbox, surface, "invite")
    (event,) = sandbox.events("invite")
    assert event["fields"] == event[carrier]
    assert event["fields"]["channelId"] == "-100200"


def test_the_requests_can_be_read_in_parts(sandbox: Sandbox) -> None:
    for _ in range(4):
        call(sandbox, "keyed", "visit")
    rows = HTTP.get(f"{sandbox.url}/_sandbox/requests").json()
    numbers = [row["number"] for row in rows]
    later = HTTP.get(f"{sandbox.url}/_sandbox/requests", params={"after": numbers[0], "newest": 2}).json()
    assert [row["number"] for row in later] == numbers[2:]
    assert HTTP.get(f"{sandbox.url}/_sandbox/requests", params={"after": "-1;x"}).json() == rows


def test_the_status_counts_and_names_the_faults(sandbox: Sandbox) -> None:
    call(sandbox, "keyed", "visit")
    call(sandbox, "keyless", "invite")
    call(sandbox, "keyed", "visit", {})
    sandbox.faults(endpoint="invite", latency=0.5)
    status = HTTP.get(f"{sandbox.url}/_sandbox/status").json()
    assert status["counts"] == {"visit": 1, "invite": 1}
    assert status["faults"] == {"invite": {"latency": 0.5}}


def test_memory_is_bounded_and_says_so() -> None:
    with Sandbox(rate=0, keep=3) as small:
        for _ in range(5):
            call(small, "keyed", "visit")
        answer = HTTP.get(f"{small.url}/_sandbox/events")
        assert (len(answer.json()), answer.headers["X-Sandbox-Dropped"]) == (3, "2")


def test_waiting_in_vain_says_what_came(sandbox: Sandbox) -> None:
    call(sandbox, "keyed", "visit", {})
    with pytest.raises(TimeoutError, match="keyed visit: refused 400"):
        sandbox.wait_for(1, "visit", timeout=0.01)


def test_waiting_ends_when_the_event_arrives(sandbox: Sandbox) -> None:
    sender = threading.Thread(target=call, args=(sandbox, "keyed", "visit"))
    sender.start()
    assert len(sandbox.wait_for(1, "visit")) == 1
    sender.join()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"invite_as": "xml"}, "invite_as"),
        ({"rate": -1}, "rate"),
        ({"channels": "-1001234567890"}, "channels"),
        ({"keep": 0}, "keep"),
        ({"check_origin": True}, "domain"),
        ({"invite_field": "a.b.c"}, "invite_field"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Sandbox(**options)
