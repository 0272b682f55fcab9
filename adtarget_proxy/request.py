"""What the app sees of a request: ``scope["adtarget"]``, ``environ["adtarget"]``, ``request.adtarget``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from adtarget_proxy.tracking.cookies import choose_fbc, choose_fbp, read_jar
from adtarget_proxy.tracking.visit import Plan

if TYPE_CHECKING:
    from adtarget_proxy.tracker import Tracker


class Tracking:
    """The visitor of this request, and what can be done on their behalf.

    On a page request the ids minted for the response are already here, also on a first visit; elsewhere they are what the
    cookies held, or None.
    """

    __slots__ = ("_plan", "_tracker")

    def __init__(self, plan: Plan, tracker: Tracker) -> None:
        self._plan = plan
        self._tracker = tracker

    @classmethod
    def of(cls, other: Tracking) -> Self:
        """The same request's, as this class."""
        return cls(other._plan, other._tracker)

    @property
    def visitor_id(self) -> str | None:
        """The ``tempId`` (a UUID)."""
        page = self._plan.page
        return page.temp_id if page else read_jar(self._plan.facts.header("cookie")).temp_id

    @property
    def session_id(self) -> str | None:
        """The ``clientSessionId``."""
        page = self._plan.page
        return page.session_id if page else read_jar(self._plan.facts.header("cookie")).session_id

    @property
    def fbp(self) -> str | None:
        """Meta's browser id."""
        page = self._plan.page
        if page:
            return page.fbp
        jar = read_jar(self._plan.facts.header("cookie"))
        return choose_fbp(jar.fbp, self._tracker.now_ms(), jar.seen.fbp if jar.seen else None)

    @property
    def fbc(self) -> str | None:
        """Meta's click id, in its cookie's shape."""
        page = self._plan.page
        if page:
            return page.fbc
        jar = read_jar(self._plan.facts.header("cookie"))
        return choose_fbc(jar.fbc, self._tracker.now_ms())

    @property
    def client_ip(self) -> str | None:
        """The visitor's address as ``trusted_proxies`` makes it out; a private one is shown here, but never sent."""
        address = (self._plan.gate.origin or self._tracker.rules.origin(self._plan.facts)).address
        return address.text if address else None

    @property
    def event_id(self) -> str | None:
        """The idempotency key of the visit that this page view becomes; None where it cannot become one."""
        return self._plan.event_id

    @property
    def reason(self) -> str | None:
        """Why this request is (not) tracked; None until its response starts, unless the request alone decided it."""
        return self._plan.reason

    def invite_url(self, slug: str) -> str:
        """The path of an invite route, for a template's join button. Raises LookupError for a slug that is not configured."""
        return self._tracker.invite_path(self._plan, slug)

    def invite(self, slug: str) -> str:
        """The link to redirect this visitor to, asked from AdTarget within ``invite_timeout``; the fallback at worst.

        For a redirect view of your own; it blocks, so in an async view await ``ainvite``. Raises LookupError for a slug that
        is not configured.
        """
        return self._tracker.invite(self._plan, slug)

    async def ainvite(self, slug: str) -> str:
        """``invite`` for async code."""
        return await self._tracker.invite_async(self._plan, slug)

    def identify(self, external_user_id: str | int) -> None:
        """Tell AdTarget your own id of this visitor, with the visit of this page. Before the response starts."""
        self._plan.external_user_id = str(external_user_id)

    def conversion(self, *, idempotency_key: str | None = None, **fields: Any) -> str:
        """Report a conversion; durable when it returns. Returns its idempotency key.

        ``fields`` are the API's in snake case: ``telegram_user_id``, ``event_type``, ``value``, ``currency``, … fbp, fbc, address
        and agent are borrowed from the request where it is a visitor's own (a valid ``adtarget_temp_id``, a person's agent,
        consent); a payment provider's webhook lends nothing. Raises ValueError for a field that AdTarget would refuse,
        SettingsError without an API key.
        """
        return self._tracker.conversion(self._plan, fields, idempotency_key)

    def __repr__(self) -> str:
        return f"<Tracking reason={self._plan.reason}>"
