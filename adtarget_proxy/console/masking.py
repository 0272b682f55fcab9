"""What an operator sees of an event without asking for more: what it is worth, not whom it is about."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

MASK = "…"
_SHOWN = 8  # characters of an id
_OPEN = frozenset(  # fields that say nothing about a person; every other one is masked, new ones too
    {
        "channel_id",
        "content_name",
        "country",
        "currency",
        "custom_event_name",
        "event_time",
        "event_type",
        "site_id",
        "utm_campaign",
        "utm_content",
        "utm_medium",
        "utm_source",
        "utm_term",
        "value",
        "website_id",
    }
)
_URLS = frozenset({"href", "landing_page", "referrer", "event_source_url"})
_IDS = frozenset({"temp_id", "client_session_id"})
_PERSONAL = re.compile(r"\S+@\S+|\d[\d .-]{5,}\d|(?:[0-9a-fA-F]{0,4}:){3,}[0-9a-fA-F]*|\d+\.\d+\.\d+\.\d+")


def masked(fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` without personal data: URLs lose their query, ids their end, the rest is hidden."""
    return {name: _masked(name, value) for name, value in fields.items()}


def masked_id(text: str) -> str:
    """Enough of an id to tell it from another."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + MASK


def masked_words(text: str) -> str:
    """An answer's words without what looks like an address or a number of somebody's."""
    return _PERSONAL.sub(MASK, text)


def _masked(name: str, value: Any) -> Any:
    if value is None or name in _OPEN:
        return value
    if name in _URLS and isinstance(value, str):
        return _masked_url(value)
    return masked_id(value) if name in _IDS and isinstance(value, str) else MASK


def _masked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    rest = f"?{MASK}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{rest}"
