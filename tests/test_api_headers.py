"""Whatever a visitor sends, one header stays one header, and h11 takes it."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtarget_proxy.api.headers import address_value, header_value, page_headers

URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTPS", "tg"]),
    st.text(max_size=20),
    st.sampled_from(["", ":443", ":8080", ":x", ":99999"]),
    st.text(max_size=60).map("/{}".format),
)


def accepted(name: bytes, value: bytes) -> bool:
    client = h11.Connection(h11.CLIENT)
    sent = client.send(h11.Request(method="GET", target="/", headers=[(b"Host", b"x"), (name, value)]))
    return sent is not None and sent.count(b"\r\n") == 4


@given(st.text() | st.text(alphabet="\r\n\x00\x0b\x0c\x85\u2028 aé\ud800\t"))
def test_any_text_makes_a_header_that_is_one(text: str) -> None:
    value = header_value(text)
    assert value is None or accepted(b"X-Any", value)


@given(st.text() | URLS)
def test_any_href_makes_page_headers_that_are_ascii(href: str) -> None:
    for name, value in page_headers(href):
        assert re.fullmatch(rb"https?://[!-~]+", value)
        assert accepted(name, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Mozilla/5.0", b"Mozilla/5.0"),
        (" a\r\nb ", b"a b"),
        ("caf\u00e9", b"caf\xe9"),
        ("\u4f60", b"?"),
        ("\x00", None),
        ("", None),
        (None, None),
        (7, None),
        ("x" * 5000, b"x" * 1024),
    ],
)
def test_a_value_keeps_what_latin_1_can_hold(text: object, value: bytes | None) -> None:
    assert header_value(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("203.0.113.9", b"203.0.113.9"),
        ("2001:DB8::1", b"2001:db8::1"),
        ("1.2.3.4, 5.6.7.8", None),
        ("1.2.3.4\r\nX: 1", None),
        ("example.com", None),
        (None, None),
    ],
)
def test_an_address_is_exactly_one(text: object, value: bytes | None) -> None:
    assert address_value(text) == value


@pytest.mark.parametrize(
    ("href", "referer", "origin"),
    [
        ("https://a.example/p?q=1#f", b"https://a.example/p?q=1", b"https://a.example"),
        ("https://a.example", b"https://a.example/", b"https://a.example"),
        ("http://a.example:80/", b"http://a.example/", b"http://a.example"),
        ("https://a.example:8443/", b"https://a.example:8443/", b"https://a.example:8443"),
        ("https://user:word@a.example/", b"https://a.example/", b"https://a.example"),
        (
            "https://m\u00fcnchen.example/\u00fc",
            b"https://xn--mnchen-3ya.example/%C3%BC",
            b"https://xn--mnchen-3ya.example",
        ),
        ("http://[2001:db8::1]:81/", b"http://[2001:db8::1]:81/", b"http://[2001:db8::1]:81"),
        ("https://a.example/?" + "x" * 5000, b"https://a.example/", b"https://a.example"),
    ],
)
def test_a_page_brings_what_a_browser_would(href: str, referer: bytes, origin: bytes) -> None:
    assert page_headers(href) == [(b"Referer", referer), (b"Origin", origin)]


@pytest.mark.parametrize(
    "href", [None, 7, "", "/relative", "tg://join", "https://", "https://[", "https://a.example:x/"]
)
def test_what_is_no_page_brings_nothing(href: object) -> None:
    assert page_headers(href) == []
