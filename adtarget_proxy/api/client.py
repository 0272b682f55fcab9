"""``AdTarget`` and ``AsyncAdTarget``: the API as methods, every field a keyword in snake case.

A ``website_id`` sends visits, updates and invite clicks over the keyless surface and keeps the key, if any, for
conversions and leads; an ``api_key`` alone sends everything over the keyed one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from urllib.parse import urlsplit

from adtarget_proxy.api import surface as ask
from adtarget_proxy.api.answer import result_of
from adtarget_proxy.api.fields import (
    ConversionFields,
    FbpFields,
    InviteFields,
    LeadEventFields,
    ValueFields,
    VisitFields,
)
from adtarget_proxy.api.results import (
    ConversionResult,
    FbpResult,
    InviteResult,
    LeadEventResult,
    LeadResult,
    Result,
    ValueResult,
    VisitResult,
)
from adtarget_proxy.api.surface import Endpoint, Keyed, Keyless, Request, Surface
from adtarget_proxy.errors import InvalidPayload, SettingsError
from adtarget_proxy.settings import Account
from adtarget_proxy.tracking.events import Event

if TYPE_CHECKING:
    from adtarget_proxy.api.transport import AsyncTransport, Transport

API_URL = "https://adtarget.io/api/v1"
TRACKER_URL = "https://adtarget.io/backend"
TIMEOUT = 15.0  # seconds
_CREDENTIAL = re.compile(r"[!-~]+")
_BY_KIND: dict[str, tuple[Endpoint, type[Result]]] = {
    "visit": (ask.VISIT, VisitResult),
    "fbp-update": (ask.FBP, FbpResult),
    "invite": (ask.INVITE, InviteResult),
    "conversion": (ask.CONVERSION, ConversionResult),
}
R = TypeVar("R", bound=Result)


class _Account:
    """What both clients share: which surface an endpoint goes over, and the request for it."""

    def __init__(
        self,
        api_key: str | None = None,
        website_id: str | None = None,
        api_url: str = API_URL,
        tracker_url: str = TRACKER_URL,
        timeout: float = TIMEOUT,
    ) -> None:
        problems = [
            f"{name}: must be plain ASCII without spaces, as AdTarget shows it"
            for name, value in (("api_key", api_key), ("website_id", website_id))
            if value and not _CREDENTIAL.fullmatch(value)
        ]
        if not (api_key or website_id):
            problems.append("api_key: missing; give api_key (atk_live_…) or website_id (atid_…)")
        problems += [
            f"{name}: must be an http(s) URL such as {API_URL}"
            for name, url in (("api_url", api_url), ("tracker_url", tracker_url))
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname
        ]
        if problems:
            raise SettingsError(problems)
        self._timeout = timeout
        self._lock = threading.Lock()  # one for all clients would stay locked for good in a child forked meanwhile
        self._keyed: Surface | None = Keyed(api_url.rstrip("/"), api_key) if api_key else None
        self._keyless: Surface | None = Keyless(tracker_url.rstrip("/"), website_id) if website_id else None

    @classmethod
    def for_account(cls, account: Account, *, timeout: float = TIMEOUT) -> Self:
        """The client for the account that an event names."""
        return cls(account.api_key, account.website_id, account.api_url, account.tracker_url, timeout)

    def _request(self, endpoint: Endpoint, given: Mapping[str, Any], key: str | None) -> Request:
        if problem := endpoint.problem(given):
            raise TypeError(problem)
        surface = self._keyed
        if self._keyless and (endpoint.keyless or surface is None):
            surface = self._keyless
        assert surface is not None
        return surface.request(endpoint, given, idempotency_key=key)

    def _delivery(self, event: Event) -> tuple[Request, type[Result]]:
        endpoint, kind = _BY_KIND[event.kind]
        # A click says where the visitor is, and another version may have said more: no reason to lose the event.
        given = {name: value for name, value in event.fields.items() if name in endpoint.known}
        try:
            return self._request(endpoint, given, event.key), kind
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, SettingsError):
                raise
        # Its own words may hold the value.
        raise InvalidPayload(f"the {event.kind} holds fields that cannot be sent")


class AdTarget(_Account):
    """AdTarget's API, for threads: connections are kept, and opened at the first call.

    ``timeout`` (seconds) is for the whole of a call, connecting and reading included; each call can set its own. Each
    method raises ``ApiError`` or one of its kinds, TypeError for an unknown or missing field, ValueError for one
    that cannot travel, and SettingsError where it needs an ``api_key`` and there is none.
    """

    _transport: Transport | None = None

    def visit(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[VisitFields]
    ) -> VisitResult:
        """Report a page view."""
        return self._call(ask.VISIT, fields, VisitResult, idempotency_key, timeout)

    def update_fbp(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[FbpFields]
    ) -> FbpResult:
        """Report a ``_fbp`` that appeared after the visit; a miss is ``success=False`` or NotFound."""
        return self._call(ask.FBP, fields, FbpResult, idempotency_key, timeout)

    def invite(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[InviteFields]
    ) -> InviteResult:
        """Report a click and get the visitor's own invite link."""
        return self._call(ask.INVITE, fields, InviteResult, idempotency_key, timeout)

    def conversion(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[ConversionFields]
    ) -> ConversionResult:
        """Report a conversion; keyed only."""
        return self._call(ask.CONVERSION, fields, ConversionResult, idempotency_key, timeout)

    def submit_value(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[ValueFields]
    ) -> ValueResult:
        """Give an earlier conversion its value; keyed only."""
        return self._call(ask.VALUE, fields, ValueResult, idempotency_key, timeout)

    def lead_event(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[LeadEventFields]
    ) -> LeadEventResult:
        """Report an event of a known lead; keyed only."""
        return self._call(ask.LEAD_EVENT, fields, LeadEventResult, idempotency_key, timeout)

    def lead(self, *, telegram_user_id: int, timeout: float | None = None) -> LeadResult:
        """What AdTarget knows of a lead; keyed only."""
        return self._call(ask.LEAD, {"telegram_user_id": telegram_user_id}, LeadResult, None, timeout)

    def deliver(self, event: Event, *, timeout: float | None = None) -> Result:
        """Send an event as the method of its kind would, under its own key; fields its endpoint does not take stay behind.

        Raises InvalidPayload for one that cannot be sent.
        """
        request, kind = self._delivery(event)
        return result_of(self._open().send(request, timeout or self._timeout), kind)

    def close(self) -> None:
        """Let go of the connections; the next call opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, endpoint: Endpoint, given: Mapping[str, Any], kind: type[R], key: str | None, timeout: float | None
    ) -> R:
        request = self._request(endpoint, given, key)
        return result_of(self._open().send(request, timeout or self._timeout), kind)

    def _open(self) -> Transport:
        if (transport := self._transport) is None:
            from adtarget_proxy.api.transport import Transport  # httpx is slow to import: at the first call

            with self._lock:
                transport = self._transport = self._transport or Transport()
        return transport


class AsyncAdTarget(_Account):
    """``AdTarget`` for one event loop: the same methods, awaited."""

    _transport: AsyncTransport | None = None

    async def visit(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[VisitFields]
    ) -> VisitResult:
        """See ``AdTarget.visit``."""
        return await self._call(ask.VISIT, fields, VisitResult, idempotency_key, timeout)

    async def update_fbp(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[FbpFields]
    ) -> FbpResult:
        """See ``AdTarget.update_fbp``."""
        return await self._call(ask.FBP, fields, FbpResult, idempotency_key, timeout)

    async def invite(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[InviteFields]
    ) -> InviteResult:
        """See ``AdTarget.invite``."""
        return await self._call(ask.INVITE, fields, InviteResult, idempotency_key, timeout)

    async def conversion(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[ConversionFields]
    ) -> ConversionResult:
        """See ``AdTarget.conversion``."""
        return await self._call(ask.CONVERSION, fields, ConversionResult, idempotency_key, timeout)

    async def submit_value(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[ValueFields]
    ) -> ValueResult:
        """See ``AdTarget.submit_value``."""
        return await self._call(ask.VALUE, fields, ValueResult, idempotency_key, timeout)

    async def lead_event(
        self, *, idempotency_key: str | None = None, timeout: float | None = None, **fields: Unpack[LeadEventFields]
    ) -> LeadEventResult:
        """See ``AdTarget.lead_event``."""
        return await self._call(ask.LEAD_EVENT, fields, LeadEventResult, idempotency_key, timeout)

    async def lead(self, *, telegram_user_id: int, timeout: float | None = None) -> LeadResult:
        """See ``AdTarget.lead``."""
        return await self._call(ask.LEAD, {"telegram_user_id": telegram_user_id}, LeadResult, None, timeout)

    async def deliver(self, event: Event, *, timeout: float | None = None) -> Result:
        """See ``AdTarget.deliver``."""
        request, kind = self._delivery(event)
        return result_of(await self._open().send(request, timeout or self._timeout), kind)

    async def aclose(self) -> None:
        """Let go of the connections; the next call opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(
        self, endpoint: Endpoint, given: Mapping[str, Any], kind: type[R], key: str | None, timeout: float | None
    ) -> R:
        request = self._request(endpoint, given, key)
        return result_of(await self._open().send(request, timeout or self._timeout), kind)

    def _open(self) -> AsyncTransport:
        if self._transport is None:
            from adtarget_proxy.api.transport import AsyncTransport  # httpx is slow to import: at the first call

            self._transport = AsyncTransport()
        return self._transport
