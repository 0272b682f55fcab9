"""The events of the outbox' benchmarks: what a page makes, with ids as the package makes them.

Visitors are new, or, where the environment says ``OUTBOX_VISITORS=returning``, their ids are of any age, as those of a year's cookies
and of ``track.js`` are: then each falls on a page of its own in an index.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable

from adtarget_proxy.tracking.events import PLAIN, Visit
from adtarget_proxy.tracking.ids import new_id, new_uuid

AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"


def _made_at(number: int) -> float:
    return 1_795_606_978.0 + number / 1000


def _chance(what: str, number: int) -> Callable[[int], bytes]:
    return lambda size: hashlib.md5(f"{what} {number}".encode()).digest()[:size]


def visitor(number: int) -> str:
    """The ``number``-th visitor's id, always the same."""
    if os.environ.get("OUTBOX_VISITORS") == "returning":
        return str(uuid.UUID(bytes=_chance("visitor", number)(16), version=4))
    return new_uuid(_made_at(number), _chance("visitor", number))


def visit(number: int, *, account: str = "b9b66761a0893ffc") -> Visit:
    """The ``number``-th visitor's first page."""
    at, who = _made_at(number), visitor(number)
    event_id = new_id(at, _chance("event", number))
    fields = {
        "user_agent": AGENT,
        "temp_id": who,
        "client_session_id": new_uuid(at, _chance("session", number)),
        "client_ip": f"203.0.113.{number % 256}",
        "fbp": f"fb.1.1795606978934.{1_000_000_000 + number}",
        "fbc": "fb.1.1795606978934.IwAR0_aB-c9",
        "href": f"https://shop.example/offer/{number % 50}?fbclid=IwAR0_aB-c9&utm_source=fb&utm_medium=cpc&utm_campaign=spring",
        "referrer": "https://shop.example/",
        "utm_source": "fb",
        "utm_medium": "cpc",
        "utm_campaign": "spring",
    }
    return Visit(id=event_id, key=event_id, account=account, visitor=who, at=at, worth=PLAIN, fields=fields)
