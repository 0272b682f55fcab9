"""What a process says once, and that nothing of a visitor is in it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from shell_world import HTML, PAGE, WsgiShell, quiet
from tracking_world import Request

from adtarget_proxy.notices import Notices


@pytest.mark.parametrize(
    ("peer", "line"),
    [
        ("127.0.0.1", "127.0.0.0/8"),
        ("10.9.8.7", "10.0.0.0/8"),
        ("172.20.0.5", "172.16.0.0/12"),
        ("192.168.1.4", "192.168.0.0/16"),
        ("100.64.3.2", "100.64.0.0/10"),
        ("::1", "::1/128"),
        ("fd12::7", "fc00::/7"),
        ("fe80::1%eth0", "fe80::/10"),
        ("unix", "unix"),
        (None, "unix"),
    ],
)
def test_an_untrusted_proxy_is_told_of_with_the_line_to_paste(
    caplog: pytest.LogCaptureFixture, peer: str | None, line: str
) -> None:
    notices = Notices()
    for _ in range(3):
        notices.untrusted_proxy(Request(peer=peer))
    (record,) = caplog.records
    assert f'ADTARGET_TRUSTED_PROXIES="{line}"' in record.getMessage()


@pytest.mark.parametrize(
    ("peer", "headers", "line"),
    [
        ("173.245.48.5", {"cf-connecting-ip": "203.0.113.9"}, "cloudflare"),
        ("127.0.0.1", {"cf-connecting-ip": "203.0.113.9"}, "cloudflare,127.0.0.0/8"),
        ("unix", {"cf-connecting-ip": "203.0.113.9"}, "cloudflare,unix"),
        ("151.101.1.7", {"fastly-client-ip": "203.0.113.9"}, "fastly"),
        ("10.0.1.8", {"x-amzn-trace-id": "Root=1-1"}, "aws-elb"),
        ("127.0.0.1", {"x-amzn-trace-id": "Root=1-1"}, "aws-elb,127.0.0.0/8"),
        ("127.0.0.1", {"x-vercel-forwarded-for": "203.0.113.9"}, "vercel"),
        ("10.0.0.4", {"x-appgw-trace-id": "1"}, "azure"),
        ("10.0.0.4", {"x-real-ip": "203.0.113.9"}, "10.0.0.0/8"),
    ],
)
def test_the_line_names_a_preset_where_the_headers_show_one(
    caplog: pytest.LogCaptureFixture, peer: str, headers: dict[str, str | None], line: str
) -> None:
    """Through the tracker, as a page of a visitor behind that proxy; and the line is one that the settings take."""
    shell, settings = WsgiShell(), quiet()
    app = shell.middleware(shell.app(HTML), settings)
    visitor = {"x-forwarded-for": "203.0.113.9", **headers}
    try:
        for _ in range(2):
            shell.ask(app, replace(PAGE, peer="" if peer == "unix" else peer).having(**visitor))
    finally:
        app.close(0)
    notices = [record for record in caplog.records if record.name == "adtarget_proxy"]
    (said,) = [record.getMessage() for record in notices if record.levelname == "WARNING"]
    assert f'ADTARGET_TRUSTED_PROXIES="{line}"' in said
    assert "203.0.113.9" not in said
    assert quiet(trusted_proxies=line).trusted_proxies == tuple(line.split(","))


def test_a_fault_is_said_once_a_place_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    notices, said = Notices(), ".".join(["93", "184", "215", "14"])  # frames show the source: it shall not be there
    for where in ("plan", "plan", "finish"):
        try:
            raise ValueError(said)
        except ValueError:
            notices.fault(where)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "ValueError" in caplog.text
    assert said not in caplog.text


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({}, ("memory://", "consent")),
        ({"consent": lambda _: True}, ("memory://",)),
        ({"api_key": None, "website_id": "atid_x"}, ("memory://", "consent", "secret_key")),
        ({"mode": "off"}, ()),
    ],
    ids=["a key", "with consent", "keyless", "off"],
)
def test_a_process_introduces_itself(
    caplog: pytest.LogCaptureFixture, over: dict[str, object], words: tuple[str, ...]
) -> None:
    with caplog.at_level(logging.INFO, "adtarget_proxy"):
        Notices().introduce(quiet(**over))
    assert len(caplog.records) == len(words)
    for record, word in zip(caplog.records, words, strict=True):
        assert word in record.getMessage()


def test_a_log_handler_that_fails_is_no_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("the log's disk is full")

    monkeypatch.setattr(logging.Logger, "_log", broken)
    notices = Notices()
    notices.introduce(quiet())
    notices.untrusted_proxy(Request(peer="10.0.0.1"))
    notices.fault("plan")
