"""Django: ``"adtarget_proxy.django.AdTargetMiddleware"`` first in ``MIDDLEWARE``, and ``ADTARGET = {...}`` in the settings.

First, that is outermost: a page out of ``UpdateCacheMiddleware``'s cache is still a page view, and no visitor's cookies get into that cache
(correctness C4). The system checks run where ``"adtarget_proxy.django.AdTargetConfig"`` is in ``INSTALLED_APPS``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from http.cookies import Morsel
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks
from django.core.handlers.asgi import ASGIRequest
from django.core.signals import setting_changed
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from adtarget_proxy.asgi import AsgiFacts
from adtarget_proxy.consent.answer import is_async
from adtarget_proxy.errors import SettingsError
from adtarget_proxy.rescue import rescued
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracker import Facts, Outcome, Plan, Reply, Response, Tracker, Tracking
from adtarget_proxy.wsgi import WsgiFacts

_PATH = f"{__name__}.AdTargetMiddleware"


@lru_cache(maxsize=1)
def tracker() -> Tracker:
    """The Tracker of this process, by ``settings.ADTARGET`` or else the environment. Raises SettingsError."""
    return Tracker(_settings())


@sync_and_async_middleware
def AdTargetMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:  # noqa: N802
    """The middleware, sync or async as what it wraps: decided once, so no request changes threads for it. Raises SettingsError."""
    tracker_ = tracker()
    if iscoroutinefunction(get_response):
        return _async_middleware(tracker_, get_response)
    return _sync_middleware(tracker_, get_response)


def _sync_middleware(tracker: Tracker, get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    tracker.require_sync()

    def middleware(request: HttpRequest) -> Any:
        planned: Plan | None = None
        reply: Reply | None = None
        try:
            planned = _plan(tracker, request)
            if planned is not None and tracker.takes_over(planned):
                reply = tracker.answer(planned)
        except Exception:
            reply = _rescued(tracker, request, planned)
        return _finished(tracker, planned, get_response(request)) if reply is None else _response(reply)

    return middleware


def _async_middleware(
    tracker: Tracker, get_response: Callable[[HttpRequest], Awaitable[Any]]
) -> Callable[[HttpRequest], Awaitable[Any]]:
    async def middleware(request: HttpRequest) -> Any:
        planned: Plan | None = None
        reply: Reply | None = None
        try:
            if tracker.asks_async and "adtarget" not in _carrier(request):
                facts = _facts(request)
                await tracker.ask(facts)
            else:
                facts = None
            planned = _plan(tracker, request, facts)
            if planned is not None and tracker.takes_over(planned):
                reply = await tracker.answer_async(planned)
        except Exception:
            reply = _rescued(tracker, request, planned)
        return _finished(tracker, planned, await get_response(request)) if reply is None else _response(reply)

    return middleware


class DjangoTracking(Tracking):
    """``request.adtarget``."""

    __slots__ = ()

    def conversion(self, *, idempotency_key: str | None = None, **fields: Any) -> str:
        """Report a conversion; see ``Tracking.conversion``. Inside a transaction it waits for the commit, and ends with a rollback.

        The transaction looked at is that of the default database.
        """
        after = _on_commit if transaction.get_connection().in_atomic_block else None
        return self._tracker.conversion(self._plan, fields, idempotency_key, after=after)


def _on_commit(keep: Callable[[], None]) -> None:
    transaction.on_commit(keep, robust=True)


# -- requests and responses --------------------------------------------------------------------------------------------------


def _plan(tracker: Tracker, request: HttpRequest, facts: Facts | None = None) -> Plan | None:
    """The request's plan; None where a shell around the whole project has it in hand."""
    carrier = _carrier(request)
    if "adtarget" in carrier:
        request.adtarget = DjangoTracking.of(carrier["adtarget"])
        return None
    planned = tracker.plan(facts or _facts(request))
    request.adtarget = carrier["adtarget"] = DjangoTracking(planned, tracker)
    return planned


def _finished(tracker: Tracker, planned: Plan | None, response: Any) -> Any:
    """The response with what becomes of it; streaming ones too, since only their head is looked at."""
    if planned is None:
        return response
    try:
        if tracker.watches(planned):
            head = Response(response.status_code, {name.lower(): value for name, value in response.items()})
            _apply(tracker.finish(planned, head), response, debug=tracker.settings.debug)
    except Exception:
        with suppress(Exception):
            tracker.fault("finish", planned)
    return response


def _apply(outcome: Outcome, response: Any, *, debug: bool) -> None:
    morsels = [_morsel(cookie) for cookie in outcome.cookies]
    for name in outcome.dropped:
        del response[name]
    if outcome.cache_control is not None:
        response["Cache-Control"] = outcome.cache_control
    for morsel in morsels:
        # Django keeps one cookie a name; a withdrawal deletes one on several domains
        gone = f";{morsel['domain']}" if morsel["max-age"] == "0" else ""
        response.cookies[morsel.key + gone] = morsel
    if debug:
        response["X-Adtarget-Reason"] = outcome.reason


def _rescued(tracker: Tracker, request: HttpRequest, planned: Plan | None) -> Reply | None:
    def show(unplanned: Plan) -> None:
        request.adtarget = DjangoTracking(unplanned, tracker)

    host = request.META.get("HTTP_HOST")
    return rescued(tracker, planned, request.method or "", lambda: request.path, lambda: host, show)


def _response(reply: Reply) -> HttpResponse:
    response = HttpResponse(status=reply.status)
    del response["Content-Type"]
    for name, value in reply.headers:
        if name == "Set-Cookie":
            morsel = _morsel(value)
            response.cookies[morsel.key] = morsel
        else:
            response[name] = value
    return response


def _morsel(cookie: str) -> Morsel[str]:
    """A Set-Cookie value as Django holds cookies, its bytes as they are."""
    pair, *attributes = cookie.split("; ")
    name, _, value = pair.partition("=")
    morsel: Morsel[str] = Morsel()
    morsel.set(name, value, value)
    for attribute in attributes:
        key, sign, text = attribute.partition("=")
        morsel[key] = text if sign else True
    return morsel


def _carrier(request: HttpRequest) -> Any:
    """What the server handed in: the scope, or the environ."""
    return request.scope if isinstance(request, ASGIRequest) else request.META


def _facts(request: HttpRequest) -> Facts:
    return _asgi_facts(request.scope) if isinstance(request, ASGIRequest) else WsgiFacts(request.META)


def _asgi_facts(scope: Any) -> AsgiFacts:
    query = scope.get("query_string")
    if isinstance(query, str):  # Django's AsyncClient has it as text
        scope = {**scope, "query_string": query.encode("latin-1", "replace")}
    return AsgiFacts(scope)


def _settings() -> Settings:
    given = getattr(django_settings, "ADTARGET", None)
    return given if isinstance(given, Settings) else Settings.from_mapping(given or {})


def _forget(*, setting: str, **_: Any) -> None:
    """``override_settings`` in a project's tests: the next middleware is made with the new ones."""
    if setting == "ADTARGET" and tracker.cache_info().currsize:
        tracker().close(0)
        tracker.cache_clear()


setting_changed.connect(_forget, dispatch_uid=__name__)


# -- checks ------------------------------------------------------------------------------------------------------------------


class AdTargetConfig(AppConfig):
    """In ``INSTALLED_APPS`` it adds the system checks; the middleware works without it."""

    name = __name__
    label = "adtarget_proxy"
    verbose_name = "AdTarget"


@checks.register()
def check_settings(app_configs: Iterable[AppConfig] | None = None, **_: Any) -> list[checks.CheckMessage]:  # noqa: ARG001
    """Wrong settings are errors; consent that nobody asks for, and another middleware outside of ours, are warnings."""
    try:
        settings = _settings()
    except SettingsError as error:
        return [checks.Error(f"ADTARGET: {problem}", id="adtarget_proxy.E001") for problem in error.problems]
    found: list[checks.CheckMessage] = []
    if settings.consent is None:
        found.append(
            checks.Warning(
                "ADTARGET has no consent: every visitor counts as having granted it.",
                hint='Set ADTARGET["CONSENT"] to your consent tool ("onetrust", "cookiebot", "didomi", "tcf", '
                '"google_consent_mode"), or to a function from a request to True, False or None (not asked yet).',
                id="adtarget_proxy.W001",
            )
        )
    if is_async(settings.consent):
        found.append(
            checks.Warning(
                "ADTARGET's consent is an async function: under WSGI the project does not start.",
                hint="Serve the project over ASGI, or write the function as def.",
                id="adtarget_proxy.W004",
            )
        )
    middleware = list(django_settings.MIDDLEWARE)
    if _PATH not in middleware:
        found.append(
            checks.Warning(
                "The AdTarget middleware is not in MIDDLEWARE: nothing is tracked.",
                hint=f'Write "{_PATH}" first in MIDDLEWARE.',
                id="adtarget_proxy.W002",
            )
        )
    elif middleware[0] != _PATH:
        found.append(
            checks.Warning(
                f"{middleware[0]} is outside of the AdTarget middleware: what it answers itself is not tracked.",
                hint=f'Write "{_PATH}" first in MIDDLEWARE.',
                id="adtarget_proxy.W003",
            )
        )
    return found
