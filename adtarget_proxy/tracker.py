"""The one object a shell holds: it ties deciding, keeping and sending together.

A shell calls ``plan`` before the app and ``finish`` at the response's start, or ``answer`` where the request is the package's
own to answer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from adtarget_proxy.clicks import Clicks, host_of
from adtarget_proxy.delivery import Delivery
from adtarget_proxy.entropy import entropy as system_entropy
from adtarget_proxy.errors import SettingsError
from adtarget_proxy.notices import Notices
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.reply import Reply, redirect_to
from adtarget_proxy.request import Tracking
from adtarget_proxy.settings import Settings, Site
from adtarget_proxy.tracking.conversions import conversion_of
from adtarget_proxy.tracking.events import Event
from adtarget_proxy.tracking.facts import Facts, Response, bare_host
from adtarget_proxy.tracking.lending import lent
from adtarget_proxy.tracking.pages import decides
from adtarget_proxy.tracking.rules import REASONS, Gate, Reason, Rules
from adtarget_proxy.tracking.state import derived_key
from adtarget_proxy.tracking.visit import Outcome, Plan, finish, plan

__all__ = ["Facts", "Outcome", "Plan", "Reply", "Response", "Tracker", "Tracking", "decides"]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

After = Callable[[Callable[[], None]], object]  # calls what it is given when its time has come, or never


class Tracker:
    """Starts nothing until the first request in this process. Raises SettingsError for settings that cannot work."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = system_entropy,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self.notices = Notices()
        self.rules = Rules(
            self.settings,
            self._keys,
            clock=clock,
            entropy=entropy,
            tell=self.notices.consent,
            fault=self.notices.fault,
        )
        self.outbox = Outbox.open(self.settings.outbox)
        self.delivery = Delivery(self.settings, self.outbox)
        self._clicks = Clicks(self.rules, self.delivery, keep=self._keep, note=self._note, fault=self.fault)
        self._tally = {reason: itertools.count() for reason in REASONS}
        self._refuses_prefetch = self.settings.prefetch == "refuse"

    # -- what a shell calls ----------------------------------------------------------------------------------------------------

    def plan(self, facts: Facts) -> Plan:
        """What the request alone decides, with the ids of a page's visitor."""
        if not self.notices.is_introduced:
            self.notices.introduce(self.settings)
        self.delivery.start()
        planned = plan(facts, self.rules)
        if planned.reason is not None:
            next(self._tally[planned.reason])
        elif planned.gate.origin is not None and planned.gate.origin.hint:
            self.notices.untrusted_proxy(planned.facts)
        return planned

    @property
    def asks_async(self) -> bool:
        """Whether ``consent`` is an async function: ``ask`` is awaited before ``plan``, and only ASGI can do that."""
        return self.rules.asking.is_async

    def require_sync(self) -> None:
        """Raises SettingsError where ``consent`` has to be awaited: for a shell that cannot."""
        if self.asks_async:
            raise SettingsError(
                ["consent: is an async function, which can be awaited under ASGI alone; under WSGI write it as def"]
            )

    async def ask(self, facts: Facts) -> None:
        """Await what an async ``consent`` says of this request, where that matters: a page, a click, a form. A second at most."""
        try:
            reason = self.rules.gate(facts).reason
            if reason == "no-consent" or (reason == "not-a-page" and facts.method not in _SAFE_METHODS):
                await self.rules.asking.ask(facts, self.rules.origin(facts).host)
        except Exception:
            self.fault("consent")

    def takes_over(self, planned: Plan) -> bool:
        """Whether the package answers the request itself: an invite route, or a prefetch that is refused."""
        return planned.gate.slug is not None or (self._refuses_prefetch and planned.reason == "prefetch")

    def watches(self, planned: Plan) -> bool:
        """Whether the response's start has to be looked at. The answer to a form may be a redirect view's: ``Tracking.invite``."""
        reason = planned.reason
        if reason is None or reason == "prefetch" or planned.parting is not None:
            return True
        return self.settings.debug or planned.facts.method == "POST"

    def finish(self, planned: Plan, response: Response) -> Outcome:
        """What becomes of the response; its events are in the outbox when this returns."""
        outcome = finish(planned, response, self.rules)
        if outcome.events and not planned.is_kept:
            planned.is_kept = True
            self._keep(outcome.events)
        if planned.click_cookies is None:  # a click of the app's own view has its reason already
            if planned.reason is None:
                next(self._tally[outcome.reason])
            planned.reason = outcome.reason
        return outcome

    def answer(self, planned: Plan) -> Reply:
        """The answer to a request that the package takes over; blocks for ``invite_timeout`` at most."""
        return self._explained(planned, self._clicks.answer(planned))

    async def answer_async(self, planned: Plan) -> Reply:
        """``answer`` for the ASGI shell."""
        return self._explained(planned, await self._clicks.answer_async(planned))

    def unplanned(self, method: str, path: str, host: str | None) -> Plan:
        """The plan of a request that ``plan`` has failed on: nothing is tracked, and the app finds nobody in it."""
        next(self._tally["error"])
        return Plan(_Unseen(method, path, host), Gate("error"))

    def rescue(self, planned: Plan) -> Reply | None:
        """The fallback of an invite route, for when something of ours has failed; None where the request is not for one."""
        facts = planned.facts
        url = self.rules.fallback_for(facts.path, host_of(facts)) if facts.method in ("GET", "HEAD") else None
        return redirect_to(url) if url else None

    def fault(self, where: str, planned: Plan | None = None) -> None:
        """Note the fault of our own that is being handled: where it was the first time, then only counted. Never raises.

        What the exception says is left out: it may quote an address or a payload.
        """
        if planned is not None and planned.reason is None:
            planned.reason = "error"
            next(self._tally["error"])
        self.notices.fault(where)

    # -- what the app calls, through Tracking ----------------------------------------------------------------------------------

    def invite_path(self, planned: Plan, slug: str) -> str:
        """The path of a slug's invite route. Raises LookupError."""
        return self._clicks.path(planned, slug)

    def invite(self, planned: Plan, slug: str) -> str:
        """The link for the visitor of ``planned``. Raises LookupError."""
        return self._clicks.link(planned, slug)

    async def invite_async(self, planned: Plan, slug: str) -> str:
        """``invite`` for async code."""
        return await self._clicks.link_async(planned, slug)

    def conversion(
        self, planned: Plan, fields: Mapping[str, Any], key: str | None, *, after: After | None = None
    ) -> str:
        """Keep a conversion, at once or when ``after`` calls what it is given; see ``Tracking.conversion``."""
        site = self.settings.site_for(bare_host(self.rules.origin(planned.facts).host or ""))
        if site is None:
            raise SettingsError(
                ["sites: none of them is for the host of this request, so no key is for its conversions"]
            )
        account = site.conversion_account
        if account is None:
            raise SettingsError(["api_key: missing; conversions need one: set ADTARGET_API_KEY (atk_live_…)"])
        key = key or self.rules.entropy(16).hex()
        try:
            visitor, borrowed = lent(planned, site, self.rules)
        except Exception:  # what the app reports counts more than what the request could add to it
            self.fault("conversion", planned)
            visitor, borrowed = None, {}
        event = conversion_of(
            fields,
            account=account.id,
            key=key,
            visitor=visitor,
            now=self.rules.clock(),
            borrowed=borrowed,
            ip=self.settings.ip,
        )
        if after is None:
            self._keep((event,))
        else:
            after(lambda: self._keep((event,)))
        return key

    def now_ms(self) -> int:
        """The clock, in ms."""
        return int(self.rules.clock() * 1000)

    # -- looking after ---------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many requests of this process ended in each reason."""
        return {reason: next(copy(counter)) for reason, counter in self._tally.items()}

    def start(self) -> None:
        """Start sending in this process; the first request does it too."""
        if not self.notices.is_introduced:
            self.notices.introduce(self.settings)
        self.delivery.start()

    @property
    def has_served(self) -> bool:
        """Whether any request has come by in this process."""
        return any(self.counts().values())

    def flush(self, timeout: float = 2.0) -> int:
        """Send what waits, for at most ``timeout`` seconds; returns how many events are left."""
        return self.delivery.flush(timeout)

    def close(self, timeout: float = 2.0) -> int:
        """``flush``, then stop sending; returns how many events are left. They stay in the outbox."""
        left = self.delivery.close(timeout)
        self.outbox.close()
        return left

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _keep(self, events: Iterable[Event]) -> None:
        for event in events:
            self.outbox.append(event)
        self.delivery.wake()

    def _explained(self, planned: Plan, reply: Reply) -> Reply:
        """With ``debug`` the reason is in our own answers too."""
        if not self.settings.debug or planned.reason is None:
            return reply
        return reply.having("X-Adtarget-Reason", planned.reason)

    def _note(self, planned: Plan, reason: Reason) -> None:
        planned.reason = reason
        next(self._tally[reason])

    def _keys(self, site: Site) -> Sequence[str]:
        keys: tuple[str, ...] = self.settings.secret_key
        if keys:
            return keys
        if site.api_key:
            return (derived_key(site.api_key),)
        return (self.outbox.secret(),)


class _Unseen(Facts):
    """A request of which only the method, the path and perhaps the Host are known."""

    __slots__ = ("_host",)

    def __init__(self, method: str, path: str, host: str | None) -> None:
        super().__init__(method, "http", path, "", None)
        self._host = host

    def header(self, name: str) -> str | None:
        return self._host if name == "host" else None
