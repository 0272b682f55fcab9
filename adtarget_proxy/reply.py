"""A response of our own: the redirect of an invite route, or the refusal of a prefetch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Reply:
    """A response without a body."""

    status: int
    headers: tuple[tuple[str, str], ...]

    @property
    def location(self) -> str:
        """Where it sends the visitor; ``/`` where it sends them nowhere."""
        return next((value for name, value in self.headers if name == "Location"), "/")

    def having(self, name: str, value: str) -> Reply:
        """The same with one header more."""
        return replace(self, headers=(*self.headers, (name, value)))


REFUSED = Reply(503, (("Cache-Control", "no-store"), ("Content-Length", "0")))


def redirect_to(url: str, cookies: Sequence[str] = ()) -> Reply:
    """302 to an invite: not stored, not indexed, and the channel does not learn where the visitor came from."""
    headers = [
        ("Location", url),
        ("Cache-Control", "private, no-store"),
        ("X-Robots-Tag", "noindex"),
        ("Referrer-Policy", "no-referrer"),
        ("Content-Length", "0"),
    ]
    headers.extend(("Set-Cookie", cookie) for cookie in cookies)
    return Reply(302, tuple(headers))
