"""The settings, compiled for the request path: one ``Rules`` for a Tracker, one ``SiteRules`` for each of its sites.

``Rules.gate`` is what every request passes first: it answers with the reason for leaving the request alone, or with the site whose
page or invite route it is. A reason is the first that holds, in the order of ``REASONS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from adtarget_proxy.consent import Consent
from adtarget_proxy.settings import Account, InviteRoute, Settings, Site
from adtarget_proxy.tracking.address import Origin, origin_reader, telling_headers
from adtarget_proxy.tracking.asking import Asking, Tell
from adtarget_proxy.tracking.audience import (
    RARE_HEADERS,
    is_ahead_of_time,
    is_machine,
    signals_dnt,
    signals_gpc,
)
from adtarget_proxy.tracking.cookies import Place, has_opted_out, place_of
from adtarget_proxy.tracking.facts import Facts, bare_host, public_host
from adtarget_proxy.tracking.geo import place_reader
from adtarget_proxy.tracking.pages import asks_for_page
from adtarget_proxy.tracking.scrub import SWITCH, switch_of
from adtarget_proxy.tracking.state import StateSigner

Reason = Literal[
    "off",
    "unknown-host",
    "excluded",
    "opted-out",
    "not-a-page",
    "prefetch",
    "bot",
    "gpc",
    "no-consent",
    "status",
    "not-html",
    "cacheable",
    "error",
    "tracked",
    "invite",
    "invite-repeat",
    "invite-fallback",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class SiteRules:
    """One site on the request path: which account its events are for, and who signs its cookies, by which secret key."""

    site: Site
    account: str
    conversion_account: str | None
    signer: StateSigner
    key: str = field(repr=False)

    def place(self, scheme: str, host: str) -> Place:
        """Where this site's cookies go for visitors who see this scheme and host."""
        return place_of(scheme, host, self.site.cookie_domain)


class Gate(NamedTuple):
    """What the request alone decides. Without a reason it is a page view (``slug`` None) or a click that counts.

    With ``rules``, ``no-consent`` is a visitor who said no. ``switch`` is what the page's ``?adtarget=`` says.
    """

    reason: Reason | None
    rules: SiteRules | None = None
    slug: str | None = None
    route: InviteRoute | None = None
    origin: Origin | None = None
    switch: Literal["on", "off"] | None = None


_OFF = Gate("off")
_EXCLUDED = Gate("excluded")
_OPTED_OUT = Gate("opted-out")
_NOT_A_PAGE = Gate("not-a-page")
_UNKNOWN_HOST = Gate("unknown-host")
_NO_CONSENT = Gate("no-consent")
_GATES = 1024
_MAX_REMEMBERED = 2048  # characters of a path, or of these headers together: nobody shall fill a memory


class Rules:
    """See the module's docstring. ``keys`` gives a site's signing keys, newest first; asked once a site, at its first page.

    ``fault`` is told where something of the user's has failed, while the exception is being handled.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Callable[[Site], Sequence[str]],
        *,
        clock: Callable[[], float],
        entropy: Callable[[int], bytes],
        tell: Tell = lambda _: None,
        fault: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.entropy = entropy
        self.origin = origin_reader(settings.trusted_proxies, forwarded=settings.forwarded_header)
        # with RARE_HEADERS, all that a page's audience and origin are told by; the visitor's place is read anew each time
        self._telling = ("user-agent", *telling_headers(settings.trusted_proxies))
        self.whereabouts = place_reader(settings.geo, settings.trusted_proxies, fault)
        self._keys = keys
        self._off = settings.mode == "off"
        self._many = bool(settings.sites)
        self._only = settings.all_sites[0]
        self._sites: dict[str, SiteRules] = {}
        self._routes = {slug for site in settings.all_sites for slug in site.invites}
        self._before_slug, self._after_slug = settings.invite_path.split("{slug}")
        is_left_out = _left_out(settings.include, settings.exclude)
        # what a path says, remembered: the slug of an invite route, and whether its pages are left out
        self._by_path = lru_cache(maxsize=4096)(lambda path: (self._slug(path), is_left_out(path)))
        self.asking = Asking(settings.consent, tell)
        self._asks = self.asking.is_needed
        self._gates: dict[object, Gate] = {}

    def gate(self, facts: Facts) -> Gate:
        """Whether to leave this request alone, and why."""
        path = facts.path
        slug, is_left_out = (self._by_path if len(path) <= _MAX_REMEMBERED else self._by_path.__wrapped__)(path)
        if slug is not None and facts.method in ("GET", "HEAD"):
            gate = self.invite_gate(facts, slug)
            if gate is not None:
                return gate
        if self._off:
            return _OFF
        origin = self.origin(facts) if self._many else None
        site = self.settings.site_for(bare_host(origin.host)) if origin and origin.host else None
        if origin is not None and site is None:
            return _UNKNOWN_HOST
        if is_left_out:
            return _EXCLUDED
        if facts.query and SWITCH in facts.query and asks_for_page(facts):
            gate = self._switch_gate(facts, site or self._only)
            if gate is not None:
                return gate
        cookie = facts.header("cookie")
        if cookie is not None and has_opted_out(cookie):
            return _OPTED_OUT
        if not asks_for_page(facts):
            return _NOT_A_PAGE
        gate = self._page_gate(facts, site or self._only)
        if gate.reason is None and self._asks:
            return self._consent_gate(facts, gate)
        return gate

    def _consent_gate(self, facts: Facts, gate: Gate) -> Gate:
        """The gate of a navigation that only consent can stop. Who says no is taken leave of."""
        consent = self.asking.answer(facts, gate.origin.host if gate.origin else None)
        if consent is Consent.GRANTED:
            return gate
        return gate._replace(reason="no-consent") if consent is Consent.DENIED else _NO_CONSENT

    def _switch_gate(self, facts: Facts, site: Site) -> Gate | None:
        """The gate of a page that is asked for with ``?adtarget=off`` or ``on``; None with neither, or where nobody has seen it."""
        switch, origin = switch_of(facts.query), self.origin(facts)
        if switch is None or origin.host is None or is_ahead_of_time(facts):
            return None
        if switch == "off":
            return Gate("opted-out", self.site_rules(site), origin=origin, switch=switch)
        gate = self._new_page_gate(facts, site)
        if gate.reason is None:
            gate = self._consent_gate(facts, gate)
        return gate._replace(rules=self.site_rules(site), origin=origin, switch=switch)

    def _page_gate(self, facts: Facts, site: Site) -> Gate:
        """The gate of a navigation but for consent. A browser's headers repeat from page to page, and so does what they say."""
        if facts.has_any(RARE_HEADERS):
            return self._new_page_gate(facts, site)
        key = (site.name, facts.scheme, facts.peer, facts.hop, facts.raw_headers(self._telling))
        gate = self._gates.get(key)
        if gate is None:
            gate = self._new_page_gate(facts, site)
            if len(self._gates) >= _GATES:
                self._gates.clear()
            if sum(map(len, filter(None, key[-1]))) <= _MAX_REMEMBERED:
                self._gates[key] = gate
        return gate

    def _new_page_gate(self, facts: Facts, site: Site) -> Gate:
        reason = self._audience(facts)
        if reason is not None:
            return Gate(reason)
        origin = self.origin(facts)
        if origin.host is None:
            return _UNKNOWN_HOST
        return Gate(None, self.site_rules(site), None, None, origin)

    def invite_path(self, slug: str) -> str:
        """The path of a slug's invite route."""
        return f"{self._before_slug}{slug}{self._after_slug}"

    def fallback_for(self, path: str, host: str | None = None) -> str | None:
        """The link of last resort for an invite route, by path and Host alone: for when everything else of ours has failed."""
        slug, shown = self._slug(path), public_host(host)
        sites: list[Site] = list(self.settings.all_sites)
        own = self.settings.site_for(bare_host(shown)) if shown else None
        for site in sites if own is None else [own, *sites]:
            if slug is not None and slug in site.invites:
                return site.invites[slug].fallback_url
        return None

    def site_rules(self, site: Site) -> SiteRules:
        """The compiled rules of a site."""
        found = self._sites.get(site.name)
        if found is None:
            settings, conversions = self.settings, site.conversion_account
            # a dry run has no credential; its events carry the account that delivery makes up for it
            tracking = site.tracking_account or Account(settings.api_url, settings.tracker_url)
            keys = self._keys(site)
            found = self._sites[site.name] = SiteRules(
                site,
                tracking.id,
                conversions.id if conversions else None,
                StateSigner(keys),
                keys[0],
            )
        return found

    def _slug(self, path: str) -> str | None:
        if not path.startswith(self._before_slug) or not path.endswith(self._after_slug):
            return None
        slug = path[len(self._before_slug) : len(path) - len(self._after_slug)]
        return slug if slug in self._routes else None

    def invite_gate(self, facts: Facts, slug: str) -> Gate | None:
        """Whether a click on a slug counts; None where the request's host has no such route.

        A route is the user's own word: neither ``include`` nor ``exclude`` can turn its button dead.
        """
        origin = self.origin(facts)
        site = self.settings.site_for(bare_host(origin.host or ""))
        route = site.invites.get(slug) if site else None
        if site is None or route is None:
            return None
        reason: Reason | None
        if self._off:
            reason = "off"
        elif origin.host is None:
            reason = "unknown-host"
        elif has_opted_out(facts.header("cookie") or ""):
            reason = "opted-out"
        elif facts.method == "HEAD":
            reason = "not-a-page"
        else:
            reason = self._audience(facts)
            consent = self.asking.answer(facts, origin.host) if reason is None else None
            if consent is Consent.GRANTED:
                return Gate(None, self.site_rules(site), slug, route, origin)
            if consent is Consent.DENIED:
                return Gate("no-consent", self.site_rules(site), slug, route, origin)
            reason = reason or "no-consent"
        return Gate(reason, None, slug, route, origin)

    def _audience(self, facts: Facts) -> Reason | None:
        has_rare = facts.has_any(RARE_HEADERS)
        if has_rare and is_ahead_of_time(facts):
            return "prefetch"
        if is_machine(facts.header("user-agent") or ""):
            return "bot"
        if has_rare and self.signals_privacy(facts):
            return "gpc"
        return None

    def signals_privacy(self, facts: Facts) -> bool:
        """Whether the browser asks not to be tracked, in a way that these settings heed."""
        settings = self.settings
        return (settings.respect_gpc and signals_gpc(facts)) or (settings.respect_dnt and signals_dnt(facts))


def _left_out(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path is outside ``include`` or inside ``exclude`` (fnmatch patterns)."""
    wanted = _any_of(include)
    unwanted = _any_of(exclude)

    def is_left_out(path: str) -> bool:
        if wanted is not None and not wanted.match(path):
            return True
        return unwanted is not None and unwanted.match(path) is not None

    return is_left_out


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None
