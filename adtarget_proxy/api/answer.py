"""From an answer to a result or an error. No I/O.

No message holds what AdTarget wrote but its code: its words may repeat what was sent, and stand in ``ApiError.answer`` alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from adtarget_proxy.api.results import InviteResult, Result
from adtarget_proxy.errors import (
    BY_CODE,
    ApiError,
    AuthError,
    InvalidPayload,
    NotFound,
    RateLimited,
    ServerError,
    SubscriptionInactive,
    UnexpectedAnswer,
)

MAX_BODY = 64 * 1024  # bytes
MAX_ANSWER = 2048  # bytes of a refusal that an error keeps
MAX_WAIT = 3600.0  # seconds
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidPayload,
    401: AuthError,
    402: SubscriptionInactive,
    404: NotFound,
    429: RateLimited,
}
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: header names in lower case; ``body`` is None where it was too long or cut short."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


def result_of(answer: Answer, kind: type[R], *, now: float | None = None) -> R:
    """The result in ``answer``.

    Raises the ApiError that its status and code stand for, UnexpectedAnswer for what is no JSON.
    """
    status = answer.status
    redirect = 300 <= status < 400 and issubclass(kind, InviteResult)
    if not (200 <= status < 300 or redirect):
        raise _error(answer, time.time() if now is None else now)
    raw = _object(answer.body)
    if raw is None:
        if not redirect and status != 204:
            size = "more than 64 KB" if answer.body is None else "no JSON object"
            raise UnexpectedAnswer(f"AdTarget answered {status} with {size}", status=status)
        raw = {}
    replayed = answer.headers.get("x-idempotent-replay", "").strip().lower() == "true"
    return kind.of(raw, replayed=replayed, location=answer.headers.get("location") if redirect else None)


def retry_after(text: str | None, *, now: float) -> float | None:
    """``Retry-After`` (seconds or a date) in seconds from ``now`` (Unix), within 0 and 3600 (RFC 9110, 10.2.3)."""
    if not text:
        return None
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text, re.ASCII):
        return min(float(text), MAX_WAIT)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(seconds, 0.0), MAX_WAIT)


def _object(body: bytes | None) -> dict[str, Any] | None:
    if not body:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _error(answer: Answer, now: float) -> ApiError:
    status = answer.status
    told = (_object(answer.body) or {}).get("error")
    code = told.get("code") if isinstance(told, dict) else None
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        code = None
    kind = BY_CODE.get(code or "")
    if kind is None or kind.status != status:  # the status decides: a code that contradicts it is no documented answer
        kind = _BY_STATUS.get(status, ServerError if 500 <= status < 600 else UnexpectedAnswer)
    message = f"AdTarget answered {status}" + (f" {code}" if code else "")
    error = kind(message, status=status, code=code, retry_after=retry_after(answer.headers.get("retry-after"), now=now))
    error.answer = (answer.body or b"")[:MAX_ANSWER].decode("utf-8", "replace")
    return error
