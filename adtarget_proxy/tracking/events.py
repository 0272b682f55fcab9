"""The four things AdTarget is told, and a withdrawal: values that travel from the response to the outbox and the API.

An event is made once, when its request is decided, with the idempotency key that every attempt to send it will carry
(adtarget-api: "the key alone decides"). ``fields`` holds the API's fields as the client's keywords, in snake case.
"""

from __future__ import annotations

import hashlib
import json
import json.encoder
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

# Worth, the order in which the store hands out queues: the lower goes first (delivery: "Worth").
PAID_OR_AWAITED = 1  # conversions, and what a click waits for
FROM_AN_AD = 2  # visits whose own request brought a click id, clicks that ended in the fallback
UPDATE = 3  # FbpUpdates
PLAIN = 4  # every other visit

_quote = json.encoder.encode_basestring_ascii


def _encoder() -> Callable[[Any], str]:
    """JSONEncoder's ``encode``, which makes its C encoder anew for each value, with one made beforehand where there is one."""
    encoder = json.JSONEncoder(separators=(",", ":"), check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    chunks = make(None, encoder.default, _quote, None, ":", ",", False, False, True)
    return lambda value: "".join(chunks(value, 0))


_encode = _encoder()


@dataclass(slots=True, kw_only=True)  # frozen would make each page pay eight times for what nobody does
class Event:
    """What all events share. Times are Unix seconds. Never changed once made: ``dataclasses.replace`` makes another."""

    kind: ClassVar[str] = ""

    id: str  # unique in a store: a second put of the same id is no new event
    key: str  # the Idempotency-Key, the same on every attempt
    account: str  # Account.id: which credential it is for
    visitor: str  # the queue it stands in: the tempId, or its own id where there is none
    at: float  # when it was made
    worth: int
    not_before: float = 0.0  # never sent before this time
    asked_at: float | None = None  # when AdTarget was asked with its key before it was put, if the answer is not known
    fields: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> str:
        """The event as one line of ASCII JSON, without the line break."""
        asked = "" if self.asked_at is None else f'"u":{self.asked_at!r},'
        return (  # put together by hand, as the page waits for it: a third quicker than to encode it whole
            f'{{"k":"{self.kind}","i":{_quote(self.id)},"c":{_quote(self.key)},"a":{_quote(self.account)},'
            f'"v":{_quote(self.visitor)},"t":{self.at!r},"w":{self.worth},"n":{self.not_before!r},'
            f'{asked}"f":{_encode(self.fields)}}}'
        )

    def __repr__(self) -> str:
        """Kind and id alone: fields are personal data."""
        return f"<{type(self).__name__} {self.id}>"


class Visit(Event):
    """A page view: ``POST /events/visit`` or ``POST /track/init``."""

    __slots__ = ()
    kind = "visit"


class FbpUpdate(Event):
    """A visitor's ``_fbp`` changed after it was reported; its identity is (tempId, fbp)."""

    __slots__ = ()
    kind = "fbp-update"

    @classmethod
    def of(cls, *, account: str, visitor: str, fbp: str, at: float, fields: dict[str, Any]) -> Self:
        """The update that tells AdTarget of ``fbp``: the same visitor and value give the same event, so it is put once."""
        identity = hashlib.sha256(f"fbp\0{account}\0{visitor}\0{fbp}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return cls(
            id=identity,
            key=identity,
            account=account,
            visitor=visitor,
            at=at,
            worth=UPDATE,
            fields={**fields, "temp_id": visitor, "fbp": fbp},
        )


class InviteClick(Event):
    """A click on an invite route: ``POST /events/invite`` or ``GET /track/invite``."""

    __slots__ = ()
    kind = "invite"


LENT = ("fbp", "fbc", "client_ip", "user_agent")
"""What a conversion borrows from its visitor's request; without consent it goes without."""


class Conversion(Event):
    """A purchase, a lead or another thing worth money: ``POST /events/conversion``; keyed only."""

    __slots__ = ()
    kind = "conversion"


class Withdrawal(Event):
    """A visitor's consent was withdrawn at ``at``. Never sent: a store carries it out where it is put, and keeps no more than that."""

    __slots__ = ()
    kind = "withdrawal"


KINDS: dict[str, type[Event]] = {cls.kind: cls for cls in (Visit, FbpUpdate, InviteClick, Conversion)}
"""What AdTarget is told."""
_WRITTEN = KINDS | {Withdrawal.kind: Withdrawal}


def decode(line: str | bytes) -> Event:
    """The event that ``encode`` wrote. Raises ValueError where ``line`` is none."""
    try:
        record = json.loads(line)
        return _WRITTEN[record["k"]](
            id=record["i"],
            key=record["c"],
            account=record["a"],
            visitor=record["v"],
            at=record["t"],
            worth=record["w"],
            not_before=record["n"],
            asked_at=record.get("u"),
            fields=record["f"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError("no event") from error


@dataclass(slots=True)
class Written:
    """An event as ``encode`` wrote it, read as far as a store has to know it: its body goes in as it came."""

    kind: str
    id: str
    account: str
    visitor: str
    at: float
    worth: int
    not_before: float
    asked_at: float | None
    line: str

    def encode(self) -> str:
        """The line that it was read from."""
        return self.line


_PASSED_ON = (Visit.kind, InviteClick.kind)  # whose fields no store looks at
_HEAD = re.compile(
    r'\{"k":"([^"\\]+)","i":"([^"\\]*)","c":"[^"\\]*","a":"([^"\\]*)","v":"([^"\\]*)",'
    r'"t":([^",]+),"w":(\d+),"n":([^",]+),(?:"u":([^",]+),)?"f":\{'
)


def read(line: str) -> Event | Written:
    """The event that ``encode`` wrote, its fields unread where the head is plain: a fifth of what ``decode`` costs.

    The others are read whole, for a store may look into them or change them. Raises ValueError where ``line`` is no event.
    """
    head = _HEAD.match(line)
    if head is None or not line.endswith("}}"):
        return decode(line)
    kind, event_id, account, visitor, at, worth, not_before, asked = head.groups()
    if kind not in _PASSED_ON:
        return decode(line)
    asked_at = None if asked is None else float(asked)
    return Written(kind, event_id, account, visitor, float(at), int(worth), float(not_before), asked_at, line)
