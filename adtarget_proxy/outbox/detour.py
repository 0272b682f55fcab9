"""The way round a disk that refuses or crawls: bounded memory, and a thread that writes until the disk is itself again."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from adtarget_proxy.errors import cause_of
from adtarget_proxy.outbox.trouble import Trouble

_log = logging.getLogger("adtarget_proxy.outbox")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts


@dataclass(frozen=True, slots=True)
class Fault:
    """What a disk does: ``words`` for the log, ``cause`` as OutboxError has it."""

    words: str
    cause: str

    @classmethod
    def of(cls, error: OSError) -> Fault:
        """What the system's error says."""
        return cls(f"fails ({error.strerror})", cause_of(error) or str(error.strerror))


IS_FULL, IS_SLOW = Fault("is full", "full"), Fault("is slow", "slow")


class Detour:
    """Lines on their way to the disk. ``write`` puts one there and says whether that was quick; it raises OSError.

    ``over`` is called once all is written and the disk is quick again; from then on ``put`` takes nothing more. A disk that was full
    is left alone until ``has_room``: its last bytes are the store's.
    """

    def __init__(
        self,
        write: Callable[[bytes], bool],
        *,
        over: Callable[[], None],
        bound: int,
        has_room: Callable[[], bool],
        trouble: Trouble,
    ) -> None:
        self._write, self._over, self._bound = write, over, bound
        self._has_room, self._trouble = has_room, trouble
        self.is_full = False
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._ended = False
        self._wake, self._quit = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = 0

    @property
    def holds(self) -> bool:
        """Whether lines wait in memory."""
        return bool(self._lines)

    def start(self, fault: Fault, line: bytes | None = None) -> None:
        """Begin, with a line that could not be written or none. Said once, however long it lasts."""
        self.is_full = fault.cause == IS_FULL.cause
        words = "pages are served, events are kept in memory until it is well again"
        self._trouble.met("journal", fault.cause, f"the journal's disk {fault.words}: {words}")
        if line is not None:
            self.put(line)
            return
        with self._lock:
            self._begin()

    def put(self, line: bytes) -> bool:
        """Take a line, or count it as lost where memory is full; False where the detour is over."""
        with self._lock:
            if self._ended:
                return False
            if len(self._lines) < self._bound:
                self._lines.append(line)
                self._wake.set()
            else:
                self.lost += 1
            self._begin()
            return True

    def quit(self, timeout: float) -> None:
        """Try once more to write what is left, for at most ``timeout`` seconds; the rest is counted as lost."""
        self._quit.set()
        self._wake.set()
        if self._thread is None:
            self._run()  # once
        else:
            self._thread.join(timeout)
        with self._lock:
            self._ended = True
            self.lost += len(self._lines)
            self._lines.clear()

    def _begin(self) -> None:
        """Have a thread. Where the system gives none just now, the next line asks again."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="adtarget-journal", daemon=True)
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._ended:
            ending = self._quit.is_set()
            try:
                quick = self._attempt(ending)
            except OSError as error:
                self.is_full = cause_of(error) == "full"
                if ending:
                    return
                self._quit.wait(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            if quick and self._finish():
                self._trouble.over("journal", lost=self.lost)
                return
            if ending:
                return
            pause = _FIRST_PAUSE
            self._wake.wait()  # a disk is known to be quick by the next line

    def _attempt(self, is_last: bool) -> bool:
        """Write all there is; whether something was written, and every write was quick. Raises OSError."""
        self._wake.clear()
        costs = []
        while self._lines and not self._ended:
            if self.is_full and not (is_last or self._has_room()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            costs.append(self._write(self._lines[0]))
            self.is_full = False
            with self._lock:
                if self._lines:
                    self._lines.popleft()
        return bool(costs) and all(costs)

    def _finish(self) -> bool:
        with self._lock:
            if self._lines or self._ended:
                return False
            self._ended = True
        self._over()
        return True


class Full:
    """In place of a detour where the disk is well but too many files wait for a pump: events are given up and counted."""

    def __init__(self, room: Callable[[], bool], *, over: Callable[[], None]) -> None:
        self._room, self._over = room, over
        self._looked = monotonic()
        self.lost = 0
        _log.error("the journal is full: its events wait for a pump, and new ones are given up")

    def put(self, line: bytes) -> bool:  # noqa: ARG002  # as Detour's
        """Give the line up; False where there is room again, looked for once a second."""
        if monotonic() - self._looked >= 1.0:
            self._looked = monotonic()
            if self._room():
                self._over()
                return False
        self.lost += 1
        return True
