"""What AdTarget answers: an ``Answer``, or a ``Refusal`` with one of its documented codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

CODES = {
    400: "INVALID_PAYLOAD",
    401: "INVALID_KEY",
    402: "SUBSCRIPTION_INACTIVE",
    404: "CHANNEL_NOT_FOUND",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "API_DISABLED",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body that becomes JSON (a string goes out as it is, as HTML), and headers."""

    status: int
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def content_type(self) -> str:
        return "text/html" if isinstance(self.body, str) else "application/json"

    def payload(self) -> bytes:
        if self.body is None:
            return b""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class Refusal(Exception):
    """The API does not do what was asked; ``answer`` says why, in AdTarget's own form."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"error": {"code": code, "message": message}}, headers or {})


def invalid(message: str) -> Refusal:
    return Refusal(400, "INVALID_PAYLOAD", message)
