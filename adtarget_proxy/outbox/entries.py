"""An event or a dead letter as Redis holds it: a hash under ``e:`` or ``d:`` and its id, found by the sorted sets of ``lua/``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from adtarget_proxy.outbox.store import DeadLetter, DeadReason, Waiting
from adtarget_proxy.outbox.wire import Wire
from adtarget_proxy.tracking.events import Event, decode

_PAGE = 200
_STANDING = ("account", "body", "fbp", "worth", "due", "tries", "unknown", "owner")
_LETTER = ("account", "body", "fbp", "reason", "status", "answer", "died_at", "tries")


def walk(wire: Wire, index: str) -> Iterator[str]:
    """The ids of a sorted set from the lowest score on, page by page, so that a long list holds nobody up."""
    last, passed = "-inf", 0
    while True:
        with wire.faults():
            page = cast(
                "list[tuple[bytes, float]]",
                wire.client.zrangebyscore(wire.key(index), last, "+inf", start=passed, num=_PAGE, withscores=True),
            )
        if not page:
            return
        for event_id, _ in page:
            yield event_id.decode()
        score = repr(page[-1][1])
        level = sum(repr(each) == score for _, each in page)
        last, passed = score, (passed + level if score == last else level)


def standing(wire: Wire, event_id: str) -> Waiting | None:
    """The event of this id that waits or is claimed, or None."""
    account, body, fbp, worth, due, tries, unknown, owner = wire.fields("e:" + event_id, _STANDING)
    if body is None:
        return None
    event, by = event_of(account, body, fbp), None if owner is None else owner.decode()
    return Waiting(event, int(worth), float(due), int(tries), number(unknown), by)


def letter(wire: Wire, event_id: str) -> DeadLetter | None:
    """The dead letter of this id, or None."""
    account, body, fbp, reason, status, answer, died_at, tries = wire.fields("d:" + event_id, _LETTER)
    if body is None:
        return None
    said = answer.decode("utf-8", "surrogatepass")
    why, code = DeadReason(reason.decode()), int(status) if status else None
    return DeadLetter(event_of(account, body, fbp), why, code, said, float(died_at), int(tries))


def event_of(account: bytes, body: bytes, fbp: bytes | None) -> Event:
    """The event as it was put, with what has changed since: an adoption, an amendment."""
    event = decode(body.decode("ascii"))
    if fbp is not None:
        event = replace(event, fields={**event.fields, "fbp": fbp.decode("utf-8", "surrogatepass")})
    home = account.decode()
    return event if event.account == home else replace(event, account=home)


def number(text: bytes | None) -> float | None:
    """A number that may be missing."""
    return None if text is None else float(text)
