"""The payload rules of AdTarget's documents. Each check raises ``Refusal`` (400 ``INVALID_PAYLOAD``) naming the field."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from .answers import invalid

Payload = Mapping[str, object]

ATTRIBUTION = ("fbc", "fbp", "gclid", "ttclid", "sccid", "clientIp", "userAgent")
UTMS = ("utmSource", "utmMedium", "utmCampaign", "utmContent", "utmTerm")
VISIT = (
    *("tempId", "clientSessionId", "externalUserId", "landingPage", "referrer", "country", "city", "region"),
    *ATTRIBUTION,
    *UTMS,
)
INVITE = ("tempId", "clientSessionId", "channelId", "href", "referrer", *ATTRIBUTION, *UTMS)
CONVERSION = (
    *("customEventName", "currency", "channelId", "siteId", "websiteId", "contentName", "externalUserId"),
    *("eventSourceUrl", *ATTRIBUTION),
)
EVENT_TYPES = ("Lead", "Purchase", "CompleteRegistration", "Subscribe", "Custom")
PII = ("email", "phone", "firstName", "lastName")

_CURRENCY = re.compile(r"[A-Z]{3}\Z")


def check_visit(payload: Payload) -> None:
    _required(payload, "href")
    _url(payload, "href")
    _strings(payload, VISIT)
    _uuid(payload)
    _address(payload)


def check_update_fbp(payload: Payload) -> None:
    _required(payload, "tempId")
    _uuid(payload)
    _required(payload, "fbp")


def check_invite(payload: Payload) -> None:
    _strings(payload, INVITE)
    if "href" in payload:
        _url(payload, "href")
    _uuid(payload)
    _address(payload)


def check_conversion(payload: Payload) -> None:
    telegram_user_id(payload.get("telegramUserId"))
    check_event(payload)


def check_event(payload: Payload) -> None:
    """The fields of a conversion, but for whose it is."""
    if payload.get("eventType") not in EVENT_TYPES:
        raise invalid(f"eventType must be one of {', '.join(EVENT_TYPES)}")
    if payload["eventType"] == "Custom":
        _required(payload, "customEventName")
    _strings(payload, CONVERSION)
    if payload["eventType"] == "Purchase":
        check_value(payload)
    else:
        if "value" in payload:
            _number(payload, "value")
        if "currency" in payload:
            _currency(payload)
    if "eventTime" in payload:
        _number(payload, "eventTime")
    if "pii" in payload:
        pii = payload["pii"]
        if not isinstance(pii, dict):
            raise invalid("pii must be an object")
        _strings(pii, PII, "pii.")
    _address(payload)


def check_value(payload: Payload) -> None:
    _number(payload, "value")
    _currency(payload)


def telegram_user_id(value: object) -> int:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value // 1 or value <= 0:
        raise invalid("telegramUserId must be a number")
    return int(value)


def telegram_user_id_of_path(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 20):
        raise invalid("telegramUserId must be a number")
    return telegram_user_id(int(text))


def _required(payload: Payload, name: str) -> None:
    value = payload.get(name)
    if value is None or value == "":
        raise invalid(f"{name} is required")
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string")


def _strings(payload: Payload, names: Iterable[str], prefix: str = "") -> None:
    for name in names:
        if name in payload and not isinstance(payload[name], str):
            raise invalid(f"{prefix}{name} must be a string")


def _url(payload: Payload, name: str) -> None:
    try:
        parts = urlsplit(str(payload[name]))
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise invalid(f"{name} must be an absolute http or https URL")


def _uuid(payload: Payload) -> None:
    if "tempId" in payload:
        try:
            uuid.UUID(str(payload["tempId"]))
        except ValueError:
            raise invalid("tempId must be a UUID") from None


def _address(payload: Payload) -> None:
    if "clientIp" in payload:
        try:
            ip_address(str(payload["clientIp"]))
        except ValueError:
            raise invalid("clientIp must be one IP address") from None


def _number(payload: Payload, name: str) -> None:
    value = payload.get(name)
    # An int can be too large for isfinite, a float can be infinite: JSON knows neither bound.
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))):
        raise invalid(f"{name} must be a number")


def _currency(payload: Payload) -> None:
    currency = payload.get("currency")
    if not isinstance(currency, str) or not _CURRENCY.match(currency):
        raise invalid("currency must be an ISO 4217 code such as USD")
