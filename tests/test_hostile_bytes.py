"""Whatever bytes come in: nothing raises, the app answers as it did, and only cookie-octets go out (C3, C6, C7, W5).

``make hostile`` tries a million requests on each shell; ``ADTARGET_TEST_SEED`` says which.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hostile_bytes import LINE, SECRET, Raw, Thrown, environ_of, long_raw_of, long_raws, raw_of, raws, scope_of
from shell_world import FALLBACK, HTML, PAGE, Answer, AsgiShell, WsgiShell, kept, quiet

REQUESTS = int(os.environ.get("ADTARGET_TEST_REQUESTS", "5000"))
SEED = int(os.environ.get("ADTARGET_TEST_SEED", "1"))
FRESH_AFTER = 5_000  # requests of one app: what its memory outbox remembers of settled events is not the matter here
SITES: dict[str, dict[str, Any]] = {
    "a hop": {"trusted_proxies": 1},
    "Forwarded": {
        "trusted_proxies": ("203.0.113.0/24", "unix"),
        "forwarded_header": True,
        "cookie_domain": "shop.test",
    },
    "nothing trusted": {"cache": "skip", "scrub": False, "ip": "truncate", "respect_gpc": False},
}
MAX_LINE = 4_096  # bytes of a cookie that every browser keeps (RFC 6265, 6.1)
MAX_EVENT = 131_072  # bytes of an event, every field of which is at its bound

Ask = Callable[[Any, Raw], Answer]


@pytest.fixture(params=["asgi", "wsgi"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with asyncio.Runner() as runner:
        made = Site(request.param, runner)
        yield made
        made.close()


class Site:
    """An app wrapped once for each of ``SITES``, in one shell, and how its server hands on a request."""

    def __init__(self, kind: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._shell = AsgiShell() if kind == "asgi" else WsgiShell()
        self._apps: dict[str, tuple[Any, int]] = {}
        self.expected = self._shell.ask(self._shell.app(HTML), PAGE)

    def ask(self, name: str, raw: Raw) -> tuple[Any, Answer]:
        """The wrapped app, and its answer."""
        app, asked = self._apps.pop(name, (None, FRESH_AFTER))
        if asked >= FRESH_AFTER:
            if app is not None:
                app.close(0)
            settings = quiet(mode="dry-run", secret_key=SECRET, **SITES[name])
            app, asked = self._shell.middleware(self._shell.app(HTML), settings), 0
        self._apps[name] = app, asked + 1
        if isinstance(self._shell, AsgiShell):
            return app, self._runner.run(self._shell.talk(app, scope_of(raw)))
        return app, self._shell.talk(app, environ_of(raw))

    def close(self) -> None:
        for app, _ in self._apps.values():
            app.close(0)


def holds(site: Site, name: str, raw: Raw) -> Any:
    """What is true of every answer; returns the app."""
    app, answer = site.ask(name, raw)
    if answer.status == 200:
        assert answer.without_ours() == site.expected, raw
    else:  # an invite route is ours to answer
        assert raw.path == b"/c/vip", raw
        assert (answer.status, answer.all("location")) in ((302, [FALLBACK]), (503, [])), raw
    for line in answer.all("set-cookie"):
        assert LINE.fullmatch(line), (line, raw)
        assert len(line) <= MAX_LINE, raw
    assert app.tracker.counts()["error"] == 0, raw
    return app


def are_well_formed(app: Any) -> None:
    """What is true of every event."""
    for event in kept(app.tracker):
        encoded = event.encode()
        assert encoded.isascii()
        assert json.loads(encoded, parse_constant=pytest.fail)["f"] == event.fields
        assert len(encoded) <= MAX_EVENT


FREELY = hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
NAMES = hypothesis.strategies.sampled_from(list(SITES))


@FREELY
@hypothesis.given(raw=raws(), name=NAMES)
def test_no_bytes_reach_a_header_or_change_an_answer(site: Site, raw: Raw, name: str) -> None:
    are_well_formed(holds(site, name, raw))


@hypothesis.settings(FREELY, max_examples=40)
@hypothesis.given(raw=long_raws(), name=NAMES)
def test_a_header_of_64_kb_is_a_header_like_any_other(site: Site, raw: Raw, name: str) -> None:
    are_well_formed(holds(site, name, raw))


@pytest.mark.timeout(0)
def test_many_requests_are_no_worse_than_few(site: Site) -> None:
    """The same without Hypothesis's care for each; a failure prints its request."""
    dice, names = Thrown(SEED), list(SITES)
    for number in range(REQUESTS):
        raw = long_raw_of(dice) if number % 1000 == 0 else raw_of(dice)
        app = holds(site, names[number % len(names)], raw)
        if number % 100 < len(names):
            are_well_formed(app)
