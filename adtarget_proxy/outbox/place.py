"""Where an outbox is: its URL, read once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox.memory import MemoryStore
from adtarget_proxy.outbox.sqlite import SqliteStore
from adtarget_proxy.outbox.store import Store
from adtarget_proxy.settings.checks import state_directory

_JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Place:
    """``path`` is the SQLite file, or for Redis what the names of this machine's journal and secret begin with; None: memory.

    As a string it holds no credential.
    """

    engine: Literal["memory", "sqlite", "redis"]
    path: Path | None = None
    url: str = field(default="", repr=False)  # what the Redis client is given

    @classmethod
    def parse(cls, url: str) -> Place:
        """The place of ``memory://``, ``sqlite:////abs/path``, ``redis://host:6379/0`` or ``rediss://…``.

        A Redis' journal is in the user's state directory, or where ``?journal=/abs/path`` says. Raises OutboxError for any other URL.
        """
        scheme, _, rest = url.partition("://")
        if url == "memory://":
            return cls("memory")
        if scheme == "sqlite" and rest.startswith("//"):
            return cls("sqlite", Path(rest[1:]))
        if scheme in ("redis", "rediss") and urlsplit(url).hostname:
            return cls._redis(url)
        raise OutboxError("an outbox is sqlite:////abs/path/outbox.sqlite3, redis://host:6379/0 or memory://")

    @classmethod
    def _redis(cls, url: str) -> Place:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        journal = options.pop(_JOURNAL, None)
        if journal is None:
            name = hashlib.sha256(f"{parts.netloc.rpartition('@')[2]}{parts.path}".encode()).hexdigest()[:12]
            try:
                path = state_directory() / f"redis-{name}"
            except ValueError as error:
                raise OutboxError(f"the journal: {error}") from None
        else:
            path = Path(journal)
            if not path.is_absolute():
                raise OutboxError("the journal of a Redis outbox needs an absolute path: ?journal=/var/lib/shop/outbox")
        return cls("redis", path, urlunsplit(parts._replace(query=urlencode(options))))

    def __str__(self) -> str:
        if self.engine == "redis":
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return f"sqlite:///{self.path}" if self.path is not None else "memory://"

    @property
    def is_there(self) -> bool:
        """Whether something was ever kept here; a Redis is asked by its use."""
        if self.path is None or self.engine == "redis":
            return True
        return self.path.exists() or self.path.with_name(self.path.name + ".journal").exists()

    def store(self) -> Store:
        """A store at this place; opened at its first use. Raises OutboxError where its extra is not installed."""
        if self.engine == "redis":
            from adtarget_proxy.outbox.redis import RedisStore  # an extra

            return RedisStore(self.url, where=str(self))
        return MemoryStore() if self.path is None else SqliteStore(self.path)
