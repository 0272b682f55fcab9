"""The two surfaces over HTTP: from a request to its record and its answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from urllib.parse import unquote

from aiohttp import web

from .account import Account, Call
from .answers import CODES, Answer, Refusal, invalid
from .bucket import Buckets
from .control import Control
from .faults import FaultBoard, Faults
from .idempotency import Replays
from .keys import Keyring
from .ledger import Ledger, Record
from .options import Options

LARGEST = 64 * 1024

ROUTES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("POST", "/api/v1/events/visit"): ("visit", "keyed"),
    ("POST", "/api/v1/events/update-fbp"): ("update-fbp", "keyed"),
    ("POST", "/api/v1/events/invite"): ("invite", "keyed"),
    ("POST", "/api/v1/events/conversion"): ("conversion", "keyed"),
    ("POST", "/backend/track/init"): ("visit", "keyless"),
    ("POST", "/backend/track/update-fbp"): ("update-fbp", "keyless"),
    ("GET", "/backend/track/invite"): ("invite", "keyless"),
}
_PATHS = frozenset(path for _, path in ROUTES)
_LEAD = re.compile(r"/api/v1/leads/([^/]+)(?:(/events)|/conversions/([^/]+)/value)?\Z")
_CORS = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT = _CORS | {
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, "
    "X-Adtarget-Client-IP, X-Adtarget-Client-User-Agent",
    "Access-Control-Max-Age": "86400",
}


class Application:
    """One sandbox: call it with a request, as ``aiohttp.web.Server`` does."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.keys = Keyring(options)
        self.account = Account(options)
        self.ledger = Ledger(options.keep)
        self.board = FaultBoard(options.seed)
        self._buckets = Buckets(options.rate, options.burst)
        self._tracker_buckets = Buckets(options.tracker_rate, options.burst)
        self._replays = Replays(options.keep)
        self._control = Control(self)

    def reset(self) -> None:
        """Forgets everything that arrived, replays and buckets included. Faults stay."""
        self.account.clear()
        self.ledger.clear()
        self._buckets.clear()
        self._tracker_buckets.clear()
        self._replays.clear()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        route = ROUTES.get((request.method, path))
        call = Call()
        if route is None:
            if not path.startswith(("/api/v1/", "/backend/")):
                return await self._control.answer(request)
            if request.method == "OPTIONS":
                return web.Response(status=204, headers=_PREFLIGHT)
            found = _LEAD.match(request.rel_url.raw_path)
            if found is None:
                return _respond(_unrouted(path))
            call = Call(lead=unquote(found[1]), conversion=unquote(found[3] or ""))
            endpoint = "value" if found[3] else "lead-event" if found[2] else "lead"
            if request.method != ("GET" if endpoint == "lead" else "POST"):
                return _respond(_unrouted(path, known=True))
            route = (endpoint, "keyed")
        endpoint, surface = route
        received = time.time()
        raw = await _read(request)
        body = _decode(raw) if request.method == "POST" else None
        record = Record(
            number=self.ledger.next(),
            endpoint=endpoint,
            surface=surface,
            received_at=received,
            idempotency_key=request.headers.get("Idempotency-Key"),
            headers=request.headers,
            query=request.query,
            body=None if isinstance(body, Refusal) else body,
            outcome="failed",
        )
        faults = self.board.of(endpoint)
        if faults is None:
            answer = self._process(record, body, call, foreign_link=False)
            self.ledger.add(record)
            return _respond(answer)
        return await self._faulty(request, record, body, call, faults)

    async def _faulty(
        self, request: web.BaseRequest, record: Record, body: object, call: Call, faults: Faults
    ) -> web.StreamResponse:
        board = self.board
        drop = board.drop(faults)
        if faults.down or faults.hang or drop == "before":
            record.outcome, record.delivered = "dropped", False
            self.ledger.add(record)
            if faults.hang and not faults.down:
                await board.until_changed()
            return _abort(request)
        answer = self._planned(faults)
        if answer is None:
            answer = self._process(record, body, call, foreign_link=faults.foreign_link)
        else:
            record.answer = answer
            self._keep_failure(record, answer)
        record.delivered = drop is None
        self.ledger.add(record)
        if faults.latency or faults.jitter:
            await asyncio.sleep(faults.latency + board.random.random() * faults.jitter)
        return _abort(request) if drop else _respond(answer)

    def _planned(self, faults: Faults) -> Answer | None:
        """The answer a fault puts in place of the API's own, if it does."""
        if faults.html:
            return Answer(faults.status or 200, "<!doctype html><title>Gateway</title><h1>Not what you expected</h1>")
        status = faults.status or (faults.error_status if self.board.chance(faults.error_rate) else None)
        if status is None:
            return None
        wait = faults.retry_after if faults.retry_after is not None else (1 if status == 429 else None)
        headers = {} if wait is None else {"Retry-After": str(wait)}
        code = CODES.get(status, "INTERNAL_ERROR")
        return Refusal(status, code, "A fault set in the sandbox", headers).answer

    def _process(self, record: Record, body: object, call: Call, *, foreign_link: bool) -> Answer:
        account = ""
        try:
            payload: object = body
            if record.surface == "keyed":
                account = self.keys.admit(record.headers.get("Authorization", ""))
                self._pace(self._buckets, account)
                if record.idempotency_key and record.endpoint != "lead":
                    found = self._replays.find(account, record.idempotency_key)
                    if found is not None:
                        record.outcome, record.answer = "replayed", found[0]
                        self.ledger.replayed(found[1])
                        return found[0]
            elif record.endpoint == "invite":
                payload = record.query
            if isinstance(payload, Refusal):
                raise payload
            if record.endpoint == "lead":
                payload = {}
            if not isinstance(payload, Mapping):
                raise invalid("The body must be a JSON object")
            if record.surface == "keyless":
                site = self.keys.admit_site(payload.get("websiteId"), record.headers)
                self._pace(self._tracker_buckets, site)
            if record.endpoint != "lead":
                payload = _with_real_client(payload, record.headers)
            asked = Call(self.keys.is_account(account), call.lead, call.conversion, foreign_link)
            answer, record.state = self.account.handler(record.endpoint)(payload, asked)
            record.outcome = "read" if record.endpoint == "lead" else "counted"
        except Refusal as refusal:
            answer = refusal.answer
            record.outcome = "refused"
        record.answer = answer
        if account and record.idempotency_key and record.endpoint != "lead":
            # An invite answered as a redirect has done its work as much as one answered 200.
            if answer.ok:
                self._replays.store(account, record.idempotency_key, answer, record.number)
            else:
                self._keep_failure(record, answer)
        return answer

    def _pace(self, buckets: Buckets, key: str) -> None:
        wait = buckets.take(key)
        if wait:
            raise Refusal(429, "RATE_LIMITED", "Too many requests", {"Retry-After": str(wait)})

    def _keep_failure(self, record: Record, answer: Answer) -> None:
        if not (self.options.replay_errors and record.surface == "keyed" and record.idempotency_key):
            return
        # Who was not let in, or only told to wait, was never processed under any reading.
        if answer.status in (401, 402, 429) or isinstance(answer.body, str):
            return
        try:
            account = self.keys.admit(record.headers.get("Authorization", ""))
        except Refusal:
            return
        self._replays.store(account, record.idempotency_key, answer, record.number)


def _with_real_client(payload: Mapping[str, object], headers: Mapping[str, str]) -> Mapping[str, object]:
    """The payload with the real client's headers, which win over its fields (adtarget-api, D)."""
    address = headers.get("X-Adtarget-Client-IP")
    agent = headers.get("X-Adtarget-Client-User-Agent")
    if address is None and agent is None:
        return payload
    named = {"clientIp": address, "userAgent": agent}
    return {**payload, **{name: value for name, value in named.items() if value is not None}}


async def _read(request: web.BaseRequest) -> bytes | None:
    """The body; None where it is larger than the sandbox takes."""
    if not request.can_read_body:
        return b""
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None
    return raw if len(raw) <= LARGEST else None


def _decode(raw: bytes | None) -> object:
    if raw is None:
        return invalid(f"The body is larger than {LARGEST} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return invalid("The body must be JSON")


def _unrouted(path: str, *, known: bool = False) -> Answer:
    if known or path in _PATHS:
        return Refusal(405, "METHOD_NOT_ALLOWED", "This endpoint does not take this method").answer
    return Refusal(404, "NOT_FOUND", "AdTarget has no such endpoint").answer


def _respond(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        body=answer.payload(),
        content_type=answer.content_type,
        headers={**_CORS, **answer.headers},
    )


def _abort(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
