"""Everything of delivery that belongs to one process: lines, lanes, ladder, and the clerk who drives pump and dispatcher."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from adtarget_proxy.delivery.dispatch import Dispatcher, Sender
from adtarget_proxy.delivery.faults import told
from adtarget_proxy.delivery.ladder import Ladder
from adtarget_proxy.delivery.lanes import SIZE, Lane
from adtarget_proxy.delivery.lines import Client, DryRun, Line, client_of
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.delivery.registry import Registry
from adtarget_proxy.delivery.timing import Timing
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.outbox.ground import advice, is_first, look
from adtarget_proxy.settings import Account, Settings
from adtarget_proxy.tracking.events import KINDS, Conversion, Event

_log = logging.getLogger("adtarget_proxy.delivery")
_CONVERSIONS_KEPT = 7 * 86_400.0  # seconds
_EVENT_PATIENCE = 0.02  # seconds that a claimed event may wait for a thread before the lane grows
_SAY_AGAIN = 60.0  # seconds between two log lines about the same fault


def accounts_of(settings: Settings) -> Sequence[Account]:
    """The accounts to send for. A dry run needs none: its events carry the id of an account without a credential."""
    return settings.accounts or (Account(settings.api_url, settings.tracker_url),)


def _dry_run(_: Account) -> Client:
    return DryRun()


class Office:
    """Opened once in a process and never shared over a fork. Opening starts threads; nothing here touches the network before."""

    def __init__(self, settings: Settings, outbox: Outbox, *, timing: Timing) -> None:
        self._outbox = outbox
        self._timing = timing
        self._sends = settings.deliver == "thread"
        self._max_age = dict.fromkeys(KINDS, settings.max_age) | {
            Conversion.kind: max(settings.max_age, _CONVERSIONS_KEPT)
        }
        self._fresh = True
        self._moving = False
        self._suffered = 0  # times that the store refused
        self._stop = threading.Event()
        self._said: dict[str, float] = {}
        self._strangers: set[str] = set()  # other accounts with waiting events, as of the last look
        self._named: set[str] = set()
        accounts = accounts_of(settings)
        opener = _dry_run if settings.mode == "dry-run" else client_of
        self.lines = {
            account.id: Line(account, lambda: outbox.store, opener=opener, timing=timing, random=random.random)
            for account in accounts
        }
        share = SIZE if len(accounts) <= 1 else SIZE // 2
        self._clicks = Lane("clicks", patience=0.0, idle=timing.idle, share=share)
        self._visits = Lane("visits", patience=0.0, idle=timing.idle, share=share)
        self._events = Lane("events", patience=_EVENT_PATIENCE, idle=timing.idle, share=share)
        self._pump = Pump(outbox, between=self._meanwhile)
        self._poll_at = 0.0
        self._registry = Registry(outbox)
        sender = Sender(self._registry, timing=timing, random=random.random)
        self._dispatcher = Dispatcher(self.lines, outbox, self._events, sender, self._registry, timing=timing)
        self.ladder = Ladder(
            self.lines,
            outbox,
            self._pump,
            self._registry,
            sender,
            clicks=self._clicks,
            visits=self._visits,
            keep=self._keep,
            timing=timing,
        )
        self._clerk = threading.Thread(target=self._work, name="adtarget-clerk", daemon=True)

    def open(self) -> None:
        """Start the clerk and the click lane's first thread, which opens the clients before a click needs them."""
        try:
            self._clerk.start()
        except RuntimeError as error:  # no more threads to be had
            _log.error("delivery cannot start: %s; events stay in the outbox", error)
            return
        if self._sends:
            self._events.open()  # at the interpreter's exit it would be too late
        for line in self.lines.values():
            self._clicks.submit(line.id, lambda line=line: self._warm(line))  # type: ignore[misc]

    def wake(self) -> None:
        """There is something new in the journal. One store: the page pays for it."""
        self._fresh = True

    def freeze(self) -> None:
        """The interpreter is on its way out: start no thread any more."""
        for lane in (self._events, self._visits, self._clicks):
            lane.freeze()

    @property
    def is_behind(self) -> bool:
        """Whether the journal, or memory before it, may hold events that the store does not know yet."""
        return self._fresh or self._moving or self._outbox.is_held_up

    def flush(self, deadline: float) -> None:
        """Wait, until the deadline (time.monotonic()) at most, for everything to be sent that can be.

        The clerk pumps, not the caller: a pump may take as long as a dead process' journal is.
        """
        self._fresh = self._fresh or time.monotonic() < deadline
        held_up = False
        try:
            while not self._stop.is_set():
                was_held_up, held_up = held_up, self._outbox.is_held_up
                if was_held_up and not held_up:
                    self._fresh = True  # what waited in memory is in the journal now
                left = deadline - time.monotonic()
                if left <= 0 or not (self.is_behind or (self._sends and not self._dispatcher.idle(left))):
                    return
                if self._sends:
                    self._dispatcher.fill()
                self._stop.wait(min(left, self._timing.tick / 5))
        except OutboxError as error:
            self._suffers(error)

    def close(self, deadline: float) -> None:
        """Stop the threads and give back what they hold, by the deadline (time.monotonic())."""
        self._stop.set()
        lanes = (self._events, self._visits, self._clicks)
        for job in [job for lane in lanes for job in lane.stop()]:
            job()  # it sees that its lane is stopped and gives back what it holds
        while self._registry.held and time.monotonic() < deadline:
            time.sleep(self._timing.tick / 10)
        self._registry.give_back(not_before=time.time() + self._timing.call)
        if self._clerk.is_alive() and self._clerk is not threading.current_thread():
            self._clerk.join(max(0.0, deadline - time.monotonic()))
        if not any(lane.busy for lane in lanes):  # else the connections go with the process
            for line in self.lines.values():
                line.close()

    # -- the clerk -------------------------------------------------------------------------------------------------------

    def _keep(self, event: Event) -> None:
        self._outbox.append(event)
        self._fresh = True

    def _warm(self, line: Line) -> None:
        if self._clicks.is_stopped:
            return
        try:
            line.open()
        except Exception as error:
            _log.error("no client for account %s: %s", line.id, told(error))

    def _work(self) -> None:
        self._tried(self._look_round)
        machine_at = expire_at = move_at = 0.0
        suffered = self._suffered
        while True:
            now, before = time.monotonic(), self._suffered
            moved = self._tried(self._move) if self._fresh and now >= move_at else 0
            if self._suffered != before:
                move_at = now + self._timing.poll  # a store that refuses is not asked with every tick
            if now >= machine_at:
                machine_at = now + self._timing.machine
                self._tried(lambda: self._pump.machine(time.time()))
                if self._suffered == suffered:  # since the last look
                    self._outbox.trouble.over("store")
                suffered = self._suffered
            if now >= expire_at:
                expire_at = now + self._timing.expire
                self._tried(self._tidy)
            self._hand_on(at_once=moved > 0)
            if self._stop.wait(self._timing.tick):
                return

    def _hand_on(self, *, at_once: bool = False) -> None:
        """Keep the lanes supplied, and as wide as they have to be."""
        now = time.monotonic()
        if self._sends and (at_once or now >= self._poll_at):
            self._poll_at = now + self._timing.poll
            self._tried(self._dispatcher.fill)
        for lane in (self._events, self._visits, self._clicks):
            lane.grow()

    def _meanwhile(self) -> None:
        if threading.current_thread() is self._clerk:  # a click that pumps has no time for it
            self._hand_on()

    def _look_round(self) -> int:
        """What a user has to know of the place that events are kept in: said by one process of a server, not by all."""
        place, segments = self._outbox.place, self._outbox.segments
        words = advice(place, look(place))
        if words is not None and (segments is None or is_first(segments.path)):
            _log.warning("%s", words)
        return 0

    def _move(self) -> int:
        self._moving = True
        self._fresh = False  # first: what is appended meanwhile raises it again
        try:
            return self._pump.own(time.time())
        except BaseException:
            self._fresh = True
            raise
        finally:
            self._moving = False

    def _tidy(self) -> int:
        self._registry.catch_up()
        expired = self._outbox.store.expire(now=time.time(), max_age=self._max_age)
        self._tell_of_strangers()
        return expired

    def _tell_of_strangers(self) -> None:
        """Events of an account that is not in these settings (a key that was put right, say) are kept, and said once.

        Seen twice in a row: another app that shares the outbox sends its own meanwhile.
        """
        store = self._outbox.store
        waiting = {account for account in store.accounts() - self.lines.keys() if store.counts([account]).waiting}
        for account in (waiting & self._strangers) - self._named:
            self._named.add(account)
            _log.warning(
                "events wait for account %s, which these settings do not have: they are kept, "
                "and go out by whoever has its key; adtarget-proxy outbox adopt moves them to another",
                account,
            )
        self._strangers = waiting

    def _tried(self, task: Callable[[], int]) -> int:
        """The clerk outlives every fault, and says it once."""
        try:
            return task()
        except OutboxError as error:
            self._suffers(error)
        except Exception as error:
            self._say(f"a fault of ours: {told(error)}")
        return 0

    def _suffers(self, error: OutboxError) -> None:
        self._suffered += 1
        if not self._stop.is_set():  # a clerk that had no time to end meets a store that was closed behind it
            self._outbox.suffers(error)

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if self._stop.is_set():  # a clerk that had no time to end meets a store that was closed behind it
            return
        if now - self._said.get(text, -_SAY_AGAIN) >= _SAY_AGAIN:
            self._said[text] = now
            with suppress(Exception):  # a log handler of the app's may fail; the clerk goes on
                _log.error("%s; events wait in the journal", text)
