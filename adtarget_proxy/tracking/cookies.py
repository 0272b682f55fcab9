"""``_fbp``, ``_fbc``, ``adtarget_temp_id``, ``adtarget_session_id``: read, choose, mint, render.

The values follow Meta's "ClickID and the fbp and fbc parameters" page: ``fb.<subdomainIndex>.<creationTime ms>.<payload>``, a
fifth part being Meta's SDK token. Four parts are minted, four or five accepted and passed on byte for byte. An invalid value is
an absent one, never an error; the creation time of a value never changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from adtarget_proxy.tracking.domains import cookie_domain, subdomain_index
from adtarget_proxy.tracking.facts import bare_host
from adtarget_proxy.tracking.state import Glance, glance

FBP = "_fbp"
FBC = "_fbc"
TEMP_ID = "adtarget_temp_id"
SESSION_ID = "adtarget_session_id"
STATE = "adtarget_state"
OPT_OUT = "adtarget_optout"

META_MAX_AGE = 7_776_000  # 90 days
TEMP_ID_MAX_AGE = 31_536_000  # 1 year
SESSION_MAX_AGE = 1_800  # 30 minutes, sliding
STATE_MAX_AGE = 31_536_000
REISSUE_AFTER = 2_592_000  # a third of the shortest of the long lives

_FAR_FUTURE = 10**15  # ms
_EARLIEST_MS = 1_483_228_800_000  # 2017-01-01
_DAY_MS = 86_400_000
# RFC 6265's cookie-octet: printable ASCII but for the quote, the comma, the semicolon, the backslash and the space
_OCTETS = r"!#$%&'()*+\-./0-9:<=>?@A-Z\[\]^_`a-z{|}~"
_PAYLOAD = _OCTETS.replace("./", "/")
_META = re.compile(
    rf"fb\.([0-9]{{1,3}})\.([0-9]{{13}}|[0-9]{{10}})\.([{_PAYLOAD}]{{1,500}})(?:\.([A-Za-z0-9_-]{{2}}|[A-Za-z0-9_-]{{8}}))?"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PAIRS = re.compile(rf"(?:^|;)[ \t]*({FBP}|{FBC}|{TEMP_ID}|{SESSION_ID}|{STATE})[ \t]*=([^;]*)")
_CLICK = re.compile(r"(?:^|&)(?:amp;)?fbclid=([^&]*)")  # amp; is left of a link that was escaped twice
_CLICK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
_OPTED_OUT = re.compile(rf"(?:^|;)\s*{OPT_OUT}\s*=([^;]*)")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")


class Jar:
    """Our cookies of one request, validated; several of a name with their creation times (ms), in the order of the header.

    Read-only: one jar serves every request that brings the same Cookie header.
    """

    __slots__ = ("fbc", "fbp", "latest", "only_fbc", "only_fbp", "seen", "session_id", "state", "temp_id")

    def __init__(self) -> None:
        self.fbp: dict[str, int] = {}
        self.fbc: dict[str, int] = {}
        self.temp_id: str | None = None
        self.session_id: str | None = None
        self.state: str | None = None
        self.seen: Glance | None = None  # what the state claims, unchecked
        # what there is no choice about, unless ``latest`` (ms) lies in the future; there it lies where a name came twice
        self.only_fbp: str | None = None
        self.only_fbc: str | None = None
        self.latest = 0


def read_jar(header: str | None) -> Jar:
    """Our cookies out of a Cookie header. Quotes belong to a value (correctness C3); no byte of a neighbour can raise."""
    if not header:
        return _EMPTY
    return _read_jar(header) if len(header) <= _MAX_REMEMBERED else _read_jar.__wrapped__(header)


@lru_cache(maxsize=2048)  # a visitor's pages follow one another with the same header
def _read_jar(header: str) -> Jar:
    jar, states = Jar(), []
    for name, value in _PAIRS.findall(header):
        value = value.strip(" \t")  # RFC 6265's white space, no more: what a server hands on is latin-1
        if name in (FBP, FBC):
            made = creation_ms(value)
            if made is not None:
                (jar.fbp if name == FBP else jar.fbc).setdefault(value, made)
        elif name == SESSION_ID:
            if jar.session_id is None and _SESSION.fullmatch(value):
                jar.session_id = value
        elif name == TEMP_ID:
            if jar.temp_id is None and _UUID.fullmatch(value):
                jar.temp_id = value
        else:
            states.append(value)
    jar.state = _own_state(states, jar.temp_id)
    jar.seen = glance(jar.state, jar.temp_id)
    jar.only_fbp, jar.only_fbc = next(iter(jar.fbp), None), next(iter(jar.fbc), None)
    if len(jar.fbp) > 1 or len(jar.fbc) > 1:
        jar.latest = _FAR_FUTURE
    else:
        jar.latest = max((0, *jar.fbp.values(), *jar.fbc.values()))
    return jar


def _own_state(states: Sequence[str], temp_id: str | None) -> str | None:
    """The state to go by. Several lie under several domains, where the setting was changed: the last made is ours to renew."""
    own = [state for state in states if temp_id is not None and state.startswith(temp_id)]
    return own[-1] if own else None


def has_opted_out(header: str) -> bool:
    """Whether a Cookie header holds the opt-out cookie, with any value but an empty one or ``0``."""
    return OPT_OUT in header and any(value.strip() not in ("", "0") for value in _OPTED_OUT.findall(header))


_EMPTY = Jar()
_MAX_REMEMBERED = 4096


# -- Meta's two ------------------------------------------------------------------------------------------------------------


def creation_ms(text: str) -> int | None:
    """The creation time (Unix ms) of an ``_fbp`` or ``_fbc`` of the shape above, made in 2017 or later; None for any other."""
    match = _META.fullmatch(text)
    if match is None:
        return None
    made = int(match[2]) * (1000 if len(match[2]) == 10 else 1)
    return made if made >= _EARLIEST_MS else None


def choose_fbp(values: Mapping[str, int], now_ms: int, reported: str | None) -> str | None:
    """The ``_fbp`` to go by, not made later than a day from now.

    Of several valid ones the one we did not report (the pixel's own, which Meta sees in the browser), else the oldest.
    """
    if len(values) == 1:
        ((value, made),) = values.items()
        return value if made <= now_ms + _DAY_MS else None
    valid = {value: made for value, made in values.items() if made <= now_ms + _DAY_MS}
    if len(valid) > 1 and reported in valid:
        del valid[reported]
    return min(valid, key=valid.__getitem__) if valid else None


def are_several(values: Mapping[str, int], now_ms: int) -> bool:
    """Whether more than one of the values is not made later than a day from now."""
    return sum(made <= now_ms + _DAY_MS for made in values.values()) > 1


def choose_fbc(values: Mapping[str, int], now_ms: int) -> str | None:
    """The ``_fbc`` to go by: of several valid ones the newest."""
    valid = {value: made for value, made in values.items() if made <= now_ms + _DAY_MS}
    return max(valid, key=valid.__getitem__) if valid else None


def payload_of(text: str) -> str:
    """The fourth part of a valid value (not what follows the last dot: Meta's token may)."""
    return text.split(".", 4)[3]


def click_id(query: str) -> str | None:
    """The ``fbclid`` of a raw query: the first non-empty one, at most once percent-decoded, or None.

    Anything outside ``[A-Za-z0-9_-]`` or over 500 characters is ignored, never cut, re-cased or decoded twice: Meta warns
    of a modified fbclid.
    """
    if "fbclid=" not in query:
        return None
    for match in _CLICK.finditer(query):
        if match[1]:
            value = _PERCENT.sub(lambda code: chr(int(code[1], 16)), match[1])
            return value if _CLICK_ID.fullmatch(value) else None
    return None


def mint_fbp(index: int, now_ms: int, entropy: Callable[[int], bytes]) -> str:
    """A new ``_fbp``: the payload is random, from 10^9 to 2^31 - 1. ``entropy`` gives that many random bytes."""
    return f"fb.{index}.{now_ms}.{1_000_000_000 + int.from_bytes(entropy(8)) % 1_147_483_648}"


def mint_fbc(index: int, now_ms: int, fbclid: str) -> str:
    """The ``_fbc`` of a click seen now."""
    return f"fb.{index}.{now_ms}.{fbclid}"


def brought(header: str | None) -> tuple[str, ...]:
    """Which of our five cookies a Cookie header holds, valid or not, each once."""
    return tuple(dict.fromkeys(name for name, _ in _PAIRS.findall(header))) if header else ()


# -- the place -------------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a visitor's cookies go. ``host`` is bare, ``meta_index`` Meta's subdomain index, ``session`` the session's attributes."""

    host: str
    domain: str | None
    secure: bool
    meta_index: int
    session: str

    def session_cookie(self, session_id: str) -> str:
        """The Set-Cookie value of a session whose id was read from a jar or made here: cookie-safe either way."""
        return f"{SESSION_ID}={session_id}{self.session}"


@lru_cache(maxsize=1024)
def place_of(scheme: str, host: str, explicit: str | None) -> Place:
    """The Place for the scheme and host (with or without port) that a visitor sees.

    A host with a trailing dot is host-only: no Domain matches it (RFC 6265, 5.1.3), and a browser throws the cookie away.
    """
    bare, secure = bare_host(host), scheme == "https"
    domain = None if host.partition(":")[0].endswith(".") else cookie_domain(bare, explicit)
    attributes = _attributes(SESSION_MAX_AGE, domain, secure, False)
    return Place(bare, domain, secure, subdomain_index(bare, domain), attributes)


# -- rendering -------------------------------------------------------------------------------------------------------------

_SAFE = re.compile(rf"[{_OCTETS}]*")


def render(name: str, value: str, max_age: int, domain: str | None, *, secure: bool, http_only: bool = False) -> str:
    """The value of a Set-Cookie header. Raises ValueError where ``value`` holds anything but cookie-octets."""
    if not _SAFE.fullmatch(value):
        raise ValueError(f"a value for {name} holds what a cookie cannot")
    return f"{name}={value}{_attributes(max_age, domain, secure, http_only)}"


@lru_cache(maxsize=1024)
def _attributes(max_age: int, domain: str | None, secure: bool, http_only: bool) -> str:
    parts = ["", f"Max-Age={max_age}", "Path=/"]
    if domain:
        parts.insert(1, f"Domain={domain}")
    if secure:
        parts.append("Secure")
    if http_only:
        parts.append("HttpOnly")
    parts.append("SameSite=Lax")
    return "; ".join(parts)
