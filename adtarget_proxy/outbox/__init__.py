"""Keeps: what waits for AdTarget, durable from the response on."""

from adtarget_proxy.outbox.outbox import Outbox
from adtarget_proxy.outbox.store import (
    Claim,
    Counts,
    DeadLetter,
    DeadReason,
    Flight,
    JournalOffset,
    Store,
    Waiting,
)

__all__ = ["Claim", "Counts", "DeadLetter", "DeadReason", "Flight", "JournalOffset", "Outbox", "Store", "Waiting"]
