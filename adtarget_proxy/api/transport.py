"""The one seam to httpx: a request out, an answer back, within one clock. Nothing else in the package imports httpx.

httpx makes its transports (proxies and CA bundle as it reads them from the environment), which are used directly:
its client on top costs a quarter more CPU, logs whole URLs, follows cookies, and refuses redirects it cannot parse.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar
from urllib.request import getproxies

import httpx

from adtarget_proxy.api.answer import MAX_BODY, Answer
from adtarget_proxy.api.clock import AsyncBackend, Backend, Clock, clocked
from adtarget_proxy.api.surface import Request
from adtarget_proxy.errors import NoClient, Unreachable

T = TypeVar("T")

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=60.0)
_STALE = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
_IDENTITY = (b"Accept-Encoding", b"identity")


@lru_cache(1)
def _trust() -> ssl.SSLContext:
    """The CA bundle as httpx reads it from the environment: 20 ms to load, so once for all clients of a process."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        variable = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        raise NoClient(f"{variable} names no CA bundle that can be read ({type(error).__name__})") from None


def _opened(make: Callable[..., T]) -> T:
    """A client of httpx with the environment's proxies. Raises NoClient."""
    trust = _trust()
    try:
        return make(verify=trust, limits=_LIMITS, follow_redirects=False)
    except (ValueError, ImportError, httpx.InvalidURL):
        for scheme, url in getproxies().items():
            try:
                httpx.HTTPTransport(proxy=url if "://" in url else f"http://{url}").close()
            except ImportError:
                raise NoClient(f"{scheme.upper()}_PROXY is a SOCKS proxy: pip install 'httpx[socks]'") from None
            except (ValueError, httpx.InvalidURL):
                raise NoClient(f"{scheme.upper()}_PROXY is no URL of a proxy: write http://host:3128") from None
        raise


def _request(request: Request, url: httpx.URL, clock: Clock) -> httpx.Request:
    timeouts = {"connect": clock, "read": clock, "write": clock, "pool": clock}
    headers = [*request.headers, _IDENTITY]
    return httpx.Request(
        request.method, url, headers=headers, content=request.body or None, extensions={"timeout": timeouts}
    )


def _answer(response: httpx.Response, body: bytes | None) -> Answer:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
    return Answer(response.status_code, headers, body)


def _is_stale(error: Exception, clock: Clock) -> bool:
    return isinstance(error, _STALE) and not (clock.fresh or clock.answered or clock.over)


def _unreachable(error: Exception, clock: Clock, client: httpx.Client | httpx.AsyncClient, url: str) -> Unreachable:
    sent = clock.sent and not isinstance(error, _NEVER_SENT)
    if isinstance(error, httpx.TimeoutException) or clock.over:
        return Unreachable(f"AdTarget did not answer within {float(clock):g} s", sent=sent)
    why = type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        why = "its certificate is not trusted: SSL_CERT_FILE names the CA bundle"
    elif isinstance(error, _NEVER_SENT) and _has_proxy(client, url):
        why += " at the proxy that the environment names"
    return Unreachable(f"AdTarget cannot be reached ({why})", sent=sent)


def _has_proxy(client: httpx.Client | httpx.AsyncClient, url: str) -> bool:
    try:
        return client._transport_for_url(httpx.URL(url)) is not client._transport  # noqa: SLF001
    except httpx.InvalidURL:
        return False


class _Cut(Exception):
    """The budget ran out between two pieces of a body."""


_FAULTS = (httpx.TransportError, httpx.InvalidURL, httpx.StreamError, _Cut)


class Transport:
    """Sends requests from any number of threads over kept connections."""

    def __init__(self) -> None:
        self._client = _opened(httpx.Client)
        self._fixed = lru_cache(32)(self._route)

    def send(self, request: Request, timeout: float) -> Answer:
        """The answer, read to its end within ``timeout`` seconds. Raises Unreachable where none came in time."""
        clock = Clock(timeout)
        try:
            url, transport = (self._route if "?" in request.url else self._fixed)(request.url)
            try:
                return self._exchange(transport, _request(request, url, clock), clock)
            except _STALE as error:
                if not _is_stale(error, clock):
                    raise
            clock.start()
            return self._exchange(transport, _request(request, url, clock), clock)
        except _FAULTS as error:
            fault = _unreachable(error, clock, self._client, request.url)
        raise fault  # outside the handler: httpx's own error knows the request, and must not hang on to ours

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _route(self, url: str) -> tuple[httpx.URL, httpx.BaseTransport]:
        parsed = httpx.URL(url)
        return parsed, clocked(self._client._transport_for_url(parsed), Backend)  # noqa: SLF001

    def _exchange(self, transport: httpx.BaseTransport, request: httpx.Request, clock: Clock) -> Answer:
        response = transport.handle_request(request)
        body = bytearray()
        try:
            for piece in response.stream:  # type: ignore[union-attr]
                body += piece
                if len(body) > MAX_BODY:
                    return _answer(response, None)
                if clock.over:
                    raise _Cut
        except (httpx.TransportError, _Cut):
            if response.status_code < 300:
                raise
            return _answer(response, None)  # the status alone says what became of the request
        finally:
            response.stream.close()  # type: ignore[union-attr]
        return _answer(response, bytes(body))


class AsyncTransport:
    """The same for one event loop."""

    def __init__(self) -> None:
        self._client = _opened(httpx.AsyncClient)
        self._fixed = lru_cache(32)(self._route)

    async def send(self, request: Request, timeout: float) -> Answer:
        """See ``Transport.send``."""
        clock = Clock(timeout)
        try:
            url, transport = (self._route if "?" in request.url else self._fixed)(request.url)
            try:
                return await self._exchange(transport, _request(request, url, clock), clock)
            except _STALE as error:
                if not _is_stale(error, clock):
                    raise
            clock.start()
            return await self._exchange(transport, _request(request, url, clock), clock)
        except _FAULTS as error:
            fault = _unreachable(error, clock, self._client, request.url)
        raise fault

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    def _route(self, url: str) -> tuple[httpx.URL, httpx.AsyncBaseTransport]:
        parsed = httpx.URL(url)
        return parsed, clocked(self._client._transport_for_url(parsed), AsyncBackend)  # noqa: SLF001

    async def _exchange(self, transport: httpx.AsyncBaseTransport, request: httpx.Request, clock: Clock) -> Answer:
        response = await transport.handle_async_request(request)
        body = bytearray()
        try:
            async for piece in response.stream:  # type: ignore[union-attr]
                body += piece
                if len(body) > MAX_BODY:
                    return _answer(response, None)
                if clock.over:
                    raise _Cut
        except (httpx.TransportError, _Cut):
            if response.status_code < 300:
                raise
            return _answer(response, None)
        finally:
            await response.stream.aclose()  # type: ignore[union-attr]
        return _answer(response, bytes(body))
