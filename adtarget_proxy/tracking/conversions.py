"""A conversion: what the caller says, and what it borrows from the request it was reported in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from adtarget_proxy.tracking.address import read_address, sent_address
from adtarget_proxy.tracking.events import PAID_OR_AWAITED, Conversion

EVENT_TYPES = ("Lead", "Purchase", "CompleteRegistration", "Subscribe", "Custom")


def conversion_of(
    fields: Mapping[str, Any],
    *,
    account: str,
    key: str,
    visitor: str | None,
    now: float,
    borrowed: Mapping[str, Any],
    ip: str,
) -> Conversion:
    """The event of a conversion. ``fields`` are the API's in snake case and win over ``borrowed``; an address among
    them leaves only as the ``ip`` setting lets any address leave.

    The caller's ``key`` is the idempotency key; two conversions under one key are one. Raises ValueError naming every field
    that AdTarget would refuse.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    problems = _problems(given)
    if problems:
        raise ValueError("; ".join(problems))
    merged = {**borrowed, **given}
    if "client_ip" in given:
        address = read_address(str(given["client_ip"]))
        sent = sent_address(address, ip) if address is not None else None
        if sent is None:
            del merged["client_ip"]
        else:
            merged["client_ip"] = sent
    merged.setdefault("event_time", int(now * 1000))
    identity = hashlib.sha256(f"conversion\0{account}\0{key}".encode()).hexdigest()[:32]
    return Conversion(
        id=identity,
        key=key,
        account=account,
        visitor=visitor or identity,
        at=now,
        worth=PAID_OR_AWAITED,
        fields=merged,
    )


def _problems(fields: Mapping[str, Any]) -> list[str]:
    problems = []
    user = fields.get("telegram_user_id")
    if isinstance(user, bool) or not isinstance(user, int):
        problems.append("telegram_user_id: must be a whole number, the lead's Telegram user id")
    kind = fields.get("event_type")
    if kind not in EVENT_TYPES:
        problems.append(f"event_type: must be one of {', '.join(EVENT_TYPES)}")
    if kind == "Custom" and not fields.get("custom_event_name"):
        problems.append("custom_event_name: needed where event_type is Custom")
    value = fields.get("value")
    if value is None:
        if kind == "Purchase":
            problems.append("value: needed where event_type is Purchase")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        problems.append("value: must be a finite number")
    currency = fields.get("currency")
    if (kind == "Purchase" or currency is not None) and not (
        isinstance(currency, str)
        and len(currency) == 3
        and currency.isascii()
        and currency.isalpha()
        and currency.isupper()
    ):
        problems.append("currency: must be three capital letters (ISO 4217), such as USD")
    return problems
