"""The sandbox's own side: the page, what arrived as JSON, and the faults over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web

from .answers import Refusal
from .page import CSP, PAGE

if TYPE_CHECKING:
    from .application import Application

_METHODS = ("GET", "PUT", "POST", "DELETE")


class Control:
    """Everything outside AdTarget's contract: ``/`` and ``/_sandbox/…``."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def answer(self, request: web.BaseRequest) -> web.Response:
        # What arrived holds personal data, and faults are a switch: another site's page in the same browser gets neither.
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and request.method != "GET":
            return self._json({"error": "not from another site's page"}, 403)
        path = request.path.rstrip("/")
        if path in ("", "/_sandbox") and request.method in ("GET", "HEAD"):
            headers = {"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
            return web.Response(text=PAGE, content_type="text/html", headers=headers)
        if path == "/_sandbox/events":
            return self._events(request)
        if path == "/_sandbox/requests" and request.method == "GET":
            after, newest = _number(request, "after"), _number(request, "newest")
            return self._json(self._application.ledger.requests(after or 0, newest))
        if path == "/_sandbox/status" and request.method == "GET":
            return self._json(self._status())
        if path == "/_sandbox/faults" and request.method in _METHODS:
            return await self._faults(request)
        if path.startswith("/_sandbox/visits/") and request.method == "GET":
            found = self._application.account.visitor(path.removeprefix("/_sandbox/visits/"))
            return self._json(found) if found else self._json({"error": "no visitor has this tempId"}, 404)
        if path == "/_sandbox/joins" and request.method == "POST":
            return await self._join(request)
        return self._json({"error": "the sandbox has nothing here"}, 404)

    def _events(self, request: web.BaseRequest) -> web.Response:
        if request.method == "DELETE":
            self._application.reset()
            return self._json({"reset": True})
        dropped = {"X-Sandbox-Dropped": str(self._application.ledger.dropped)}
        return self._json(self._application.ledger.events(request.query.get("endpoint")), headers=dropped)

    def _status(self) -> dict[str, object]:
        ledger = self._application.ledger
        return {
            "since": ledger.since,
            "counts": ledger.counts(),
            "dropped": ledger.dropped,
            "faults": self._application.board.in_force(),
        }

    async def _faults(self, request: web.BaseRequest) -> web.Response:
        board = self._application.board
        if request.method == "DELETE":
            board.heal()
        elif request.method != "GET":
            try:
                changes = json.loads(await request.read())
                if not isinstance(changes, dict):
                    raise ValueError("the body must be a JSON object")
                board.set(changes, keep=request.method == "POST")
            except ValueError as error:
                return self._json({"error": str(error)}, 400)
        return self._json(board.as_dict())

    async def _join(self, request: web.BaseRequest) -> web.Response:
        try:
            body = json.loads(await request.read())
            self._application.account.join(str(body["tempId"]), body["telegramUserId"])
        except Refusal as refusal:
            return self._json(refusal.answer.body, 400)
        except (ValueError, KeyError, TypeError):
            return self._json({"error": "send tempId and telegramUserId as JSON"}, 400)
        return self._json({"joined": True})

    def _json(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        text = self._application.keys.redact(json.dumps(body, ensure_ascii=False))
        sent = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
        raw = text.encode("utf-8", "backslashreplace")
        return web.Response(body=raw, status=status, content_type="application/json", charset="utf-8", headers=sent)


def _number(request: web.BaseRequest, name: str) -> int | None:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
