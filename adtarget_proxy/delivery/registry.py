"""What this process has claimed, and what became of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from adtarget_proxy.delivery import retry
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.outbox.store import Claim
from adtarget_proxy.tracking.events import Event

_log = logging.getLogger("adtarget_proxy.delivery")


class Registry:
    """Writes outcomes into the store. A write that fails is kept and made again: the outcome is known only here."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._held: set[str] = set()
        self._owed: deque[tuple[str, Callable[[], None]]] = deque()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Claimed events whose outcome is not written yet."""
        return len(self._held)

    def took(self, claims: Iterable[Claim]) -> None:
        """These were claimed."""
        with self._lock:
            self._held.update(claim.event.id for claim in claims)

    def settle(self, event_id: str) -> None:
        """AdTarget took it, claimed or not."""
        self._write(event_id, lambda: self._outbox.store.settle(event_id, now=time.time()))

    def put_back(self, event_id: str, *, not_before: float = 0.0, unknown: bool = False, counted: bool = False) -> None:
        """It goes again; as it stands here, because no attempt was made."""

        def write() -> None:
            store = self._outbox.store
            store.put_back(event_id, not_before=not_before, now=time.time(), unknown=unknown, counted=counted)

        self._write(event_id, write)

    def bury(self, event: Event, end: retry.Buried) -> None:
        """It goes to the dead letters."""
        _log.warning("%s %s is a dead letter: %s (%s)", event.kind, event.id, end.reason.value, end.told or end.answer)

        def write() -> None:
            store = self._outbox.store
            store.bury(event.id, reason=end.reason, status=end.status, answer=end.answer, now=time.time())

        self._write(event.id, write)

    def record(self, event: Event, verdict: retry.Verdict) -> None:
        """What an attempt came to."""
        match verdict:
            case retry.Settled():
                self.settle(event.id)
            case retry.Again(not_before, unknown, counted):
                self.put_back(event.id, not_before=not_before, unknown=unknown, counted=counted)
            case retry.Buried():
                self.bury(event, verdict)

    def give_back(self, *, not_before: float) -> None:
        """At the end: what is still under way may be counted or not, and goes again."""
        with self._lock:
            held = tuple(self._held)
        for event_id in held:
            self.put_back(event_id, not_before=not_before, unknown=True, counted=True)

    def catch_up(self) -> None:
        """Make the writes that failed. Raises OutboxError where they still do."""
        while self._owed:
            event_id, write = self._owed[0]
            write()
            self._owed.popleft()
            self._done(event_id)

    def _write(self, event_id: str, write: Callable[[], None]) -> None:
        try:
            write()
        except OutboxError as error:
            self._outbox.suffers(error)
            self._owed.append((event_id, write))
        else:
            self._done(event_id)

    def _done(self, event_id: str) -> None:
        with self._lock:
            self._held.discard(event_id)
