"""An invite click on its way: what the visitor waits for, for as long as the budget lasts and no longer.

The budget is kept here, by waiting on a future, never by the client's time-outs: a call that outlives it goes on in its lane.
Whoever comes first, the lane with an answer or the shell with the end of the budget, decides what the visitor gets.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Literal

from adtarget_proxy.tracking.events import FROM_AN_AD, Event, InviteClick


@dataclass(frozen=True, slots=True)
class Click:
    """A counted click on an invite route. ``known``: the visitor came with a ``tempId``, so an earlier link can exist.

    ``network``: of one who came without, a name for their network; None where it is not known either.
    """

    event: InviteClick
    slug: str
    fallback_url: str = field(repr=False)
    deadline: float  # time.monotonic()
    known: bool
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Where to send the visitor, and why there."""

    url: str = field(repr=False)
    reason: Literal["invite", "invite-repeat", "invite-fallback"]


class _Stage(Enum):
    BEFORE = auto()  # AdTarget has not been asked
    ASKING = auto()
    OVER = auto()


class InviteCall:
    """One click's way through the ladder. ``keep`` puts an event into the outbox; ``left`` is told once that nobody waits any more.

    ``late`` is told when the budget ends while AdTarget is being asked.
    """

    def __init__(
        self,
        click: Click,
        *,
        keep: Callable[[Event], None],
        in_flight_for: float,
        left: Callable[[], None] = lambda: None,
        late: Callable[[], None] = lambda: None,
    ) -> None:
        self.click = click
        self._keep = keep
        self._in_flight_for = in_flight_for
        self._left = left
        self._late = late
        self._lock = threading.Lock()
        self._stage = _Stage.BEFORE
        self._kept = False
        self._is_late = False
        self._asked_at: float | None = None  # time.time(), while AdTarget may have counted the click
        self._leader: InviteCall | None = None
        self._answer: Future[Answer] = Future()
        self._answer.set_running_or_notify_cancel()  # or a visitor who leaves would cancel it for the lane

    # -- the waiting side ------------------------------------------------------------------------------------------------

    def wait(self) -> Answer:
        """The answer, at the deadline at the latest."""
        try:
            return self._answer.result(max(0.0, self.remaining))
        except TimeoutError:
            return self._expire()

    async def wait_async(self) -> Answer:
        """The same, awaited. Cancellation goes out unchanged, and the call in the lane goes on."""
        if not self._answer.done():
            waiting = asyncio.wrap_future(self._answer)
            try:
                await asyncio.wait((waiting,), timeout=max(0.0, self.remaining))
            except asyncio.CancelledError:
                self._leave()
                raise
            finally:
                waiting.cancel()  # the lane may end after the loop has been closed
        return self._answer.result() if self._answer.done() else self._expire()

    @property
    def remaining(self) -> float:
        """Seconds of the budget that are left."""
        return self.click.deadline - time.monotonic()

    # -- the lane's side -------------------------------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        """Whether the visitor has, or is about to get, an answer."""
        return self._answer.done()

    @property
    def is_kept(self) -> bool:
        """Whether the click is in the outbox."""
        return self._kept

    @property
    def is_late(self) -> bool:
        """Whether the budget ended while AdTarget was being asked."""
        return self._is_late

    def follow(self, leader: InviteCall) -> None:
        """This is a second tap; ``leader`` is the first. Where that one's click is kept it stands for both."""
        self._leader = leader

    def begin(self) -> bool:
        """AdTarget is about to be asked; False where the visitor already has the fallback and the click waits in the outbox."""
        with self._lock:
            if self._kept or self._stage is not _Stage.BEFORE:
                return False
            self._stage, self._asked_at = _Stage.ASKING, time.time()
            return True

    def was_not_counted(self) -> None:
        """The call that was begun ended without AdTarget counting the click, for sure."""
        with self._lock:
            self._asked_at = None

    def answer(self, url: str, reason: Literal["invite", "invite-repeat"]) -> bool:
        """The visitor gets this link; False where the budget was over."""
        return self._resolve(Answer(url, reason))

    def fall_back(self, *, keep: bool, worth: int = FROM_AN_AD) -> bool:
        """The visitor gets the fallback; with ``keep`` the click stays an event, to be reported when AdTarget is back."""
        with self._lock:
            if self._answer.done():
                return False
            self._stage = _Stage.OVER
        if keep:
            self.keep(worth)
        return self._resolve(self._fallback)

    def fall_back_and_ask(self) -> None:
        """The visitor gets the fallback at once, and the lane asks AdTarget all the same: nobody waits for the answer."""
        with self._lock:
            self._stage, self._asked_at = _Stage.ASKING, time.time()
        self.keep()
        self._resolve(self._fallback)

    def keep(self, worth: int = FROM_AN_AD) -> None:
        """Put the click into the outbox, once; not to be sent while a call with the same key may be under way."""
        with self._lock:
            if self._kept:
                return
            self._kept = True
            not_before = time.time() + self._in_flight_for if self._stage is _Stage.ASKING else 0.0
            asked_at = self._asked_at
        self._keep(replace(self.click.event, worth=worth, not_before=not_before, asked_at=asked_at))

    @property
    def _fallback(self) -> Answer:
        return Answer(self.click.fallback_url, "invite-fallback")

    def _expire(self) -> Answer:
        """The budget is over. The click is in the outbox before this returns, unless the lane was faster after all."""
        if self._leader is None or not self._leader.is_kept:
            if self._answer.done():
                return self._answer.result()
            self.keep()
        if self._stage is _Stage.ASKING:
            self._is_late = True
            self._late()
        self._resolve(self._fallback)
        return self._answer.result()

    def _resolve(self, answer: Answer) -> bool:
        with self._lock:
            if self._answer.done():
                return False
            self._answer.set_result(answer)
        self._leave()
        return True

    def _leave(self) -> None:
        with self._lock:
            left, self._left = self._left, lambda: None
        left()
