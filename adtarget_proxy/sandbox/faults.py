"""Faults by switch: what goes wrong on purpose, for all endpoints or for one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

ALL = "*"
ENDPOINTS = ("visit", "update-fbp", "invite", "conversion", "value", "lead", "lead-event")


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _status(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599


def _check(name: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong. Seconds for times, 0 … 1 for shares. Raises ``ValueError`` naming the field.

    What is answered by ``error_rate``, ``status`` or ``html`` is answered in place of being processed.
    ``latency`` and ``jitter`` delay the answer of a request that was already processed; ``hang`` never processes and never
    answers. A dropped connection is cut ``before`` or ``after`` the event was recorded: after it, AdTarget has processed
    what the client must count as unknown.
    """

    latency: float = 0.0
    jitter: float = 0.0
    error_rate: float = 0.0
    error_status: int = 500
    drop_rate: float = 0.0
    drop_when: str = "before"
    hang: bool = False
    down: bool = False
    html: bool = False
    foreign_link: bool = False
    status: int | None = None
    retry_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("latency", "jitter"):
            _check(name, _number(getattr(self, name)) and 0 <= getattr(self, name) <= 3600, "seconds, 0 … 3600")
        for name in ("error_rate", "drop_rate"):
            _check(name, _number(getattr(self, name)) and 0 <= getattr(self, name) <= 1, "a share, 0 … 1")
        for name in ("hang", "down", "html", "foreign_link"):
            _check(name, isinstance(getattr(self, name), bool), "true or false")
        _check("drop_when", self.drop_when in ("before", "after", "either"), "before, after or either")
        _check("error_status", _status(self.error_status), "an HTTP status, 400 … 599")
        _check("status", self.status is None or _status(self.status), "an HTTP status, 400 … 599, or null")
        _check("retry_after", self.retry_after is None or _whole(self.retry_after), "whole seconds, or null")


HEALTHY = Faults()
NAMES = frozenset(field.name for field in fields(Faults))


class FaultBoard:
    """The faults in force. A row for one endpoint stands in for the row of all."""

    def __init__(self, seed: int | None = None) -> None:
        self._rows: dict[str, Faults] = {}
        self._changed = asyncio.Event()
        self.random = random.Random(seed)

    def of(self, endpoint: str) -> Faults | None:
        """The faults of an endpoint; None where it is healthy, which is the common case and costs one look."""
        if not self._rows:
            return None
        return self._rows.get(endpoint) or self._rows.get(ALL)

    def set(self, changes: Mapping[str, object], *, keep: bool) -> None:
        """Sets faults: fields of ``Faults``, and ``endpoint``, a name or a list of names (all, if it is absent).

        With ``keep`` the fields not named stay as they are. Raises ``ValueError`` naming the field.
        """
        values = dict(changes)
        scope = values.pop("endpoint", ALL)
        names: list[str] = list(scope) if isinstance(scope, (list, tuple)) else [str(scope)]
        for name in names:
            _check("endpoint", name in (ALL, *ENDPOINTS), f"one of {', '.join(ENDPOINTS)}, or {ALL}")
        for name in values:
            if name not in NAMES:
                raise ValueError(f"{name!r} is no fault; known: endpoint, {', '.join(sorted(NAMES))}")
        made = {name: replace(self._rows.get(name, HEALTHY) if keep else HEALTHY, **values) for name in names}  # type: ignore[arg-type]
        self._rows.update(made)
        if self._rows.get(ALL) == HEALTHY:
            del self._rows[ALL]
        self._wake()

    def heal(self) -> None:
        self._rows.clear()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until_changed(self) -> None:
        await self._changed.wait()

    def drop(self, faults: Faults) -> str | None:
        """Draws whether this connection is cut: ``before`` or ``after`` the event is recorded, or None."""
        if not self.chance(faults.drop_rate):
            return None
        return faults.drop_when if faults.drop_when != "either" else self.random.choice(("before", "after"))

    def chance(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    def in_force(self) -> dict[str, dict[str, object]]:
        """What differs from health, by endpoint: for people to read."""
        healthy = asdict(HEALTHY)
        rows = {name: asdict(row) for name, row in self._rows.items()}
        return {name: {key: row[key] for key in row if row[key] != healthy[key]} for name, row in rows.items()}

    def as_dict(self) -> dict[str, dict[str, object]]:
        return {ALL: asdict(HEALTHY)} | {name: asdict(row) for name, row in self._rows.items()}
