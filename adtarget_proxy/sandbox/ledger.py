"""What arrived: every request with its answer, and which of them counted. Read from any thread."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from .answers import Answer
from .keys import redact_authorization


@dataclass(slots=True)
class Record:
    """One request. ``outcome`` is counted, read, replayed, refused, failed or dropped; ``status`` None if none was sent."""

    number: int
    endpoint: str
    surface: str
    received_at: float
    idempotency_key: str | None
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: object
    outcome: str
    answer: Answer | None = None
    delivered: bool = True
    replays: int = 0
    state: dict[str, object] | None = None

    @property
    def fields(self) -> Mapping[str, object]:
        """Whichever of body and query carried the API's fields."""
        if isinstance(self.body, dict):
            return self.body
        return self.query

    def as_dict(self) -> dict[str, object]:
        """The request as JSON: header names in lower case, an API key cut down to its id prefix."""
        answer = self.answer
        shown: dict[str, object] = {
            "number": self.number,
            "endpoint": self.endpoint,
            "surface": self.surface,
            "received_at": self.received_at,
            "outcome": self.outcome,
            "status": answer.status if answer else None,
            "delivered": self.delivered,
            "replayed": self.outcome == "replayed",
            "replays": self.replays,
            "idempotency_key": self.idempotency_key,
            "headers": {
                name.lower(): redact_authorization(value) if name.lower() == "authorization" else value
                for name, value in self.headers.items()
            },
            "query": dict(self.query),
            "body": self.body,
            "fields": dict(self.fields),
            "answer": {"body": answer.body, "headers": dict(answer.headers)} if answer else None,
        }
        if self.state is not None:
            shown["visit"] = dict(self.state)
        return shown


class Ledger:
    """The newest ``keep`` requests and the newest ``keep`` counted ones."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._changed = threading.Condition()
        self._requests: deque[Record] = deque(maxlen=keep)
        self._events: deque[Record] = deque(maxlen=keep)
        self._counts: Counter[str] = Counter()
        self.last = 0
        self.since = time.time()

    def add(self, record: Record) -> None:
        with self._changed:
            self._requests.append(record)
            if record.outcome == "counted":
                self._events.append(record)
                self._counts[record.endpoint] += 1
            self._changed.notify_all()

    def next(self) -> int:
        self.last += 1
        return self.last

    def replayed(self, number: int) -> None:
        """Notes that the answer of request ``number`` was given again, where that request is still kept."""
        with self._changed:
            for record in reversed(self._events):
                if record.number == number:
                    record.replays += 1
                    return

    def events(self, endpoint: str | None = None) -> list[dict[str, object]]:
        """The kept events, oldest first."""
        with self._changed:
            found = [record for record in self._events if endpoint in (None, record.endpoint)]
        return [record.as_dict() for record in found]

    def requests(self, after: int = 0, newest: int | None = None) -> list[dict[str, object]]:
        """The kept requests numbered above ``after``, oldest first; at most the ``newest`` of them."""
        found: list[Record] = []
        with self._changed:
            for record in reversed(self._requests):
                if record.number <= after or len(found) == newest:
                    break
                found.append(record)
        return [record.as_dict() for record in reversed(found)]

    def count(self, endpoint: str | None = None) -> int:
        return self._counts[endpoint] if endpoint else self._counts.total()

    def counts(self) -> dict[str, int]:
        """How many counted, by endpoint."""
        with self._changed:
            return dict(self._counts)

    @property
    def dropped(self) -> int:
        """How many counted requests are no longer kept."""
        return max(0, self.count() - self._keep)

    def wait_for(self, n: int, endpoint: str | None, timeout: float) -> bool:
        """Blocks until ``n`` counted; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count(endpoint) >= n, timeout)

    def clear(self) -> None:
        with self._changed:
            self._requests.clear()
            self._events.clear()
            self._counts.clear()
            self.since = time.time()
