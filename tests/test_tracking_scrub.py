"""Personal data and secrets do not leave in a URL; nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtarget_proxy.tracking.scrub import REDACTED, scrubbed_query, scrubbed_url

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "query",
    [
        "email=a@b.example",
        "e-mail=x",
        "user_email=x",
        "phone=1",
        "phone_number=1",
        "tel=1",
        "password=x",
        "passwd=x",
        "token=x",
        "access_token=x",
        "csrfmiddlewaretoken=x",
        "api_key=x",
        "apikey=x",
        "sessionid=x",
        "first_name=x",
        "OTP=1",
        # by the value's shape
        "next=a%40b.example",
        "utm_content=a@b.example",
        "x=%2B49%2030%20123456",
        f"state={JWT}",
        "k=sk_live_abcdefgh12",
        "k=atk_live_12345678_secret",
    ],
)
def test_a_value_goes_and_its_parameter_stays(query: str) -> None:
    assert scrubbed_query(f"a=1&{query}&b=2") == f"a=1&{query.partition('=')[0]}={REDACTED}&b=2"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "fbclid=IwAR0_aB-c9&utm_source=fb&gclid=G1",
        "a=&b&=c&&d==",
        "q=two+words&p=100%25",
        "email=&phone",
        "named=x&tokens=3&page=2",
        "gclid=Cj0KCQjw%40b.example",
        "x=%D1%84&y=%FF",
        "price=%2B12",
    ],
)
def test_everything_else_stays_byte_for_byte(query: str) -> None:
    assert scrubbed_query(query) == query


@pytest.mark.parametrize(
    ("url", "after"),
    [
        ("https://shop.example/a?b=1#frag", "https://shop.example/a?b=1"),
        ("https://user:word@shop.example/a", "https://shop.example/a"),
        ("https://shop.example/u/a@b.example/x", f"https://shop.example/u/{REDACTED}/x"),
        ("https://shop.example/u/a%40b.example", f"https://shop.example/u/{REDACTED}"),
        ("https://shop.example/@handle", "https://shop.example/@handle"),
        ("https://shop.example/?token=x", f"https://shop.example/?token={REDACTED}"),
        ("/path?", "/path?"),
    ],
)
def test_a_url_loses_userinfo_fragment_and_addresses_in_its_path(url: str, after: str) -> None:
    assert scrubbed_url(url) == after


@given(st.text(max_size=80))
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    once = scrubbed_query(text)
    assert scrubbed_query(once) == once
    scrubbed_url(text)
