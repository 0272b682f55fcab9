"""Signs of life of whoever claims from a store that several machines share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress


class Pulse:
    """Signs of life of the owners that claim through a store, in a thread of their own that starts with the first of them."""

    def __init__(self, beat: Callable[[str], None], *, every: float) -> None:
        self._beat = beat
        self._every = every
        self._owners: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def keep(self, owner: str) -> None:
        """From now on, every ``every`` seconds."""
        if owner in self._owners:
            return
        with self._lock:
            self._owners.add(owner)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="adtarget-pulse", daemon=True)
                with suppress(RuntimeError):  # the interpreter is on its way out; so is the claim
                    self._thread.start()

    def forget(self, owner: str) -> None:
        """No more of this one."""
        with self._lock:
            self._owners.discard(owner)

    def stop(self) -> None:
        """No more at all."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            for owner in tuple(self._owners):
                self._beat(owner)
