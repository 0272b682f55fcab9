"""The pytest plugin: the fixture ``adtarget_sandbox``, AdTarget on a real socket for one test.

Loaded by every test run of its users, so it imports nothing until the fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import Sandbox

MARKER = "adtarget_sandbox"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}(**options): options of the test's AdTarget sandbox, such as rate=0.")


@pytest.fixture
def adtarget_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A fresh AdTarget sandbox on a free port; ``@pytest.mark.adtarget_sandbox(rate=0)`` sets its options."""
    try:
        from .server import Sandbox
    except ModuleNotFoundError as error:
        pytest.fail(f"adtarget_sandbox needs {error.name}: pip install 'adtarget-proxy[server]'", pytrace=False)
    options: dict[str, object] = {}
    for marker in reversed(list(request.node.iter_markers(MARKER))):
        options.update(marker.kwargs)
    with Sandbox(**options) as sandbox:  # type: ignore[arg-type]
        yield sandbox
