"""The API's fields as keywords, a shape an endpoint, and how a keyword becomes JSON (adtarget-api.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Required, TypedDict

EventType = Literal["Lead", "Purchase", "CompleteRegistration", "Subscribe", "Custom"]


class ClientFields(TypedDict, total=False):
    """Who is behind the request: sent in the body and in headers (headers win)."""

    client_ip: str | None
    user_agent: str | None


class ClickFields(TypedDict, total=False):
    """What an ad platform knows the visitor by."""

    fbc: str | None
    fbp: str | None
    gclid: str | None
    ttclid: str | None
    sccid: str | None


class CampaignFields(TypedDict, total=False):
    """The UTM parameters."""

    utm_source: str | None
    utm_medium: str | None
    utm_campaign: str | None
    utm_content: str | None
    utm_term: str | None


class VisitFields(ClientFields, ClickFields, CampaignFields, total=False):
    """A page view. ``temp_id`` is a UUID; AdTarget makes one where there is none."""

    href: Required[str]
    temp_id: str | None
    client_session_id: str | None
    external_user_id: str | None
    landing_page: str | None
    referrer: str | None
    country: str | None
    city: str | None
    region: str | None


class FbpFields(ClientFields, total=False):
    """A late ``_fbp``. All but the first two goes in headers only."""

    temp_id: Required[str]
    fbp: Required[str]
    href: str | None


class InviteFields(ClientFields, ClickFields, CampaignFields, total=False):
    """An invite click; without ``channel_id`` it is for the site's default channel."""

    temp_id: str | None
    client_session_id: str | None
    channel_id: str | int | None
    href: str | None
    referrer: str | None


class Pii(TypedDict, total=False):
    """Personal data of a conversion."""

    email: str | None
    phone: str | None
    first_name: str | None
    last_name: str | None


class LeadEventFields(ClientFields, ClickFields, total=False):
    """An event of a known lead. ``event_time`` is in Unix milliseconds, or an aware datetime."""

    telegram_user_id: Required[int]
    event_type: Required[EventType]
    custom_event_name: str | None
    value: float | Decimal | None
    currency: str | None
    channel_id: str | int | None
    site_id: str | None
    website_id: str | None
    content_name: str | None
    external_user_id: str | None
    event_time: float | datetime | None
    pii: Pii | None
    event_source_url: str | None


class ConversionFields(LeadEventFields, total=False):
    """A conversion: the same fields; a cold lead needs its channel, and a site with an account's key."""


class ValueFields(TypedDict):
    """The value of an earlier conversion. ``currency`` is an ISO 4217 code."""

    telegram_user_id: int
    conversion_id: str
    value: float | Decimal
    currency: str


class LeadFields(TypedDict):
    """Which lead is asked for."""

    telegram_user_id: int


def on_wire(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` keywords as the JSON object that AdTarget reads; None leaves a field out.

    Raises TypeError or ValueError for a value that cannot stand for its field.
    """
    payload = {_NAMES.get(keyword) or _camel(keyword): value for keyword, value in given.items() if value is not None}
    for name in _WRITERS.keys() & payload.keys():
        payload[name] = _WRITERS[name](payload[name])
    return payload


def _camel(keyword: str) -> str:
    head, *rest = keyword.split("_")
    return head + "".join(word.title() for word in rest)


def _amount(value: Any) -> int | float:
    number = float(value) if isinstance(value, Decimal) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise ValueError("value: must be a finite number")
    return number


def _milliseconds(value: Any) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("event_time: a datetime needs a time zone")
        return round(value.timestamp() * 1000)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("event_time: must be Unix milliseconds or an aware datetime")
    return int(value)


def _pii(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value.keys() <= Pii.__annotations__.keys():
        raise TypeError(f"pii: must be a mapping with {', '.join(Pii.__annotations__)}")
    return on_wire(value)


_NAMES = {
    keyword: _camel(keyword)
    for shape in (VisitFields, FbpFields, InviteFields, ConversionFields, ValueFields, Pii)
    for keyword in shape.__annotations__
}
_WRITERS: dict[str, Callable[[Any], Any]] = {
    "channelId": str,
    "value": _amount,
    "eventTime": _milliseconds,
    "pii": _pii,
}
