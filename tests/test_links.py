"""Which Telegram link a visitor may be sent to: the allow-list of adtarget-api.md."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtarget_proxy.links import TELEGRAM_HOSTS, fallback_link, invite_link

GOOD = [
    ("https://t.me/+AbC_d-9", "https://t.me/+AbC_d-9"),
    ("https://t.me/joinchat/AbC", "https://t.me/joinchat/AbC"),
    ("https://telegram.me/+AbC", "https://telegram.me/+AbC"),
    ("https://telegram.dog/channel?start=1", "https://telegram.dog/channel?start=1"),
    ("HTTPS://T.ME/+AbC", "HTTPS://T.ME/+AbC"),
    ("https://t.me:443/+AbC", "https://t.me:443/+AbC"),
    ("tg://join?invite=AbC_d-9", "https://t.me/+AbC_d-9"),
    ("TG://join?invite=AbC", "https://t.me/+AbC"),
    ("tg:join?invite=AbC", "https://t.me/+AbC"),
    ("tg://resolve?domain=my_channel", "https://t.me/my_channel"),
]
BAD = [
    "",
    "https://t.me",
    "https://t.me/",
    "http://t.me/+AbC",
    "//t.me/+AbC",
    "t.me/+AbC",
    "https://evil.test/+AbC",
    "https://t.me.evil.test/+AbC",
    "https://evil.test/t.me/+AbC",
    "https://xt.me/+AbC",
    "https://t.me@evil.test/+AbC",
    "https://user@t.me/+AbC",
    "https://user:word@t.me/+AbC",
    "https://t.me\\@evil.test/+AbC",
    "https://t.me:8443/+AbC",
    "https://t.me:x/+AbC",
    "https://t.me/+AbC\r\nSet-Cookie: x=1",
    "https://t.me/+AbC\x00",
    "https://t.me/+Ab C",
    " https://t.me/+AbC",
    "https://t.me/+AbC\t",
    "https://t.me/\u202eAbC",
    "https://т.me/+AbC",
    "https://t.me。/+AbC",
    "https://[t.me/+AbC",
    "javascript:alert(1)",
    "data:text/html,x",
    "tg://join",
    "tg://join?invite=",
    "tg://join?invite=a&invite=b",
    "tg://join?invite=a/b",
    "tg://join?invite=a%0D%0Ab",
    "tg://resolve?domain=a.b",
    "tg://msg?text=hi",
    "tg://evil.test/join?invite=A",
    "tg:",
    "https://t.me/+" + "x" * 2048,
]


@pytest.mark.parametrize(("text", "link"), GOOD)
def test_a_link_into_telegram_is_followed_as_https(text: str, link: str) -> None:
    assert invite_link(text) == link


@pytest.mark.parametrize("text", [*BAD, None, 1, b"https://t.me/+AbC", ["https://t.me/+AbC"]])
def test_any_other_is_no_link(text: object) -> None:
    assert invite_link(text) is None


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("https://shop.example/join", "https://shop.example/join"),
        ("https://shop.example", "https://shop.example"),
        ("tg://join?invite=AbC", "https://t.me/+AbC"),
        *GOOD[:3],
    ],
)
def test_a_fallback_may_lie_on_any_host(text: str, link: str) -> None:
    assert fallback_link(text) == link


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("http://t.me/x", "https://"),
        ("t.me/x", "https://"),
        ("javascript:alert(1)", "https://"),
        ("https://", "https://"),
        ("https://user@t.me/x", "user name"),
        ("https://t.me/a b", "plain ASCII"),
        ("https://t.me/\r\nx", "plain ASCII"),
        ("https://t.me:x/", "no URL"),
        ("https://[t.me/", "no URL"),
        ("tg://msg?text=hi", "tg:"),
        ("tg://join?invite=a b", "tg:"),
        ("https://t.me/" + "x" * 2048, "plain ASCII"),
    ],
)
def test_a_fallback_that_cannot_work_says_what_to_write(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        fallback_link(text)


PIECES = st.lists(
    st.sampled_from(
        [
            "https://",
            "tg://",
            "t.me",
            "telegram.me",
            "evil.test",
            "/",
            "@",
            ":",
            "\\",
            "?",
            "#",
            "join?invite=",
            "A",
            " ",
            "\r\n",
            ".",
            "%40",
            "。",
        ]
    )
    | st.text(max_size=3),
    max_size=8,
).map("".join)


@given(PIECES)
def test_whatever_comes_a_link_leads_to_telegram_and_nowhere_else(text: str) -> None:
    link = invite_link(text)
    if link is not None:
        parts = urlsplit(link)
        assert parts.scheme == "https"
        assert parts.hostname in TELEGRAM_HOSTS
        assert parts.username is None
        assert link.isascii()
        assert link.isprintable()
        assert " " not in link
        assert "\\" not in link
