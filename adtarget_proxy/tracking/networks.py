"""Networks by what they are: nobody's on the open internet, or the published ranges of an edge.

The published lists change about once a year. One that has grown since costs truth, not safety: the new edge's own address is
taken for the visitor's. The missing networks may be written beside the preset's name until then.
"""

from __future__ import annotations

# RFC 1122, RFC 3927; RFC 4291: the same machine or the same wire
LOCAL = ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")
# RFC 1918; RFC 6598 (CGNAT); RFC 4193 (ULA): the same house
INSIDE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
PRIVATE = (*LOCAL, *INSIDE)

# https://www.cloudflare.com/ips/ (in a copy of September 2026)
CLOUDFLARE = (
    "173.245.48.0/20",
    "103.21.244.0/22",
    "103.22.200.0/22",
    "103.31.4.0/22",
    "141.101.64.0/18",
    "108.162.192.0/18",
    "190.93.240.0/20",
    "188.114.96.0/20",
    "197.234.240.0/22",
    "198.41.128.0/17",
    "162.158.0.0/15",
    "104.16.0.0/13",
    "104.24.0.0/14",
    "172.64.0.0/13",
    "131.0.72.0/22",
    "2400:cb00::/32",
    "2606:4700::/32",
    "2803:f800::/32",
    "2405:b500::/32",
    "2405:8100::/32",
    "2a06:98c0::/29",
    "2c0f:f248::/32",
)

# https://api.fastly.com/public-ip-list (as its copies agree)
FASTLY = (
    "23.235.32.0/20",
    "43.249.72.0/22",
    "103.244.50.0/24",
    "103.245.222.0/23",
    "103.245.224.0/24",
    "104.156.80.0/20",
    "140.248.64.0/18",
    "140.248.128.0/17",
    "146.75.0.0/17",
    "151.101.0.0/16",
    "157.52.64.0/18",
    "167.82.0.0/17",
    "167.82.128.0/20",
    "167.82.160.0/20",
    "167.82.224.0/20",
    "172.111.64.0/18",
    "185.31.16.0/22",
    "199.27.72.0/21",
    "199.232.0.0/16",
    "2a04:4e40::/32",
    "2a04:4e42::/32",
)
