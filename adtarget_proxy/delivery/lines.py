"""A line is one account as this process sees it: its client, its breaker, and the bucket that it shares with all others.

What AdTarget answers to one request is noted here for all that follow.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from adtarget_proxy.delivery.breaker import Breaker, State
from adtarget_proxy.delivery.faults import told
from adtarget_proxy.delivery.retry import Reply, Signal, signal
from adtarget_proxy.delivery.timing import Timing
from adtarget_proxy.errors import ApiError, InvalidPayload, NoClient, OutboxError, SettingsError, Unreachable
from adtarget_proxy.outbox.store import Store
from adtarget_proxy.settings import Account
from adtarget_proxy.tracking.events import Event

_log = logging.getLogger("adtarget_proxy.delivery")
_HOLD = 1.0  # seconds the bucket stays empty after a 429 that names none


class Client(Protocol):
    """What a line needs of ``adtarget_proxy.api.AdTarget``."""

    def deliver(self, event: Event, *, timeout: float | None = None) -> object:
        """Send it; raises ApiError."""

    def close(self) -> None:
        """Let go of the connections."""


_importing = threading.Lock()


def _imported() -> None:
    if _importing.locked():  # uWSGI, with py-call-osafterfork, calls what comes after a fork and not what comes before
        _importing.release()


if hasattr(os, "register_at_fork"):  # a child forked in the middle of an import has half a module for good
    os.register_at_fork(before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_imported)


def client_of(account: Account) -> Client:
    """AdTarget itself. The import brings httpx, which no page pays for: it happens in a lane."""
    with _importing:
        import adtarget_proxy.api.transport  # noqa: F401  # httpx itself, which the client would import at its first call
        from adtarget_proxy.api import AdTarget

    return AdTarget.for_account(account)


class DryRun:
    """A client for ``mode="dry-run"``: says what would be sent, by kind and id alone, and sends nothing."""

    def deliver(self, event: Event, *, timeout: float | None = None) -> object:  # noqa: ARG002
        """See ``Client.deliver``."""
        _log.info("dry run: %s %s is not sent", event.kind, event.id)
        return None

    def close(self) -> None:
        """There is nothing to let go of."""


class Line:
    """``store`` gives the store of this process. Safe to use from several threads."""

    def __init__(
        self,
        account: Account,
        store: Callable[[], Store],
        *,
        opener: Callable[[Account], Client],
        timing: Timing,
        random: Callable[[], float],
    ) -> None:
        self.account = account
        self.id = account.id
        self.breaker = Breaker(timing=timing, random=random)
        self._rate = account.rate / 60.0  # tokens a second
        self._timing = timing
        self._store = store
        self._opener = opener
        self._client: Client | None = None
        self._opening = threading.Lock()
        self._has_no_client = False

    @property
    def is_open(self) -> bool:
        """Whether anything may go."""
        return self.breaker.state is State.OK

    def open(self) -> Client:
        """The account's client. Takes its time at the first call: see ``client_of``."""
        with self._opening:
            if self._client is None:
                self._client = self._opener(self.account)
            return self._client

    def close(self) -> None:
        """Let go of the connections."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def take(self, *, reserve: float, number: int = 1) -> float:
        """Tokens of the account's bucket: 0.0, or the seconds to wait. Raises OutboxError."""
        rate, burst = self._rate, self.account.burst
        return self._store().take(self.id, now=time.time(), rate=rate, burst=burst, reserve=reserve, number=number)

    def tokens(self) -> float:
        """How many tokens there are now. Raises OutboxError."""
        return self._store().level(self.id, now=time.time(), rate=self._rate, burst=self.account.burst)

    def is_short(self) -> bool:
        """Whether less than half is left in the account's bucket. Raises OutboxError."""
        return self.tokens() < self.account.burst / 2.0

    def send(self, event: Event) -> Reply:
        """One attempt: the result, or the ApiError that came in its place. Never raises.

        A fault of ours counts as no answer: the event is kept and tried again, until somebody has mended it.
        """
        try:
            client = self.open()
        except Exception as error:  # a broken installation: nothing to do with the event
            return Unreachable(f"no client: {told(error)}", sent=False)
        try:
            return client.deliver(event, timeout=self._timing.call)
        except ApiError as error:
            return error
        except SettingsError:
            return InvalidPayload("this account has no api_key, which it needs")
        except NoClient as error:
            if not self._has_no_client:
                self._has_no_client = True
                _log.error("%s; clicks get their fallback, events are kept until it is put right", error)
            return Unreachable(str(error), sent=False)
        except Exception as error:
            _log.error("%s %s: a fault of ours: %s", event.kind, event.id, told(error))
            return Unreachable(f"a fault of ours: {told(error)}", sent=True)

    def note(self, reply: Reply, *, began: float | None = None) -> None:
        """Draw the conclusions that concern the whole account from an attempt that ``began`` at that time.monotonic()."""
        said = signal(reply)
        if said is Signal.FAILED:
            self.failed(str(reply), began=began)
        elif said is Signal.ALIVE or (said is Signal.LIMITED and self.breaker.state is not State.PAUSED):
            self._alive()
        self.heed(reply, began=began)

    def heed(self, reply: Reply, *, began: float | None = None) -> None:
        """Of an answer that came too late to tell whether AdTarget is up: only what AdTarget asks for."""
        said = signal(reply)
        if said is Signal.PAUSED:
            self._pause(reply)
        if isinstance(reply, ApiError) and (said is Signal.LIMITED or reply.retry_after):
            self._hold(_HOLD if reply.retry_after is None else reply.retry_after)
        if said is Signal.LIMITED and not self.account.api_key:
            self._halve(began)

    def _alive(self) -> None:
        self._has_no_client = False
        if self.breaker.succeeded(now=time.monotonic()):
            _log.info("AdTarget answers again (account %s)", self.id)

    def failed(self, reason: str, *, began: float | None = None) -> None:
        """No definite answer came in time."""
        opened = self.breaker.failed(reason, now=time.monotonic(), began=began)
        if opened and not self._has_no_client:  # else it was said already
            _log.warning(
                "AdTarget does not answer (account %s): %s; clicks get their fallback, events wait", self.id, reason
            )

    def _pause(self, reply: Reply) -> None:
        if not self.breaker.pause(str(reply), now=time.monotonic()):
            return
        if getattr(reply, "status", None) == 402:
            advice = "the account's subscription is not active"
        else:
            advice = f"check {'api_key' if self.account.api_key else 'website_id'}"
        _log.error(
            "sending is paused (account %s): %s; %s. Events are kept and go out when it works again",
            self.id,
            reply,
            advice,
        )

    def _halve(self, began: float | None) -> None:
        now = time.time()
        try:
            self._store().halve(self.id, began=now if began is None else now - (time.monotonic() - began), now=now)
        except OutboxError as error:
            _log.warning("%s", error)

    def _hold(self, seconds: float) -> None:
        try:
            self._store().hold(self.id, until=time.time() + seconds)
        except OutboxError as error:
            _log.debug("%s", error)  # the clerk meets the same fault and says so
