"""Settings: from code, the environment, a TOML file or a framework's mapping. One error names every bad key.

Code beats environment beats TOML beats the default. ``Settings(...)`` fills what it is not given from the other two and
validates itself, so a wrong one fails where it is written, at import, never at the first visitor.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import translate
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from adtarget_proxy.errors import SettingsError
from adtarget_proxy.links import fallback_link

_PREFIX = "ADTARGET_"
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}")
_SLUG_MARK = "{slug}"
DEFAULT_EXCLUDE = ("/admin/*", "/healthz", "/livez", "/readyz", "/metrics")


class _Unset:
    """The mark of a field that code did not give."""

    def __repr__(self) -> str:
        return "from the environment"


_UNSET: Any = _Unset()


# -- what each field takes: a reader from text (environment), and a check that normalises or raises ValueError ------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a non-empty string")
    return value.strip()


def _optional_text(value: Any) -> str | None:
    return None if value is None or value == "" else _text(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
    raise ValueError("must be true or false")


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be a number from {low:g} to {high:g}") from None
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return check


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return check


def _base_url(value: Any) -> str:
    url = _text(value).rstrip("/")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises on a port that is none
    except ValueError:
        raise ValueError("is no URL; write one such as https://adtarget.io/api/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must be an http(s) URL without user name, such as https://adtarget.io/api/v1")
    return url


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of strings")
    return tuple(item for item in value if item)


def _outbox(value: Any) -> str:
    if value is None:
        return default_outbox()
    url = _text(value)
    scheme, _, rest = url.partition("://")
    if scheme == "memory" and not rest:
        return url
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        path = rest[1:]
        if not path.startswith("/"):
            raise ValueError("needs an absolute path: four slashes, as in sqlite:////var/lib/shop/outbox.sqlite3")
        return url
    raise ValueError("must be sqlite:////abs/path/outbox.sqlite3 or memory://")


def _trusted(value: Any) -> int | tuple[str, ...]:
    if isinstance(value, bool):
        raise ValueError("must be networks such as 10.0.0.0/8, or the number of proxies in front")
    if isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
        hops = int(value)
        if not 0 <= hops <= 10:
            raise ValueError("a number of proxies must be from 0 to 10")
        return hops
    networks = []
    for item in _strings(value if value is not None else ()):
        if item == "unix":
            networks.append(item)
            continue
        try:
            networks.append(str(ipaddress.ip_network(item, strict=False)))
        except ValueError:
            raise ValueError(
                f"{item!r} is no network; write networks such as 10.0.0.0/8 or 127.0.0.1, "
                "'unix' for a Unix socket, or the number of proxies in front"
            ) from None
    return tuple(networks)


def _domain(value: Any) -> str | None:
    if value is None or value == "":
        return None
    name = _text(value).lower().lstrip(".").rstrip(".")
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", name) or re.fullmatch(r"[0-9.]+", name):
        raise ValueError("must be a domain such as example.com")
    return name


def _keys(value: Any) -> tuple[str, ...]:
    keys = _strings(value if value is not None else ())
    if any(len(key) < 16 for key in keys):
        raise ValueError(
            "each key needs at least 16 characters; make one with: python -c 'import secrets; print(secrets.token_hex())'"
        )
    return keys


def _invite_path(value: Any) -> str:
    path = _text(value)
    if not path.startswith("/") or path.count(_SLUG_MARK) != 1 or "?" in path or "#" in path:
        raise ValueError("must be a path that holds {slug} once, such as /c/{slug}")
    return path


def _callable(value: Any) -> Callable[..., Any] | None:
    if value is not None and not callable(value):
        raise ValueError("must be a function")
    return value  # type: ignore[no-any-return]


def _geo(value: Any) -> Any:
    if callable(value) or value in ("edge", "none"):
        return value
    raise ValueError("must be 'edge', 'none', or a function from an address to a Geo")


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError:
            raise ValueError('must be JSON such as {"vip": "-1001234567890"}') from None
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError('must be a mapping such as {"vip": "-1001234567890"}')
    return dict(value)


def _setting(default: Any, check: Callable[[Any], Any], *, secret: bool = False, env: bool = True) -> Any:
    return field(default=_UNSET, repr=not secret, metadata={"default": default, "check": check, "env": env})


# -- the values ------------------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; the README's table says what each does. Raises SettingsError naming every bad one."""

    api_key: str | None = _setting(None, _optional_text, secret=True)
    website_id: str | None = _setting(None, _optional_text)
    channel_id: str | None = _setting(None, _optional_text)
    api_url: str = _setting("https://adtarget.io/api/v1", _base_url)
    tracker_url: str = _setting("https://adtarget.io/backend", _base_url)
    outbox: str = _setting(None, _outbox)
    deliver: Literal["thread", "worker"] = _setting("thread", _one_of("thread", "worker"))
    invites: Mapping[str, Any] = _setting({}, _mapping)
    invite_path: str = _setting("/c/{slug}", _invite_path)
    invite_timeout: float = _setting(1.5, _number(0.1, 30))
    invite_concurrency: int | None = _setting(None, lambda v: None if v in (None, "") else int(_number(1, 10_000)(v)))
    fallback_url: str | None = _setting(None, lambda v: None if v in (None, "") else fallback_link(_text(v)))
    trusted_proxies: Any = _setting((), _trusted)
    forwarded_header: bool = _setting(False, _flag)
    cookie_domain: str | None = _setting(None, _domain)
    secret_key: Any = _setting(None, _keys, secret=True)
    cache: Literal["protect", "skip", "leave"] = _setting("protect", _one_of("protect", "skip", "leave"))
    consent: Callable[..., Any] | None = _setting(None, _callable, env=False)
    respect_gpc: bool = _setting(True, _flag)
    respect_dnt: bool = _setting(False, _flag)
    geo: Any = _setting("edge", _geo)
    prefetch: Literal["serve", "refuse"] = _setting("serve", _one_of("serve", "refuse"))
    include: Sequence[str] = _setting((), _strings)
    exclude: Sequence[str] = _setting(DEFAULT_EXCLUDE, _strings)
    ip: Literal["full", "truncate", "none"] = _setting("full", _one_of("full", "truncate", "none"))
    scrub: bool = _setting(True, _flag)
    debug: bool = _setting(False, _flag)
    max_age: float = _setting(86_400.0, _number(60, 30 * 86_400))
    rate: float = _setting(300.0, _number(1, 1_000_000))
    burst: float = _setting(50.0, _number(1, 1_000_000))
    mode: Literal["live", "dry-run", "off"] = _setting("live", _one_of("live", "dry-run", "off"))
    sites: Mapping[str, Any] = _setting({}, _mapping)

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
        sites = [(pattern, _site(given, own, f"sites[{pattern!r}]", problems)) for pattern, given in self.sites.items()]
        default = own if sites else _site(own, own, "", problems)
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


def default_outbox() -> str:
    """The SQLite outbox in the user's state directory (XDG base directories; macOS keeps it in Application Support)."""
    home = os.environ.get("XDG_STATE_HOME")
    if home and Path(home).is_absolute():
        base = Path(home)
    elif sys.platform == "darwin":
        base = Path("~/Library/Application Support").expanduser()
    else:
        base = Path("~/.local/state").expanduser()
    if not base.is_absolute():
        raise ValueError("no home directory to keep the outbox in; set sqlite:////abs/path/outbox.sqlite3 or memory://")
    return f"sqlite:///{base / 'adtarget-proxy' / 'outbox.sqlite3'}"


def _unknown(given: Mapping[str, Any]) -> list[str]:
    known = [item.name for item in fields(Settings) if item.init]
    problems = []
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    return problems


def _site(given: Any, own: Site, where: str, problems: list[str]) -> Site:
    """``given`` with what it leaves out taken from ``own``. A site with a credential of its own takes none from there."""
    prefix = f"{where}." if where else ""
    if isinstance(given, Mapping):
        try:
            given = Site(**{str(key).lower(): value for key, value in given.items()})
        except TypeError as error:
            problems.append(f"{where}: {str(error).removeprefix('Site.__init__() ')}")
            return own
    if not isinstance(given, Site):
        problems.append(f"{where}: must be a Site or a mapping with its fields")
        return own
    checks: dict[str, Callable[[Any], Any]] = {
        "api_url": _base_url,
        "tracker_url": _base_url,
        "cookie_domain": _domain,
        "fallback_url": lambda v: fallback_link(_text(v)),
    }
    merged: dict[str, Any] = {}
    for item in fields(Site):
        value = getattr(given, item.name)
        if value in (None, "") and not (item.name in ("api_key", "website_id") and (given.api_key or given.website_id)):
            value = getattr(own, item.name)
        if value is not None and item.name in checks:
            try:
                value = checks[item.name](value)
            except ValueError as error:
                problems.append(f"{prefix}{item.name}: {error}")
                value = None
        merged[item.name] = value
    merged["name"] = given.name or where.removeprefix("sites[").rstrip("]").strip("'")
    site = Site(**merged)
    invites = given.invites or own.invites
    return replace(site, invites={slug: _route(slug, route, site, prefix, problems) for slug, route in invites.items()})


def _route(slug: str, given: Any, site: Site, prefix: str, problems: list[str]) -> InviteRoute:
    where = f"{prefix}invites[{slug!r}]"
    if not _SLUG.fullmatch(slug):
        problems.append(f"{where}: a slug is 1 to 64 letters, digits, '-', '_', '.' or '~'")
    if isinstance(given, Mapping):
        try:
            given = InviteRoute(**given)
        except TypeError as error:
            problems.append(f"{where}: {str(error).removeprefix('InviteRoute.__init__() ')}")
            return InviteRoute()
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
