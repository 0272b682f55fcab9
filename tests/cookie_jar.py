"""A browser's cookie jar after RFC 6265: 5.2 parsing, 5.3 storage with the public-suffix list, 5.1.3 and 5.1.4 matching, 5.4 sending."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from publicsuffixlist import PublicSuffixList

SUFFIXES = PublicSuffixList()
FOREVER = float("inf")


@dataclass
class Cookie:
    """A stored cookie (5.3), its times in seconds on the test's clock."""

    name: str
    value: str
    domain: str
    path: str
    host_only: bool
    secure: bool
    http_only: bool
    expires: float
    created: int  # the order of creation, which an update keeps


class CookieJar:
    """One browser's. ``now`` is its clock, in Unix seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._cookies: dict[tuple[str, str, str], Cookie] = {}
        self._made = 0

    def keep(self, line: str, host: str, path: str = "/", *, secure: bool = True) -> bool:
        """Store a Set-Cookie line of a response from ``host``; whether it was not thrown away."""
        cookie = self._parsed(line, canonical(host), path)
        if cookie is None or (cookie.secure and not secure):
            return False
        key = (cookie.name, cookie.domain, cookie.path)
        old = self._cookies.pop(key, None)
        if old is not None:
            cookie.created = old.created
        if cookie.expires > self.now:
            self._cookies[key] = cookie
        return True

    def header(self, host: str, path: str = "/", *, secure: bool = True) -> str | None:
        """The Cookie header of a request: longer paths first, then the older cookies (5.4)."""
        sent = self.sent(host, path, secure=secure)
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in sent) or None

    def sent(self, host: str, path: str = "/", *, secure: bool = True) -> list[Cookie]:
        """The cookies that a request carries."""
        name = canonical(host)
        found = [
            cookie
            for cookie in self._cookies.values()
            if (name == cookie.domain if cookie.host_only else domain_matches(name, cookie.domain))
            and path_matches(path, cookie.path)
            and (secure or not cookie.secure)
            and cookie.expires > self.now
        ]
        return sorted(found, key=lambda cookie: (-len(cookie.path), cookie.created))

    def stored(self, name: str) -> list[Cookie]:
        """The cookies of a name, wherever they lie."""
        return [cookie for cookie in self._cookies.values() if cookie.name == name and cookie.expires > self.now]

    def _parsed(self, line: str, host: str, request_path: str) -> Cookie | None:
        pair, *attributes = line.split(";")
        name, equals, value = (part.strip(" \t") for part in pair.partition("="))
        if not equals or not name:
            return None
        said = {}
        for attribute in attributes:
            key, _, text = attribute.partition("=")
            said[key.strip(" \t").lower()] = text.strip(" \t")  # the last of a name counts
        domain = said.get("domain", "").removeprefix(".").lower()
        if domain and SUFFIXES.is_public(domain):  # step 5
            if domain != host:
                return None
            domain = ""
        if domain and not domain_matches(host, domain):  # step 6
            return None
        path = said.get("path", "")
        self._made += 1
        return Cookie(
            name,
            value,
            domain or host,
            path if path.startswith("/") else default_path(request_path),
            not domain,
            "secure" in said,
            "httponly" in said,
            self._expires(said),
            self._made,
        )

    def _expires(self, said: dict[str, str]) -> float:
        age = said.get("max-age", "")
        if age.removeprefix("-").isdecimal():
            return self.now + int(age) if int(age) > 0 else 0.0
        try:
            return parsedate_to_datetime(said["expires"]).timestamp()
        except (KeyError, ValueError):
            return FOREVER


def canonical(host: str) -> str:
    """The host of a URL, without its port: lower case, A-labels (5.1.2). A trailing dot is the host's own."""
    name = host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
    return name.lower() if name.isascii() else name.encode("idna").decode("ascii")


def domain_matches(host: str, domain: str) -> bool:
    """5.1.3: identical, or under it and no IP address."""
    return host == domain or (host.endswith("." + domain) and not is_address(host))


def path_matches(path: str, of_cookie: str) -> bool:
    """5.1.4."""
    return path == of_cookie or (
        path.startswith(of_cookie) and (of_cookie.endswith("/") or path[len(of_cookie)] == "/")
    )


def default_path(path: str) -> str:
    """5.1.4: the directory of the request's path."""
    return path.rpartition("/")[0] or "/" if path.startswith("/") else "/"


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
