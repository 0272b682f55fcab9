"""Clicks on invite routes, and those that a redirect view of the app's own makes: from the request to a link, or the fallback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from adtarget_proxy.delivery import Answer, Click, Delivery, InviteCall
from adtarget_proxy.reply import REFUSED, Reply, redirect_to
from adtarget_proxy.settings import InviteRoute
from adtarget_proxy.tracking.events import Event, Visit
from adtarget_proxy.tracking.facts import Facts
from adtarget_proxy.tracking.invite import ClickPlan, click_plan
from adtarget_proxy.tracking.rules import Gate, Reason, Rules
from adtarget_proxy.tracking.visit import Plan

UNDER_ASGI = 64  # clicks that may wait in one process
UNDER_WSGI = 4


class Clicks:
    """``keep`` puts events into the outbox, ``note`` writes down a request's reason, ``fault`` a fault of our own."""

    def __init__(
        self,
        rules: Rules,
        delivery: Delivery,
        *,
        keep: Callable[[Iterable[Event]], None],
        note: Callable[[Plan, Reason], None],
        fault: Callable[[str, Plan], None],
    ) -> None:
        self._rules = rules
        self._settings = rules.settings
        self._delivery = delivery
        self._keep = keep
        self._note = note
        self._fault = fault

    def answer(self, planned: Plan) -> Reply:
        """The answer to a request for an invite route; blocks for ``invite_timeout`` at most."""
        begun = self._begin(planned, planned.gate, UNDER_WSGI)
        if isinstance(begun, Reply):
            return self._parted(planned, begun)
        click, call = begun
        return self._redirect(planned, click, call.wait())

    async def answer_async(self, planned: Plan) -> Reply:
        """``answer`` for the ASGI shell."""
        begun = self._begin(planned, planned.gate, UNDER_ASGI)
        if isinstance(begun, Reply):
            return self._parted(planned, begun)
        click, call = begun
        return self._redirect(planned, click, await call.wait_async())

    def path(self, planned: Plan, slug: str) -> str:
        """The path of a slug's invite route. Raises LookupError."""
        self._route_gate(planned, slug)
        return self._rules.invite_path(slug)

    def link(self, planned: Plan, slug: str) -> str:
        """The link for the visitor of ``planned``. Raises LookupError."""
        gate = self._route_gate(planned, slug)
        try:
            begun = self._begin(planned, gate, UNDER_WSGI)
            if isinstance(begun, Reply):
                return _fallback(gate)
            click, call = begun
            return self._lend(planned, click, call.wait())
        except Exception:
            self._fault("invite", planned)
            return _fallback(gate)

    async def link_async(self, planned: Plan, slug: str) -> str:
        """``link`` for async code."""
        if self._rules.asking.is_async:
            await self._rules.asking.ask(planned.facts, self._rules.origin(planned.facts).host)
        gate = self._route_gate(planned, slug)
        try:
            begun = self._begin(planned, gate, UNDER_ASGI)
            if isinstance(begun, Reply):
                return _fallback(gate)
            click, call = begun
            return self._lend(planned, click, await call.wait_async())
        except Exception:
            self._fault("invite", planned)
            return _fallback(gate)

    def _begin(self, planned: Plan, gate: Gate, limit: int) -> Reply | tuple[ClickPlan, InviteCall]:
        """Start the ladder of a click that counts; any other gets its answer at once."""
        deadline = time.monotonic() + self._settings.invite_timeout
        if gate.reason == "prefetch":
            return REFUSED
        fallback = gate.route.fallback_url if gate.route else None
        if gate.reason is not None or fallback is None:
            return redirect_to(fallback or "/")
        click = click_plan(planned.facts, gate, self._rules, planned.page)
        if planned.click_cookies is None:  # a second invite of one request needs no second visit
            self._keep(click.before)
            planned.is_kept = any(isinstance(event, Visit) for event in click.before)  # and a page needs no other
        request = Click(click.click, click.slug, click.fallback_url, deadline, click.known, click.network)
        return click, self._delivery.invite(request, limit=self._settings.invite_concurrency or limit)

    def _parted(self, planned: Plan, reply: Reply) -> Reply:
        """``reply``; what waits of a visitor who said no is dropped here too. Their cookies are left to the next page, if there is one."""
        if planned.parting is not None:
            self._keep(planned.parting.events)
        return reply

    def _redirect(self, planned: Plan, click: ClickPlan, answer: Answer) -> Reply:
        self._note(planned, answer.reason)
        return redirect_to(answer.url, click.cookies)

    def _lend(self, planned: Plan, click: ClickPlan, answer: Answer) -> str:
        self._note(planned, answer.reason)
        planned.click_cookies = click.cookies
        return answer.url

    def _route_gate(self, planned: Plan, slug: str) -> Gate:
        gate = self._gate_of(planned, slug)
        if gate is None:
            slugs = sorted({slug for site in self._settings.all_sites for slug in site.invites})
            raise LookupError(f"no invite route {slug!r}; the settings' invites has: {', '.join(slugs) or 'none'}")
        return gate

    def _gate_of(self, planned: Plan, slug: str) -> Gate | None:
        if planned.gate.reason != "error":
            try:
                return self._rules.invite_gate(planned.facts, slug)
            except Exception:
                self._fault("invite", planned)
        url = self._rules.fallback_for(self._rules.invite_path(slug), host_of(planned.facts))
        return Gate("error", slug=slug, route=InviteRoute(fallback_url=url)) if url else None


def host_of(facts: Facts) -> str | None:
    """The Host header, for when something of ours has failed: it may be the reading of headers itself."""
    try:
        return facts.header("host")
    except Exception:
        return None


def _fallback(gate: Gate) -> str:
    return (gate.route.fallback_url if gate.route else None) or "/"
