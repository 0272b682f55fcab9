"""From an event to a request: the keyed REST API and the keyless tracker routes behind one interface. No I/O.

``Keyed`` and ``Keyless`` differ in their routes, their credential and their headers; the fields are the same.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from adtarget_proxy.api import fields as shapes
from adtarget_proxy.api.headers import address_value, header_value, page_headers
from adtarget_proxy.errors import SettingsError

try:
    _AGENT = f"adtarget-proxy/{version('adtarget-proxy')}".encode()
except PackageNotFoundError:  # run from a bare checkout
    _AGENT = b"adtarget-proxy"
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode
_KEY = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
_HEADER_ONLY = frozenset({"href", "client_ip", "user_agent"})  # of an update-fbp, whose body is {tempId, fbp}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, ready for the wire. Its repr gives nothing away."""

    method: str
    url: str = field(repr=False)
    headers: list[tuple[bytes, bytes]] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing AdTarget can be asked: its fields, which of them stand in the path, and its route on each surface."""

    name: str
    keyed: str
    keyless: str | None
    method: str
    known: frozenset[str]
    required: frozenset[str]
    in_path: tuple[str, ...] = ()
    header_only: frozenset[str] = frozenset()

    def problem(self, given: Mapping[str, Any]) -> str | None:
        """What is wrong with the names of ``given``, or None."""
        if unknown := given.keys() - self.known:
            return f"{self.name}() has no field {', '.join(sorted(unknown))}"
        if missing := [name for name in sorted(self.required) if given.get(name) is None]:
            return f"{self.name}() needs {', '.join(missing)}"
        return None


def _endpoint(
    name: str, shape: Any, keyed: str, keyless: str | None = None, *, method: str = "POST", **more: Any
) -> Endpoint:
    known = frozenset(shape.__annotations__)
    # __required_keys__ cannot be used: it is empty of meaning where annotations are strings (python/typing#1574).
    required = frozenset(
        item for item, note in shape.__annotations__.items() if "Required" in str(note) or shape.__total__
    )
    return Endpoint(name, keyed, keyless, method, known, required, **more)


VISIT = _endpoint("visit", shapes.VisitFields, "/events/visit", "/track/init")
FBP = _endpoint("update_fbp", shapes.FbpFields, "/events/update-fbp", "/track/update-fbp", header_only=_HEADER_ONLY)
INVITE = _endpoint("invite", shapes.InviteFields, "/events/invite", "/track/invite")
CONVERSION = _endpoint("conversion", shapes.ConversionFields, "/events/conversion")
VALUE = _endpoint(
    "submit_value",
    shapes.ValueFields,
    "/leads/{}/conversions/{}/value",
    in_path=("telegram_user_id", "conversion_id"),
)
LEAD_EVENT = _endpoint("lead_event", shapes.LeadEventFields, "/leads/{}/events", in_path=("telegram_user_id",))
LEAD = _endpoint("lead", shapes.LeadFields, "/leads/{}", method="GET", in_path=("telegram_user_id",))


class Surface(Protocol):
    """How a request for an endpoint is written."""

    def request(self, endpoint: Endpoint, given: Mapping[str, Any], *, idempotency_key: str | None) -> Request:
        """The request for ``given`` fields. Raises ValueError for a key or value that cannot travel."""


class Keyed:
    """The REST API with its secret key."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self._url = api_url
        self._headers = [
            (b"Authorization", b"Bearer " + api_key.encode("ascii")),
            (b"User-Agent", _AGENT),
        ]

    def request(self, endpoint: Endpoint, given: Mapping[str, Any], *, idempotency_key: str | None) -> Request:
        """See ``Surface``. A POST without a key of its own gets a fresh one."""
        headers = [*self._headers, *_visitor(given)]
        path = endpoint.keyed.format(*(quote(str(given[name]), safe="", errors="replace") for name in endpoint.in_path))
        if endpoint.method == "GET":
            return Request("GET", self._url + path, headers, b"")
        headers.append((b"Idempotency-Key", _checked_key(idempotency_key or uuid.uuid4().hex)))
        return _post(self._url + path, headers, _body(endpoint, given))


class Keyless:
    """The tracker routes with the public website id: no key, no idempotency, and the visitor's own browser headers."""

    def __init__(self, tracker_url: str, website_id: str) -> None:
        self._url = tracker_url
        self._website_id = website_id

    def request(self, endpoint: Endpoint, given: Mapping[str, Any], *, idempotency_key: str | None) -> Request:  # noqa: ARG002
        """See ``Surface``; the idempotency key stays at home, since nothing here would read it."""
        if endpoint.keyless is None:
            raise SettingsError(
                [f"api_key: missing; {endpoint.name}() needs one (atk_live_…), a website_id is not enough"]
            )
        headers = _visitor(given)
        if agent := header_value(given.get("user_agent")):
            headers.append((b"User-Agent", agent))
        if address := address_value(given.get("client_ip")):
            headers.append((b"X-Forwarded-For", address))
        headers += page_headers(given.get("href"))
        body = {**_body(endpoint, given), "websiteId": self._website_id}
        if endpoint is INVITE:
            return Request("GET", f"{self._url}{endpoint.keyless}?{urlencode(body, errors='replace')}", headers, b"")
        return _post(self._url + endpoint.keyless, headers, body)


def _visitor(given: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    headers = []
    if address := address_value(given.get("client_ip")):
        headers.append((b"X-Adtarget-Client-IP", address))
    if agent := header_value(given.get("user_agent")):
        headers.append((b"X-Adtarget-Client-User-Agent", agent))
    return headers


def _body(endpoint: Endpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    away = endpoint.header_only.union(endpoint.in_path)
    return shapes.on_wire({name: value for name, value in given.items() if name not in away} if away else given)


def _post(url: str, headers: list[tuple[bytes, bytes]], body: dict[str, Any]) -> Request:
    headers.append((b"Content-Type", b"application/json"))
    return Request("POST", url, headers, _encode(body).encode("ascii"))


def _checked_key(key: str) -> bytes:
    # Cleaning it could make one key of two, and then an event would be lost as a repeat.
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError("idempotency_key: must be 1 to 128 printable ASCII characters")
    return key.encode("ascii")
