"""From the store into the event lane: claim what may go now, send it, write down what became of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from adtarget_proxy.delivery import pacing, retry
from adtarget_proxy.delivery.lanes import SIZE, Lane
from adtarget_proxy.delivery.lines import Line
from adtarget_proxy.delivery.registry import Registry
from adtarget_proxy.delivery.timing import Timing
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.outbox.store import Claim
from adtarget_proxy.tracking.events import Event

_log = logging.getLogger("adtarget_proxy.delivery")
_WHOLE = pacing.FOR_CLICKS + pacing.FOR_CONVERSIONS


class Sender:
    """One attempt with one event, from the verdict on its age to the record of its outcome."""

    def __init__(self, registry: Registry, *, timing: Timing, random: retry.Random) -> None:
        self._registry = registry
        self._timing = timing
        self._random = random

    def send(self, line: Line, claim: Claim) -> retry.Verdict:
        """Send a claimed event that has its token."""
        event = claim.event
        end = retry.outdated(claim, now=time.time())
        if end is not None:
            self._registry.bury(event, end)
            return end
        began = time.monotonic()
        reply = line.send(event)
        line.note(reply, began=began)
        verdict = retry.verdict(event, claim.tries, reply, now=time.time(), random=self._random, timing=self._timing)
        self._registry.record(event, verdict)
        return verdict


class Dispatcher:
    """Keeps the event lane supplied, and never holds more than it can carry: what is claimed has lost its place by worth."""

    def __init__(
        self,
        lines: Mapping[str, Line],
        outbox: Outbox,
        lane: Lane,
        sender: Sender,
        registry: Registry,
        *,
        timing: Timing,
    ) -> None:
        self._lines = list(lines.values())
        self._outbox = outbox
        self._lane = lane
        self._sender = sender
        self._registry = registry
        self._timing = timing
        self._share = SIZE if len(lines) == 1 else SIZE // 2
        self._room = self._share + self._share // 2  # a thread that ends finds its next event here
        self._in_hand: Counter[str] = Counter()
        self._unpaid: Counter[str] = Counter()  # of these, those without a token yet
        self._at_bucket: set[str] = set()  # accounts of which one is waiting for a token
        self._lock = threading.Lock()
        self._filling = threading.Lock()

    def fill(self) -> int:
        """Claim what may go now and hand it to the lane; returns how many. Raises OutboxError."""
        if self._lane.is_stopped or not self._filling.acquire(blocking=False):
            return 0
        try:
            return sum([self._fill(line) for line in self._lines])
        finally:
            self._filling.release()

    def idle(self, within: float) -> bool:
        """Whether nothing is in hand and nothing that could go will be due ``within`` these seconds. Raises OutboxError."""
        with self._filling:  # between a claim and its entry in the registry an event is nowhere to be seen
            if self._registry.held:
                return False
            for line in self._lines:
                due = self._outbox.store.next_due([line.id], now=time.time())
                if due is not None and max(due, line.breaker.probe_in(time.monotonic())) <= within:
                    return False
            return True

    def _fill(self, line: Line) -> int:
        room = self._room - self._in_hand[line.id]
        if room <= 0 or self._outbox.store.next_due([line.id], now=time.time()) != 0.0:
            return 0
        room = min(room, self._affordable(line) - self._unpaid[line.id])
        probe = not line.is_open
        if probe:
            room = min(room, 1)
        if room <= 0 or (probe and not line.breaker.take_probe(time.monotonic())):
            return 0
        claims: Sequence[Claim] = ()
        try:
            claims = self._outbox.store.claim([line.id], owner=self._outbox.owner, now=time.time(), limit=room)
        finally:
            if probe and not claims:
                line.breaker.drop_probe(time.monotonic())
        self._registry.took(claims)
        paid = not probe and len(claims) > 1 and self._pay_for(line, len(claims))
        for claim in claims:
            self._hand_over(line, claim, probe=probe, paid=paid)
        return len(claims)

    def _pay_for(self, line: Line, number: int) -> bool:
        """Tokens for several at once, where there are enough: each by itself would cost a transaction of its own."""
        try:
            return line.take(reserve=_WHOLE, number=number) <= 0.0
        except OutboxError:
            return False

    def _affordable(self, line: Line) -> int:
        """How many the bucket would let go now. Between the two reserves one is tried: it may be a conversion."""
        tokens = line.tokens()
        if tokens >= _WHOLE + 1 or line.account.burst <= _WHOLE + 1:
            return max(1, int(tokens - _WHOLE))
        return 1 if tokens >= pacing.FOR_CLICKS + 1 else 0

    def _hand_over(self, line: Line, claim: Claim, *, probe: bool, paid: bool) -> None:
        with self._lock:
            self._in_hand[line.id] += 1
            self._unpaid[line.id] += not paid
        if not self._lane.submit(line.id, lambda: self._carry(line, claim, probe=probe, paid=paid)):
            if not paid:
                self._paid(line)
            self._let_go(line)
            self._registry.put_back(claim.event.id)

    def _carry(self, line: Line, claim: Claim, *, probe: bool, paid: bool) -> None:
        goes = False
        try:
            goes = self._may_go(line, claim.event, probe=probe, paid=paid)
            if goes:
                self._sender.send(line, claim)
            else:
                self._registry.put_back(claim.event.id)
        finally:
            self._let_go(line)
            if probe:
                line.breaker.drop_probe(time.monotonic())
        if goes and self._in_hand[line.id] <= self._share:  # what could not go would come back at once, over and over
            self._refill()

    def _may_go(self, line: Line, event: Event, *, probe: bool, paid: bool) -> bool:
        if paid:
            return line.is_open and not self._lane.is_stopped
        goes = False
        try:
            goes = (line.is_open or probe) and self._token(line, event)
        finally:
            was_last = self._paid(line)
        if goes and was_last:
            self._refill()  # the next one waits for its token while this one waits for its answer
        return goes

    def _refill(self) -> None:
        try:
            self.fill()
        except OutboxError as error:
            _log.debug("%s", error)  # the clerk meets the same fault and says so

    def _token(self, line: Line, event: Event) -> bool:
        """A token, if need be waited for: by one at a time and not for long, since who waits cannot make room for a worthier one."""
        waits, until = False, time.monotonic() + self._timing.token
        try:
            while not self._lane.is_stopped:
                wait = line.take(reserve=pacing.reserve(event))
                if wait <= 0.0:
                    return True
                waits = waits or self._may_wait(line)
                if not waits or time.monotonic() + wait > until or not self._lane.rest_at_bucket(line.id, wait):
                    return False
        except OutboxError:
            return False
        finally:
            if waits:
                self._at_bucket.discard(line.id)
        return False

    def _may_wait(self, line: Line) -> bool:
        """Whether nobody else of this process waits at the account's bucket; from now on the caller does."""
        with self._lock:
            if line.id in self._at_bucket:
                return False
            self._at_bucket.add(line.id)
            return True

    def _paid(self, line: Line) -> bool:
        """One has its token, or goes back without; whether it was the last in hand that had none."""
        with self._lock:
            self._unpaid[line.id] -= 1
            return not self._unpaid[line.id]

    def _let_go(self, line: Line) -> None:
        with self._lock:
            self._in_hand[line.id] -= 1
