"""A real Redis for the tests: one server a session, on a free port, in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from serving import Server, free_port, require

from adtarget_proxy.outbox import Store


@contextmanager
def redis_server(folder: Path, *options: str, port: int | None = None) -> Iterator[Server]:
    """Ends with the block; ``options`` as redis-server's own. Skips where there is none."""
    program = shutil.which("redis-server")
    require(program is not None, "redis-server is not installed")
    require(find_spec("redis") is not None, "the Redis client is not installed")
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    server = Server(command, port, {}, folder / "redis.log")
    try:
        yield server
    finally:
        server.stop()


def redis_store(url: str, **options: Any) -> Store:
    """A store over a server that is there."""
    from adtarget_proxy.outbox.redis import RedisStore

    return RedisStore(url, where=url, **options)


def empty(url: str) -> None:
    """Delete all that the server holds."""
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushall()
