"""Delivery as the rest of the package sees it: started by the first request of a process, ended within one deadline.

Configuring starts nothing, so an app may be imported in a pre-fork parent. A forked child drops what it inherited and starts anew
at its own first request. At interpreter exit everything that runs shares one deadline; no thread is started there (cpython#113964) and
no signal handler is installed.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Collection

from adtarget_proxy.delivery.breaker import State
from adtarget_proxy.delivery.health import AccountHealth, Health
from adtarget_proxy.delivery.invite_call import Click, InviteCall
from adtarget_proxy.delivery.office import Office, accounts_of
from adtarget_proxy.delivery.threads import hindrance
from adtarget_proxy.delivery.timing import Timing
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Counts, Outbox
from adtarget_proxy.settings import Settings

_log = logging.getLogger("adtarget_proxy.delivery")
DEADLINE = 2.0  # seconds


class Delivery:
    """From the outbox to AdTarget, for one process and the accounts of ``settings``. Safe to use from several threads."""

    def __init__(self, settings: Settings, outbox: Outbox, *, timing: Timing | None = None) -> None:
        self._settings = settings
        self._outbox = outbox
        self._timing = timing or Timing()
        self._office: Office | None = None
        self._inherited: list[Office] = []
        self._opening = threading.Lock()
        self._lock_kind: object = threading.Lock
        self._begun = False
        self._hindrance = ""
        self._is_dry = settings.mode == "dry-run"
        self._is_off = settings.mode == "off"
        _living.add(self)

    def start(self) -> None:
        """Start the threads in this process, unless they run: cheap enough for every request."""
        if not self._begun and not self._is_off:
            self._begin()

    def wake(self) -> None:
        """An event was appended. Costs one store, never raises, never waits."""
        if (office := self._office) is not None:
            office.wake()

    def invite(self, click: Click, *, limit: int) -> InviteCall:
        """Send a click up the ladder, where at most ``limit`` clicks of this process may wait; the caller waits on the call."""
        self.start()
        office = self._office
        if self._is_dry:
            _log.info("dry run: %s %s is not sent", click.event.kind, click.event.id)
        if office is None or self._is_dry:
            call = InviteCall(click, keep=self._outbox.append, in_flight_for=self._timing.call)
            call.fall_back(keep=not (self._is_off or self._is_dry))
            return call
        return office.ladder.enter(click, limit=limit)

    def flush(self, timeout: float = DEADLINE) -> int:
        """Wait until what can be sent is sent, for ``timeout`` seconds at most; returns how many events are left.

        Only events of these settings' accounts are counted; 1 where the store cannot be read, which is not "none".
        """
        self.start()
        if (office := self._office) is not None:
            office.flush(time.monotonic() + timeout)
        return self._left(office)

    def close(self, timeout: float = DEADLINE) -> int:
        """Flush, stop the threads and put back what they hold, all within ``timeout`` seconds; returns how many events are left.

        A later ``start`` begins anew: a server may shut its lifespan down and start it again.
        """
        deadline = time.monotonic() + timeout
        with self._opening:
            office, self._office, self._begun = self._office, None, False
        if office is not None:
            office.flush(deadline)
            office.close(deadline)
        return self._left(office)

    def freeze(self) -> None:
        """Start no thread any more: the interpreter is on its way out (cpython#113964)."""
        if (office := self._office) is not None:
            office.freeze()

    def health(self) -> Health:
        """How delivery is doing here."""
        office = self._office
        lines = office.lines.values() if office is not None else ()
        known = tuple(AccountHealth(line.id, line.breaker.state, line.breaker.reason) for line in lines)
        return Health(
            accounts=known or tuple(AccountHealth(account, State.OK) for account in self._accounts),
            counts=self._counts(),
            lost=dict(self._outbox.lost),
            running=office is not None,
            hindrance=self._hindrance,
        )

    @property
    def is_running(self) -> bool:
        """Whether there is anything to end in this process."""
        return self._office is not None

    def reset_after_fork(self) -> None:
        """In the child: the parent's threads are not here, and its connections are left alone. Called by the fork itself."""
        office, self._office, self._begun = self._office, None, False
        self._opening = threading.Lock()
        if office is not None:
            self._inherited.append(office)  # collecting it would close sockets that the parent uses

    @property
    def _accounts(self) -> Collection[str]:
        return [account.id for account in accounts_of(self._settings)]

    def _begin(self) -> None:
        if self._lock_kind is not threading.Lock:  # gevent came after the app; no greenlet runs between these two lines
            self._lock_kind, self._opening = threading.Lock, threading.Lock()
        with self._opening:
            if self._begun or _Exit.begun:
                return
            self._outbox.settle_in()
            said, self._hindrance = self._hindrance, hindrance()
            if not self._hindrance:
                office = Office(self._settings, self._outbox, timing=self._timing)
                office.open()
                self._office = office
            elif not said:
                self._tell()
            self._begun = True

    def _tell(self) -> None:
        keeps = self._outbox.place.path is not None
        _log.error(
            "%s: this process sends nothing, and invite clicks get their fallback at once. Set enable-threads%s",
            self._hindrance,
            f"; until then adtarget-proxy worker sends what is kept in {self._outbox.place}"
            if keeps
            else ": memory:// holds its events until they are too many, and loses them with the process",
        )

    def _counts(self) -> Counts | None:
        if self._is_off:
            return Counts()
        try:
            return self._outbox.store.counts(self._accounts)
        except OutboxError as error:
            self._outbox.suffers(error)
            return None

    def _left(self, office: Office | None) -> int:
        counts = self._counts()
        if counts is None:
            return 1
        if self._is_off:
            return 0
        is_behind = self._outbox.is_behind if office is None else office.is_behind
        return max(counts.waiting + counts.claimed, 1 if is_behind else 0)


class _Exit:
    """Whether the interpreter is on its way out."""

    begun = False


_living: weakref.WeakSet[Delivery] = weakref.WeakSet()


def _at_fork() -> None:
    for delivery in list(_living):
        delivery.reset_after_fork()


def _at_exit() -> None:
    _Exit.begun = True
    deadline = time.monotonic() + DEADLINE
    running = [delivery for delivery in _living if delivery.is_running]
    for delivery in running:
        delivery.freeze()
    for delivery in running:
        delivery.close(max(0.0, deadline - time.monotonic()))


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_at_fork)
