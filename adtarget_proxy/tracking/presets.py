"""The proxies that ``trusted_proxies`` knows by name: which header tells the visitor's address, who may bring it, over how many hops.

A preset believes only what its edge writes over, or adds to the end of, whatever the visitor sent (correctness C6). What an edge merely
passes on is not in it, however customary: each entry says why. ``Fastly-Client-IP``, ``X-Azure-ClientIP``, ``True-Client-IP`` and
``X-Real-IP`` are therefore read by none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from adtarget_proxy.tracking.networks import CLOUDFLARE, FASTLY, INSIDE, PRIVATE

X_FORWARDED_FOR = "x-forwarded-for"
Place = Literal["country", "region", "city"]
_NO_PLACE: Mapping[Place, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Preset:
    """One kind of edge.

    ``header`` holds one address, but for X-Forwarded-For, which holds one for each of at most ``hops`` of them. ``tells_host``: the edge
    writes X-Forwarded-Host itself. ``place``: its headers for where the visitor is, ``is_quoted`` where they are percent-encoded.
    ``mark``: a header that shows the edge at work, for a hint in the log only.
    """

    header: str
    networks: tuple[str, ...]
    hops: int
    tells_host: bool
    mark: str | None
    place: Mapping[Place, str] = field(default_factory=lambda: _NO_PLACE)
    is_quoted: bool = False


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # https://developers.cloudflare.com/fundamentals/reference/http-headers/ : CF-Connecting-IP is the edge's own; X-Forwarded-For is
        # the visitor's with the address added; X-Forwarded-Host passes as it came.
        # https://developers.cloudflare.com/rules/transform/managed-transforms/reference/ : region and city need "Add visitor
        # location headers". Whether a visitor's own pass while it is off is not documented; they would lie about themselves alone.
        "cloudflare": Preset(
            header="cf-connecting-ip",
            networks=CLOUDFLARE,
            hops=1,
            tells_host=False,
            mark="cf-connecting-ip",
            place=MappingProxyType({"country": "cf-ipcountry", "region": "cf-region", "city": "cf-ipcity"}),
        ),
        # https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html : the address is added at
        # the end (mode "append", the default), with its port where that is switched on; X-Forwarded-Host passes as it came. So do
        # CloudFront-Viewer-*: behind a load balancer nobody can tell CloudFront's from those of a visitor who went round it.
        "aws-elb": Preset(header=X_FORWARDED_FOR, networks=INSIDE, hops=1, tells_host=False, mark="x-amzn-trace-id"),
        # https://nginx.org/en/docs/http/ngx_http_proxy_module.html : $proxy_add_x_forwarded_for adds $remote_addr at the end. X-Real-IP
        # is no better, and is the visitor's own where the configuration forgets it. X-Forwarded-Host is, too; but by default nginx puts
        # the upstream's name into Host, and then that header is all there is.
        "nginx": Preset(header=X_FORWARDED_FOR, networks=PRIVATE, hops=1, tells_host=True, mark=None),
        # https://www.fastly.com/documentation/reference/http/http-headers/X-Forwarded-For : the visitor's address is added, then the edge's
        # where there is a shield; over TLS only. Fastly-Client-IP "is not protected from modification" (its own page), and has
        # first to be set in VCL; so have headers for a place, under names that are the user's own.
        "fastly": Preset(header=X_FORWARDED_FOR, networks=FASTLY, hops=2, tells_host=True, mark="fastly-client-ip"),
        # https://vercel.com/docs/headers/request-headers : X-Forwarded-For and -Host are written over; the one below also stays
        # what it was behind another proxy. The networks of its edge are not published: the peer is the runtime's own bridge.
        "vercel": Preset(
            header="x-vercel-forwarded-for",
            networks=PRIVATE,
            hops=1,
            tells_host=True,
            mark="x-vercel-forwarded-for",
            place=MappingProxyType(
                {
                    "country": "x-vercel-ip-country",
                    "region": "x-vercel-ip-country-region",
                    "city": "x-vercel-ip-city",
                }
            ),
            is_quoted=True,
        ),
        # https://learn.microsoft.com/azure/application-gateway/how-application-gateway-works : "IP:port" is added at the end, by App
        # Service too. https://learn.microsoft.com/azure/frontdoor/front-door-http-headers-protocol : a visitor can choose
        # X-Azure-ClientIP; Front Door adds the socket's address to X-Forwarded-For. Its networks (service tag AzureFrontDoor.Backend)
        # change too often to stand here, and are written beside the preset's name.
        "azure": Preset(header=X_FORWARDED_FOR, networks=PRIVATE, hops=1, tells_host=False, mark="x-appgw-trace-id"),
    }
)


def preset_of(words: Sequence[str]) -> Preset | None:
    """The preset among the words of ``trusted_proxies``, or None."""
    return next((PRESETS[word] for word in words if word in PRESETS), None)
