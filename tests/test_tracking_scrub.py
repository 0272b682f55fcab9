"""Personal data and secrets do not leave in a URL; nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtarget_proxy.tracking.scrub import (
    REDACTED,
    scrubbed_query,
    scrubbed_url,
    switch_of,
    url_without_switch,
    without_switch,
)

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
        # by the last word of a name, however it is written
        "userEmail=x",
        "user%5Bemail%5D=x",
        "user[password]=x",
        "customer_email=x",
        "billing-phone=1",
        "resetToken=x",
        "reset-token=x",
        "X.Auth.Token=x",
        "accessToken=x",
        "API-KEY=x",
        "privateKey=x",
        "PHPSESSION=x",
        "shipping.lastName=x",
        "birthDate=x",
        "e%6Dail=x",
        "emailAddress=x",
        # by the value's shape
        "next=a%40b.example",
        "utm_content=a@b.example",
        "x=%2B49%2030%20123456",
        f"state={JWT}",
        "k=sk_live_abcdefgh12",
        "k=atk_live_12345678_secret",
        "next=%2Fwelcome%3Fmail%3Da%2540b.example",
        "u=a%2540b.example",
        "utm_term=a%40b.example",
        "q=mailto:a@b.example",
        "p=%2b4930123456",
        f"next=/x?t={JWT}",
        "bot=123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1",
        "c=ghp_" + "a1" * 18,
        "c=xoxb-1234567890-abc",
        "c=AKIAIOSFODNN7EXAMPLE",
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
        "token_type=x&session_length=3&mailbox=1&pinned=1&signal=2&telegram=3&authors=4",
        "email_campaign=spring&phone_model=x&passenger=2&author=me",
        "utm_source=newsletter&utm_medium=email&utm_campaign=a%2Bb",
        "time=12345678:short&at=@handle",
        "=x&=&a",
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
        (f"https://shop.example/verify/{JWT}/now", f"https://shop.example/verify/{REDACTED}/now"),
        ("https://shop.example/#/reset?token=x", "https://shop.example/"),
        ("https://[2001:db8::1]:8443/a?pin=1", f"https://[2001:db8::1]:8443/a?pin={REDACTED}"),
        ("android-app://com.example/", "android-app://com.example/"),
        ("/path?", "/path?"),
    ],
)
def test_a_url_loses_userinfo_fragment_and_addresses_in_its_path(url: str, after: str) -> None:
    assert scrubbed_url(url) == after


PIECES = st.sampled_from(
    ["email=", "a@b.example", "&", ";", "=", "%40", "%2540", "token", "[", "+49 30 1234567", "%2B", "x", "#", "?"]
)


@given(st.text(max_size=80) | st.lists(PIECES, max_size=12).map("".join))
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    once = scrubbed_query(text)
    assert scrubbed_query(once) == once
    scrubbed_url(text)


SWITCHES = [
    ("adtarget=off", "", "off"),
    ("adtarget=on", "", "on"),
    ("a=1&adtarget=on", "a=1", "on"),
    ("adtarget=on&a=1", "a=1", "on"),
    ("a=1&adtarget=on&b=2", "a=1&b=2", "on"),
    ("adtarget=off&adtarget=on&a=1", "a=1", "on"),
    ("a=1&adtarget=on&b=2&adtarget=off", "a=1&b=2", "off"),
    ("adtarget=on&a=%E4&&b=?&", "a=%E4&&b=?&", "on"),
    ("adtarget=offer", "adtarget=offer", None),
    ("xadtarget=on", "xadtarget=on", None),
    ("a=adtarget=on", "a=adtarget=on", None),
    ("adtarget=ON", "adtarget=ON", None),
    ("a=1&&b=2?", "a=1&&b=2?", None),
]


@pytest.mark.parametrize(("query", "left", "said"), SWITCHES)
def test_the_switch_is_read_and_taken_out_and_nothing_else(query: str, left: str, said: str | None) -> None:
    assert (without_switch(query), switch_of(query)) == (left, said)
    assert url_without_switch(f"https://shop.test/#{query}") == f"https://shop.test/#{query}"
    url = f"https://shop.test/?{query}#top"
    assert url_without_switch(url) == (f"https://shop.test/?{left}#top" if left else "https://shop.test/#top")
