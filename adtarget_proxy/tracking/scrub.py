"""Personal data and secrets do not leave in a URL: removed by the parameter's name and by the value's shape.

The parameter stays, its value becomes ``redacted``, so that a report still shows that it was there. Click ids and UTMs keep their
names; a value among them that looks like an e-mail address, a phone number or a token goes like any other.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

REDACTED = "redacted"
_NAMES = re.compile(
    r"(?:user_?)?e-?mail(?:_?address)?|mail|phone(?:_?number)?|tel|mobile|msisdn|pass(?:word|wd|code|phrase)?|pwd|secret|client_secret|"
    r"(?:access|refresh|id|auth|csrf|xsrf|csrfmiddleware|session|api|reset|invite)?_?-?token|api_?-?key|auth(?:orization)?|session(?:_?id)?|"
    r"sid|jwt|otp|pin|ssn|signature|sig|first_?name|last_?name|full_?name|surname|birth_?(?:day|date)|dob|card(?:_?number)?|iban|cvv",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"[^\s/?&=#@:]{1,64}@[^\s/?&=#@:]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"\+[0-9][0-9 ().-]{7,18}[0-9]")
_TOKEN = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*|(?:sk|pk|rk|atk)_(?:live|test)_[A-Za-z0-9_]{8,}"
)
_PATH_EMAIL = re.compile(r"[^\s/?&=#@:]{1,64}(?:@|%40)[^\s/?&=#@:%]+\.[A-Za-z]{2,}")
_USER_INFO = re.compile(r"^([a-z-]+://)[^/@]*@", re.IGNORECASE)
_PAIR = re.compile(r"[^&;]+")
_ID_NAMES = frozenset({"fbclid", "gclid", "ttclid", "sccid", "wbraid", "gbraid", "msclkid"})


def scrubbed_query(query: str) -> str:
    """A raw query without personal data and secrets; everything else byte for byte."""
    return _PAIR.sub(_pair, query) if query else query


def scrubbed_url(url: str) -> str:
    """A URL without personal data and secrets in its query or path, and without user name, password and fragment."""
    path, mark, query = url.partition("#")[0].partition("?")
    if "@" in path or "%40" in path:
        path = _PATH_EMAIL.sub(REDACTED, _USER_INFO.sub(r"\1", path))
    return f"{path}?{scrubbed_query(query)}" if mark else path


def _pair(match: re.Match[str]) -> str:
    text = match[0]
    name, mark, value = text.partition("=")
    if not value or name in _ID_NAMES:
        return text
    plain = unquote_plus(value) if "%" in value or "+" in value else value
    phone = "%2b" in value.lower() and _PHONE.fullmatch(plain)
    if _NAMES.fullmatch(name) or _EMAIL.search(plain) or _TOKEN.search(plain) or phone:
        return f"{name}{mark}{REDACTED}"
    return text
