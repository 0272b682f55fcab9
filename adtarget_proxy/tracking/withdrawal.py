"""A visitor who says no after yes, and the site's own staff who opt out: what their page gains besides, whatever else it is.

*Denied* on a navigation that brings cookies of ours is a withdrawal: the cookies are deleted on every domain that we may have set
them on, and what waits of the visitor is dropped. ``_fbp`` and ``_fbc`` go with them, whoever made them: we told AdTarget of both,
and renewed both. Where no cookie of ours came along they are the pixel's alone, and stay.

Only who brings the state that we signed for them drops what waits: a stranger who makes up ``adtarget_temp_id``s would fill the store with
withdrawals, and one who knows another's would speak for them. Whoever has events here was given a state with their first page.

``?adtarget=off`` on any page does the same and sets the opt-out cookie; ``?adtarget=on`` takes that away. It is signed, so that one
can tell who has set it, but one without a signature counts as well: a wish not to be tracked needs no proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from itsdangerous import Signer

from adtarget_proxy.tracking.cookies import OPT_OUT, Place, brought, read_jar, render
from adtarget_proxy.tracking.domains import every_domain
from adtarget_proxy.tracking.events import PAID_OR_AWAITED, Event, Withdrawal
from adtarget_proxy.tracking.facts import Facts
from adtarget_proxy.tracking.rules import Gate, Rules, SiteRules

OPT_OUT_MAX_AGE = 34_560_000  # 400 days, the longest that browsers keep a cookie (RFC 6265bis)


class Parting(NamedTuple):
    """What a response gains: Set-Cookie values, for a page alone, and events, whatever the response."""

    cookies: tuple[str, ...]
    events: tuple[Event, ...] = ()


def parting_of(facts: Facts, gate: Gate, rules: Rules) -> Parting | None:
    """The parting of a navigation whose gate tells of one; None where there is nothing to do."""
    site, origin = gate.rules, gate.origin
    if site is None or origin is None:
        return None
    place = site.place(origin.scheme, origin.host or "")
    domains = every_domain(place.host, site.site.cookie_domain)
    if gate.switch == "on":
        return Parting(_deleted([OPT_OUT], domains, place))
    left = _leave(facts, site, rules, domains, place)
    if gate.switch == "off":
        value = opt_out_value(site.key, int(rules.clock()))
        cookie = render(OPT_OUT, value, OPT_OUT_MAX_AGE, place.domain, secure=place.secure, http_only=True)
        return Parting((*left.cookies, cookie), left.events)
    return left if left.cookies else None


def opt_out_value(key: str, now: int) -> str:
    """The opt-out cookie's value, signed with the site's newest secret key: when it was set (Unix seconds)."""
    signer = Signer(key, salt=b"adtarget_proxy.optout", digest_method=hashlib.sha256)
    return signer.sign(str(now)).decode("ascii")


def _leave(facts: Facts, site: SiteRules, rules: Rules, domains: Sequence[str | None], place: Place) -> Parting:
    header = facts.header("cookie")
    names = brought(header)
    if not any(name.startswith("adtarget_") for name in names):
        return Parting(())
    jar = read_jar(header)
    known = site.signer.load(jar.state, jar.temp_id)
    events = () if known is None else (_withdrawal(known.temp_id, site, rules),)
    return Parting(_deleted(names, domains, place), events)


def _withdrawal(visitor: str, site: SiteRules, rules: Rules) -> Withdrawal:
    key = rules.entropy(16).hex()
    return Withdrawal(id=key, key=key, account=site.account, visitor=visitor, at=rules.clock(), worth=PAID_OR_AWAITED)


def _deleted(names: Sequence[str], domains: Sequence[str | None], place: Place) -> tuple[str, ...]:
    return tuple(render(name, "", 0, domain, secure=place.secure) for name in names for domain in domains)
