"""Personal data and secrets do not leave in a URL: removed by the parameter's name and by the value's shape.

The parameter stays, its value becomes ``redacted``, so that a report still shows that it was there. Click ids and UTMs keep their
names; a value among them that looks like an e-mail address, a phone number or a token goes like any other. Names are read as
people write them: ``user[email]``, ``billingPhone``, ``reset-token`` end in the word that tells. Why: OWASP, "Information exposure
through query strings in URL".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote_plus

REDACTED = "redacted"
# the last word of a name, or its end
_WORDS = re.compile(
    r"mail|phone|tel(?:ephone)?|mobile|msisdn|pass(?:code|phrase)?|pwd|auth|authorization|sid|jwt|otp|pin|ssn|sig|signature|"
    r"surname|(?:first|last|full)name|dob|birth(?:day|date)|iban|cv[vc]|(?:phone|card)number|"
    r".*(?:email|password|passwd|secret|token|apikey|session|sess(?:ion)?id)"
)
# its last two
_TWO_WORDS = re.compile(
    r"(?:api|access|private|secret|auth) key|(?:first|last|full) name|birth (?:day|date)|(?:phone|card) number|"
    r"e?mail address|e mail|session id|pass (?:word|code|phrase)|auth code"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_EMAIL = re.compile(r"[^\s/?&=#@:]{1,64}@[^\s/?&=#@:]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"\+[0-9][0-9 ().-]{7,18}[0-9]")
_TOKEN = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # a JSON Web Token
    r"|(?:sk|pk|rk|atk)_(?:live|test)_[A-Za-z0-9_]{8,}"  # Stripe's keys and AdTarget's
    r"|\b[0-9]{8,10}:[A-Za-z0-9_-]{35}\b"  # a Telegram bot's
    r"|gh[pousr]_[A-Za-z0-9]{36}|xox[abprs]-[A-Za-z0-9-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[A-Za-z0-9_-]{35}"
)
_PATH_EMAIL = re.compile(r"[^\s/?&=#@:]{1,64}(?:@|%40)[^\s/?&=#@:%]+\.[A-Za-z]{2,}")
_USER_INFO = re.compile(r"^([a-z-]+://)[^/@]*@", re.IGNORECASE)
_PAIR = re.compile(r"[^&;]+")
SWITCH = "adtarget=o"
_SWITCHES: dict[str, Literal["on", "off"]] = {"adtarget=on": "on", "adtarget=off": "off"}
_ID_NAMES = frozenset({"fbclid", "gclid", "ttclid", "sccid", "wbraid", "gbraid", "msclkid"})
_LONGEST_NAME = 128  # characters; a longer name is looked at, but not remembered


def switch_of(query: str) -> Literal["on", "off"] | None:
    """What a raw query's last ``adtarget=on`` or ``adtarget=off`` says; any other value is the site's own."""
    said = [_SWITCHES[pair] for pair in query.split("&") if pair in _SWITCHES]
    return said[-1] if said else None


def without_switch(query: str) -> str:
    """A raw query without ``adtarget=on`` and ``adtarget=off``, which are for us alone; everything else byte for byte."""
    return "&".join(pair for pair in query.split("&") if pair not in _SWITCHES) if SWITCH in query else query


def url_without_switch(url: str) -> str:
    """The same of a URL's query."""
    if SWITCH not in url:
        return url
    path, mark, rest = url.partition("?")
    query, sharp, fragment = rest.partition("#")
    left = without_switch(query)
    return f"{path}{mark if left else ''}{left}{sharp}{fragment}"


def scrubbed_query(query: str) -> str:
    """A raw query without personal data and secrets; everything else byte for byte."""
    return _PAIR.sub(_pair, query) if query else query


def scrubbed_url(url: str) -> str:
    """A URL without personal data and secrets in its query or path, and without user name, password and fragment."""
    path, mark, query = url.partition("#")[0].partition("?")
    if "@" in path or "%40" in path:
        path = _PATH_EMAIL.sub(REDACTED, _USER_INFO.sub(r"\1", path))
    path = _TOKEN.sub(REDACTED, path)
    return f"{path}?{scrubbed_query(query)}" if mark else path


def _pair(match: re.Match[str]) -> str:
    text = match[0]
    name, mark, value = text.partition("=")
    if not value or name in _ID_NAMES:
        return text
    telling = _is_telling if len(name) <= _LONGEST_NAME else _is_telling.__wrapped__
    if telling(name) or _has_a_shape(value):
        return f"{name}{mark}{REDACTED}"
    return text


def _has_a_shape(value: str) -> bool:
    plain = unquote_plus(value) if "%" in value or "+" in value else value
    if "%2b" in value.lower() and _PHONE.fullmatch(plain):
        return True
    if "%" in plain:  # encoded twice, as a redirect's target often is
        plain = unquote_plus(plain)
    return _EMAIL.search(plain) is not None or _TOKEN.search(plain) is not None


@lru_cache(maxsize=1024)
def _is_telling(name: str) -> bool:
    """Whether a parameter's name says that its value is nobody else's business, by its last word or its last two."""
    words = [word.lower() for word in _WORD.findall(unquote_plus(name))]
    if not words:
        return False
    return _WORDS.fullmatch(words[-1]) is not None or _TWO_WORDS.fullmatch(" ".join(words[-2:])) is not None
