"""A lane: daemon threads that carry jobs which wait for the network.

Never an executor: its threads are joined at interpreter exit, and under ASGI a job would be bound to a loop (httpx#2058,
aiohttp#8614). A lane starts with one thread and grows while jobs wait for threads that wait for answers; threads that wait for
the bucket are no reason to grow. Where there are several accounts none has more than half of the threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from adtarget_proxy.delivery.faults import told

_log = logging.getLogger("adtarget_proxy.delivery")
SIZE = 16
Job = Callable[[], None]


@dataclass(slots=True)
class _Waiting:
    account: str
    job: Job
    since: float = field(default_factory=time.monotonic)


class Lane:
    """``patience``: seconds a job may wait before another thread is started for it; ``share``: threads an account may have."""

    def __init__(self, name: str, *, patience: float, idle: float, size: int = SIZE, share: int = SIZE) -> None:
        self._name = name
        self._patience = patience
        self._idle_for = idle
        self._size = size
        self._share = share
        self._jobs: deque[_Waiting] = deque()
        self._busy: Counter[str] = Counter()  # account → threads that carry its jobs
        self._threads = 0
        self._idle = 0
        self._at_bucket: Counter[str] = Counter()  # account → threads that wait for its bucket
        self._stopped = threading.Event()
        self._change = threading.Condition()

    @property
    def threads(self) -> int:
        """How many there are now."""
        return self._threads

    @property
    def queued(self) -> int:
        """Jobs that no thread has taken yet."""
        return len(self._jobs)

    @property
    def busy(self) -> int:
        """Jobs that are being carried."""
        return self._busy.total()

    @property
    def is_stopped(self) -> bool:
        """Whether the lane is on its way out."""
        return self._stopped.is_set()

    def submit(self, account: str, job: Job) -> bool:
        """Hand over a job: never raises, never waits for the network. False where nothing will carry it."""
        with self._change:
            if self._stopped.is_set():
                return False
            waiting = _Waiting(account, job)
            self._jobs.append(waiting)
            if self._idle:
                self._change.notify()
            self._grow()
            if not self._threads:
                self._jobs.remove(waiting)
                return False
            return True

    def open(self) -> None:
        """Start the first thread."""
        with self._change:
            if not self._threads and not self._stopped.is_set():
                self._start()

    def freeze(self) -> None:
        """Start no thread any more; those that there are go on. For the interpreter's exit (cpython#113964)."""
        with self._change:
            self._size = self._threads

    def grow(self) -> None:
        """Start another thread if a job has waited too long. Called from time to time: nobody else sees a lane that hangs."""
        with self._change:
            self._grow()

    def rest(self, seconds: float) -> bool:
        """Wait inside a job; False where the lane was stopped meanwhile."""
        return not self._stopped.wait(seconds)

    def rest_at_bucket(self, account: str, seconds: float) -> bool:
        """The same, for the bucket of this account: another thread for it could only wait there too."""
        with self._change:
            self._at_bucket[account] += 1
        try:
            return self.rest(seconds)
        finally:
            with self._change:
                self._at_bucket[account] -= 1

    def stop(self) -> list[Job]:
        """Start no job and no thread any more; returns the jobs that wait, which run in the caller's thread see the lane stopped.

        What is being carried goes on until it ends or the process does.
        """
        with self._change:
            self._stopped.set()
            left = [waiting.job for waiting in self._jobs]
            self._jobs.clear()
            self._change.notify_all()
            return left

    def _grow(self) -> None:
        if self._stopped.is_set() or not self._jobs or self._threads >= self._size:
            return
        if self._threads:
            waiting = self._next(take=False)
            if waiting is None or len(self._jobs) <= self._idle or self._at_bucket[waiting.account]:
                return
            if time.monotonic() - waiting.since < self._patience:
                return
        self._start()

    def _start(self) -> None:
        self._threads += 1
        try:
            threading.Thread(target=self._work, name=f"adtarget-{self._name}", daemon=True).start()
        except RuntimeError as error:  # no more threads to be had, or the interpreter is on its way out
            self._threads -= 1
            _log.warning("no thread for the %s lane: %s", self._name, error)

    def _next(self, *, take: bool = True) -> _Waiting | None:
        """The first job whose account has not all its threads already."""
        for place, waiting in enumerate(self._jobs):
            if self._busy[waiting.account] < self._share:
                if take:
                    del self._jobs[place]
                return waiting
        return None

    def _work(self) -> None:
        while (waiting := self._fetch()) is not None:
            try:
                waiting.job()
            except Exception as error:
                _log.error("a job of the %s lane failed: %s", self._name, told(error))
            finally:
                with self._change:
                    self._busy[waiting.account] -= 1
                    self._change.notify()  # a job of this account may have waited for its share
            del waiting  # an idle thread must not keep the last visitor's request alive

    def _fetch(self) -> _Waiting | None:
        with self._change:
            while not self._stopped.is_set():
                waiting = self._next()
                if waiting is not None:
                    self._busy[waiting.account] += 1
                    return waiting
                self._idle += 1
                woken = self._change.wait(self._idle_for)
                self._idle -= 1
                if not woken and not self._jobs and self._threads > 1:
                    break
            self._threads -= 1
            return None
