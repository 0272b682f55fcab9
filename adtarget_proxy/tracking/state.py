"""The signed state cookie: what the browser must not forge.

It holds the ``_fbp`` last reported, when the cookies were last issued, and the last touch (UTMs, click ids, landing page), bound to
the ``tempId``: signed by itsdangerous, HttpOnly, at most 1.5 KB. One compact string,
``<tempId>!<issued, ten digits>!<touched>!<touch, base64>!<fbp>``: what a returning page needs can be read without checking the
signature, which is checked wherever the content is trusted.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from itsdangerous import BadSignature, Signer

MAX_SIZE = 1500
TOUCH_MAX_AGE = 7_776_000  # 90 days
_SEPARATOR = "!"
_UNIT = "\x1f"  # ASCII's unit separator: between the touch's fields, which hold no control character
_MAX_VALUE = 200
# the touch's fields, each by one letter in the cookie
_LETTERS = {
    "landing_page": "l",
    "gclid": "g",
    "ttclid": "t",
    "sccid": "c",
    "utm_source": "s",
    "utm_medium": "m",
    "utm_campaign": "n",
    "utm_content": "o",
    "utm_term": "k",
}
_FIELDS = {letter: name for name, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class State:
    """What the cookie says. Times are Unix seconds; ``touch`` holds API fields in snake case."""

    temp_id: str
    fbp: str | None = None
    issued: int = 0
    touched: int = 0
    touch: Mapping[str, str] = field(default_factory=dict)

    def fresh_touch(self, now: float) -> Mapping[str, str]:
        """The last touch, or nothing where it is over 90 days old."""
        return self.touch if now - self.touched <= TOUCH_MAX_AGE else {}


class Glance(NamedTuple):
    """What an unchecked cookie claims: good enough to see that nothing changed, never to be told to AdTarget."""

    fbp: str | None
    issued: int


def glance(cookie: str | None, temp_id: str | None) -> Glance | None:
    """What ``cookie`` claims, unchecked; None where it is absent, odd, or another visitor's."""
    if not cookie or not temp_id or not cookie.startswith(temp_id):
        return None
    start = len(temp_id)
    issued = cookie[start + 1 : start + 11]
    # the fbp comes last and may hold a separator itself
    fbp, signature = cookie.find(_SEPARATOR, cookie.find(_SEPARATOR, start + 12) + 1), cookie.rfind(".")
    if cookie[start : start + 1] != _SEPARATOR or not issued.isdecimal() or not start + 12 < fbp < signature:
        return None
    return Glance(cookie[fbp + 1 : signature] or None, int(issued))


class StateSigner:
    """Signs and reads the state with one site's secret keys; the first signs, the others are still accepted."""

    def __init__(self, keys: Sequence[str]) -> None:
        # itsdangerous signs with the last of its keys
        self._signer = Signer(list(reversed(keys)), salt=b"adtarget_proxy.state", digest_method=hashlib.sha256)

    def dump(self, state: State) -> str:
        """The cookie's value, at most 1.5 KB: the landing page is trimmed first, then the rest of the touch."""
        touch = {name: value[: None if name == "landing_page" else _MAX_VALUE] for name, value in state.touch.items()}
        text = self._text(state, touch)
        landing = touch.get("landing_page", "")
        while len(text) > MAX_SIZE and landing:
            landing = landing[: max(len(landing) - (len(text) - MAX_SIZE) * 3 // 4 - 1, 0)]
            text = self._text(state, {**touch, "landing_page": landing})
        return text if len(text) <= MAX_SIZE else self._text(state, {})

    def load(self, cookie: str | None, temp_id: str | None) -> State | None:
        """The state where the signature holds and it is this visitor's, else None. Never raises."""
        if not cookie or not temp_id or not cookie.startswith(temp_id) or not cookie.isascii():
            return None
        try:
            text = self._signer.unsign(cookie).decode("ascii")
        except BadSignature:
            return None
        owner, issued, touched, touch, fbp = text.split(_SEPARATOR, 4)
        if owner != temp_id:
            return None
        units = urlsafe_b64decode(touch).decode().split(_UNIT)
        fields = {_FIELDS[unit[0]]: unit[1:] for unit in units if unit and unit[0] in _FIELDS}
        return State(owner, fbp or None, int(issued), int(touched), fields)

    def _text(self, state: State, touch: Mapping[str, str]) -> str:
        units = _UNIT.join([_LETTERS[name] + value.replace(_UNIT, "") for name, value in touch.items() if value])
        encoded = urlsafe_b64encode(units.encode("utf-8", "replace")).decode()
        text = f"{state.temp_id}!{state.issued:010d}!{state.touched}!{encoded}!{state.fbp or ''}"
        return self._signer.sign(text).decode("ascii")


def derived_key(secret: str) -> str:
    """A signing key out of another secret, which cannot be read back from it."""
    return hashlib.sha256(b"adtarget_proxy.state\0" + secret.encode()).hexdigest()
