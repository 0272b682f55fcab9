"""How an outbox is, in numbers: as JSON has it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from adtarget_proxy.console.desk import Desk


def status_of(desk: Desk) -> dict[str, Any]:
    """Counts by account, what was given up, and what is still in journals. Raises OutboxError."""
    accounts = []
    for account in sorted(desk.store.accounts() | set(desk.names)):
        counts = desk.store.counts([account])
        accounts.append(
            {
                "site": desk.name(account),
                "account": account,
                "waiting": counts.waiting,
                "claimed": counts.claimed,
                "dead": counts.dead,
                "sent": counts.sent,
            }
        )
    return {
        "outbox": str(desk.outbox.place),
        "accounts": accounts,
        "lost": dict(desk.store.counts().lost),
        "journals": _journals(desk),
    }


def _journals(desk: Desk) -> dict[str, int]:
    """How many files there are, and how much of them is not in the store yet."""
    segments, number, size = desk.outbox.segments, 0, 0
    if segments is not None:
        for name in segments.names():
            number += 1
            with suppress(FileNotFoundError):  # drained meanwhile
                size += max(0, (segments.path / name).stat().st_size - desk.store.offset(name))
    return {"files": number, "bytes": size}
