"""Requests as nobody should send them, made of good ones, and how each shell's server hands them on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st
from shell_world import BROWSER, KNOWN, PAGE, VISITOR, AsgiShell, WsgiShell

from adtarget_proxy.tracking.state import State, StateSigner

T = TypeVar("T")

OCTETS = r"[!#-+\--:<-\[\]-~]*"  # RFC 6265, 4.1.1
LINE = re.compile(
    rf"(_fbp|_fbc|adtarget_temp_id|adtarget_session_id|adtarget_state)={OCTETS}"
    r"(; Domain=[a-z0-9_.-]+)?; Max-Age=[0-9]+; Path=/(; Secure)?(; HttpOnly)?; SameSite=Lax"
)

SECRET = "a-secret-key-of-the-tests"
FBP = "fb.1.1700000000000.1234567890"
STATE = StateSigner([SECRET]).dump(
    State(
        VISITOR, FBP, 1_750_000_000, 1_750_000_000, {"landing_page": "https://shop.test/?utm_source=fb", "gclid": "G"}
    )
)
COOKIES = ("_fbp", "_fbc", "adtarget_temp_id", "adtarget_session_id", "adtarget_state", "adtarget_optout", "prefs", "")
HEADERS = (
    *BROWSER,
    *("cookie", "referer", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "cf-connecting-ip"),
    *("sec-gpc", "dnt", "sec-purpose", "purpose", "x-purpose", "x-moz", "next-router-prefetch", "x-requested-with"),
    *("hx-request", "hx-boosted", "turbo-frame", "x-turbo-request-id", "x-inertia", "x-inertia-partial-data"),
    *("x-adtarget-client-ip", "accept-language"),
)
ADDRESSES = (
    b"203.0.113.9",
    b"[2001:db8::1]:443",
    b"::ffff:10.0.0.1",
    b"fe80::1%eth0",
    b"unknown",
    b"_hidden",
    b"198.51.100.1:80",
)
VALUES: dict[str, tuple[bytes, ...]] = {
    "host": (
        b"shop.test",
        b"www.example.co.uk:8443",
        b"[2001:db8::1]:80",
        b"example.com.",
        b"xn--e1aybc.xn--p1ai",
        b"1.2.3.4",
    ),
    "referer": (
        b"https://shop.test/a?fbclid=IwAR0&utm_source=fb",
        b"https://u:p@x.test/?token=1#f",
        b"http://[::1/",
        b"//",
    ),
    "forwarded": (
        b'for="[2001:db8::1]:47";proto=https;host="shop.test", for=203.0.113.9',
        b'for=a;for="b\\"',
        b'for="',
    ),
    "x-forwarded-for": (b", ".join(ADDRESSES), *ADDRESSES),
    "x-forwarded-host": (b"shop.test, shop.example", b"[::1]:80"),
    "x-forwarded-proto": (b"https", b"https, http"),
    "accept": (b"text/html,*/*;q=0.8", b"*/*"),
    "sec-fetch-dest": (b"document", b"empty"),
    "user-agent": (PAGE.headers["user-agent"].encode(), b"Googlebot/2.1 (+http://x)", b"Instagram 1.0 cubot"),
}
PAIRS: dict[str, tuple[bytes, ...]] = {
    "_fbp": (FBP.encode(), FBP.encode() + b".AQIAAQEC", b'"' + FBP.encode() + b'"', b"fb.1.1700000000.1"),
    "_fbc": (b"fb.1.1700000000000.IwAR0_aB-c9", b"fb.2.1700000000001.a!b.Bg"),
    "adtarget_temp_id": (VISITOR.encode(),),
    "adtarget_session_id": (b"s-1", b"x" * 128),
    "adtarget_state": (STATE.encode(), VISITOR.encode() + b"!1750000000!1!!" + FBP.encode() + b".sig"),
    "prefs": (json.dumps({"a": 'b;c, "d"', "e": [1, "\xe9"]}).encode(), b'{"_fbp=": 1}'),
}
QUERIES = (
    b"fbclid=IwAR0_aB-c9&utm_source=fb&utm_campaign=%D1%84+x&gclid=G1&ttclid=T&sccid=S",
    b"a=1&amp;fbclid=%49w&email=a@b.test&token=x",
    b"utm_term=" + b"%F0%9F%98%80" * 60,
    b"",
)
PATHS = (b"/", b"/", b"/c/vip", b"/a%20b/%D1%84", b"//x", b"/admin/", b"/a@b.test/", b"*")
NASTY = (
    *(
        b"\r\n",
        b"\r\nSet-Cookie: x=1",
        b"\x00",
        b"\n",
        b"\x85",
        b"\xa0",
        b"\xb2\xb9",
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xed\xa0\x80",
    ),
    *(
        b";",
        b"; ",
        b",",
        b'"',
        b"\\",
        b'\\"',
        b" ",
        b"\t",
        b"=",
        b"==",
        b"!",
        b".",
        b"%",
        b"%00",
        b"%0d%0a",
        b"%25",
        b"&",
        b"#",
        b"?",
    ),
    *(b"[", b"]", b":", b"::", b"@", b"9" * 400, b"-", b"$Version=1;", b"{", b"\x7f", b"\x1b[31m", "ф😀".encode()),
)
UNITS = (*NASTY, b"a", b"_fbp=x; ", b"; ", b"a@", b"utm_term=x&", b'for="a";', b"_fbp=" + FBP.encode() + b"; ")
PEERS = ("203.0.113.7", "10.0.0.1", "::1", "unix:", "", None, "not-an-address", "fe80::1%eth0")


class Dice(Protocol):
    """Where the choices come from."""

    def pick(self, among: Sequence[T]) -> T: ...

    def number(self, most: int) -> int: ...

    def octets(self, most: int) -> bytes: ...


class Drawn:
    """Hypothesis's choices, which it makes smaller where a test fails."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def pick(self, among: Sequence[T]) -> T:
        return self._draw(st.sampled_from(among))

    def number(self, most: int) -> int:
        return self._draw(st.integers(0, most))

    def octets(self, most: int) -> bytes:
        return self._draw(st.binary(max_size=most))


class Thrown:
    """A seed's, a hundred times as quick."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def pick(self, among: Sequence[T]) -> T:
        return self._random.choice(among)

    def number(self, most: int) -> int:
        return self._random.randint(0, most)

    def octets(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, most))


@dataclass(frozen=True)
class Raw:
    """A request's bytes. ``headers`` may repeat; ``peer`` is what the server says of the socket."""

    path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    peer: str | None
    has_raw_path: bool


def raw_of(dice: Dice) -> Raw:
    """A navigation with something wrong."""
    more = [(name.encode(), _value(dice, name)) for name in (dice.pick(HEADERS) for _ in range(dice.number(4)))]
    changed = {name for name, _ in more}
    browsers = [(name.encode(), value.encode()) for name, value in BROWSER.items()]
    return Raw(
        spoiled(dice, PATHS),
        spoiled(dice, QUERIES),
        (*(pair for pair in browsers if pair[0] not in changed), (b"cookie", _cookie(dice)), *more),
        dice.pick(PEERS),
        bool(dice.number(1)),
    )


def long_raw_of(dice: Dice) -> Raw:
    """The same with one header more, of about 64 KB."""
    raw, unit = raw_of(dice), dice.pick(UNITS)
    return replace(raw, headers=(*raw.headers, (dice.pick(HEADERS).encode(), unit * (65_000 // len(unit)))))


def spoiled(dice: Dice, good: Sequence[bytes]) -> bytes:
    """A good value as it is, or with odd things in the place of a few of its bytes."""
    value = dice.pick(good)
    for _ in range(dice.number(2)):
        at, odd = dice.number(len(value)), dice.pick(NASTY) if dice.number(3) else dice.octets(16)
        value = value[:at] + odd + value[at + dice.number(12) :]
    return value


def _value(dice: Dice, name: str) -> bytes:
    if name == "cookie":
        return _cookie(dice)
    return spoiled(dice, VALUES[name]) if name in VALUES else dice.pick(NASTY) if dice.number(1) else dice.octets(60)


def _cookie(dice: Dice) -> bytes:
    if not dice.number(3):
        return spoiled(dice, (KNOWN.encode() + b"; adtarget_state=" + STATE.encode(),))
    pairs = [KNOWN.encode()] if dice.number(1) else []
    for name in (dice.pick(COOKIES) for _ in range(dice.number(6))):
        pairs.append(name.encode() + b"=" + spoiled(dice, PAIRS.get(name, NASTY)))
    return b"; ".join(pairs)


@st.composite
def raws(draw: st.DrawFn) -> Raw:
    return raw_of(Drawn(draw))


@st.composite
def long_raws(draw: st.DrawFn) -> Raw:
    return long_raw_of(Drawn(draw))


def scope_of(raw: Raw) -> dict[str, Any]:
    """What an ASGI server makes of it."""
    return AsgiShell().scope(
        PAGE,
        path=raw.path.decode("utf-8", "replace"),
        raw_path=raw.path if raw.has_raw_path else None,
        query_string=raw.query,
        headers=list(raw.headers),
        client=None if raw.peer is None else (raw.peer, 1),
    )


def environ_of(raw: Raw) -> dict[str, Any]:
    """What a WSGI server makes of it: latin-1, repeated headers joined by a comma (PEP 3333, RFC 3875)."""
    table: dict[str, str] = {}
    for name, value in raw.headers:
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        table[key] = f"{table[key]},{text}" if key in table else text
    environ = WsgiShell().environ(PAGE)
    for key in [key for key in environ if key.startswith("HTTP_")]:
        del environ[key]
    peer = {} if raw.peer is None else {"REMOTE_ADDR": raw.peer}
    return (
        environ | table | peer | {"PATH_INFO": raw.path.decode("latin-1"), "QUERY_STRING": raw.query.decode("latin-1")}
    )
