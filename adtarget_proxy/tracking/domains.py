"""The Domain of a cookie: registrable domains by the public-suffix list where it is installed (``[psl]``), and hosts that are of one site.

"What the user sets; else, with the public-suffix list at hand, the registrable domain; else host-only. IP, localhost, a public suffix → no
Domain" (meta-cookies, "Cookies").
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

_PARENTS = 5  # of a host, that a cookie is deleted on


def cookie_domain(host: str, explicit: str | None) -> str | None:
    """The Domain for a bare lower-case ``host``: what the user set where the host is in it, else the registrable domain where
    the public-suffix list is installed (``[psl]``), else None: host-only. IPs, localhost and public suffixes are host-only;
    a browser would throw away a cookie for ``herokuapp.com``, also where a user has set that.
    """
    if explicit and (host == explicit or host.endswith("." + explicit)) and not _is_public_suffix(explicit):
        return explicit
    return _registrable(host)


def every_domain(host: str, explicit: str | None) -> tuple[str | None, ...]:
    """Every Domain that a cookie for ``host`` may have been set with, under these settings or others; None is host-only.

    Of a host with many labels the last five that can be; browsers pass over a public suffix.
    """
    if "." not in host or _is_ip(host):
        return (None,)
    labels, top = host.split("."), _registrable(host)
    parents = [".".join(labels[n:]) for n in range(len(labels) - 1)]
    known = [name for name in parents if top is None or len(name) >= len(top)][-_PARENTS:]
    if explicit and explicit in parents and explicit not in known:
        known.append(explicit)
    return (None, *known)


def subdomain_index(host: str, domain: str | None) -> int:
    """Labels of the cookie's domain less one: ``example.com`` 1, ``www.example.com`` 2; at least 1."""
    name = domain or host
    return 1 if _is_ip(name) else max(name.count("."), 1)


@lru_cache(maxsize=1024)
def _registrable(host: str) -> str | None:
    suffixes = _suffix_list()
    if suffixes is None or "." not in host or _is_ip(host):
        return None
    domain = suffixes.privatesuffix(host)
    return str(domain) if domain else None


@lru_cache(maxsize=64)
def _is_public_suffix(domain: str) -> bool:
    suffixes = _suffix_list()
    return suffixes is not None and bool(suffixes.is_public(domain))


@lru_cache(maxsize=1)
def _suffix_list() -> PublicSuffixList | None:
    try:
        from publicsuffixlist import PublicSuffixList
    except ImportError:
        return None
    return PublicSuffixList()


def same_site(host: str, other: str, explicit: str | None = None) -> bool:
    """Whether two bare hosts belong to one site: equal, or under one registrable domain as far as it is known."""
    if host == other:
        return True
    domain = cookie_domain(host, explicit)
    return domain is not None and (other == domain or other.endswith("." + domain))


def _is_ip(name: str) -> bool:
    if not name or not (name[-1].isdigit() or ":" in name):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
