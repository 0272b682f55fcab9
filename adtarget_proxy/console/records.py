"""An event of the outbox as a record: for JSON lines, tables, and choosing among them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adtarget_proxy.console.desk import Desk
from adtarget_proxy.console.masking import masked, masked_id, masked_words
from adtarget_proxy.outbox import DeadLetter, DeadReason, Waiting

WAITING, CLAIMED, DEAD = "waiting", "claimed", "dead"
STATES = (WAITING, CLAIMED, DEAD)

Entry = Waiting | DeadLetter


@dataclass(frozen=True)
class Choice:
    """Which events are meant; an empty part means all."""

    states: Collection[str] = ()
    kinds: Collection[str] = ()
    reasons: Collection[DeadReason] = ()
    accounts: Collection[str] | None = None

    def entries(self, desk: Desk) -> Iterator[Entry]:
        """The events, those that wait by worth, then the dead letters from the oldest."""
        if {WAITING, CLAIMED} & set(self.states or STATES) and not self.reasons:
            yield from filter(self._means, desk.store.waiting(self.accounts))
        yield from self.letters(desk)

    def letters(self, desk: Desk) -> Iterator[DeadLetter]:
        """Of the dead letters alone."""
        if DEAD in (self.states or STATES):
            yield from filter(self._means, desk.store.dead_letters(self.accounts))

    def _means(self, entry: Entry) -> bool:
        if self.kinds and entry.event.kind not in self.kinds:
            return False
        if self.states and state(entry) not in self.states:
            return False
        return not self.reasons or (isinstance(entry, DeadLetter) and entry.reason in self.reasons)


def state(entry: Entry) -> str:
    """In one word."""
    if isinstance(entry, DeadLetter):
        return DEAD
    return WAITING if entry.owner is None else CLAIMED


def record(entry: Entry, desk: Desk, *, reveal: bool) -> dict[str, Any]:
    """All there is to say of it, as JSON has it; personal data only where ``reveal``."""
    event = entry.event
    told: dict[str, Any] = {
        "id": event.id,
        "state": state(entry),
        "kind": event.kind,
        "site": desk.name(event.account),
        "account": event.account,
        "visitor": event.visitor if reveal else masked_id(event.visitor),
        "idempotency_key": event.key,
        "made_at": moment(event.at),
        "tries": entry.tries,
    }
    if isinstance(entry, DeadLetter):
        told |= {
            "reason": entry.reason.value,
            "status": entry.status,
            "answer": entry.answer if reveal else masked_words(entry.answer),
            "died_at": moment(entry.died_at),
        }
    else:
        told |= {
            "worth": entry.worth,
            "not_before": moment(entry.due) if entry.due else None,
            "unknown_since": None if entry.unknown_since is None else moment(entry.unknown_since),
        }
    return told | {"fields": event.fields if reveal else masked(event.fields)}


def moment(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
