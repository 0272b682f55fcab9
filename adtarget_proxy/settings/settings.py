"""The settings of one app: from code, the environment, a TOML file or a framework's mapping. One error names every bad key.

Code beats environment beats TOML beats the default. ``Settings(...)`` fills what it is not given from the other two and
validates itself, so a wrong one fails where it is written, at import, never at the first visitor.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import translate
from pathlib import Path
from typing import Any, Literal, Self

from adtarget_proxy.errors import SettingsError
from adtarget_proxy.settings import checks
from adtarget_proxy.settings.sites import Account, Site, resolved_site

_PREFIX = "ADTARGET_"
DEFAULT_EXCLUDE = ("/admin/*", "/healthz", "/livez", "/readyz", "/metrics")


class _Unset:
    """The mark of a field that code did not give."""

    def __repr__(self) -> str:
        return "from the environment"


_UNSET: Any = _Unset()


def _setting(default: Any, check: Callable[[Any], Any], *, secret: bool = False, env: bool = True) -> Any:
    return field(default=_UNSET, repr=not secret, metadata={"default": default, "check": check, "env": env})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; the README's table says what each does. Raises SettingsError naming every bad one."""

    api_key: str | None = _setting(None, checks.optional_text, secret=True)
    website_id: str | None = _setting(None, checks.optional_text)
    channel_id: str | None = _setting(None, checks.optional_text)
    api_url: str = _setting("https://adtarget.io/api/v1", checks.base_url)
    tracker_url: str = _setting("https://adtarget.io/backend", checks.base_url)
    outbox: str = _setting(None, checks.outbox, secret=True)  # a Redis' URL may hold a password
    deliver: Literal["thread", "worker"] = _setting("thread", checks.one_of("thread", "worker"))
    invites: Mapping[str, Any] = _setting({}, checks.mapping)
    invite_path: str = _setting("/c/{slug}", checks.invite_path)
    invite_timeout: float = _setting(1.5, checks.number(0.1, 30))
    invite_concurrency: int | None = _setting(None, checks.concurrency)
    fallback_url: str | None = _setting(None, checks.fallback)
    trusted_proxies: Any = _setting((), checks.trusted_proxies)
    forwarded_header: bool = _setting(False, checks.flag)
    cookie_domain: str | None = _setting(None, checks.domain)
    secret_key: Any = _setting(None, checks.keys, secret=True)
    cache: Literal["protect", "skip", "leave"] = _setting("protect", checks.one_of("protect", "skip", "leave"))
    consent: Callable[..., Any] | None = _setting(None, checks.consent)
    respect_gpc: bool = _setting(True, checks.flag)
    respect_dnt: bool = _setting(False, checks.flag)
    geo: Any = _setting("edge", checks.geo)
    prefetch: Literal["serve", "refuse"] = _setting("serve", checks.one_of("serve", "refuse"))
    include: Sequence[str] = _setting((), checks.strings)
    exclude: Sequence[str] = _setting(DEFAULT_EXCLUDE, checks.strings)
    ip: Literal["full", "truncate", "none"] = _setting("full", checks.one_of("full", "truncate", "none"))
    scrub: bool = _setting(True, checks.flag)
    debug: bool = _setting(False, checks.flag)
    max_age: float = _setting(86_400.0, checks.number(60, 30 * 86_400))
    rate: float = _setting(300.0, checks.number(1, 1_000_000))
    burst: float = _setting(50.0, checks.number(1, 1_000_000))
    mode: Literal["live", "dry-run", "off"] = _setting("live", checks.one_of("live", "dry-run", "off"))
    sites: Mapping[str, Any] = _setting({}, checks.mapping)

    def __post_init__(self) -> None:
        problems: list[str] = []
        file = self._file(problems)
        for item in fields(self):
            name, value, meta = item.name, getattr(self, item.name), item.metadata
            if value is _UNSET:
                environment = os.environ.get(_PREFIX + name.upper()) if meta["env"] else None
                value = environment if environment is not None else file.get(name, meta["default"])
            try:
                object.__setattr__(self, name, meta["check"](value))
            except ValueError as error:
                problems.append(f"{name}: {error}")
                object.__setattr__(self, name, meta["default"])
        self._resolve(problems)
        if problems:
            raise SettingsError(problems)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], **over: Any) -> Self:
        """Settings from a framework's mapping, whose keys may be upper-case. ``over`` beats it."""
        given = {str(key).lower(): value for key, value in mapping.items()} | over
        unknown = _unknown(given)
        if unknown:
            raise SettingsError(unknown)
        return cls(**given)

    def site_for(self, host: str) -> Site | None:
        """The site a host belongs to, or None where there are several and it is none of them. ``host`` in lower case, no port."""
        if not self._patterns:
            return self._default_site
        for pattern, site in self._patterns:
            if pattern.match(host):
                return site
        return None

    @property
    def all_sites(self) -> tuple[Site, ...]:
        """Every site, resolved: what it did not say is filled in from the settings."""
        return tuple(site for _, site in self._patterns) or (self._default_site,)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """Every account that events of these settings go to, each once."""
        found = {
            account.id: account
            for site in self.all_sites
            for account in (site.tracking_account, site.conversion_account)
            if account is not None
        }
        return tuple(found.values())

    # -- resolving -------------------------------------------------------------------------------------------------------

    def _file(self, problems: list[str]) -> dict[str, Any]:
        path = os.environ.get(_PREFIX + "CONFIG")
        if not path:
            return {}
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            problems.append(f"ADTARGET_CONFIG: {path} cannot be read as TOML: {error}")
            return {}
        problems.extend(f"{problem} (in {path})" for problem in _unknown(content))
        return content

    def _resolve(self, problems: list[str]) -> None:
        own = Site(
            api_key=self.api_key,
            website_id=self.website_id,
            channel_id=self.channel_id,
            api_url=self.api_url,
            tracker_url=self.tracker_url,
            cookie_domain=self.cookie_domain,
            invites=self.invites,
            fallback_url=self.fallback_url,
            rate=self.rate,
            burst=self.burst,
        )
        sites = [
            (pattern, resolved_site(given, own, f"sites[{pattern!r}]", problems))
            for pattern, given in self.sites.items()
        ]
        default = own if sites else resolved_site(own, own, "", problems)
        object.__setattr__(self, "_default_site", default)
        object.__setattr__(
            self, "_patterns", [(re.compile(translate(pattern.lower())), site) for pattern, site in sites]
        )
        object.__setattr__(self, "invites", default.invites)
        object.__setattr__(self, "sites", dict(sites))
        if self.mode == "live":
            for pattern, site in sites or [("", default)]:
                if site.tracking_account is None:
                    where = f"sites[{pattern!r}]: " if pattern else ""
                    problems.append(
                        f"{where}api_key: missing; set ADTARGET_API_KEY (atk_live_…), or website_id (atid_…) for the "
                        "keyless surface, or mode='dry-run' to try without AdTarget"
                    )
        named = set() if isinstance(self.trusted_proxies, int) else {*self.trusted_proxies} & {*checks.PRESETS}
        if self.forwarded_header and named:
            problems.append(
                f"forwarded_header: the preset {named.pop()} in trusted_proxies has a header of its own; "
                "leave one of the two out"
            )
        if self.api_key and self.api_key.startswith("atid_"):
            problems.append("api_key: this is a website id (atid_…); write it as website_id")
        if self.website_id and self.website_id.startswith("atk_"):
            problems.append("website_id: this is an API key (atk_…), which must stay secret; write it as api_key")

    _default_site: Site = field(
        init=False,
        repr=False,
        compare=False,
        default=_UNSET,
        metadata={"check": lambda v: v, "env": False, "default": None},
    )
    _patterns: list[tuple[re.Pattern[str], Site]] = field(
        init=False,
        repr=False,
        compare=False,
        default=_UNSET,
        metadata={"check": lambda v: v, "env": False, "default": ()},
    )


def _unknown(given: Mapping[str, Any]) -> list[str]:
    return checks.unknown_names(given, [item.name for item in fields(Settings) if item.init], "setting")
