"""A sandbox on real sockets, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from .application import Application
from .options import Options

T = TypeVar("T")

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with suppress(ImportError):  # a fifth more requests a second, where uvicorn[standard] brought it
    import uvloop

    new_event_loop = uvloop.new_event_loop


class Sandbox:
    """An emulator of AdTarget, listening from the moment it is made until ``stop``.

    ``port`` 0 takes a free one. ``options`` are the fields of ``sandbox.options.Options``. Raises ``ValueError`` for an
    option that cannot work, ``OSError`` where the port is taken.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **options: Any) -> None:
        self.host = host
        self.options = Options(**options)
        self._runner: web.ServerRunner | None = None
        listener = self._listener(port)
        self.port: int = listener.getsockname()[1]
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="adtarget-sandbox", daemon=True)
        self._thread.start()
        self._application = self._run(self._make())
        self._run(self._open(listener))

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v1"

    @property
    def tracker_url(self) -> str:
        return f"{self.url}/backend"

    @property
    def api_key(self) -> str:
        return self.options.api_key

    @property
    def website_id(self) -> str:
        return self.options.website_id

    def events(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """What counted, oldest first, as ``/_sandbox/events`` shows it."""
        return self._shown(self._application.ledger.events(endpoint))

    def requests(self, after: int = 0) -> list[dict[str, Any]]:
        """Every attempt, refused, failed and dropped ones included; only those numbered above ``after``."""
        return self._shown(self._application.ledger.requests(after))

    def count(self, endpoint: str | None = None) -> int:
        """How many events counted since the last ``reset``, those no longer kept included."""
        return self._application.ledger.count(endpoint)

    def visitor(self, temp_id: str) -> dict[str, Any] | None:
        """What is known under a ``tempId``: its newest visit, its invites."""
        return self._run(_call(lambda: self._application.account.visitor(temp_id)))

    def join(self, temp_id: str, telegram_user_id: int) -> None:
        """Plays Telegram's report that a visitor joined, which makes them a known lead."""
        self._run(_call(lambda: self._application.account.join(temp_id, telegram_user_id)))

    def wait_for(self, n: int, endpoint: str | None = None, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Waits until ``n`` events counted (of ``endpoint``) and returns them.

        Raises ``TimeoutError`` after ``timeout`` seconds, saying what arrived instead.
        """
        if not self._application.ledger.wait_for(n, endpoint, timeout):
            raise TimeoutError(self._explain(n, endpoint, timeout))
        return self.events(endpoint)

    def faults(self, **changes: Any) -> None:
        """Sets faults (the fields of ``sandbox.faults.Faults``; ``endpoint=`` for one alone); the others stay as they are."""
        self._run(_call(lambda: self._application.board.set(changes, keep=True)))

    def heal(self) -> None:
        """Takes all faults back; a request that hangs is cut."""
        self._run(_call(self._application.board.heal))

    def reset(self) -> None:
        """Forgets everything that arrived; faults stay."""
        self._run(_call(self._application.reset))

    def close_port(self) -> None:
        """Stops listening and cuts every connection: from now on AdTarget refuses them."""
        if self._runner is not None:
            self._run(self._close())

    def open_port(self) -> None:
        """Listens again, on the same port, with everything it knew. Raises ``OSError`` if the port was taken meanwhile."""
        if self._runner is None:
            self._run(self._open(self._listener(self.port)))

    def stop(self) -> None:
        """Stops for good; a second call does nothing."""
        if not self._loop.is_closed():
            self.close_port()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _make(self) -> Application:
        return Application(self.options)

    def _listener(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.create_server((self.host, port), family=family, backlog=1024)

    async def _open(self, listener: socket.socket) -> None:
        # Cancellation: a client that gave up must not leave a sleeping or hanging handler behind.
        server = web.Server(self._application, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=1024).start()

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _shown(self, rows: list[dict[str, object]]) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = json.loads(self._application.keys.redact(json.dumps(rows)))
        return shown

    def _explain(self, n: int, endpoint: str | None, timeout: float) -> str:
        ledger = self._application.ledger
        lines = [
            f"waited {timeout} s for {n} {endpoint or 'events'}, {ledger.count(endpoint)} counted; "
            f"the port is {'closed' if self._runner is None else 'open'}; the last requests:"
        ]
        for row in self.requests()[-10:]:
            # Names and statuses alone: a message ends up in logs, where payloads do not belong.
            lines.append(f"  {row['surface']} {row['endpoint']}: {row['outcome']} {row['status'] or ''}".rstrip())
        return "\n".join(lines if len(lines) > 1 else [*lines, "  none"])


async def _call(function: Callable[[], T]) -> T:
    return function()
