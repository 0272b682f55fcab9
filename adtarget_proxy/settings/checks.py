"""What each setting takes: a value from code, TOML or (as text) the environment goes in, a normal one comes out.

Each check raises ValueError saying what to write instead; the caller puts the setting's name before it.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from adtarget_proxy.consent import READERS
from adtarget_proxy.links import fallback_link

PRESETS = ("cloudflare", "aws-elb", "nginx", "fastly", "vercel", "azure")  # what each trusts: tracking/presets.py
_SLUG_MARK = "{slug}"


def text(value: Any) -> str:
    """A non-empty string."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a non-empty string")
    return value.strip()


def optional_text(value: Any) -> str | None:
    """A string, or None for nothing."""
    return None if value is None or value == "" else text(value)


def flag(value: Any) -> bool:
    """True or false, also in words."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
    raise ValueError("must be true or false")


def number(low: float, high: float) -> Callable[[Any], float]:
    """A check for a number from ``low`` to ``high``."""

    def check(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be a number from {low:g} to {high:g}") from None
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return check


def one_of(*words: str) -> Callable[[Any], str]:
    """A check for one of ``words``."""

    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return check


def base_url(value: Any) -> str:
    """An http(s) base URL, without its last slash."""
    url = text(value).rstrip("/")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises on a port that is none
    except ValueError:
        raise ValueError("is no URL; write one such as https://adtarget.io/api/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must be an http(s) URL without user name, such as https://adtarget.io/api/v1")
    return url


def strings(value: Any) -> tuple[str, ...]:
    """A list of strings, or one comma-separated string."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of strings")
    return tuple(item for item in value if item)


def outbox(value: Any) -> str:
    """The outbox' URL; None is the default place."""
    if value is None:
        return default_outbox()
    url = text(value)
    scheme, _, rest = url.partition("://")
    if scheme == "memory" and not rest:
        return url
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        path = rest[1:]
        if not path.startswith("/"):
            raise ValueError("needs an absolute path: four slashes, as in sqlite:////var/lib/shop/outbox.sqlite3")
        return url
    if scheme in ("redis", "rediss"):
        return _redis(url)
    raise ValueError("must be sqlite:////abs/path/outbox.sqlite3, redis://host:6379/0 or memory://")


def _redis(url: str) -> str:
    if find_spec("redis") is None:
        raise ValueError("needs the Redis client; run: pip install 'adtarget-proxy[redis]'")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises on a port that is none
        journal = dict(parse_qsl(parts.query)).get("journal")
    except ValueError:
        raise ValueError("is no URL; write one such as redis://:password@host:6379/0") from None
    if not parts.hostname or not re.fullmatch(r"(/\d*)?", parts.path):
        raise ValueError("must name a host and at most a database's number, as in redis://host:6379/0")
    if journal is None:
        state_directory()
    elif not Path(journal).is_absolute():
        raise ValueError(
            "needs an absolute path for its journal, as in redis://host:6379/0?journal=/var/lib/shop/outbox"
        )
    return url


def trusted_proxies(value: Any) -> int | tuple[str, ...]:
    """Networks, the word ``unix`` and a preset's name, or the number of proxies in front."""
    if isinstance(value, bool):
        raise ValueError("must be networks such as 10.0.0.0/8, a preset's name, or the number of proxies in front")
    if isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
        hops = int(value)
        if not 0 <= hops <= 10:
            raise ValueError("a number of proxies must be from 0 to 10")
        return hops
    words = tuple(_proxy(item) for item in strings(value if value is not None else ()))
    presets = [word for word in words if word in PRESETS]
    if len(presets) > 1:
        raise ValueError(
            f"names {len(presets)} presets ({', '.join(presets)}); name the one that visitors reach, "
            "and write the networks of the proxies behind it beside it"
        )
    return words


def _proxy(item: str) -> str:
    word = item.strip().lower()
    if word == "unix" or word in PRESETS:
        return word
    try:
        return str(ipaddress.ip_network(word, strict=False))
    except ValueError:
        raise ValueError(
            f"{item!r} is no network and no preset; write networks such as 10.0.0.0/8 or 127.0.0.1, "
            f"a preset ({', '.join(PRESETS)}), 'unix' for a Unix socket, or the number of proxies in front"
        ) from None


def domain(value: Any) -> str | None:
    """A cookie's domain in lower case, or None."""
    if value is None or value == "":
        return None
    name = text(value).lower().lstrip(".").rstrip(".")
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", name) or re.fullmatch(r"[0-9.]+", name):
        raise ValueError("must be a domain such as example.com")
    return name


def keys(value: Any) -> tuple[str, ...]:
    """Signing keys, newest first."""
    keys = strings(value if value is not None else ())
    if any(len(key) < 16 for key in keys):
        raise ValueError(
            "each key needs at least 16 characters; make one with: python -c 'import secrets; print(secrets.token_hex())'"
        )
    return keys


def invite_path(value: Any) -> str:
    """A path that holds the slug's place once."""
    path = text(value)
    if not path.startswith("/") or path.count(_SLUG_MARK) != 1 or "?" in path or "#" in path:
        raise ValueError("must be a path that holds {slug} once, such as /c/{slug}")
    return path


def unknown_names(given: Iterable[str], known: Sequence[str], what: str) -> list[str]:
    """A problem for each of the names that is not known, with the nearest that is; ``what`` is what they should be."""
    return [f"{name}: no such {what}{_guess(name, known)}" for name in given if name not in known]


def _guess(word: str, known: Iterable[str], otherwise: str = "") -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else otherwise


def consent(value: Any) -> Callable[..., Any] | None:
    """A function, the name of a consent tool, or None."""
    if value in (None, ""):
        return None
    if isinstance(value, str) and value in READERS:
        return READERS[value]()
    tools = ", ".join(READERS)
    if isinstance(value, str):
        otherwise = f"; write one of {tools}, or in code a function"
        raise ValueError(f"{value!r} is no consent tool{_guess(value.lower(), READERS, otherwise)}")
    if not callable(value):
        raise ValueError(f"must be a function from a request to True, False or None, or one of {tools}")
    if value in READERS.values():
        raise ValueError("is a reader without its parentheses; write it with them, such as onetrust()")
    return value  # type: ignore[no-any-return]


def geo(value: Any) -> Any:
    """``edge``, ``none`` or a function."""
    if callable(value) or value in ("edge", "none"):
        return value
    raise ValueError("must be 'edge', 'none', or a function from an address to a Geo")


def mapping(value: Any) -> dict[str, Any]:
    """A mapping with string keys, or one as JSON."""
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


def concurrency(value: Any) -> int | None:
    """How many clicks may wait in a process, or None for the shell's own number."""
    return None if value in (None, "") else int(number(1, 10_000)(value))


def fallback(value: Any) -> str | None:
    """A link of last resort, or None."""
    return None if value in (None, "") else fallback_link(text(value))


def default_outbox() -> str:
    """The SQLite outbox in the state directory."""
    return f"sqlite:///{state_directory() / 'outbox.sqlite3'}"


def state_directory() -> Path:
    """Ours in the user's state directory (XDG base directories; macOS keeps it in Application Support). Raises ValueError."""
    home = os.environ.get("XDG_STATE_HOME")
    if home and Path(home).is_absolute():
        base = Path(home)
    elif sys.platform == "darwin":
        base = Path("~/Library/Application Support").expanduser()
    else:
        base = Path("~/.local/state").expanduser()
    if not base.is_absolute():
        raise ValueError("no home directory to keep the outbox in; set sqlite:////abs/path/outbox.sqlite3 or memory://")
    return base / "adtarget-proxy"
