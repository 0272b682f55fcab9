"""The way to Redis: its client, the script that holds the commands, and what a fault of either becomes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any, cast

from adtarget_proxy.errors import OutboxError

try:
    import redis as client
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ModuleNotFoundError:
    raise OutboxError("the Redis client is not installed; run: pip install 'adtarget-proxy[redis]'") from None

_log = logging.getLogger("adtarget_proxy.outbox")
_UNREACHABLE = "unreachable"
_TIMEOUT = 5.0  # seconds for one command
_LONG = 0.5  # seconds of waiting for nothing, after which others are spared it
_PAUSE = 1.0  # seconds before somebody waits again
_IDLE = 10  # seconds after which a connection is tried before it is used


class Wire:
    """Connects at its first use. ``where`` is the place without its password, for messages; ``prefix`` begins every key."""

    def __init__(self, url: str, *, where: str, prefix: str) -> None:
        self._where = where
        self._prefix = prefix
        try:
            self.client = client.Redis.from_url(
                url,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT / 2,
                health_check_interval=_IDLE,
                encoding_errors="surrogatepass",
                retry=Retry(NoBackoff(), 0),  # a claim that is made twice would be held by nobody
            )
        except ValueError as error:
            raise OutboxError(f"outbox {where}: {error}") from None
        self._script = self.client.register_script(_source())
        self._failed_at = float("-inf")
        self._again_at = 0.0  # until then nobody waits for a Redis that swallows what it is sent
        self._looked = self._closed = False

    def key(self, name: str) -> str:
        """The whole name of a key."""
        return self._prefix + name

    def do(self, command: str, *arguments: Any) -> Any:
        """Run a command of the script. Raises OutboxError."""
        with self.faults():
            return self._script(keys=[self._prefix], args=[command, *arguments])

    def fields(self, name: str, fields: Sequence[str]) -> list[Any]:
        """Some fields of a hash. Raises OutboxError."""
        with self.faults():
            return cast("list[Any]", self.client.hmget(self.key(name), list(fields)))

    def faults(self) -> _Faults:
        """Around whatever is asked of ``client``: its errors become OutboxError.

        Raises it at once where the wire is closed, and where another call waits, or has just waited, for no answer.
        """
        if self._closed:
            raise OutboxError(f"outbox {self._where}: closed")
        if self._again_at:
            now = time.monotonic()
            if now < self._again_at:
                raise OutboxError(f"outbox {self._where}: does not answer", cause=_UNREACHABLE)
            self._again_at = now + _TIMEOUT  # this one tries
        return _Faults(self)

    def has_failed_within(self, seconds: float) -> bool:
        """Whether Redis could not be reached from here lately."""
        return time.monotonic() - self._failed_at < seconds

    def close(self) -> None:
        """Let go of the connections."""
        self._closed = True
        with suppress(client.RedisError):
            self.client.close()

    def reached(self) -> None:
        """Redis answers. At the first time it is asked how it keeps what it is given, and a warning said where it may forget."""
        self._again_at = 0.0
        if self._looked:
            return
        self._looked = True
        with suppress(client.RedisError):  # a hosted one may not tell
            told = self.client.info("everything")
            if not told.get("aof_enabled"):
                _log.warning(
                    "outbox %s: appendonly is off, so a restart of Redis loses events that wait; set appendonly yes",
                    self._where,
                )
            policy = told.get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                _log.warning(
                    "outbox %s: Redis may evict events that wait (maxmemory-policy %s); set it to noeviction",
                    self._where,
                    policy,
                )

    def missed(self, error: Exception, began: float) -> OutboxError:
        """Redis did not answer what was asked at ``began``, or refused; what to raise."""
        self._failed_at = time.monotonic()
        cause = _UNREACHABLE if isinstance(error, (client.ConnectionError, client.TimeoutError, OSError)) else ""
        self._again_at = self._failed_at + _PAUSE if cause and self._failed_at - began > _LONG else 0.0
        return OutboxError(f"outbox {self._where}: {str(error).partition(chr(10))[0]}", cause=cause)


class _Faults:
    """Turns the client's errors into ours, and tells the wire how Redis is."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._began = time.monotonic()

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._wire.reached()
        elif isinstance(error, (client.RedisError, OSError)):
            raise self._wire.missed(error, self._began) from None


# one script in this order: each part uses what stands before it
_PARTS = ("contract", "queues", "intake", "sending", "shared", "upkeep", "records", "call")


@cache
def _source() -> str:
    folder = files(__package__).joinpath("lua")
    return "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS)
