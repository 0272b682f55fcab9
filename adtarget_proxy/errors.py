"""Every error of the package, in one place, under one base.

The classes of the API's answers carry what AdTarget said: ``status``, ``code``, ``retry_after``. Their messages never hold a
key, an address or a payload.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence


class AdTargetError(Exception):
    """The base of every error this package raises."""


class SettingsError(AdTargetError, ValueError):
    """Settings that cannot work. ``problems`` names each of them, with what to write instead."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "adtarget-proxy cannot start with these settings:"
        super().__init__("\n  - ".join((head, *self.problems)))


class OutboxError(AdTargetError):
    """The outbox cannot be opened or used; the message names the place and the cause.

    ``cause`` is one word for what other messages may be about too ("full", "read-only", "locked", …), or "" where there is none.
    """

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


_CAUSES = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
    errno.ENOENT: "missing",
}


def cause_of(error: OSError) -> str:
    """``OutboxError.cause`` of an error of the system's."""
    return _CAUSES.get(error.errno or 0, "")


class NoClient(AdTargetError):
    """The environment's proxy or CA bundle cannot be used; the message names the variable, and never its value."""


class ApiError(AdTargetError):
    """AdTarget did not take a request.

    ``status`` is the HTTP status or None where no answer came, ``code`` AdTarget's own code or None, ``retry_after`` the
    seconds that AdTarget asked to wait, or None. ``answer`` is what AdTarget wrote (2 KB at most): it names the field that it
    refuses, and may repeat what was sent, so it stands in no message and no log.
    """

    answer: str = ""

    status: int | None = None
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status if status is not None else type(self).status
        self.code = code if code is not None else type(self).code
        self.retry_after = retry_after


class Unreachable(ApiError):
    """No definite answer came: refused, reset, timed out, cut short. ``sent`` tells whether the request may have arrived."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class UnexpectedAnswer(ApiError):
    """An answer outside the contract: HTML, broken JSON, a status that is not documented, more than 64 KB."""


class InvalidPayload(ApiError):
    """400: AdTarget refuses the content; sending it again cannot help."""

    status, code = 400, "INVALID_PAYLOAD"


class AuthError(ApiError):
    """401: the credential does not work; a fault of the configuration, never of the event."""

    status = 401


class AuthRequired(AuthError):
    """401: no key was sent."""

    code = "AUTH_REQUIRED"


class InvalidKey(AuthError):
    """401: AdTarget does not know the key."""

    code = "INVALID_KEY"


class RevokedKey(AuthError):
    """401: the key was revoked."""

    code = "REVOKED_KEY"


class SubscriptionInactive(ApiError):
    """402: the account's subscription is not active."""

    status, code = 402, "SUBSCRIPTION_INACTIVE"


class NotFound(ApiError):
    """404: something that the request names does not exist."""

    status = 404


class ChannelNotFound(NotFound):
    """404: no such channel in this account."""

    code = "CHANNEL_NOT_FOUND"


class ConversionNotFound(NotFound):
    """404: no such conversion."""

    code = "CONVERSION_NOT_FOUND"


class LeadNotFound(NotFound):
    """404: no such lead."""

    code = "LEAD_NOT_FOUND"


class RateLimited(ApiError):
    """429: over 300 requests a minute; ``retry_after`` says for how long."""

    status, code = 429, "RATE_LIMITED"


class ServerError(ApiError):
    """5xx: AdTarget's own fault; whether the request was counted is unknown."""


class InternalError(ServerError):
    """500."""

    status, code = 500, "INTERNAL_ERROR"


class ApiDisabled(ServerError):
    """503: the API is switched off."""

    status, code = 503, "API_DISABLED"


# The documented codes, and the class that answers to each.
BY_CODE: dict[str, type[ApiError]] = {
    cls.code: cls
    for cls in (
        InvalidPayload,
        AuthRequired,
        InvalidKey,
        RevokedKey,
        SubscriptionInactive,
        ChannelNotFound,
        ConversionNotFound,
        LeadNotFound,
        RateLimited,
        InternalError,
        ApiDisabled,
    )
    if cls.code
}
