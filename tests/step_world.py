"""A process that SIGKILL ends at one step of an event's way: the store and the client are the real ones, with a tripwire round them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from itertools import count
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar

from delivery_world import QUICK

from adtarget_proxy.api import AdTarget
from adtarget_proxy.delivery import Click, Delivery
from adtarget_proxy.outbox import Outbox, Store
from adtarget_proxy.outbox.place import Place
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import Event

_processes = get_context("forkserver")  # imports once, forks for each step
_processes.set_forkserver_preload(["step_world", "adtarget_proxy.api.transport", "adtarget_proxy.outbox.redis"])
PATIENCE = 20.0  # seconds that a process has to come to its step


@dataclass(frozen=True)
class Step:
    """``call`` is the store's method, the client's ``deliver`` or the outbox' ``append``; the process dies ``when`` it comes there."""

    when: str  # before, after
    call: str
    time: int = 1  # the first, the second …

    def __str__(self) -> str:
        return f"{self.when} {self.call}" + (f" {self.time}" if self.time > 1 else "")

    def trap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, until it is time. A claim that found nothing does not count."""
        left = count(self.time - 1, -1)

        @wraps(call)
        def trapped(*args: Any, **kwargs: Any) -> Any:
            if self.when == "before" and next(left) == 0:
                _die()
            result = call(*args, **kwargs)
            if self.when == "after" and result != [] and next(left) == 0:
                _die()
            return result

        return trapped


NEVER = Step("never", "at all")


class _Trap(Place):
    """A place whose store has the tripwire."""

    step: ClassVar[Step]

    def store(self) -> Store:
        store = super().store()
        call = getattr(store, self.step.call, None)
        if call is not None:
            setattr(store, self.step.call, self.step.trap(call))
        return store


def die_at(step: Step, settings: Settings, *events: Event, click: Click | None = None) -> None:
    """Run delivery in a process of its own until ``step`` has killed it. ``events`` are appended there, ``click`` is made."""
    process = started(settings, *events, step=step, click=click)
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL, f"the process never came to the step {step}: {process.exitcode}"


def started(settings: Settings, *events: Event, step: Step = NEVER, click: Click | None = None) -> BaseProcess:
    """A process that delivers, for the caller to kill."""
    process = _processes.Process(target=_run, args=(step, settings, events, click), daemon=True)
    process.start()
    return process


def _run(step: Step, settings: Settings, events: tuple[Event, ...], click: Click | None) -> None:
    _Trap.step = step
    outbox = Outbox(_Trap.parse(settings.outbox))
    if step.call == "append":
        outbox.append = step.trap(outbox.append)  # type: ignore[method-assign]
    if step.call == "deliver":
        AdTarget.deliver = step.trap(AdTarget.deliver)  # type: ignore[method-assign]
    delivery = Delivery(settings, outbox, timing=QUICK)
    for event in events:
        outbox.append(event)
    delivery.start()
    delivery.wake()
    if click is not None:
        delivery.invite(click, limit=4).wait()
    signal.pause()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()
