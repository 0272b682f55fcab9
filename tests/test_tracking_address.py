"""Correctness C6 to C9: which address is the visitor's, which scheme and host the visitor sees."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking_world import Request

from adtarget_proxy.settings import Settings, checks
from adtarget_proxy.tracking.address import Address, origin_reader, read_address, truncated
from adtarget_proxy.tracking.presets import PRESETS

VISITOR, PROXY, OUTER, LIAR = "203.0.113.9", "10.0.0.7", "10.0.1.8", "198.51.100.66"
INSIDE = ("10.0.0.0/8",)


def address(trusted: object, peer: str | None, lines: str | None, *, forwarded: bool = False) -> str | None:
    name = "forwarded" if forwarded else "x-forwarded-for"
    trusted = Settings(mode="off", outbox="memory://", trusted_proxies=trusted).trusted_proxies
    origin = origin_reader(trusted, forwarded=forwarded)(Request("http://shop.example/", {name: lines}, peer=peer))
    return origin.address.text if origin.address else None


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9 ", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("[::ffff:203.0.113.9]:80", "203.0.113.9"),
    ],
)
def test_an_address_is_read_in_every_spelling(spelling: str, text: str) -> None:
    found = read_address(spelling)
    assert found is not None
    assert found.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "_hidden",
        "203.0.113",
        "203.0.113.9:",
        "203.0.113.9:x",
        "[2001:db8::1",
        "[2001:db8::1]x",
        "1.2.3.4, 5.6.7.8",
        "٣.1.1.1",
        "0x7f.1.1.1",
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert read_address(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "fe80::1",
        "100.64.0.1",
        "100.127.255.254",
        "fc00::1",
        "fd12::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "0.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "fd00::1",
        "ff02::1",
    ],
)
def test_an_address_of_a_private_network_is_not_public(text: str) -> None:
    assert read_address(text) == Address(text, public=False)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2a00:1450:4001::1", "203.0.113.9", "2001:db8::1"]
)
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert read_address(text) == Address(text, public=True)


@pytest.mark.parametrize(
    ("trusted", "peer", "lines", "text"),
    [
        # nobody is trusted: no header is read
        ((), VISITOR, LIAR, VISITOR),
        ((), PROXY, VISITOR, PROXY),
        (0, PROXY, VISITOR, PROXY),
        # an untrusted peer is not believed
        (INSIDE, LIAR, VISITOR, LIAR),
        # each trusted hop vouches for the element before it
        (INSIDE, PROXY, VISITOR, VISITOR),
        (INSIDE, PROXY, f"{LIAR}, {VISITOR}", VISITOR),
        (INSIDE, PROXY, f"{LIAR}, {VISITOR}, {OUTER}", VISITOR),
        (INSIDE, PROXY, f"{VISITOR}:5123 , {OUTER}:80", VISITOR),
        # all of them trusted: the leftmost
        (INSIDE, PROXY, f"{OUTER}, 10.9.9.9", OUTER),
        # no header, an empty one
        (INSIDE, PROXY, None, PROXY),
        (INSIDE, PROXY, "", PROXY),
        # a malformed element ends the walk; the last good hop is the address
        (INSIDE, PROXY, f"{VISITOR}, unknown", PROXY),
        (INSIDE, PROXY, f"{VISITOR}, , {OUTER}", OUTER),
        (INSIDE, PROXY, f"{LIAR}, <script>, {OUTER}", OUTER),
        # v4-mapped peers and elements are IPv4
        (INSIDE, "::ffff:10.0.0.7", f"::ffff:{VISITOR}", VISITOR),
        (("2001:db8::/32",), "2001:db8::7", "2a00::1", "2a00::1"),
        (("2001:db8::/32",), "2001:db8::7", VISITOR, VISITOR),
        # a hop count trusts any peer, by the user's word
        (1, LIAR, VISITOR, VISITOR),
        (1, LIAR, f"9.9.9.9, {VISITOR}", VISITOR),
        (2, PROXY, f"9.9.9.9, {VISITOR}, {OUTER}", VISITOR),
        (2, PROXY, VISITOR, VISITOR),
        (2, PROXY, f"{VISITOR}, nonsense", PROXY),
        # a Unix socket peer is no address, trusted only by name
        ((), "unix", VISITOR, None),
        (INSIDE, "unix", VISITOR, None),
        (("unix",), "unix", VISITOR, VISITOR),
        (("unix", "10.0.0.0/8"), "unix", f"{VISITOR}, {OUTER}", VISITOR),
        (("unix",), "unix", None, None),
        (1, "unix", VISITOR, VISITOR),
        (INSIDE, None, VISITOR, None),
    ],
)
def test_x_forwarded_for_is_walked_from_the_right(
    trusted: object, peer: str | None, lines: str | None, text: str | None
) -> None:
    assert address(trusted, peer, lines) == text


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (f"for={VISITOR}", VISITOR),
        (f"For={VISITOR};proto=https;by=10.0.0.7", VISITOR),
        (f'for="{VISITOR}:4711"', VISITOR),
        ('for="[2a00::1]:4711"', "2a00::1"),
        (f"for={LIAR}, for={VISITOR}", VISITOR),
        (f'for={LIAR}, for="{VISITOR}", for={OUTER}', VISITOR),
        (f'for={LIAR};host="a,b;c", for={VISITOR}', VISITOR),
        # the walk stops at the first malformed element
        (f"for={VISITOR}, for=unknown", PROXY),
        (f"for={VISITOR}, for=_obfuscated, for={OUTER}", OUTER),
        (f"for={VISITOR}, proto=https", PROXY),
        (f'for={VISITOR}, for="{OUTER}', PROXY),
        (f"for={VISITOR}, for={OUTER};for={OUTER}", PROXY),
        (f"for={VISITOR}, nonsense", PROXY),
        ("", PROXY),
    ],
)
def test_forwarded_is_read_as_rfc_7239_says(lines: str, text: str) -> None:
    assert address(INSIDE, PROXY, lines, forwarded=True) == text


def test_only_the_chosen_header_is_read() -> None:
    request = Request("http://shop.example/", {"forwarded": f"for={LIAR}", "x-forwarded-for": VISITOR}, peer=PROXY)
    assert origin_reader(INSIDE)(request).address == read_address(VISITOR)
    assert origin_reader(INSIDE, forwarded=True)(request).address == read_address(LIAR)


@pytest.mark.parametrize(
    ("peer", "headers", "scheme", "host"),
    [
        (PROXY, {}, "http", "shop.example"),
        (PROXY, {"x-forwarded-proto": "https", "x-forwarded-host": "Shop.Example"}, "https", "shop.example"),
        (PROXY, {"x-forwarded-proto": "gopher"}, "http", "shop.example"),
        (PROXY, {"x-forwarded-host": "not a host"}, "http", "shop.example"),
        (PROXY, {"x-forwarded-host": "evil.example, shop.example:8443"}, "http", "shop.example:8443"),
        (PROXY, {"x-forwarded-proto": "http, https", "x-forwarded-for": f"{LIAR}, {VISITOR}"}, "https", "shop.example"),
        (
            PROXY,
            {"x-forwarded-proto": "https, http", "x-forwarded-for": f"{VISITOR}, {OUTER}"},
            "https",
            "shop.example",
        ),
        (LIAR, {"x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}, "http", "shop.example"),
    ],
)
def test_scheme_and_host_are_what_the_outermost_trusted_hop_saw(
    peer: str, headers: dict[str, str | None], scheme: str, host: str
) -> None:
    origin = origin_reader(INSIDE)(Request("http://shop.example/", {"x-forwarded-for": VISITOR, **headers}, peer=peer))
    assert (origin.scheme, origin.host) == (scheme, host)


def test_forwarded_names_scheme_and_host() -> None:
    line = f'for={VISITOR};proto=HTTPS;host="Shop.example:8443"'
    origin = origin_reader(INSIDE, forwarded=True)(Request("http://inner/", {"forwarded": line}, peer=PROXY))
    assert (origin.scheme, origin.host) == ("https", "shop.example:8443")


@pytest.mark.parametrize(
    ("peer", "line", "hint"),
    [
        (PROXY, VISITOR, True),
        ("unix", VISITOR, True),
        (None, VISITOR, True),
        (VISITOR, VISITOR, False),
        ("8.8.8.8", VISITOR, False),
        (PROXY, None, False),
    ],
)
def test_a_private_peer_that_brings_an_untrusted_header_is_a_hint_at_a_proxy(
    peer: str | None, line: str | None, hint: bool
) -> None:
    origin = origin_reader(())(Request("http://shop.example/", {"x-forwarded-for": line}, peer=peer))
    assert origin.hint is hint


CF = "173.245.48.5"


@pytest.mark.parametrize(
    ("trusted", "peer", "hop", "line", "seen"),
    [
        # the server kept no record of the hop (port 0): the peer is in the chain, at most where our own walk ends
        (INSIDE, VISITOR, "", f"{LIAR}, {VISITOR}", (VISITOR, "https", "outer.example")),
        (INSIDE, PROXY, "", f"{LIAR}, {VISITOR}, {PROXY}", (VISITOR, "https", "outer.example")),
        (INSIDE, VISITOR, "", f"{LIAR}, {VISITOR}, {OUTER}", (VISITOR, "https", "outer.example")),
        # farther to the left: the server trusts more than we do; its word stands, and needs no header of ours
        (INSIDE, VISITOR, "", f"{VISITOR}, {LIAR}", (VISITOR, "http", "inner.example")),
        (1, VISITOR, "", f"{LIAR}, {VISITOR}, {OUTER}", (VISITOR, "https", "outer.example")),
        # nobody is trusted: nothing is read
        ((), VISITOR, "", VISITOR, (VISITOR, "http", "inner.example")),
        # servers that write port 0 for every connection: the peer is what it seems, in no chain of its own
        (INSIDE, PROXY, "", f"{LIAR}, {VISITOR}", (VISITOR, "https", "outer.example")),
        (1, PROXY, "", f"{LIAR}, {VISITOR}", (VISITOR, "https", "outer.example")),
        (INSIDE, LIAR, "", VISITOR, (LIAR, "http", "inner.example")),
        # … and a visitor who puts the proxy's address into the chain hides, but is nobody else
        (INSIDE, PROXY, "", f"{LIAR}, {PROXY}, {VISITOR}", (PROXY, "http", "inner.example")),
        # the hop is on record: it is trusted or it is not
        (INSIDE, VISITOR, PROXY, f"{LIAR}, {VISITOR}", (VISITOR, "https", "outer.example")),
        (INSIDE, VISITOR, LIAR, f"{LIAR}, {VISITOR}", (VISITOR, "http", "inner.example")),
        (("unix",), VISITOR, "unix", f"{LIAR}, {VISITOR}", (VISITOR, "https", "outer.example")),
        (INSIDE, VISITOR, "unix", f"{LIAR}, {VISITOR}", (VISITOR, "http", "inner.example")),
        (INSIDE, VISITOR, PROXY, f"{VISITOR}, {LIAR}", (VISITOR, "https", "outer.example")),
    ],
)
def test_what_the_server_has_rewritten_is_the_peer_and_is_trusted_once(
    trusted: int | tuple[str, ...], peer: str, hop: str, line: str, seen: tuple[str, str, str]
) -> None:
    headers = {"x-forwarded-for": line, "x-forwarded-proto": "https", "x-forwarded-host": "outer.example"}
    origin = origin_reader(trusted)(Request("http://inner.example/", headers, peer=peer, hop=hop))
    assert origin.address is not None
    assert (origin.address.text, origin.scheme, origin.host) == seen


@pytest.mark.parametrize(
    ("peer", "hop", "edge"),
    [(CF, None, True), (VISITOR, CF, True), (VISITOR, "", False), (VISITOR, PROXY, False), (VISITOR, None, False)],
)
def test_an_edge_vouches_only_where_it_is_known_to_be_the_hop(peer: str, hop: str | None, edge: bool) -> None:
    headers = {"x-forwarded-for": VISITOR, "cf-connecting-ip": VISITOR}
    origin = origin_reader(("cloudflare",))(Request("http://shop.example/", headers, peer=peer, hop=hop))
    assert origin.address == read_address(VISITOR)
    assert origin.edge is edge


def test_a_preset_is_a_name_that_the_settings_take_and_networks_that_can_be_read() -> None:
    assert tuple(PRESETS) == checks.PRESETS
    for name, preset in PRESETS.items():
        assert Settings(mode="off", outbox="memory://", trusted_proxies=f" {name.title()} ").trusted_proxies == (name,)
        assert checks.trusted_proxies(preset.networks) == preset.networks
        assert preset.header == preset.header.lower()


@pytest.mark.parametrize(
    ("peer", "mark", "hint"),
    [
        (CF, "cf-connecting-ip", True),
        (CF, "fastly-client-ip", False),
        (CF, None, False),
        ("151.101.1.7", "fastly-client-ip", True),
        (VISITOR, "cf-connecting-ip", False),
    ],
)
def test_an_edge_that_comes_from_the_internet_is_a_hint_where_its_header_shows_it(
    peer: str, mark: str | None, hint: bool
) -> None:
    headers: dict[str, str | None] = {mark: VISITOR} if mark else {}
    assert origin_reader(())(Request("http://shop.example/", headers, peer=peer)).hint is hint


@pytest.mark.parametrize(("text", "short"), [("203.0.113.9", "203.0.113.0"), ("2001:db8:1:2::3", "2001:db8:1::")])
def test_a_truncated_address_names_a_network(text: str, short: str) -> None:
    assert truncated(text) == short


@given(
    st.text(alphabet=st.characters(max_codepoint=255), max_size=60),
    st.sampled_from([PROXY, "unix", None, "garbage"]),
    st.booleans(),
)
def test_no_header_raises_and_one_address_goes_out(line: str, peer: str | None, forwarded: bool) -> None:
    reader = origin_reader(("10.0.0.0/8", "unix"), forwarded=forwarded)
    name = "forwarded" if forwarded else "x-forwarded-for"
    headers = {name: line, "x-forwarded-proto": line, "x-forwarded-host": line}
    found = reader(Request("http://shop.example/", headers, peer=peer)).address
    assert found is None or str(ipaddress.ip_address(found.text)) == found.text


@given(st.lists(st.ip_addresses(), min_size=1, max_size=6), st.integers(1, 6))
def test_what_a_visitor_prepends_never_moves_the_address(spoofed: list[object], hops: int) -> None:
    chain = [VISITOR, *(f"10.0.0.{n}" for n in range(1, hops))]
    line = ", ".join([*map(str, spoofed), *chain])
    request = Request("http://shop.example/", {"x-forwarded-for": line}, peer=PROXY)
    assert origin_reader(INSIDE)(request).address == read_address(VISITOR)
    assert origin_reader(hops)(request).address == read_address(VISITOR)
