"""Ready readers: each gives a function for ``consent=`` that reads what a consent tool keeps in its cookie.

A reader answers *granted* or *denied* as the visitor chose, *unknown* where there is no choice yet or the cookie cannot be read.
It never raises. One that is made so that it could grant nobody, or everybody, raises ValueError where it is made.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote

from adtarget_proxy.consent.answer import Consent, Request
from adtarget_proxy.consent.tcf import TCString

Reader = Callable[[Request], Consent]

_STANDARD = str.maketrans("-_", "+/")
_MAX = 8192  # characters of a cookie: browsers keep 4096
_TCF_COOKIE = "euconsent-v2"
# Meta's case: to store on the device, to make and use a profile for ads, to measure them
_ADS = (1, 3, 4, 7)
# the standard purposes by Didomi's ids (support.didomi.io, "Purposes"), which its own token leaves to the TC string
_DIDOMI_STANDARD = {
    "cookies": 1,
    "select_basic_ads": 2,
    "create_ads_profile": 3,
    "select_personalized_ads": 4,
    "create_content_profile": 5,
    "select_personalized_content": 6,
    "measure_ad_performance": 7,
    "measure_content_performance": 8,
    "market_research": 9,
    "improve_products": 10,
    "use_limited_data_to_select_content": 11,
}
_COOKIEBOT = ("necessary", "preferences", "statistics", "marketing")
_PURPOSES = 24  # that a TC string has room for
_VENDORS = 65_535
_DIDOMI_ADS = ("cookies", "create_ads_profile", "select_personalized_ads", "measure_ad_performance")


def onetrust(group: str = "C0004", *, implied: bool = False) -> Reader:
    """OneTrust (CookiePro, Optanon): ``group`` of ``OptanonConsent``; C0004 is Targeting.

    The cookie is there before anybody has chosen; that they have is said by ``OptanonAlertBoxClosed`` or an ``interactionCount`` above
    0. With ``implied`` the defaults of the banner count as well, as where the law asks for an opt-out only.
    Source: my.onetrust.com, "OneTrust Cookies".
    """

    def read(request: Request) -> Consent:
        fields = _query(request.cookies.get("OptanonConsent"))
        flags = dict(pair.rpartition(":")[::2] for pair in fields.get("groups", "").split(","))
        chosen = bool(request.cookies.get("OptanonAlertBoxClosed")) or fields.get("interactionCount", "0") != "0"
        if not (chosen or implied) or fields.get("AwaitingReconsent") == "true":
            return Consent.UNKNOWN
        return _verdict(flags.get(group), granted="1", denied="0")

    return read


def cookiebot(category: str = "marketing") -> Reader:
    """Cookiebot: ``category`` (``preferences``, ``statistics``, ``marketing``) of ``CookieConsent``.

    ``-1`` stands for a region that needs no consent, ``0`` for a visitor who declined. Source: cookiebot.com/en/developer, "Server-side
    usage of the consent cookie".
    """
    if category not in _COOKIEBOT:
        raise ValueError(f"cookiebot: {category!r} is no category; write one of {', '.join(_COOKIEBOT)}")
    flag = re.compile(rf"[{{,]\s*\+?{re.escape(category)}\s*:\s*(true|false)\s*[,}}]")

    def read(request: Request) -> Consent:
        text = request.cookies.get("CookieConsent", "")
        if text in ("-1", "0"):
            return Consent.GRANTED if text == "-1" else Consent.DENIED
        match = flag.search(unquote(text[:_MAX]))
        return _verdict(match[1] if match else None, granted="true", denied="false")

    return read


def didomi(purposes: Sequence[str] = _DIDOMI_ADS, *, vendors: Sequence[str] = ()) -> Reader:
    """Didomi: all of ``purposes`` and ``vendors``, by their ids in Didomi's console, in ``didomi_token``.

    Standard purposes that the token does not name are looked for in the TC string beside it (``euconsent-v2``). The binary
    ``didomi_dcs`` is not read: where it has taken the token's place, only standard purposes are found. Source: support.didomi.io,
    "Didomi Cookies: storage".
    """
    purposes, vendors = _several(purposes), _several(vendors)
    if not (purposes or vendors):
        raise ValueError("didomi: name purposes or vendors, at least one")

    def read(request: Request) -> Consent:
        token, tc_string = _base64_json(request.cookies.get("didomi_token")), _tc_string(request, _TCF_COOKIE)
        said: list[bool | None] = [_listed(token, "vendors", vendor) for vendor in vendors]
        for purpose in purposes:
            allowed = _listed(token, "purposes", purpose)
            if allowed is None and tc_string is not None and purpose in _DIDOMI_STANDARD:
                allowed = tc_string.allows(_DIDOMI_STANDARD[purpose])
            said.append(allowed)
        return _all_of(said)

    return read


def tcf(purposes: Sequence[int] = _ADS, *, vendor: int | None = None, cookie: str = _TCF_COOKIE) -> Reader:
    """Any tool of the IAB's TCF 2 that keeps its TC string in ``cookie``: consent to all ``purposes`` (1 to 24), and to ``vendor``.

    By default purposes 1, 3, 4 and 7, and no vendor. A TC string is made by a choice, so what it does not allow is denied.
    """
    if isinstance(purposes, str) or not isinstance(purposes, Sequence) or not purposes:
        raise ValueError("tcf: purposes must be a list of numbers, such as (1, 3, 4, 7)")
    if not all(_is_number(purpose, _PURPOSES) for purpose in purposes):
        raise ValueError(f"tcf: purposes must be numbers from 1 to {_PURPOSES}")
    if vendor is not None and not _is_number(vendor, _VENDORS):
        raise ValueError("tcf: vendor must be a number of the Global Vendor List, or None")
    purposes = tuple(purposes)

    def read(request: Request) -> Consent:
        tc_string = _tc_string(request, cookie)
        if tc_string is None:
            return Consent.UNKNOWN
        try:
            allowed = all(map(tc_string.allows, purposes)) and (vendor is None or tc_string.allows_vendor(vendor))
        except ValueError:
            return Consent.UNKNOWN
        return Consent.GRANTED if allowed else Consent.DENIED

    return read


def google_consent_mode(
    cookie: str = "consentMode", *, signals: Sequence[str] = ("ad_storage", "ad_user_data")
) -> Reader:
    """Google Consent Mode: all ``signals`` in a ``cookie`` that your banner writes, since Google keeps none itself.

    The cookie is the object given to ``gtag("consent", "update", …)`` as JSON, percent-encoded or not:
    ``{"ad_storage": "granted", "ad_user_data": "granted"}``. Source: developers.google.com/tag-platform/security/guides/consent.
    """
    signals = _several(signals)
    if not signals:
        raise ValueError("google_consent_mode: name at least one of the signals, such as ad_storage")

    def read(request: Request) -> Consent:
        said = _json(unquote(request.cookies.get(cookie, "")[:_MAX]))
        words = {"granted": True, "denied": False}
        return _all_of([words.get(str(said.get(signal))) for signal in signals])

    return read


READERS: Mapping[str, Callable[[], Reader]] = {
    "onetrust": onetrust,
    "cookiebot": cookiebot,
    "didomi": didomi,
    "tcf": tcf,
    "google_consent_mode": google_consent_mode,
}
"""The readers that the settings take by name."""


def _verdict(value: str | None, *, granted: str, denied: str) -> Consent:
    return Consent.GRANTED if value == granted else Consent.DENIED if value == denied else Consent.UNKNOWN


def _all_of(said: Sequence[bool | None]) -> Consent:
    """One no is a no; only yes to all is a yes."""
    if False in said:
        return Consent.DENIED
    return Consent.UNKNOWN if None in said or not said else Consent.GRANTED


def _several(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _is_number(value: object, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= highest


def _query(text: str | None) -> dict[str, str]:
    """Pairs as in a query, of each name the first."""
    try:
        return {name: values[0] for name, values in parse_qs((text or "")[:_MAX]).items()}
    except ValueError:
        return {}


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _base64_json(text: str | None) -> dict[str, Any]:
    plain = unquote((text or "")[:_MAX])
    try:
        return _json(b64decode(plain.translate(_STANDARD) + "=" * (-len(plain) % 4)).decode())
    except ValueError:
        return {}


def _listed(token: Mapping[str, Any], what: str, name: str) -> bool | None:
    lists = token.get(what)
    for word, allowed in (("disabled", False), ("enabled", True)):
        names = lists.get(word) if isinstance(lists, dict) else None
        if isinstance(names, list) and name in names:
            return allowed
    return None


def _tc_string(request: Request, cookie: str) -> TCString | None:
    try:
        return TCString(request.cookies.get(cookie, "")[:_MAX])
    except ValueError:
        return None
