"""A click on an invite route: what AdTarget is asked, on whose behalf, and what the visitor keeps.

The click carries the last touch, so that a join is attributed to the ad that brought the visitor. Where the request carries no
session, no visit was ever made (an app's prefetched page, an ad that links straight to the route): one is made at the click.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from adtarget_proxy.tracking.address import network_of
from adtarget_proxy.tracking.events import PAID_OR_AWAITED, Event, InviteClick
from adtarget_proxy.tracking.facts import Facts
from adtarget_proxy.tracking.identity import Identity, touch_of
from adtarget_proxy.tracking.ids import new_id
from adtarget_proxy.tracking.rules import Gate, Rules, SiteRules
from adtarget_proxy.tracking.visit import new_touch, visit_of


@dataclass(frozen=True, slots=True)
class ClickPlan:
    """A click that counts: the event to send, the events that go before it, and the changed cookies.

    ``known``: the visitor came with a tempId, so a link, a call in flight or a waiting visit of theirs can exist.
    ``network`` stands for the network of one who came without, see ``_network``.
    """

    click: InviteClick
    before: tuple[Event, ...]
    cookies: tuple[str, ...]
    slug: str
    fallback_url: str
    known: bool
    network: str | None = None


def click_plan(facts: Facts, gate: Gate, rules: Rules, page: Identity | None = None) -> ClickPlan:
    """The plan for a click that ``Rules.gate`` let through; ``page`` is the visitor where the request is a page view too.

    Raises ValueError for any other gate.
    """
    site, route, origin, slug = gate.rules, gate.route, gate.origin, gate.slug
    if site is None or route is None or origin is None or slug is None:
        raise ValueError("not a click that counts")
    visitor = page or Identity(facts, origin, rules, site)
    referrer = visitor.same_site_referrer()
    remembered = dict(visitor.state.fresh_touch(visitor.now)) if visitor.state else {}
    landing = remembered.pop("landing_page", None)
    own = bool(visitor.touch) or visitor.new_fbc
    touch = visitor.touch if own else remembered or _referrers_touch(referrer)
    href = referrer or landing or visitor.href
    landing = visitor.href if own else landing or referrer or visitor.href

    before: list[Event] = []
    if visitor.changed_fbp:
        before.append(visitor.fbp_update())
    if not visitor.had_session:
        from_ad = visitor.from_ad or bool(touch.keys() & {"gclid", "ttclid", "sccid"})
        outside = None if referrer else visitor.referrer
        event_id = new_id(visitor.now, rules.entropy)
        before.append(
            visit_of(visitor, site, event_id=event_id, href=href, referrer=outside, touch=touch, from_ad=from_ad)
        )

    fields = visitor.meta()
    fields.update(visitor.whereabouts())
    fields.update(touch)
    fields["href"] = href
    if route.channel_id is not None:
        fields["channel_id"] = route.channel_id
    if visitor.referrer and not referrer:
        fields["referrer"] = visitor.referrer
    key = new_id(visitor.now, rules.entropy)
    click = InviteClick(
        id=key,
        key=key,
        account=site.account,
        visitor=visitor.temp_id,
        at=visitor.now,
        worth=PAID_OR_AWAITED,
        fields=fields,
    )
    changed = new_touch(visitor)
    if changed is None and visitor.state is None and touch:
        changed = touch
    cookies = tuple(visitor.cookies(landing=landing, touch=changed, slide=False))
    fallback = route.fallback_url or ""
    network = _network(visitor, site) if visitor.new_visitor else None
    return ClickPlan(click, tuple(before), cookies, slug, fallback, not visitor.new_visitor, network)


def _network(visitor: Identity, site: SiteRules) -> str | None:
    """A name for the visitor's network from which the address cannot be read without the site's secret key.

    None where the address is nobody's on the internet: behind a proxy that is not trusted it is everybody's.
    """
    address = visitor.origin.address
    if address is None or not address.public:
        return None
    return hmac.digest(site.key.encode(), f"network\0{network_of(address.text)}".encode(), "sha256").hex()[:16]


def _referrers_touch(referrer: str | None) -> Mapping[str, str]:
    """Where no touch is known, the query of the page that was clicked on counts as the landing's."""
    return touch_of(referrer.partition("?")[2]) if referrer else {}
