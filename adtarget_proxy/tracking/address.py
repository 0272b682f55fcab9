"""Which address is the visitor's, and which scheme and host the visitor sees.

No header is read unless the peer is trusted (correctness C6). ``X-Forwarded-For`` lines are joined and walked from the right: each
trusted hop vouches for the element before it; the first untrusted one is the visitor; a malformed element ends the walk, and
the last good hop is the address. A hop count trusts any peer, by the user's word; a preset its own edge, for its own header.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

from adtarget_proxy.tracking.facts import Facts, public_host
from adtarget_proxy.tracking.forwarded import (
    MAX_HOPS,
    forwarded_chain,
    forwarded_elements,
    forwarded_view,
    x_forwarded_chain,
    x_forwarded_view,
)
from adtarget_proxy.tracking.networks import PRIVATE
from adtarget_proxy.tracking.presets import PRESETS, X_FORWARDED_FOR, preset_of

UNIX = "unix"
_MARKS = frozenset(preset.mark for preset in PRESETS.values() if preset.mark is not None)
_MAX_SPELLING = 100  # characters of one address, its zone and port included
_MAX_REMEMBERED = 500  # characters of a chain of them

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PRIVATE: tuple[_Network, ...] = tuple(map(ipaddress.ip_network, PRIVATE))
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # RFC 1122; the library knows the other reserved ones


class Address(NamedTuple):
    """An IP address in its canonical spelling, and whether it may be the visitor's on the open internet."""

    text: str
    public: bool


class Origin(NamedTuple):
    """Who asked, and what the visitor's address bar says.

    ``hint``: a proxy seems to be there that nobody trusts. ``edge``: the preset's own edge vouches for the request.
    """

    address: Address | None
    scheme: str
    host: str | None
    hint: bool = False
    edge: bool = False


class _Route(NamedTuple):
    """The end of a walk: the visitor, how many elements were passed to get there, whether the preset's edge was among the hops."""

    address: Address | None
    passed: int
    edge: bool = False


_END = Address("", public=False)  # stands after a chain's last element


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
    if address.is_multicast or address.is_reserved or address in _THIS_NETWORK or address.is_unspecified:
        return False
    return _private_network(address) is None


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


def sent_address(address: Address, ip: str) -> str | None:
    """An address as the ``ip`` setting lets it leave; None where it may not: nobody is told of a private one."""
    if not address.public or ip == "none":
        return None
    return truncated(address.text) if ip == "truncate" else address.text


def origin_reader(trusted: int | Sequence[str], *, forwarded: bool = False) -> Callable[[Facts], Origin]:
    """The function from facts to their Origin for one ``trusted_proxies`` setting; ``forwarded`` reads RFC 7239 instead."""
    if not trusted:
        return _direct
    walk, preset = _Walk(trusted), preset_of(_words(trusted))
    own_header = preset.header if preset is not None and preset.header != X_FORWARDED_FOR else None
    tells_host = preset is None or preset.tells_host

    @lru_cache(maxsize=1024)  # a visitor's requests, and those of everybody behind one proxy, say the same
    def read(
        peer: str | None,
        hop: str | None,
        scheme: str,
        host: str | None,
        line: str,
        proto: str | None = None,
        shown: str | None = None,
        told: str | None = None,
    ) -> Origin:
        elements = list(forwarded_elements(line)) if forwarded else None
        chain = x_forwarded_chain(line) if elements is None else forwarded_chain(elements)
        route = walk.route(peer, hop, list(map(read_address, islice(chain, MAX_HOPS))), told)
        if route is None:
            return Origin(_peer_address(peer), scheme, public_host(host))
        view = (
            x_forwarded_view(proto, shown, route.passed) if elements is None else forwarded_view(elements, route.passed)
        )
        seen = (view.scheme or "").lower()
        seen_host = public_host(view.host) if tells_host else None
        return Origin(
            route.address,
            seen if seen in ("http", "https") else scheme,
            seen_host or public_host(host),
            edge=route.edge,
        )

    def remembered(*texts: str | None) -> Callable[..., Origin]:
        """``read``; its memory is not for long texts, so that nobody can fill it."""
        return read if sum(map(len, filter(None, texts))) <= _MAX_REMEMBERED else read.__wrapped__

    def by_forwarded(facts: Facts) -> Origin:
        line, host = facts.header("forwarded") or "", facts.header("host")
        return remembered(line, host)(facts.peer, facts.hop, facts.scheme, host, line)

    def by_x_forwarded(facts: Facts) -> Origin:
        header = facts.header
        line = header(X_FORWARDED_FOR) or ""
        host, proto, shown = header("host"), header("x-forwarded-proto"), header("x-forwarded-host")
        told = header(own_header) if own_header is not None else None
        reader = remembered(line, host, shown, proto, told)
        return reader(facts.peer, facts.hop, facts.scheme, host, line, proto, shown, told)

    return by_forwarded if forwarded else by_x_forwarded


def telling_headers(trusted: int | Sequence[str]) -> tuple[str, ...]:
    """The headers, in lower case, that an Origin is read from."""
    family = ("host", X_FORWARDED_FOR, "x-forwarded-proto", "x-forwarded-host", "forwarded")
    preset = preset_of(_words(trusted))
    return family if preset is None or preset.header in family else (*family, preset.header)


class _Walk:
    """Whom one setting trusts, and how far it believes a chain of proxies."""

    def __init__(self, trusted: int | Sequence[str]) -> None:
        words = _words(trusted)
        own = [ipaddress.ip_network(word) for word in words if word != UNIX and word not in PRESETS]
        self._hops = trusted if isinstance(trusted, int) else None
        self._unix = self._hops is not None or UNIX in words
        self._preset = preset_of(words)
        edge = map(ipaddress.ip_network, self._preset.networks if self._preset else ())
        self._is_own = lru_cache(maxsize=4096)(partial(_within, own))
        self._is_edge = lru_cache(maxsize=4096)(partial(_within, tuple(edge)))

    def route(self, peer: str | None, hop: str | None, chain: list[Address | None], told: str | None) -> _Route | None:
        """Where the walk from ``peer`` ends; None where nobody trusts it. ``told``: what the preset's own header says.

        ``hop`` is not None where the server has already put a visitor's address in the peer's place (``Facts.hop``). Nothing is
        trusted twice then: the chain is read from the hidden hop, and where the server's walk went farther than ours, its word stands.
        On servers that write port 0 for every connection, a visitor who names himself in the chain chooses scheme and host so, but
        never another address.
        """
        address = _peer_address(peer)
        if hop and not self._trusts(hop):
            return None
        if hop is not None and address is not None and address in chain:
            route = self._along(_peer_address(hop), chain, told)
            if address == route.address or address in chain[: route.passed]:
                return route
            return _Route(address, route.passed, route.edge) if hop or self._hops is not None else None
        if hop or self._trusts(peer):
            return self._along(address, chain, told)
        return None

    def _trusts(self, peer: str | None) -> bool:
        """Whether this peer's headers are read. A hop count trusts any."""
        if peer == UNIX:
            return self._unix
        address = _peer_address(peer)
        if self._hops is not None or address is None:
            return self._hops is not None
        return self._is_own(address.text) or self._is_edge(address.text)

    def _along(self, address: Address | None, chain: Iterable[Address | None], told: str | None) -> _Route:
        """From a hop that is trusted; None is one without an address."""
        preset, passed, edges = self._preset, 0, 0
        for element in (*chain, _END):
            if self._hops is not None:
                goes_on = passed < self._hops
            elif address is None or self._is_own(address.text):
                goes_on = True
            elif preset is not None and edges < preset.hops and self._is_edge(address.text):
                goes_on, edges = True, edges + 1
                if preset.header != X_FORWARDED_FOR:
                    return _Route(read_address(told or "") or address, passed, True)
            else:
                goes_on = False
            if not goes_on or element is _END:
                break
            passed += 1
            if element is None:
                break
            address = element
        return _Route(address, passed, edges > 0)


def likely_preset(facts: Facts) -> str | None:
    """The preset whose edge this request seems to have passed. A guess by headers that anybody can send: for a hint, no more."""
    return next(
        (name for name, preset in PRESETS.items() if preset.mark and facts.header(preset.mark) is not None), None
    )


def is_edge_of(name: str, peer: str | None) -> bool:
    """Whether a peer is in the networks of a preset; in none of a name that is none."""
    address = _peer_address(peer)
    if address is None or name not in PRESETS:
        return False
    return _within(tuple(map(ipaddress.ip_network, PRESETS[name].networks)), address.text)


def _words(trusted: int | Sequence[str]) -> Sequence[str]:
    return () if isinstance(trusted, int) else trusted


def _direct(facts: Facts) -> Origin:
    address = _peer_address(facts.peer)
    if address is None or not address.public:
        hint = facts.header(X_FORWARDED_FOR) is not None
    else:  # an edge that comes from the internet itself
        hint = facts.has_any(_MARKS) and is_edge_of(likely_preset(facts) or "", facts.peer)
    return Origin(address, facts.scheme, public_host(facts.header("host")), hint)


def _peer_address(peer: str | None) -> Address | None:
    return read_address(peer) if peer and peer != UNIX else None


def _within(networks: Sequence[_Network], text: str) -> bool:
    address = ipaddress.ip_address(text)
    return any(address.version == network.version and address in network for network in networks)
