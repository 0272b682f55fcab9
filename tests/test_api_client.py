"""The two clients over both surfaces, against a real server that misbehaves. Every case runs sync and async."""

from __future__ import annotations

import asyncio
import logging
import socket
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hostile_server import SLAM, HostileServer, Reply, answer

from adtarget_proxy import errors
from adtarget_proxy.api import AdTarget, AsyncAdTarget
from adtarget_proxy.settings import Account
from adtarget_proxy.tracking.events import PAID_OR_AWAITED, PLAIN, Conversion, FbpUpdate, InviteClick, Visit

pytestmark = pytest.mark.server

KEY, SITE = "atk_live_12345678_secret", "atid_site"
TEMP = "0b7e8d3c-52a8-4c9e-9f0c-6f6f0e0d9a11"
AGENT = "Mozilla/5.0 (X11; Linux x86_64)"
PAGE = {
    "href": "https://shop.example/landing?utm_source=fb&fbclid=IwAR0_aB-c9#top",
    "temp_id": TEMP,
    "client_session_id": "s1",
    "client_ip": "203.0.113.9",
    "user_agent": AGENT,
    "fbc": "fb.1.1.IwAR0_aB-c9",
    "utm_source": "fb",
    "referrer": "https://l.facebook.com/",
    "utm_term": None,
}
TRACKING = [("visit", PAGE), ("update_fbp", {"temp_id": TEMP, "fbp": "fb.1.2.3"}), ("invite", PAGE)]
BUY = {"telegram_user_id": 1234567890, "event_type": "Purchase", "value": 97, "currency": "USD"}


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["keyed", "keyless"])
def surface(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"api_key": KEY} if request.param == "keyed" else {"website_id": SITE}


def run(face: str, server: HostileServer | str, credential: dict[str, str], *calls: tuple[str, dict[str, Any]]) -> list:
    """What each call gave or raised, in order, over one client."""
    url = server if isinstance(server, str) else server.url
    given = {**credential, "api_url": f"{url}/api/v1", "tracker_url": f"{url}/backend", "timeout": 10.0}
    outcomes: list[Any] = []
    if face == "sync":
        with AdTarget(**given) as client:
            for method, fields in calls:
                try:
                    outcomes.append(getattr(client, method)(**fields))
                except errors.AdTargetError as error:
                    outcomes.append(error)
        return outcomes

    async def ask() -> None:
        async with AsyncAdTarget(**given) as client:
            for method, fields in calls:
                try:
                    outcomes.append(await getattr(client, method)(**fields))
                except errors.AdTargetError as error:
                    outcomes.append(error)

    asyncio.run(ask())
    return outcomes


def one(face: str, server: HostileServer | str, credential: dict[str, str], method: str, **fields: Any) -> Any:
    return run(face, server, credential, (method, fields))[0]


class TestWhatIsSent:
    def test_a_keyed_visit_carries_the_client_in_headers_and_body(self, face: str) -> None:
        with HostileServer() as server:
            one(face, server, {"api_key": KEY}, "visit", **PAGE, idempotency_key="order_1")
        (seen,) = server.seen
        assert (seen.method, seen.target) == ("POST", "/api/v1/events/visit")
        assert seen.header("authorization") == f"Bearer {KEY}"
        assert seen.header("idempotency-key") == "order_1"
        assert seen.header("x-adtarget-client-ip") == "203.0.113.9"
        assert seen.header("x-adtarget-client-user-agent") == AGENT
        assert seen.header("user-agent").startswith("adtarget-proxy/")  # type: ignore[union-attr]
        assert seen.header("content-type") == "application/json"
        assert seen.header("host") == urlsplit(server.url).netloc
        assert seen.json == {
            "href": PAGE["href"],
            "tempId": TEMP,
            "clientSessionId": "s1",
            "clientIp": "203.0.113.9",
            "userAgent": AGENT,
            "fbc": "fb.1.1.IwAR0_aB-c9",
            "utmSource": "fb",
            "referrer": "https://l.facebook.com/",
        }

    def test_a_keyless_visit_looks_like_the_script_and_holds_no_key(self, face: str) -> None:
        with HostileServer() as server:
            one(face, server, {"api_key": KEY, "website_id": SITE}, "visit", **PAGE, idempotency_key="order_1")
        (seen,) = server.seen
        assert (seen.method, seen.target) == ("POST", "/backend/track/init")
        assert seen.json["websiteId"] == SITE
        assert seen.header("user-agent") == seen.header("x-adtarget-client-user-agent") == AGENT
        assert seen.header("x-forwarded-for") == seen.header("x-adtarget-client-ip") == "203.0.113.9"
        assert seen.header("referer") == "https://shop.example/landing?utm_source=fb&fbclid=IwAR0_aB-c9"
        assert seen.header("origin") == "https://shop.example"
        assert seen.header("authorization") is None
        assert seen.header("idempotency-key") is None
        assert KEY not in repr(seen)

    def test_a_keyless_invite_is_a_get_with_query_parameters(self, face: str) -> None:
        with HostileServer() as server:
            one(face, server, {"website_id": SITE}, "invite", **PAGE, channel_id=-1001234567890)
        (seen,) = server.seen
        parts = urlsplit(seen.target)
        assert (seen.method, parts.path, seen.body) == ("GET", "/backend/track/invite", b"")
        query = parse_qs(parts.query, strict_parsing=True)
        assert query["websiteId"] == [SITE]
        assert query["channelId"] == ["-1001234567890"]
        assert query["href"] == [PAGE["href"]]
        assert query["clientIp"] == ["203.0.113.9"]
        assert "utmTerm" not in query

    @pytest.mark.parametrize(
        ("credential", "target", "body"),
        [
            ({"api_key": KEY}, "/api/v1/events/update-fbp", {"tempId": TEMP, "fbp": "fb.1.2.3"}),
            (
                {"website_id": SITE},
                "/backend/track/update-fbp",
                {"tempId": TEMP, "fbp": "fb.1.2.3", "websiteId": SITE},
            ),
        ],
        ids=["keyed", "keyless"],
    )
    def test_an_fbp_update_says_who_only_in_headers(
        self, face: str, credential: dict[str, str], target: str, body: dict[str, str]
    ) -> None:
        fields = {"temp_id": TEMP, "fbp": "fb.1.2.3", "client_ip": "2001:db8::1", "user_agent": AGENT}
        with HostileServer() as server:
            one(face, server, credential, "update_fbp", **fields)
        (seen,) = server.seen
        assert (seen.target, seen.json) == (target, body)
        assert seen.header("x-adtarget-client-ip") == "2001:db8::1"

    @pytest.mark.parametrize("credential", [{"api_key": KEY}, {"api_key": KEY, "website_id": SITE}])
    @pytest.mark.parametrize(
        ("method", "fields", "target", "body"),
        [
            (
                "conversion",
                {
                    **BUY,
                    "value": Decimal("97.50"),
                    "event_time": datetime(2026, 1, 1, tzinfo=UTC),
                    "pii": {"first_name": "A"},
                },
                "/api/v1/events/conversion",
                {
                    "telegramUserId": 1234567890,
                    "eventType": "Purchase",
                    "value": 97.5,
                    "currency": "USD",
                    "eventTime": 1767225600000,
                    "pii": {"firstName": "A"},
                },
            ),
            (
                "submit_value",
                {"telegram_user_id": 7, "conversion_id": "a/b?c", "value": 5, "currency": "EUR"},
                "/api/v1/leads/7/conversions/a%2Fb%3Fc/value",
                {"value": 5, "currency": "EUR"},
            ),
            (
                "lead_event",
                {"telegram_user_id": 7, "event_type": "Subscribe"},
                "/api/v1/leads/7/events",
                {"eventType": "Subscribe"},
            ),
            ("lead", {"telegram_user_id": 7}, "/api/v1/leads/7", None),
        ],
        ids=["conversion", "submit_value", "lead_event", "lead"],
    )
    def test_conversions_and_leads_always_go_over_the_keyed_surface(
        self, face: str, credential: dict[str, str], method: str, fields: Any, target: str, body: Any
    ) -> None:
        with HostileServer() as server:
            one(face, server, credential, method, **fields)
        (seen,) = server.seen
        assert seen.target == target
        assert seen.header("authorization") == f"Bearer {KEY}"
        assert (seen.json if seen.body else None) == body

    def test_every_call_without_a_key_of_its_own_gets_a_fresh_one(self, face: str) -> None:
        with HostileServer() as server:
            run(face, server, {"api_key": KEY}, *TRACKING, ("conversion", BUY), ("conversion", BUY))
        keys = [seen.header("idempotency-key") for seen in server.seen]
        assert len(set(keys)) == len(keys) == 5
        assert all(keys)

    def test_text_no_header_can_hold_stays_whole_in_the_body(self, face: str, surface: dict[str, str]) -> None:
        agent = "Evil\r\nX-Injected: 1\x00 \u4f60\u00e9"
        with HostileServer() as server:
            one(face, server, surface, "visit", href="https://shop.example/\r\nX-Injected: 2", user_agent=agent)
        (seen,) = server.seen
        assert seen.header("x-injected") is None
        assert seen.header("x-adtarget-client-user-agent") == "Evil X-Injected: 1  ?\u00e9"
        assert seen.json["userAgent"] == agent
        assert seen.json["href"] == "https://shop.example/\r\nX-Injected: 2"

    def test_a_list_of_addresses_is_not_passed_on_as_one(self, face: str, surface: dict[str, str]) -> None:
        with HostileServer() as server:
            one(face, server, surface, "visit", href="https://a.example/", client_ip="1.2.3.4, 5.6.7.8")
        assert server.seen[0].header("x-adtarget-client-ip") is None
        assert server.seen[0].header("x-forwarded-for") is None


class TestWhatIsRead:
    def test_results_carry_the_fields_and_all_the_rest(self, face: str) -> None:
        raw = {"visitId": "v", "sessionId": "s", "tempId": TEMP, "clientSessionId": "c", "cookies": {"x": 1}}
        with HostileServer([answer(200, raw, X_Idempotent_Replay="true")]) as server:
            result = one(face, server, {"api_key": KEY}, "visit", **PAGE)
        assert (result.visit_id, result.session_id, result.temp_id, result.client_session_id) == ("v", "s", TEMP, "c")
        assert (result.replayed, result.raw) == (True, raw)

    def test_a_conversion_is_read_as_documented(self, face: str) -> None:
        raw = {
            "conversionId": "j97",
            "capiStatus": "pending",
            "coldLead": False,
            "sends": [{"sendId": "kn7", "platform": "meta"}],
        }
        with HostileServer([answer(200, raw)]) as server:
            result = one(face, server, {"api_key": KEY}, "conversion", **BUY)
        assert (result.conversion_id, result.capi_status, result.cold_lead) == ("j97", "pending", False)
        assert [(send.send_id, send.platform) for send in result.sends] == [("kn7", "meta")]
        assert not result.replayed

    @pytest.mark.parametrize(
        "raw", [{}, {"visitId": 3, "sends": "no", "success": "odd"}, {"sends": [1, {"sendId": []}], "coldLead": "x"}]
    )
    def test_odd_fields_never_raise(self, face: str, raw: Any) -> None:
        with HostileServer([answer(200, raw)]) as server:
            results = run(face, server, {"api_key": KEY}, *TRACKING, ("conversion", BUY))
        assert [result.raw for result in results] == [raw] * 4

    @pytest.mark.parametrize(("reply", "success"), [({"success": True}, True), ({"success": False}, False), ({}, True)])
    def test_an_fbp_miss_is_told_apart(self, face: str, surface: dict[str, str], reply: Any, success: bool) -> None:
        with HostileServer([answer(200, reply)]) as server:
            assert one(face, server, surface, "update_fbp", temp_id=TEMP, fbp="fb.1.2.3").success is success

    @pytest.mark.parametrize(
        ("reply", "link"),
        [
            (answer(302, Location="https://t.me/+Abc"), "https://t.me/+Abc"),
            (answer(303, b"<html>", Location="tg://join?invite=Abc"), "https://t.me/+Abc"),
            (answer(302, Location="https://evil.example/+Abc"), None),
            (answer(302, Location="https://["), None),
            (answer(302), None),
            (answer(302, b"x" * 70_000, Location="https://t.me/+Abc"), "https://t.me/+Abc"),
            (answer(200, {"inviteLink": "https://t.me/+Abc"}), "https://t.me/+Abc"),
            (answer(200, {"url": "https://evil.example/", "link": "https://t.me/+Abc"}), "https://t.me/+Abc"),
            (answer(200, {"data": {"redirectUrl": "https://telegram.me/x"}}), "https://telegram.me/x"),
            (answer(200, {"inviteLink": "https://t.me@evil.example/+Abc"}), None),
            (answer(200, {"inviteLink": 7}), None),
        ],
    )
    def test_an_invite_is_found_wherever_it_is_and_no_redirect_followed(
        self, face: str, surface: dict[str, str], reply: Reply, link: str | None
    ) -> None:
        with HostileServer([reply]) as server:
            assert one(face, server, surface, "invite", **PAGE).link == link
        assert len(server.seen) == 1


class TestErrors:
    @pytest.mark.parametrize("code", sorted(errors.BY_CODE))
    def test_each_documented_code_has_its_class(self, face: str, surface: dict[str, str], code: str) -> None:
        kind = errors.BY_CODE[code]
        status = kind.status or 0
        with HostileServer([answer(status, {"error": {"code": code, "message": AGENT}}, Retry_After="7")]) as server:
            outcomes = run(face, server, surface, *TRACKING)
        for error in outcomes:
            assert type(error) is kind
            assert (error.status, error.code, error.retry_after) == (status, code, 7.0)
            assert AGENT not in str(error)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, errors.InvalidPayload),
            (401, errors.AuthError),
            (402, errors.SubscriptionInactive),
            (403, errors.UnexpectedAnswer),
            (404, errors.NotFound),
            (408, errors.UnexpectedAnswer),
            (425, errors.UnexpectedAnswer),
            (429, errors.RateLimited),
            (500, errors.ServerError),
            (502, errors.ServerError),
            (599, errors.ServerError),
        ],
    )
    @pytest.mark.parametrize("body", [b"<html>no", b'{"error": []}', b"[" * 50_000, b"\xff" * 70_000])
    def test_the_status_decides_where_no_code_is_given(
        self, face: str, surface: dict[str, str], status: int, kind: type[errors.ApiError], body: bytes
    ) -> None:
        with HostileServer([answer(status, body)]) as server:
            error = one(face, server, surface, "visit", **PAGE)
        assert type(error) is kind
        assert error.status == status

    @pytest.mark.parametrize("body", [b"<html>hello", b"", b'{"visitId": ', b"[" * 50_000, b'{"a": "' + b"x" * 66_000])
    def test_a_200_that_is_no_json_is_outside_the_contract(
        self, face: str, surface: dict[str, str], body: bytes
    ) -> None:
        with HostileServer([answer(200, body)]) as server:
            outcomes = run(face, server, surface, *TRACKING)
        assert [(type(error), error.status) for error in outcomes] == [(errors.UnexpectedAnswer, 200)] * 3

    def test_a_redirect_is_no_answer_but_to_an_invite(self, face: str, surface: dict[str, str]) -> None:
        with HostileServer() as elsewhere, HostileServer([answer(307, Location=elsewhere.url)]) as server:
            outcomes = run(face, server, surface, *TRACKING[:2])
        assert [(type(error), error.status) for error in outcomes] == [(errors.UnexpectedAnswer, 307)] * 2
        assert elsewhere.seen == []

    @pytest.mark.parametrize("method", ["conversion", "submit_value", "lead_event", "lead"])
    def test_what_needs_a_key_says_so_before_any_network(self, face: str, method: str) -> None:
        fields = {
            "conversion": BUY,
            "submit_value": {"telegram_user_id": 7, "conversion_id": "c", "value": 1, "currency": "USD"},
            "lead_event": {"telegram_user_id": 7, "event_type": "Lead"},
            "lead": {"telegram_user_id": 7},
        }[method]
        with HostileServer() as server:
            error = one(face, server, {"website_id": SITE}, method, **fields)
        assert isinstance(error, errors.SettingsError)
        assert "api_key" in str(error)
        assert server.seen == []

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({}, TypeError),
            ({"href": None}, TypeError),
            ({"href": "https://a.example/", "hreff": "x"}, TypeError),
            ({"href": "https://a.example/", "idempotency_key": "a\r\nb"}, ValueError),
            ({"href": "https://a.example/", "idempotency_key": "k" * 129}, ValueError),
        ],
    )
    def test_a_wrong_call_is_named_before_any_network(self, face: str, fields: Any, kind: type[Exception]) -> None:
        with HostileServer() as server, pytest.raises(kind):
            one(face, server, {"api_key": KEY}, "visit", **fields)
        assert server.seen == []

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ({}, "api_key"),
            ({"api_key": "atk live\n"}, "api_key"),
            ({"website_id": "atid\u00e9"}, "website_id"),
            ({"api_key": KEY, "api_url": "ftp://x"}, "api_url"),
        ],
    )
    @pytest.mark.parametrize("client", [AdTarget, AsyncAdTarget])
    def test_a_client_that_cannot_work_is_refused_where_it_is_made(self, client: Any, given: Any, named: str) -> None:
        with pytest.raises(errors.SettingsError, match=named):
            client(**given)


class TestTheWire:
    def test_a_refused_connection_was_never_sent(self, face: str, surface: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        outcomes = run(face, url, surface, *TRACKING)
        assert [(type(error), error.sent) for error in outcomes] == [(errors.Unreachable, False)] * 3

    @pytest.mark.parametrize(
        "reply",
        [
            SLAM,
            Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", close=True),
            Reply(b"HTTP/1.1 200 OK\r\nContent-Le", close=True),
            Reply(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", close=True),
        ],
        ids=["nothing", "cut body", "cut head", "not HTTP"],
    )
    def test_an_answer_cut_short_leaves_the_outcome_open(
        self, face: str, surface: dict[str, str], reply: Reply
    ) -> None:
        with HostileServer([reply]) as server:
            error = one(face, server, surface, "visit", **PAGE)
        assert (type(error), error.sent) == (errors.Unreachable, True)
        assert len(server.seen) == 1

    @pytest.mark.parametrize("part", ["head", "body"])
    def test_one_clock_rules_an_answer_that_drips(self, face: str, surface: dict[str, str], part: str) -> None:
        # Each byte comes within any time-out of a single read; without one clock the answer would arrive in the end.
        whole = answer(200, {"visitId": "v" * 100}).data
        prompt = 0 if part == "head" else whole.index(b"{")
        with HostileServer([Reply(whole, drip=0.02, prompt=prompt)]) as server:
            error = one(face, server, surface, "visit", **PAGE, timeout=0.2)
        assert (type(error), error.sent) == (errors.Unreachable, True)

    def test_a_reused_connection_that_is_dead_is_retried_once_under_the_same_key(
        self, face: str, surface: dict[str, str]
    ) -> None:
        with HostileServer([answer(200, {}), SLAM, answer(200, {"visitId": "v"})]) as server:
            first, second = run(face, server, surface, ("visit", PAGE), ("visit", PAGE))
        assert first.visit_id is None
        assert second.visit_id == "v"
        _, dead, again = server.seen
        assert dead.header("idempotency-key") == again.header("idempotency-key")
        assert (dead.body, dead.target) == (again.body, again.target)

    def test_it_is_retried_no_more_than_once(self, face: str, surface: dict[str, str]) -> None:
        with HostileServer([answer(200, {}), SLAM]) as server:
            _, error = run(face, server, surface, ("visit", PAGE), ("visit", PAGE))
        assert (type(error), error.sent) == (errors.Unreachable, True)
        assert len(server.seen) == 3

    def test_connections_are_kept(self, face: str, surface: dict[str, str]) -> None:
        with HostileServer() as server:
            run(face, server, surface, *TRACKING, *TRACKING)
        assert {seen.connection for seen in server.seen} == {1}

    def test_an_outbound_proxy_is_taken_from_the_environment(self, face: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with HostileServer([answer(200, {"visitId": "v"})]) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("no_proxy", "")
            assert one(face, "http://adtarget.invalid", {"api_key": KEY}, "visit", **PAGE).visit_id == "v"
        assert proxy.seen[0].target == "http://adtarget.invalid/api/v1/events/visit"

    def test_nothing_secret_is_logged_or_shown(
        self, face: str, surface: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        with HostileServer([answer(500, {"error": {"message": AGENT}})]) as server:
            shown = repr(run(face, server, surface, *TRACKING)) + caplog.text
        for secret in (KEY, "203.0.113.9", TEMP, AGENT, "IwAR0"):
            assert secret not in shown


class TestDeliver:
    @pytest.mark.parametrize("account", ["keyed", "keyless"])
    @pytest.mark.parametrize(
        ("kind", "fields", "keyed", "keyless"),
        [
            (Visit, PAGE, "/api/v1/events/visit", "/backend/track/init"),
            (
                FbpUpdate,
                {"temp_id": TEMP, "fbp": "fb.1.2.3"},
                "/api/v1/events/update-fbp",
                "/backend/track/update-fbp",
            ),
            (InviteClick, PAGE, "/api/v1/events/invite", "/backend/track/invite"),
            (Conversion, BUY, "/api/v1/events/conversion", None),
        ],
    )
    def test_an_event_goes_by_the_method_of_its_kind_under_its_own_key(
        self, account: str, kind: Any, fields: Any, keyed: str, keyless: str | None
    ) -> None:
        with HostileServer() as server:
            credential = {"api_key": KEY} if account == "keyed" else {"website_id": SITE}
            client = AdTarget.for_account(Account(f"{server.url}/api/v1", f"{server.url}/backend", **credential))
            event = kind(id="1", key="k1", account="a", visitor=TEMP, at=0.0, worth=PLAIN, fields=fields)
            with client:
                if account == "keyless" and keyless is None:
                    with pytest.raises(errors.SettingsError, match="api_key"):
                        client.deliver(event)
                    assert server.seen == []
                    return
                client.deliver(event, timeout=5.0)
        (seen,) = server.seen
        assert urlsplit(seen.target).path == (keyed if account == "keyed" else keyless)
        assert seen.header("idempotency-key") == ("k1" if account == "keyed" else None)

    @pytest.mark.parametrize("kind", [FbpUpdate, InviteClick])
    def test_what_an_endpoint_does_not_take_stays_behind_and_the_event_goes(
        self, surface: dict[str, str], kind: Any
    ) -> None:
        fields = {"temp_id": TEMP, "fbp": "fb.1.2.3", "country": "DE", "of_a_later_version": {"x": 1}}
        event = kind(id="1", key="k1", account="a", visitor=TEMP, at=0.0, worth=PLAIN, fields=fields)
        with HostileServer() as server:
            given = {**surface, "api_url": f"{server.url}/api/v1", "tracker_url": f"{server.url}/backend"}
            with AdTarget(**given) as client:
                client.deliver(event)
        (seen,) = server.seen
        sent = seen.target + seen.body.decode()
        assert TEMP in sent
        assert "country" not in sent
        assert "LaterVersion" not in sent

    @pytest.mark.parametrize(
        ("key", "fields"),
        [
            ("k", {**BUY, "value": float("nan")}),
            ("k", {**BUY, "pii": "x"}),
            ("k", {"event_type": "Lead"}),
            ("k\n", BUY),
            ("k", {**BUY, "event_time": "hunter2"}),
        ],
    )
    def test_an_event_that_cannot_be_sent_is_refused_without_its_words(self, key: str, fields: Any) -> None:
        event = Conversion(id="1", key=key, account="a", visitor="v", at=0.0, worth=PAID_OR_AWAITED, fields=fields)
        with HostileServer() as server:
            client = AdTarget(KEY, api_url=server.url)
            with pytest.raises(errors.InvalidPayload) as caught:
                client.deliver(event)
            client.close()
        assert "hunter2" not in str(caught.value)
        assert server.seen == []
