"""Asking for consent: the user's function, called once a request, whatever it does.

A function that raises, answers what is no answer, or takes longer than a second under ASGI has said *unknown*: the page goes out
untracked, and the log has one line about it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from adtarget_proxy.consent import Consent, Request
from adtarget_proxy.consent.answer import consent_of, is_async
from adtarget_proxy.tracking.facts import Facts

PATIENCE = 1.0  # seconds that a page waits for an async function

Tell = Callable[[str], None]  # what went wrong, to be said once


def _silent(_: str) -> None:
    pass


class Asking:
    """What ``ask`` says of visitors; without ``ask`` everybody has granted. An answer is kept with its request's facts."""

    def __init__(self, ask: Callable[[Request], Any] | None, tell: Tell = _silent) -> None:
        self._ask = ask
        self._tell = tell
        self.is_needed = ask is not None
        self.is_async = is_async(ask)

    def answer(self, facts: Facts, host: str | None) -> Consent:
        """The visitor's answer; unknown where an async function has not been awaited. Never raises."""
        if self._ask is None:
            return Consent.GRANTED
        known: Consent | None = getattr(facts, "consent", None)
        if known is not None:
            return known
        if self.is_async:
            return Consent.UNKNOWN
        facts.consent = said = self._called(self._ask, _request(facts, host))
        return said

    async def ask(self, facts: Facts, host: str | None) -> None:
        """Await the answer of an async function, for a second at most. Raises nothing but the cancellation of the request."""
        if self._ask is None or getattr(facts, "consent", None) is not None:
            return
        facts.consent = Consent.UNKNOWN
        task = asyncio.ensure_future(self._awaited(self._ask, _request(facts, host)))
        try:
            # not wait_for, which waits on for a function that will not be cancelled
            await asyncio.wait((task,), timeout=PATIENCE)
            if task.done():
                facts.consent = task.result()
            else:
                self._tell(f"did not answer within {PATIENCE:g} s")
        finally:
            task.cancel()

    def _called(self, ask: Callable[[Request], Any], request: Request) -> Consent:
        try:
            said = ask(request)
        except Exception as error:
            self._tell(f"raised {type(error).__name__}")
            return Consent.UNKNOWN
        if inspect.isawaitable(said):
            if inspect.iscoroutine(said):
                said.close()
            self._tell("answered with an awaitable; write it as async def")
            return Consent.UNKNOWN
        return self._read(said)

    async def _awaited(self, ask: Callable[[Request], Any], request: Request) -> Consent:
        try:
            return self._read(await ask(request))
        except Exception as error:
            self._tell(f"raised {type(error).__name__}")
            return Consent.UNKNOWN

    def _read(self, said: object) -> Consent:
        consent = consent_of(said)
        if consent is None:
            self._tell(
                f"answered with a {type(said).__name__} that is none of True, False, None, granted, denied, unknown"
            )
            return Consent.UNKNOWN
        return consent


def _request(facts: Facts, host: str | None) -> Request:
    return Request(facts.method, facts.path, facts.query, host, facts.header)
