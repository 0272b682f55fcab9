"""Sites, their invite routes, and the accounts that their events go to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from adtarget_proxy.links import fallback_link
from adtarget_proxy.settings import checks

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}")
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "api_key": checks.optional_text,
    "website_id": checks.optional_text,
    "channel_id": checks.optional_text,
    "api_url": checks.base_url,
    "tracker_url": checks.base_url,
    "cookie_domain": checks.domain,
    "fallback_url": checks.fallback,
    "rate": checks.number(1, 1_000_000),
    "burst": checks.number(1, 1_000_000),
}


@dataclass(frozen=True, slots=True)
class Account:
    """Where an event goes and with which credential: an API key (keyed) or a website id (keyless), never both."""

    api_url: str
    tracker_url: str
    api_key: str | None = field(default=None, repr=False)
    website_id: str | None = None
    rate: float = 300.0  # requests a minute
    burst: float = 50.0

    @property
    def id(self) -> str:
        """A hash of base URL and credential: names the account in the outbox without giving the key away."""
        base, credential = (self.api_url, self.api_key) if self.api_key else (self.tracker_url, self.website_id)
        return hashlib.sha256(f"{base}\0{credential}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class InviteRoute:
    """Where an invite slug leads: a channel, the link for when AdTarget has none, and the channel's links in pages."""

    channel_id: str | None = None
    fallback_url: str | None = None
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """One site: its credential, channels and cookie domain. What it does not say it takes from the Settings."""

    name: str = ""
    api_key: str | None = field(default=None, repr=False)
    website_id: str | None = None
    channel_id: str | None = None
    api_url: str | None = None
    tracker_url: str | None = None
    cookie_domain: str | None = None
    invites: Mapping[str, InviteRoute] = field(default_factory=dict)
    fallback_url: str | None = None
    rate: float | None = None
    burst: float | None = None

    @property
    def tracking_account(self) -> Account | None:
        """Where visits and clicks go: the keyless surface where there is a website id, else the keyed one."""
        if self.website_id:
            return self._account(website_id=self.website_id)
        return self.conversion_account

    @property
    def conversion_account(self) -> Account | None:
        """Where conversions go: keyed only, so None without an API key."""
        return self._account(api_key=self.api_key) if self.api_key else None

    def _account(self, *, api_key: str | None = None, website_id: str | None = None) -> Account:
        return Account(
            api_url=self.api_url or "",
            tracker_url=self.tracker_url or "",
            api_key=api_key,
            website_id=website_id,
            rate=self.rate or 300.0,
            burst=self.burst or 50.0,
        )


def resolved_site(given: Any, own: Site, where: str, problems: list[str]) -> Site:
    """``given`` with what it leaves out taken from ``own``. A site with a credential of its own takes none from there."""
    prefix = f"{where}." if where else ""
    if isinstance(given, Mapping):
        given = {str(key).lower(): value for key, value in given.items()}
        unknown = _unknown(Site, given, prefix)
        if unknown:
            problems.extend(unknown)
            return own
        given = Site(**given)
    if not isinstance(given, Site):
        problems.append(f"{where}: must be a Site or a mapping with its fields")
        return own
    merged: dict[str, Any] = {}
    for item in fields(Site):
        value = getattr(given, item.name)
        if value in (None, "") and not (item.name in ("api_key", "website_id") and (given.api_key or given.website_id)):
            value = getattr(own, item.name)
        if value is not None and item.name in _CHECKS:
            try:
                value = _CHECKS[item.name](value)
            except ValueError as error:
                problems.append(f"{prefix}{item.name}: {error}")
                value = None
        merged[item.name] = value
    merged["name"] = given.name or where.removeprefix("sites[").rstrip("]").strip("'")
    site = Site(**merged)
    invites = given.invites or own.invites
    return replace(site, invites={slug: _route(slug, route, site, prefix, problems) for slug, route in invites.items()})


def _unknown(of: type[Site | InviteRoute], given: Mapping[str, Any], prefix: str) -> list[str]:
    known = [item.name for item in fields(of)]
    return [f"{prefix}{problem}" for problem in checks.unknown_names(map(str, given), known, "field")]


def _route(slug: str, given: Any, site: Site, prefix: str, problems: list[str]) -> InviteRoute:
    where = f"{prefix}invites[{slug!r}]"
    if not _SLUG.fullmatch(slug):
        problems.append(f"{where}: a slug is 1 to 64 letters, digits, '-', '_', '.' or '~'")
    if isinstance(given, Mapping):
        unknown = _unknown(InviteRoute, given, f"{where}.")
        if unknown:
            problems.extend(unknown)
            return InviteRoute()
        given = InviteRoute(**given)
    if isinstance(given, (str, int)) and not isinstance(given, bool):
        given = InviteRoute(channel_id=str(given))
    if given is None:
        given = InviteRoute()
    if not isinstance(given, InviteRoute):
        problems.append(f"{where}: must be a channel id or an InviteRoute")
        return InviteRoute()
    fallback = given.fallback_url or site.fallback_url
    try:
        fallback = fallback_link(fallback) if fallback else None
    except ValueError as error:
        problems.append(f"{where}.fallback_url: {error}")
    if not fallback:
        problems.append(
            f"{where}: has no fallback_url, and neither has the site; a visitor needs a link when AdTarget has none: "
            "write the channel's public or permanent link, such as https://t.me/your_channel"
        )
    return InviteRoute(
        channel_id=str(given.channel_id) if given.channel_id is not None else site.channel_id,
        fallback_url=fallback,
        links=tuple(given.links),
    )
