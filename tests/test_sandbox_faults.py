"""The sandbox's faults over real sockets, by method and over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adtarget_proxy.sandbox import Sandbox

pytestmark = pytest.mark.server

# One client, since each makes a TLS context; without keep-alive, since some tests cut connections.
HTTP = httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0))

VISIT = {"href": "https://shop.example/"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate=0, seed=1) as running:
        yield running


def send(sandbox: Sandbox, path: str = "/events/visit", timeout: float = 5, **headers: str) -> httpx.Response:
    sent = {"Authorization": f"Bearer {sandbox.api_key}", **headers}
    return HTTP.post(sandbox.api_url + path, json=VISIT, headers=sent, timeout=timeout)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "INVALID_KEY"),
        (402, "SUBSCRIPTION_INACTIVE"),
        (429, "RATE_LIMITED"),
        (500, "INTERNAL_ERROR"),
        (503, "API_DISABLED"),
    ],
)
def test_a_forced_status(sandbox: Sandbox, status: int, code: str) -> None:
    sandbox.faults(status=status, retry_after=7 if status == 429 else None)
    answer = send(sandbox)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert sandbox.events() == []
    assert sandbox.requests()[0]["outcome"] == "failed"
    sandbox.heal()
    assert send(sandbox).status_code == 200


@pytest.mark.parametrize(("when", "counted"), [("before", 0), ("after", 1)])
def test_a_dropped_connection_was_processed_or_not(sandbox: Sandbox, when: str, counted: int) -> None:
    sandbox.faults(drop_rate=1, drop_when=when)
    with pytest.raises(httpx.TransportError):
        send(sandbox, **{"Idempotency-Key": "k"})
    assert len(sandbox.events()) == counted
    assert sandbox.requests()[0]["delivered"] is False
    sandbox.heal()
    assert ("X-Idempotent-Replay" in send(sandbox, **{"Idempotency-Key": "k"}).headers) is bool(counted)
    assert len(sandbox.events()) == 1


@pytest.mark.parametrize("fault", ["error_rate", "drop_rate"])
def test_a_share_is_a_share(sandbox: Sandbox, fault: str) -> None:
    sandbox.faults(**{fault: 0.5})
    good = 0
    for _ in range(60):
        try:
            good += send(sandbox).status_code == 200
        except httpx.TransportError:
            continue
    assert 10 < good < 50
    assert len(sandbox.events()) == good


def test_down_cuts_every_connection(sandbox: Sandbox) -> None:
    sandbox.faults(down=True)
    with pytest.raises(httpx.TransportError):
        send(sandbox)


def test_a_late_answer_was_processed_and_a_hanging_one_was_not(sandbox: Sandbox) -> None:
    sandbox.faults(latency=60)
    with pytest.raises(httpx.ReadTimeout):
        send(sandbox, timeout=0.2)
    assert len(sandbox.events()) == 1
    sandbox.heal()
    sandbox.faults(hang=True)
    with pytest.raises(httpx.ReadTimeout):
        send(sandbox, timeout=0.2)
    assert len(sandbox.events()) == 1


def test_healing_cuts_what_hangs(sandbox: Sandbox) -> None:
    sandbox.faults(hang=True)
    failures: list[Exception] = []

    def hang() -> None:
        try:
            send(sandbox, timeout=60)
        except httpx.TransportError as error:
            failures.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    while not sandbox.requests():
        thread.join(0.005)
    sandbox.heal()
    thread.join(5)
    assert len(failures) == 1


def test_html_in_place_of_json(sandbox: Sandbox) -> None:
    sandbox.faults(html=True)
    answer = send(sandbox)
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, "text/html")
    assert sandbox.events() == []


def test_an_invite_on_another_host(sandbox: Sandbox) -> None:
    sandbox.faults(endpoint="invite", foreign_link=True)
    assert send(sandbox, "/events/invite").json()["inviteLink"].startswith("https://links.example/")


def test_faults_of_one_endpoint_leave_the_others_alone(sandbox: Sandbox) -> None:
    sandbox.faults(endpoint="invite", status=500)
    assert (send(sandbox).status_code, send(sandbox, "/events/invite").status_code) == (200, 500)


def test_faults_over_http(sandbox: Sandbox) -> None:
    url = f"{sandbox.url}/_sandbox/faults"
    HTTP.put(url, json={"status": 503})
    assert HTTP.post(url, json={"latency": 0.001}).json()["*"]["status"] == 503
    assert HTTP.put(url, json={"latency": 0.001}).json()["*"]["status"] is None
    assert HTTP.put(url, json={"endpoint": ["invite"], "down": True}).json()["invite"]["down"] is True
    assert list(HTTP.delete(url).json()) == ["*"]
    assert send(sandbox).status_code == 200


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"latency": -1}, "latency"),
        ({"error_rate": 2}, "error_rate"),
        ({"down": "yes"}, "down"),
        ({"status": 200}, "status"),
        ({"endpoint": "nowhere"}, "endpoint"),
        ({"endpoint": {}}, "endpoint"),
        ({"typo": 1}, "typo"),
        ([], "object"),
    ],
)
def test_a_wrong_fault_is_named(sandbox: Sandbox, body: Any, name: str) -> None:
    answer = HTTP.put(f"{sandbox.url}/_sandbox/faults", json=body)
    assert answer.status_code == 400
    assert name in answer.json()["error"]


def test_another_sites_page_cannot_switch_faults(sandbox: Sandbox) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert HTTP.put(f"{sandbox.url}/_sandbox/faults", json={"down": True}, headers=headers).status_code == 403


def test_the_port_closes_for_real_and_opens_again(sandbox: Sandbox) -> None:
    with httpx.Client(headers={"Authorization": f"Bearer {sandbox.api_key}"}) as client:
        assert client.post(f"{sandbox.api_url}/events/visit", json=VISIT).status_code == 200
        url = sandbox.url
        sandbox.close_port()
        with pytest.raises(httpx.TransportError):
            client.post(f"{sandbox.api_url}/events/visit", json=VISIT)
        with pytest.raises(httpx.ConnectError):
            send(sandbox)
        sandbox.open_port()
        assert sandbox.url == url
        assert client.post(f"{sandbox.api_url}/events/visit", json=VISIT).status_code == 200
    assert len(sandbox.events()) == 2


def test_delete_forgets_everything_but_the_faults(sandbox: Sandbox) -> None:
    sandbox.faults(endpoint="invite", status=500)
    send(sandbox, **{"Idempotency-Key": "k"})
    HTTP.delete(f"{sandbox.url}/_sandbox/events")
    assert (sandbox.events(), sandbox.requests()) == ([], [])
    assert "X-Idempotent-Replay" not in send(sandbox, **{"Idempotency-Key": "k"}).headers
    assert send(sandbox, "/events/invite").status_code == 500
