"""Which address is the visitor's, and which scheme and host the visitor sees.

No header is read unless the peer is trusted (correctness C6). ``X-Forwarded-For`` lines are joined and walked from the right: each
trusted hop vouches for the element before it; the first untrusted one is the visitor; a malformed element ends the walk, and
the last good hop is the address. A hop count trusts any peer, by the user's word. ``Forwarded`` is RFC 7239 (C7).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

from adtarget_proxy.tracking.facts import Facts, public_host

UNIX = "unix"
_MAX_HOPS = 32
_MAX_SPELLING = 100  # characters of one address, its zone and port included
_MAX_REMEMBERED = 500  # characters of a chain of them
# what is nobody's address on the internet: RFC 1918, CGNAT (RFC 6598), ULA (RFC 4193); loopback and the like the library knows
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
# RFC 7239: token = token or quoted string; pairs by ";", elements by ","
_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]*))\s*')

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """An IP address in its canonical spelling, and whether it may be the visitor's on the open internet."""

    text: str
    public: bool


class Origin(NamedTuple):
    """Who asked, and what the visitor's address bar says. ``hint``: a private peer brought X-Forwarded-For, untrusted."""

    address: Address | None
    scheme: str
    host: str | None
    hint: bool = False


class View(NamedTuple):
    """A scheme and a host as one party saw them."""

    scheme: str | None
    host: str | None


def read_address(text: str) -> Address | None:
    """An address with or without port, brackets or zone; an IPv4 one in IPv6 clothes is undressed. None where it is none."""
    text = text.strip()
    return _read_address(text) if len(text) <= _MAX_SPELLING else None


@lru_cache(maxsize=8192)
def _read_address(text: str) -> Address | None:
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not re.fullmatch(r":[0-9]{1,5}", rest)):
            return None
        text = inner
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdigit():
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Address(str(address), _is_public(address))


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not (address.is_multicast or address.is_unspecified) and _private_network(address) is None


def private_network(text: str) -> str | None:
    """The private network that an address is in, as ``trusted_proxies`` takes it; None for a public one, or none at all."""
    address = read_address(text)
    network = _private_network(ipaddress.ip_address(address.text)) if address else None
    return str(network) if network else None


def _private_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> _Network | None:
    """Loopback, RFC 1918, CGNAT, link-local and ULA (design: "Addresses")."""
    return next((network for network in _PRIVATE if address.version == network.version and address in network), None)


def truncated(text: str) -> str:
    """The address with its host part zeroed: /24 for IPv4, /48 for IPv6."""
    bits = 48 if ":" in text else 24
    return str(ipaddress.ip_network(f"{text}/{bits}", strict=False).network_address)


def network_of(text: str) -> str:
    """What one household or phone has for itself: the address of IPv4, the /64 of IPv6 (RFC 6177)."""
    return str(ipaddress.ip_network(f"{text}/64", strict=False)) if ":" in text else text


def origin_reader(trusted: int | Sequence[str], *, forwarded: bool = False) -> Callable[[Facts], Origin]:
    """The function from facts to their Origin for one ``trusted_proxies`` setting; ``forwarded`` reads RFC 7239 instead."""
    if not trusted:
        return _direct
    walk = _Walk(trusted)

    @lru_cache(maxsize=1024)  # a visitor's requests, and those of everybody behind one proxy, say the same
    def read(
        peer: str | None, scheme: str, host: str | None, line: str, proto: str | None, shown: str | None
    ) -> Origin:
        if not walk.trusts(peer):
            return Origin(_peer_address(peer), scheme, public_host(host))
        elements = list(_forwarded_elements(line)) if forwarded else None
        chain = _x_forwarded_chain(line) if elements is None else _forwarded_chain(elements)
        address, passed = walk.along(_peer_address(peer), chain)
        view = _x_forwarded_view(proto, shown, passed) if elements is None else _forwarded_view(elements, passed)
        seen = (view.scheme or "").lower()
        return Origin(
            address, seen if seen in ("http", "https") else scheme, public_host(view.host) or public_host(host)
        )

    def remembered(*texts: str | None) -> Callable[..., Origin]:
        """``read``; its memory is not for long texts, so that nobody can fill it."""
        return read if sum(map(len, filter(None, texts))) <= _MAX_REMEMBERED else read.__wrapped__

    def by_forwarded(facts: Facts) -> Origin:
        line, host = facts.header("forwarded") or "", facts.header("host")
        return remembered(line, host)(facts.peer, facts.scheme, host, line, None, None)

    def by_x_forwarded(facts: Facts) -> Origin:
        header = facts.header
        line = header("x-forwarded-for") or ""
        host, proto, shown = header("host"), header("x-forwarded-proto"), header("x-forwarded-host")
        return remembered(line, host, shown, proto)(facts.peer, facts.scheme, host, line, proto, shown)

    return by_forwarded if forwarded else by_x_forwarded


class _Walk:
    """Whom one setting trusts, and how far it believes a chain of proxies."""

    def __init__(self, trusted: int | Sequence[str]) -> None:
        self._hops = trusted if isinstance(trusted, int) else None
        self._networks = tuple(ipaddress.ip_network(item) for item in trusted_networks(trusted))
        self._unix = self._hops is not None or UNIX in trusted_words(trusted)
        self._is_inside = lru_cache(maxsize=4096)(partial(_within, self._networks))

    def trusts(self, peer: str | None) -> bool:
        """Whether this peer's headers are read. A hop count trusts any."""
        if peer == UNIX:
            return self._unix
        address = _peer_address(peer)
        return self._hops is not None or (address is not None and self._is_inside(address.text))

    def along(self, address: Address | None, chain: Iterable[Address | None]) -> tuple[Address | None, int]:
        """The visitor's address, beginning at the peer's, and how many elements were passed to get there."""
        passed = 0
        for element in islice(chain, _MAX_HOPS):
            passed += 1
            if element is None:
                break
            address = element
            if passed == self._hops if self._hops is not None else not self._is_inside(element.text):
                break
        return address, passed


def trusted_networks(trusted: int | Sequence[str]) -> list[str]:
    """The networks among the words of the setting."""
    return [] if isinstance(trusted, int) else [word for word in trusted if word != UNIX]


def trusted_words(trusted: int | Sequence[str]) -> Sequence[str]:
    """The setting's words."""
    return () if isinstance(trusted, int) else trusted


def _direct(facts: Facts) -> Origin:
    address = _peer_address(facts.peer)
    hint = (address is None or not address.public) and facts.header("x-forwarded-for") is not None
    return Origin(address, facts.scheme, public_host(facts.header("host")), hint)


def _peer_address(peer: str | None) -> Address | None:
    return read_address(peer) if peer and peer != UNIX else None


def _within(networks: Sequence[_Network], text: str) -> bool:
    address = ipaddress.ip_address(text)
    return any(address.version == network.version and address in network for network in networks)


# -- X-Forwarded-* ---------------------------------------------------------------------------------------------------------


def _x_forwarded_chain(line: str) -> Iterator[Address | None]:
    """The elements from the right; None for a malformed one."""
    return (read_address(element) for element in reversed(line.split(","))) if line else iter(())


def _x_forwarded_view(proto: str | None, shown: str | None, passed: int) -> View:
    return View(_element(proto, passed), _element(shown, passed))


def _element(line: str | None, passed: int) -> str | None:
    """The element that the outermost trusted hop wrote: as far from the right as the walk went, at most the first."""
    if not line:
        return None
    elements = line.split(",")
    return elements[max(len(elements) - max(passed, 1), 0)].strip()


# -- Forwarded ---------------------------------------------------------------------------------------------------------------


def _forwarded_chain(elements: Iterable[dict[str, str] | None]) -> Iterator[Address | None]:
    for element in elements:
        yield read_address(element["for"]) if element is not None and "for" in element else None


def _forwarded_view(elements: Sequence[dict[str, str] | None], passed: int) -> View:
    seen: dict[str, str] = {}
    for element in elements[: max(passed, 1)]:
        if element is None:
            break
        seen = element
    return View(seen.get("proto"), seen.get("host"))


def _forwarded_elements(line: str) -> Iterator[dict[str, str] | None]:
    """The elements of ``Forwarded`` from the right, as name → value; None at the first malformed one, then no more."""
    for text in islice(reversed(_split_quoted(line, ",")), _MAX_HOPS):
        element: dict[str, str] = {}
        for part in _split_quoted(text, ";"):
            pair = _PAIR.fullmatch(part)
            if pair is None or pair[1].lower() in element:
                yield None
                return
            element[pair[1].lower()] = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
        yield element


def _split_quoted(text: str, separator: str) -> list[str]:
    """``text`` split where the separator is outside quotes. An unclosed quote swallows the rest, which then is malformed."""
    if not text:
        return []
    if '"' not in text:
        return text.split(separator)
    parts, start, quoted, escaped = [], 0, False, False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\" and quoted:
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == separator and not quoted:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts
