"""AdTarget on your machine: an emulator of its API, for developing, for tests and for trying out what happens when it fails.

Nothing here is shared with the client: what one of them misreads in AdTarget's documents cannot hide in the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .server import Sandbox

__all__ = ["Sandbox"]


def __getattr__(name: str) -> object:
    # The pytest plugin lives in this package and is imported by every test run of its users: aiohttp must wait.
    if name == "Sandbox":
        from .server import Sandbox

        return Sandbox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
