"""The events of the outbox' benchmarks: what a page of a landing makes, with ids as random as the real ones.

Visitors that count upwards would flatter every index: their neighbours are on the page that was written last.
"""

from __future__ import annotations

import hashlib
import uuid

from adtarget_proxy.tracking.events import PLAIN, Visit, new_id

AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"


def visitor(number: int) -> str:
    """The ``number``-th visitor's id, always the same."""
    return str(uuid.UUID(bytes=hashlib.md5(b"%d" % number).digest()))


def visit(number: int, *, account: str = "b9b66761a0893ffc") -> Visit:
    """The ``number``-th visitor's first page."""
    at = 1_795_606_978.0 + number / 1000
    event_id, who = new_id(at, lambda size: hashlib.md5(b"event %d" % number).digest()[:size]), visitor(number)
    fields = {
        "user_agent": AGENT,
        "temp_id": who,
        "client_session_id": str(uuid.UUID(bytes=hashlib.md5(b"session %d" % number).digest())),
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
