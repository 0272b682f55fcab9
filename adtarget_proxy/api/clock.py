"""One clock for a whole exchange, below httpx: what its time-outs, which start anew with each read, cannot give."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Clock(float):
    """One time budget (seconds) that httpx passes down to each socket call, and what those calls told on the way.

    A time-out of httpx starts anew with each read, so a peer that drips bytes could hold a thread for ever; the streams
    below ask this one for what is left instead.
    """

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds
        self.fresh = False  # a connection was opened for this attempt
        self.sent = False  # bytes were written
        self.answered = False  # bytes were read

    def left(self) -> float:
        """Seconds left, never 0 (which would mean "do not block" to a socket)."""
        return max(self.ends - time.monotonic(), 0.001)

    def start(self) -> None:
        """A new attempt within the same budget."""
        self.fresh = self.answered = False

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return time.monotonic() >= self.ends


def _left(timeout: float | None) -> float | None:
    return timeout.left() if isinstance(timeout, Clock) else timeout


class _Delegate:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Stream(_Delegate):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._inner.read(max_bytes, _left(timeout))
        if data and isinstance(timeout, Clock):
            timeout.answered = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if isinstance(timeout, Clock):
            timeout.sent = True
        self._inner.write(buffer, _left(timeout))

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))


class Backend(_Delegate):
    """httpcore's network backend, whose connections heed the Clock."""

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **more: Any) -> _Stream:
        if isinstance(timeout, Clock):
            timeout.fresh = True
        return _Stream(self._inner.connect_tcp(host, port, _left(timeout), **more))


class _AsyncStream(_Delegate):
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = await self._inner.read(max_bytes, _left(timeout))
        if data and isinstance(timeout, Clock):
            timeout.answered = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if isinstance(timeout, Clock):
            timeout.sent = True
        await self._inner.write(buffer, _left(timeout))

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _AsyncStream:
        return _AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))


class AsyncBackend(_Delegate):
    """The same for one event loop."""

    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, **more: Any) -> _AsyncStream:
        if isinstance(timeout, Clock):
            timeout.fresh = True
        return _AsyncStream(await self._inner.connect_tcp(host, port, _left(timeout), **more))


def clocked(transport: Any, backend: Callable[[Any], Any]) -> Any:
    """A transport of httpx whose connections are made by ``backend``."""
    # httpcore takes a network backend, but httpx has no way to pass one on.
    pool = transport._pool  # noqa: SLF001
    if not isinstance(pool._network_backend, _Delegate):  # noqa: SLF001
        pool._network_backend = backend(pool._network_backend)  # noqa: SLF001
    return transport
