"""Correctness C6 to C8 on both shells, from the socket to what AdTarget is told: whose address, which scheme and host, which place.

Each row is a request as the app's server hands it on. Where the rows speak of a spoof, LIAR is what the visitor made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from shell_world import CLICK, HTML, KNOWN, PAGE, AsgiShell, HeaderPairs, Shell, WsgiShell, kept, quiet

from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.tracking.facts import Geo
from adtarget_proxy.tracking.presets import PRESETS

VISITOR, LIAR, V6 = "203.0.113.9", "198.51.100.66", "2a00:1450:4001::1"
NEAR, NEXT, HOME = "127.0.0.1", "10.0.0.7", "10.0.0.8"  # proxies of the user's own
CLOUDFLARE, CLOUDFLARE6 = "173.245.48.5", "2606:4700::6810:1"
FASTLY, SHIELD = "151.101.1.7", "199.232.3.4"
ELB, AZURE, FRONT_DOOR = "10.0.1.8", "169.254.130.1", "147.243.0.9"
INSIDE = "10.0.0.0/8"
XFF, PROTO, SHOWN = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"
CF, VERCEL = "cf-connecting-ip", "x-vercel-forwarded-for"


@dataclass(frozen=True)
class Told:
    """What the app and AdTarget learn of a request. ``sent``: the visit's fields."""

    shown: str | None
    sent: dict[str, Any] = field(default_factory=dict)


Ask = Callable[..., Told]


@pytest.fixture
def ask(shell: Shell) -> Iterator[Ask]:
    """Serves a page to one visitor and tells what is known of them."""
    apps: list[Any] = []

    def make(peer: str | None, headers: HeaderPairs, *, scheme: str = "http", **settings: Any) -> Told:
        found: list[str | None] = []
        view = replace(HTML, look=lambda tracking: found.append(tracking.client_ip))
        app = shell.middleware(shell.app(view), quiet(**settings))
        apps.append(app)
        mine = {name for name, _ in headers}
        base = replace(PAGE, peer=peer, scheme=scheme, headers={k: v for k, v in PAGE.headers.items() if k not in mine})
        shell.ask(app, replace(base, again=headers))
        (visit,) = kept(app.tracker)
        return Told(found[0], visit.fields)

    yield make
    for app in apps:
        app.close(0)


Row = tuple[object, str | None, HeaderPairs, str | None]


def xff(*lines: str) -> HeaderPairs:
    return tuple((XFF, line) for line in lines)


ADDRESSES: dict[str, Row] = {
    # nobody is trusted
    "no proxy": ((), VISITOR, (), VISITOR),
    "spoof: a visitor's own line": ((), VISITOR, xff(LIAR), VISITOR),
    "spoof: all headers at once": ((), VISITOR, (*xff(LIAR), (CF, LIAR), ("x-real-ip", LIAR)), VISITOR),
    "spoof: a visitor's own Forwarded": ((), VISITOR, (("forwarded", f"for={LIAR}"),), VISITOR),
    "zero hops are nobody": (0, NEXT, xff(VISITOR), NEXT),
    "no peer at all": ((), None, xff(LIAR), None),
    # networks
    "one proxy": (INSIDE, NEXT, xff(VISITOR), VISITOR),
    "two proxies": (INSIDE, NEXT, xff(f"{VISITOR}, {HOME}"), VISITOR),
    "two lines, one of each proxy": (INSIDE, NEXT, xff(VISITOR, HOME), VISITOR),
    "three lines with an empty one are no chain": (INSIDE, NEXT, xff(VISITOR, "", HOME), HOME),
    "spoof: a line before the proxy's": (INSIDE, NEXT, xff(LIAR, VISITOR), VISITOR),
    "spoof: an element before the proxy's": (INSIDE, NEXT, xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "spoof: the proxy's own network in front": (INSIDE, NEXT, xff(f"{HOME}, {LIAR}, {HOME}, {VISITOR}"), VISITOR),
    "spoof: a hundred elements": (INSIDE, NEXT, xff(", ".join([LIAR] * 100 + [VISITOR])), VISITOR),
    "spoof: past the proxy": (INSIDE, VISITOR, xff(LIAR), VISITOR),
    "spoof: a neighbouring network": ("10.0.0.0/16", "10.1.0.1", xff(LIAR), "10.1.0.1"),
    "all trusted: the leftmost": (INSIDE, NEXT, xff(f"{ELB}, {HOME}"), ELB),
    "the proxy itself asks": (INSIDE, NEXT, (), NEXT),
    "an empty line": (INSIDE, NEXT, xff(""), NEXT),
    "a comma": (INSIDE, NEXT, xff(","), NEXT),
    "malformed: a word": (INSIDE, NEXT, xff(f"{LIAR}, unknown"), NEXT),
    "malformed: behind a good hop": (INSIDE, NEXT, xff(f"{LIAR}, <script>, {HOME}"), HOME),
    "malformed: a trailing comma": (INSIDE, NEXT, xff(f"{VISITOR},"), NEXT),
    "malformed: spaces for commas": (INSIDE, NEXT, xff(f"{LIAR} {VISITOR}"), NEXT),
    "malformed: quotes": (INSIDE, NEXT, xff(f'"{VISITOR}"'), NEXT),
    "malformed: a host name": (INSIDE, NEXT, xff("visitor.example"), NEXT),
    "malformed: octal": (INSIDE, NEXT, xff("0203.0.113.9"), NEXT),
    "malformed: an integer": (INSIDE, NEXT, xff("3405803785"), NEXT),
    "malformed: a network": (INSIDE, NEXT, xff("203.0.113.0/24"), NEXT),
    # spellings
    "a port": (INSIDE, NEXT, xff(f"{VISITOR}:4711"), VISITOR),
    "a trusted hop with a port": (INSIDE, NEXT, xff(f"{VISITOR}, {HOME}:80"), VISITOR),
    "no port behind its colon": (INSIDE, NEXT, xff(f"{VISITOR}:"), NEXT),
    "IPv6": (INSIDE, NEXT, xff(V6), V6),
    "IPv6 in capitals and in full": (INSIDE, NEXT, xff("2A00:1450:4001:0:0:0:0:1"), V6),
    "IPv6 in brackets": (INSIDE, NEXT, xff(f"[{V6}]"), V6),
    "IPv6 in brackets with a port": (INSIDE, NEXT, xff(f"[{V6}]:443"), V6),
    "IPv6 in an open bracket": (INSIDE, NEXT, xff(f"[{V6}"), NEXT),
    "IPv6 with a zone": (INSIDE, NEXT, xff("fe80::1%eth0"), "fe80::1"),
    "IPv4 in IPv6": (INSIDE, NEXT, xff(f"::ffff:{VISITOR}"), VISITOR),
    "IPv4 in IPv6, hexadecimal": (INSIDE, NEXT, xff("::ffff:cb00:7109"), VISITOR),
    "IPv4 in IPv6 in brackets with a port": (INSIDE, NEXT, xff(f"[::ffff:{VISITOR}]:80"), VISITOR),
    "a peer that is IPv4 in IPv6": (INSIDE, f"::ffff:{NEXT}", xff(VISITOR), VISITOR),
    "a peer with a zone": ("fe80::/10", "fe80::7%eth0", xff(VISITOR), VISITOR),
    "a network of IPv6": ("2001:db8::/32", "2001:db8::7", xff(f"{LIAR}, {V6}"), V6),
    # a hop count trusts any peer
    "one hop": (1, LIAR, xff(VISITOR), VISITOR),
    "one hop, spoofed": (1, NEXT, xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "two hops, spoofed": (2, NEXT, xff(f"{LIAR}, {VISITOR}, {HOME}"), VISITOR),
    "two hops in two lines": (2, NEXT, xff(f"{LIAR}, {VISITOR}", HOME), VISITOR),
    "more hops than there are": (3, NEXT, xff(VISITOR), VISITOR),
    "a hop that is malformed": (2, NEXT, xff(f"{VISITOR}, nonsense"), NEXT),
    # the threads that correctness.md names
    "uvicorn#1068: a client on the proxy itself": (NEAR, NEAR, xff(NEAR), NEAR),
    "uvicorn#1068: nothing but trusted hops": (f"{NEAR},{INSIDE}", NEAR, xff(f"{HOME}, {NEXT}"), HOME),
    "uvicorn#1068: an empty header": (NEAR, NEAR, xff(""), NEAR),
    "uvicorn PR#2903: trusted hops with ports": (f"{NEAR},{INSIDE}", NEAR, xff(f"{LIAR}, {V6}, {NEXT}:9999"), V6),
    "uvicorn PR#2903: a port that is none": (NEAR, NEAR, xff(f"{VISITOR}:http"), NEAR),
    "plausible#1166: the first element is the visitor's word": (NEAR, NEAR, xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "plausible#1166: so are X-Real-IP and all CDNs' headers": (
        NEAR,
        NEAR,
        (*xff(VISITOR), ("x-real-ip", LIAR), (CF, LIAR), ("true-client-ip", LIAR), ("x-client-ip", LIAR)),
        VISITOR,
    ),
    "ipware proxy_count=1: the peer is looked at": (NEAR, VISITOR, xff(f"{LIAR}, {NEXT}"), VISITOR),
    "ipware proxy_count=1: one hop is one element": (1, NEAR, xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "ipware proxy_count=1: CF-Connecting-IP is not asked": (1, NEAR, (*xff(VISITOR), (CF, LIAR)), VISITOR),
    # Unix sockets
    "a Unix socket is nobody": ((), "", xff(VISITOR), None),
    "a Unix socket is in no network": ("0.0.0.0/0,::/0", "", xff(VISITOR), None),
    "a Unix socket by name": ("unix", "", xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "a Unix socket by name, a preset beside": ("nginx,unix", "", xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "a Unix socket is not nginx by itself": ("nginx", "", xff(VISITOR), None),
    # presets
    "cloudflare": ("cloudflare", CLOUDFLARE, ((CF, VISITOR), *xff(f"{LIAR}, {VISITOR}")), VISITOR),
    "cloudflare over IPv6": ("cloudflare", CLOUDFLARE6, ((CF, V6),), V6),
    "cloudflare, spoofed in X-Forwarded-For": ("cloudflare", CLOUDFLARE, (*xff(LIAR), (CF, VISITOR)), VISITOR),
    "cloudflare, spoofed past it": ("cloudflare", VISITOR, ((CF, LIAR), *xff(LIAR)), VISITOR),
    "cloudflare, spoofed from a private network": ("cloudflare", NEXT, ((CF, LIAR),), NEXT),
    "cloudflare, a header of another preset": ("cloudflare", CLOUDFLARE, ((VERCEL, LIAR), (CF, VISITOR)), VISITOR),
    "cloudflare, two addresses are none": ("cloudflare", CLOUDFLARE, ((CF, LIAR), (CF, VISITOR)), CLOUDFLARE),
    "cloudflare, malformed": ("cloudflare", CLOUDFLARE, ((CF, "visitor"), *xff(LIAR)), CLOUDFLARE),
    "cloudflare, then a proxy of one's own": (
        f"cloudflare,{NEAR}",
        NEAR,
        ((CF, VISITOR), *xff(f"{LIAR}, {VISITOR}, {CLOUDFLARE}")),
        VISITOR,
    ),
    "cloudflare, spoofed past it to one's own proxy": (
        f"cloudflare,{NEAR}",
        NEAR,
        ((CF, LIAR), *xff(f"{LIAR}, {CLOUDFLARE}, {VISITOR}")),
        VISITOR,
    ),
    "aws-elb": ("aws-elb", ELB, xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "aws-elb, with the client's port": ("aws-elb", ELB, xff(f"{LIAR}, {VISITOR}:49152"), VISITOR),
    "aws-elb, a visitor from the same house cannot go on": ("aws-elb", ELB, xff(f"{LIAR}, {NEXT}"), NEXT),
    "aws-elb, then nginx": (f"aws-elb,{NEAR}", NEAR, xff(f"{LIAR}, {VISITOR}, {ELB}"), VISITOR),
    "aws-elb, spoofed past it": ("aws-elb", VISITOR, xff(LIAR), VISITOR),
    "aws-elb, spoofed as CloudFront": ("aws-elb", ELB, (*xff(VISITOR), ("cloudfront-viewer-address", LIAR)), VISITOR),
    "nginx": ("nginx", NEAR, (*xff(f"{LIAR}, {VISITOR}"), ("x-real-ip", VISITOR)), VISITOR),
    "nginx, spoofed in X-Real-IP": ("nginx", NEXT, (*xff(VISITOR), ("x-real-ip", LIAR)), VISITOR),
    "nginx, spoofed past it": ("nginx", VISITOR, (*xff(LIAR), ("x-real-ip", LIAR)), VISITOR),
    "fastly": ("fastly", FASTLY, xff(f"{LIAR}, {VISITOR}"), VISITOR),
    "fastly with a shield": ("fastly", SHIELD, xff(f"{LIAR}, {VISITOR}, {FASTLY}"), VISITOR),
    "fastly, spoofed in Fastly-Client-IP": ("fastly", FASTLY, (*xff(VISITOR), ("fastly-client-ip", LIAR)), VISITOR),
    "fastly, spoofed with edges in front": ("fastly", FASTLY, xff(f"{LIAR}, {SHIELD}, {VISITOR}"), VISITOR),
    "fastly, spoofed past it": ("fastly", VISITOR, (*xff(LIAR), ("fastly-client-ip", LIAR)), VISITOR),
    "vercel": ("vercel", NEAR, ((VERCEL, VISITOR), *xff(VISITOR)), VISITOR),
    "vercel behind another proxy": ("vercel", NEAR, ((VERCEL, VISITOR), *xff(LIAR)), VISITOR),
    "vercel, spoofed past it": ("vercel", VISITOR, ((VERCEL, LIAR), *xff(LIAR)), VISITOR),
    "azure, with a port": ("azure", AZURE, xff(f"{LIAR}, {VISITOR}:51234"), VISITOR),
    "azure, IPv6 with a port": ("azure", NEXT, xff(f"[{V6}]:51234"), V6),
    "azure, spoofed in X-Azure-ClientIP": ("azure", AZURE, (*xff(VISITOR), ("x-azure-clientip", LIAR)), VISITOR),
    "azure, spoofed past it": ("azure", VISITOR, (*xff(LIAR), ("x-azure-socketip", LIAR)), VISITOR),
    "azure behind Front Door": (
        "azure,147.243.0.0/16",
        AZURE,
        xff(f"{LIAR}, {VISITOR}, {FRONT_DOOR}:443"),
        VISITOR,
    ),
    "azure, spoofed as if behind Front Door": ("azure", AZURE, xff(f"{LIAR}, {VISITOR}:1, "), AZURE),
}


@pytest.mark.parametrize(("trusted", "peer", "headers", "address"), ADDRESSES.values(), ids=ADDRESSES)
def test_the_address_is_what_the_outermost_trusted_hop_saw(
    ask: Ask, trusted: object, peer: str | None, headers: HeaderPairs, address: str | None
) -> None:
    """The app is shown every address; AdTarget is told of those that are somebody's on the internet, and of no spoof."""
    told = ask(peer, headers, trusted_proxies=trusted)
    assert told.shown == address
    is_private = address is None or address.startswith(("10.", "127.", "169.254.", "fe80:"))
    assert told.sent.get("client_ip") == (None if is_private else address)
    assert LIAR not in told.sent.values()


def test_every_preset_and_every_thread_has_its_rows() -> None:
    assert len(ADDRESSES) >= 60
    for name in (*PRESETS, "uvicorn#1068", "uvicorn PR#2903", "plausible#1166", "ipware"):
        assert [row for row in ADDRESSES if row.startswith(name)], name


# -- scheme and host ---------------------------------------------------------------------------------------------------------

OUTSIDE = "https://www.example.com/"
INNER = "http://shop.test/"


@pytest.mark.parametrize(
    ("trusted", "peer", "headers", "href"),
    [
        (NEAR, NEAR, ((PROTO, "https"), (SHOWN, "www.example.com")), OUTSIDE),
        (NEAR, VISITOR, ((PROTO, "https"), (SHOWN, "evil.example")), INNER),
        # the outermost trusted hop is believed, not what a visitor put before it
        (NEAR, NEAR, (*xff(VISITOR), (PROTO, "http, https"), (SHOWN, "evil.example, www.example.com")), OUTSIDE),
        (INSIDE, NEXT, (*xff(VISITOR, HOME), (PROTO, "https"), (PROTO, "http")), "https://shop.test/"),
        (NEAR, NEAR, ((PROTO, "javascript"), (SHOWN, "www.example.com/x?")), INNER),
        # edges that pass a visitor's X-Forwarded-Host on as it came
        ("cloudflare", CLOUDFLARE, ((CF, VISITOR), (PROTO, "https"), (SHOWN, "evil.example")), "https://shop.test/"),
        ("aws-elb", ELB, (*xff(VISITOR), (PROTO, "https"), (SHOWN, "evil.example")), "https://shop.test/"),
        ("azure", AZURE, (*xff(VISITOR), (PROTO, "https"), (SHOWN, "evil.example")), "https://shop.test/"),
        # edges that write it
        ("nginx", NEAR, (*xff(VISITOR), (PROTO, "https"), (SHOWN, "www.example.com")), OUTSIDE),
        ("vercel", NEAR, ((VERCEL, VISITOR), (PROTO, "https"), (SHOWN, "www.example.com")), OUTSIDE),
        (
            "fastly",
            SHIELD,
            (*xff(f"{VISITOR}, {FASTLY}"), (PROTO, "https"), (SHOWN, "evil.example, www.example.com, inner.example")),
            OUTSIDE,
        ),
        ("fastly", VISITOR, ((PROTO, "https"), (SHOWN, "evil.example")), INNER),
    ],
)
def test_scheme_and_host_come_from_a_hop_that_writes_them(
    ask: Ask, trusted: object, peer: str, headers: HeaderPairs, href: str
) -> None:
    assert ask(peer, headers, trusted_proxies=trusted).sent["href"] == href


# -- the place -----------------------------------------------------------------------------------------------------------------

IN_BERLIN = (("cf-ipcountry", "DE"), ("cf-region", "Land Berlin"), ("cf-ipcity", "Berlin"))
BERLIN = ("DE", "Land Berlin", "Berlin")
IN_PARIS = (
    ("x-vercel-ip-country", "FR"),
    ("x-vercel-ip-country-region", "IDF"),
    ("x-vercel-ip-city", "Saint-Germain-en-Laye%20%C3%A9"),
)
PARIS = ("FR", "IDF", "Saint-Germain-en-Laye é")
SAO_PAULO = "São Paulo".encode().decode("latin-1")
NOWHERE = (None, None, None)
BY_CF = ((CF, VISITOR),)
BY_VERCEL = ((VERCEL, VISITOR),)


@pytest.mark.parametrize(
    ("trusted", "peer", "headers", "place"),
    [
        ("cloudflare", CLOUDFLARE, (*BY_CF, *IN_BERLIN), BERLIN),
        ("cloudflare", CLOUDFLARE, (*BY_CF, ("cf-ipcountry", "BR")), ("BR", None, None)),
        (
            "cloudflare",
            CLOUDFLARE,
            (*BY_CF, ("cf-ipcountry", "BR"), ("cf-ipcity", SAO_PAULO)),
            ("BR", None, "São Paulo"),
        ),
        ("cloudflare", CLOUDFLARE, (*BY_CF, ("cf-ipcountry", "BR"), ("cf-ipcity", "S\xe3o")), ("BR", None, None)),
        (f"cloudflare,{NEAR}", NEAR, (*BY_CF, *xff(f"{VISITOR}, {CLOUDFLARE}"), *IN_BERLIN), BERLIN),
        ("vercel", NEAR, (*BY_VERCEL, *IN_PARIS), PARIS),
        # no country
        ("cloudflare", CLOUDFLARE, (*BY_CF, ("cf-ipcountry", "XX"), ("cf-ipcity", "Berlin")), NOWHERE),
        ("cloudflare", CLOUDFLARE, (*BY_CF, ("cf-ipcountry", "T1"), ("cf-ipcity", "Berlin")), NOWHERE),
        ("cloudflare", CLOUDFLARE, (*BY_CF, ("cf-ipcity", "Berlin"), ("cf-region", "Land Berlin")), NOWHERE),
        ("cloudflare", CLOUDFLARE, (*BY_CF, ("cf-ipcountry", "DE"), ("cf-ipcountry", "FR")), NOWHERE),
        ("vercel", NEAR, (*BY_VERCEL, ("x-vercel-ip-country", "Germany")), NOWHERE),
        # spoofs: an untrusted peer, another preset's headers, both presets' at once, past the edge to one's own proxy
        ("cloudflare", VISITOR, (*BY_CF, *IN_BERLIN), NOWHERE),
        ("vercel", VISITOR, (*BY_VERCEL, *IN_PARIS), NOWHERE),
        ("cloudflare", CLOUDFLARE, (*BY_CF, *IN_PARIS), NOWHERE),
        ("vercel", NEAR, (*BY_VERCEL, *IN_BERLIN), NOWHERE),
        ("cloudflare", CLOUDFLARE, (*BY_CF, *IN_PARIS, *IN_BERLIN), BERLIN),
        ("vercel", NEAR, (*BY_VERCEL, *IN_BERLIN, *IN_PARIS), PARIS),
        (f"cloudflare,{NEAR}", NEAR, (*BY_CF, *xff(VISITOR), *IN_BERLIN), NOWHERE),
        # nobody vouches for a place without a preset, and no preset for what its edge only passes on
        ((), CLOUDFLARE, (*BY_CF, *IN_BERLIN), NOWHERE),
        (1, CLOUDFLARE, (*xff(VISITOR), *IN_BERLIN), NOWHERE),
        ("173.245.48.0/20", CLOUDFLARE, (*xff(VISITOR), *IN_BERLIN), NOWHERE),
        (
            "aws-elb",
            ELB,
            (*xff(VISITOR), ("cloudfront-viewer-country", "DE"), ("cloudfront-viewer-city", "X")),
            NOWHERE,
        ),
        ("fastly", FASTLY, (*xff(VISITOR), ("client-geo-country", "DE"), *IN_BERLIN), NOWHERE),
        ("nginx", NEAR, (*xff(VISITOR), ("x-country-code", "DE"), *IN_BERLIN), NOWHERE),
        ("azure", AZURE, (*xff(VISITOR), ("x-azure-country", "DE"), *IN_BERLIN), NOWHERE),
    ],
)
def test_a_place_is_believed_like_the_address(
    ask: Ask, trusted: object, peer: str, headers: HeaderPairs, place: tuple[str | None, ...]
) -> None:
    sent = ask(peer, headers, trusted_proxies=trusted).sent
    assert tuple(sent.get(name) for name in ("country", "region", "city")) == place
    sent = ask(peer, headers, trusted_proxies=trusted, geo="none").sent
    assert not {"country", "region", "city"} & sent.keys()


def test_a_place_is_read_anew_though_all_else_is_as_before(shell: Shell) -> None:
    """Gates are remembered by the headers that an address is read from; two visitors behind one address may be in two places."""
    app = shell.middleware(shell.app(HTML), quiet(trusted_proxies="cloudflare"))
    try:
        for city in ("Berlin", "Potsdam"):
            headers = (*BY_CF, ("cf-ipcountry", "DE"), ("cf-ipcity", city))
            shell.ask(app, replace(PAGE, peer=CLOUDFLARE, again=headers))
        assert [visit.fields["city"] for visit in kept(app.tracker)] == ["Berlin", "Potsdam"]
    finally:
        app.close(0)


def test_an_address_is_read_anew_where_the_presets_header_changes(shell: Shell) -> None:
    app = shell.middleware(shell.app(HTML), quiet(trusted_proxies="cloudflare"))
    try:
        for address in (VISITOR, V6, VISITOR):
            shell.ask(app, replace(PAGE, peer=CLOUDFLARE, again=((CF, address),)))
        assert [visit.fields["client_ip"] for visit in kept(app.tracker)] == [VISITOR, V6, VISITOR]
    finally:
        app.close(0)


def test_what_a_server_has_rewritten_is_no_precedent_for_a_visitor_who_says_the_same() -> None:
    """The same headers from the same address: once read by uvicorn from its proxy, once from a visitor's own connection."""
    shell = AsgiShell()
    app = shell.middleware(shell.app(HTML), quiet(trusted_proxies=NEAR))
    request = replace(PAGE, again=(*xff(VISITOR), (SHOWN, "www.example.com")))
    try:
        for port in (0, 40000, 0):
            asyncio.run(shell.talk(app, shell.scope(request, client=(VISITOR, port))))
        hosts = [visit.fields["href"].split("/")[2] for visit in kept(app.tracker)]
    finally:
        app.close(0)
    assert hosts == ["www.example.com", "shop.test", "www.example.com"]


def no_place(address: str) -> Geo:
    raise LookupError(address)


def no_geo(address: str) -> Any:
    return {"country": address}


def no_text(address: str) -> Geo:
    return Geo(country=49, city=address)  # type: ignore[arg-type]


@pytest.mark.parametrize("locate", [no_place, no_geo, no_text])
def test_a_function_that_fails_costs_nothing_but_one_log_line(
    shell: Shell, caplog: pytest.LogCaptureFixture, locate: Callable[[str], Any]
) -> None:
    app = shell.middleware(shell.app(HTML), quiet(geo=locate))
    try:
        answers = [shell.ask(app, replace(PAGE, peer=VISITOR)) for _ in range(3)]
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"<h1>Hello</h1>")}
        visits = kept(app.tracker)
        assert [visit.fields["client_ip"] for visit in visits] == [VISITOR] * 3
        assert not [visit for visit in visits if {"country", "region", "city"} & visit.fields.keys()]
    finally:
        app.close(0)
    (record,) = [record for record in caplog.records if record.name == "adtarget_proxy" and record.levelname == "ERROR"]
    assert "geo" in record.getMessage()
    assert VISITOR not in record.getMessage()


def test_a_function_is_asked_about_addresses_of_the_internet_alone(ask: Ask) -> None:
    asked: list[str] = []

    def locate(address: str) -> Geo:
        asked.append(address)
        return Geo("DE", city=" Ber\nlin " + "x" * 200)

    sent = ask(VISITOR, (), geo=locate).sent
    ask(NEXT, (), geo=locate)
    ask(None, (), geo=locate)
    assert asked == [VISITOR]
    assert (sent["country"], sent["city"]) == ("DE", ("Ber lin " + "x" * 200)[:100])


# -- what leaves the house -----------------------------------------------------------------------------------------------------

CONVERSION = {"telegram_user_id": 1, "event_type": "Lead"}
LEAVES = [
    ("full", VISITOR, VISITOR),
    ("full", V6, V6),
    ("truncate", VISITOR, "203.0.113.0"),
    ("truncate", f"::ffff:{VISITOR}", "203.0.113.0"),
    ("truncate", "2a00:1450:4001:812::200e", "2a00:1450:4001::"),
    ("none", VISITOR, None),
    ("none", V6, None),
    *(
        (ip, private, None)
        for ip in ("full", "truncate", "none")
        for private in ("127.0.0.1", NEXT, "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.0.1", "::1", "fd00::1")
    ),
    *(
        ("full", reserved, None)
        for reserved in ("0.1.2.3", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "ff02::1")
    ),
]


@pytest.mark.parametrize(("ip", "peer", "sent"), LEAVES)
def test_an_address_leaves_as_the_setting_says_in_every_event(
    shell: Shell, ip: str, peer: str, sent: str | None
) -> None:
    """A page, a click that makes a visit, an FbpUpdate, a conversion that borrows and one that is given the address by the app."""

    def look(tracking: Any) -> None:
        tracking.conversion(**CONVERSION, idempotency_key=f"borrows-{tracking.event_id}")
        tracking.conversion(**CONVERSION, idempotency_key=f"is-given-{tracking.event_id}", client_ip=tracking.client_ip)

    app = shell.middleware(shell.app(replace(HTML, look=look)), quiet(ip=ip))
    try:
        first = shell.ask(app, replace(PAGE, peer=peer)).cookies
        events = kept(app.tracker)  # a visit that waits would be amended in place of the FbpUpdate
        jar = {**first, "_fbp": "fb.1.1700000000000.1234567890"}
        changed = PAGE.having(cookie="; ".join(f"{name}={value}" for name, value in jar.items()))
        shell.ask(app, replace(changed, peer=peer))
        shell.ask(app, replace(CLICK, peer=peer))
        events += kept(app.tracker)
    finally:
        app.close(0)
    assert {event.kind for event in events} == {"visit", "fbp-update", "invite", "conversion"}
    for event in events:
        borrows_nothing = event.kind == "conversion" and event.key.startswith("borrows") and "fbp" not in event.fields
        assert event.fields.get("client_ip") == (None if borrows_nothing else sent), event.kind


@pytest.mark.parametrize("surface", ["keyed", "keyless"])
@pytest.mark.parametrize(
    ("ip", "peer", "sent"),
    [
        ("full", VISITOR, VISITOR),
        ("truncate", VISITOR, "203.0.113.0"),
        ("truncate", "2a00:1450:4001:812::200e", "2a00:1450:4001::"),
        ("none", VISITOR, None),
        ("full", NEXT, None),
    ],
)
def test_the_headers_of_the_api_say_no_more_than_its_fields(
    adtarget_sandbox: Sandbox, surface: str, ip: str, peer: str, sent: str | None
) -> None:
    credential = {
        "keyed": {"api_key": adtarget_sandbox.api_key},
        "keyless": {"api_key": None, "website_id": adtarget_sandbox.website_id},
    }
    shell = WsgiShell()
    settings = quiet(
        **credential[surface],
        api_url=adtarget_sandbox.api_url,
        tracker_url=adtarget_sandbox.tracker_url,
        deliver="thread",
        ip=ip,
        trusted_proxies="nginx",
    )
    app = shell.middleware(shell.app(HTML), settings)
    try:
        for request in (PAGE.having(cookie=KNOWN), CLICK.having(cookie=KNOWN)):
            shell.ask(app, replace(request, peer=NEAR, again=xff(f"{LIAR}, {peer}")))
        events = adtarget_sandbox.wait_for(2, timeout=10)
    finally:
        app.close(0)
    assert {event["endpoint"] for event in events} == {"visit", "invite"}
    for event in events:
        headers = event["headers"]
        assert event["fields"].get("clientIp") == sent
        assert headers.get("x-adtarget-client-ip") == sent
        assert headers.get("x-forwarded-for") == (sent if surface == "keyless" else None)
        everything = str(event)
        assert LIAR not in everything
        assert sent == peer or peer not in everything
