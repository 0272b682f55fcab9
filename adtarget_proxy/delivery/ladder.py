"""The invite ladder: an invite click always ends in a working link, within its budget, whatever AdTarget is doing.

0. The fallback at once where AdTarget is known to be down, too many clicks wait already, or a network floods the button.
1. The visitor's link of the last minute for this slug, or the call that is under way for it, in any process.
2. The visitor's own waiting visit, past the queue, for at most 0.6 s; then the invite, whatever became of the visit.
3. The fallback. A counted click stays an event, under the key that was tried, until AdTarget has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from adtarget_proxy.delivery import pacing, retry
from adtarget_proxy.delivery.dispatch import Sender
from adtarget_proxy.delivery.faults import told
from adtarget_proxy.delivery.invite_call import Click, InviteCall
from adtarget_proxy.delivery.lanes import Lane
from adtarget_proxy.delivery.lines import Line
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.delivery.registry import Registry
from adtarget_proxy.delivery.timing import Timing
from adtarget_proxy.errors import ApiError, OutboxError
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.outbox.store import Claim, Flight
from adtarget_proxy.tracking.events import PLAIN, Event

_log = logging.getLogger("adtarget_proxy.delivery")
_Key = tuple[str, str, str]  # account, visitor, slug


@dataclass(slots=True)
class _Leading:
    """The call that asks for a visitor in this process, and the taps that wait for it."""

    call: InviteCall
    followers: list[InviteCall] = field(default_factory=list)


class Ladder:
    """``clicks`` carries the climb, ``visits`` the waiting visits that go first; ``keep`` puts an event into the outbox."""

    def __init__(
        self,
        lines: Mapping[str, Line],
        outbox: Outbox,
        pump: Pump,
        registry: Registry,
        sender: Sender,
        *,
        clicks: Lane,
        visits: Lane,
        keep: Callable[[Event], None],
        timing: Timing,
    ) -> None:
        self._lines = lines
        self._outbox = outbox
        self._pump = pump
        self._registry = registry
        self._sender = sender
        self._clicks = clicks
        self._visits = visits
        self._keep = keep
        self._timing = timing
        self._waiting = 0
        self._leading: dict[_Key, _Leading] = {}
        self._lock = threading.Lock()

    def enter(self, click: Click, *, limit: int) -> InviteCall:
        """Rung 0, and from there into the lane. Never waits; the caller waits on what it returns."""
        line = self._lines.get(click.event.account)
        call = InviteCall(
            click,
            keep=self._keep,
            in_flight_for=self._timing.call,
            left=self._left,
            late=(lambda: line.failed("no answer within the click's budget")) if line else lambda: None,
        )
        with self._lock:
            crowded = self._waiting >= limit
            self._waiting += 1
        if line is None or crowded:
            call.fall_back(keep=True)
        elif not line.is_open:
            self._probe_behind(call, line)
        elif not self._clicks.submit(line.id, lambda: self._climb(call, line)):
            call.fall_back(keep=True)
        return call

    def _left(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _probe_behind(self, call: InviteCall, line: Line) -> None:
        """No click waits for a probe; but where one is due and no event came to be it, this click's own call is, afterwards."""
        if not line.breaker.take_probe(time.monotonic()):
            call.fall_back(keep=True)
            return
        call.fall_back_and_ask()

        def ask() -> None:
            try:
                if not self._clicks.is_stopped and self._token(line, time.monotonic()):
                    self._remember(call, line, self._ask(call, line))
            finally:
                line.breaker.drop_probe(time.monotonic())

        if not self._clicks.submit(line.id, ask):
            line.breaker.drop_probe(time.monotonic())

    # -- in the lane -----------------------------------------------------------------------------------------------------

    def _climb(self, call: InviteCall, line: Line) -> None:
        if call.is_answered:
            return  # the budget ended in the queue
        if self._clicks.is_stopped:
            call.fall_back(keep=True)
            return
        click = call.click
        key = (line.id, click.event.visitor, click.slug)
        leading = _Leading(call)
        with self._lock:
            first = self._leading.setdefault(key, leading) if click.known else leading
            if first is not leading:
                call.follow(first.call)
                first.followers.append(call)
                return
            self._leading[key] = leading
        link: str | None = None
        try:
            link = self._lead(call, line)
        except Exception as error:
            _log.error("a fault of ours on the ladder, the visitor gets the fallback: %s", told(error))
        finally:
            call.fall_back(keep=True)  # of no effect on a click that is answered
            with self._lock:
                if self._leading.get(key) is leading:
                    del self._leading[key]
            for follower in leading.followers:
                if link is None:
                    follower.fall_back(keep=False)  # the first tap's event stands for both
                else:
                    follower.answer(link, "invite-repeat")

    def _lead(self, call: InviteCall, line: Line) -> str | None:
        """Rungs 1 to 3 for the first tap in this process; the link that was found, if any, also after the budget."""
        if self._floods(call.click, line):
            call.fall_back(keep=True, worth=PLAIN)
            return None
        flight, link = self._flight(call, line) if call.click.known else (Flight.LEAD, None)
        if link is not None:
            call.answer(link, "invite-repeat")
        if flight is not Flight.LEAD:
            return link
        try:
            self._visit_first(call, line)
            if not call.is_answered and line.is_open and self._token(line, call.click.deadline) and call.begin():
                link = self._ask(call, line)
            else:
                call.fall_back(keep=True)
        finally:
            self._remember(call, line, link)
        return link

    def _floods(self, click: Click, line: Line) -> bool:
        """Whether this is one click too many of a network's visitors without cookies while the account's tokens are short.

        It is kept at the worth of a plain visit, or the flood would go past those whom an ad has paid for as soon as it ebbs.
        """
        if click.network is None:
            return False
        try:
            limit = pacing.FLOOD if line.is_short() else None
            return not self._outbox.store.admit(line.id, click.network, now=time.time(), limit=limit)
        except OutboxError as error:
            _log.warning("%s; the click goes on uncounted", error)
            return False

    def _flight(self, call: InviteCall, line: Line) -> tuple[Flight, str | None]:
        """Rung 1: the link, the lead, or FOLLOW where another process' call outlasted this click's budget."""
        event = call.click.event
        while True:
            try:
                flight, link = self._outbox.store.begin_invite(
                    line.id, event.visitor, call.click.slug, owner=self._outbox.owner, now=time.time()
                )
            except OutboxError as error:
                _log.warning("%s; asking AdTarget without it", error)
                return Flight.LEAD, None
            if flight is not Flight.FOLLOW or call.remaining <= 0 or call.is_answered:
                return flight, link
            if not self._clicks.rest(min(self._timing.follow, max(0.0, call.remaining))):
                return flight, None

    def _ask(self, call: InviteCall, line: Line) -> str | None:
        """The invite call. Its outcome is noted whether or not somebody still waits for it."""
        event = call.click.event
        began = time.monotonic()
        reply = line.send(event)
        if call.is_late:
            line.heed(reply, began=began)
        else:
            line.note(reply, began=began)
        if isinstance(reply, ApiError):
            if not retry.is_unknown(reply):
                call.was_not_counted()
            call.fall_back(keep=True)
            return None
        link: str | None = getattr(reply, "link", None)
        if link is None:
            _log.warning(
                "AdTarget's answer to an invite click holds no link into Telegram; the visitor got the fallback"
            )
            call.fall_back(keep=False)
        else:
            call.answer(link, "invite")
        self._registry.settle(event.id)  # counted: the kept click, if there is one, has done its work
        return link

    def _remember(self, call: InviteCall, line: Line, link: str | None) -> None:
        click = call.click
        try:
            self._outbox.store.end_invite(line.id, click.event.visitor, click.slug, link=link, now=time.time())
        except OutboxError as error:
            _log.warning("%s; a second tap asks again", error)

    def _token(self, line: Line, deadline: float) -> bool:
        """A click draws on the whole bucket, and waits for it only as long as its visitor does."""
        while True:
            try:
                wait = line.take(reserve=0.0)
            except OutboxError as error:
                _log.warning("%s; asking without a token", error)
                return True
            if wait <= 0.0:
                return True
            if time.monotonic() + wait >= deadline or not self._clicks.rest(wait):
                return False

    # -- the visitor's waiting visit -------------------------------------------------------------------------------------

    def _visit_first(self, call: InviteCall, line: Line) -> None:
        """Rung 2: wait for the visitor's visit to be sent, here or by whoever has it, for as long as promoting may take."""
        until = min(time.monotonic() + self._timing.promote, call.click.deadline)
        over = threading.Event()

        def send() -> None:
            try:
                self._pump.living(time.time(), until=until)
                self._send_first(line, self._promoted(call, line, until), until)
            except OutboxError as error:
                _log.warning("%s; the click goes without its visit", error)
            finally:
                over.set()

        if self._visits.submit(line.id, send):
            over.wait(max(0.0, until - time.monotonic()))

    def _promoted(self, call: InviteCall, line: Line, until: float) -> Sequence[Claim]:
        visitor = call.click.event.visitor
        while time.monotonic() < until and not self._visits.is_stopped:
            claims = self._outbox.store.promote(line.id, visitor, owner=self._outbox.owner, now=time.time())
            if claims is not None:
                self._registry.took(claims)
                return claims
            self._visits.rest(self._timing.follow)
        return ()

    def _send_first(self, line: Line, claims: Sequence[Claim], until: float) -> None:
        """In the order of the queue; where one has to wait, so does what stands behind it."""
        rest = list(claims)
        try:
            while rest and not self._visits.is_stopped and time.monotonic() < until and self._token(line, until):
                if isinstance(self._sender.send(line, rest.pop(0)), retry.Again):
                    break
        finally:
            self._put_back(rest)

    def _put_back(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self._registry.put_back(claim.event.id)
