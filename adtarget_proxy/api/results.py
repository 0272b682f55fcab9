"""What AdTarget answered, as values. They are read tolerantly: a missing or odd field is None, and ``raw`` keeps everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from adtarget_proxy.links import invite_link

T = TypeVar("T")

LINK_KEYS = ("inviteLink", "invite_link", "inviteUrl", "redirectUrl", "url", "link")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What all results share. ``replayed``: AdTarget had answered this idempotency key before (X-Idempotent-Replay)."""

    replayed: bool = False
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, raw: dict[str, Any], *, replayed: bool, location: str | None = None) -> Self:
        """The result in an answer's JSON and, of a redirect, its ``Location``. Never raises."""
        return cls(replayed=replayed, raw=raw, **cls._read(raw, location))

    @classmethod
    def _read(cls, raw: dict[str, Any], location: str | None) -> dict[str, Any]:  # noqa: ARG003
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitResult(Result):
    """A page view was taken."""

    visit_id: str | None = None
    session_id: str | None = None
    temp_id: str | None = None
    client_session_id: str | None = None

    @classmethod
    def _read(cls, raw: dict[str, Any], location: str | None) -> dict[str, Any]:  # noqa: ARG003
        return {
            "visit_id": _typed(raw, "visitId", str),
            "session_id": _typed(raw, "sessionId", str),
            "temp_id": _typed(raw, "tempId", str),
            "client_session_id": _typed(raw, "clientSessionId", str),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FbpResult(Result):
    """``success`` is False where AdTarget knows no visit of this visitor; a 404 says the same (NotFound)."""

    success: bool = True

    @classmethod
    def _read(cls, raw: dict[str, Any], location: str | None) -> dict[str, Any]:  # noqa: ARG003
        return {"success": _success(raw)}


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteResult(Result):
    """``link`` is an https link into Telegram that passed the allow-list, or None where the answer held none."""

    link: str | None = None

    @classmethod
    def _read(cls, raw: dict[str, Any], location: str | None) -> dict[str, Any]:
        return {"link": invite_link(location) or link_in(raw)}


@dataclass(frozen=True, slots=True)
class Send:
    """One ad platform that a conversion goes to."""

    send_id: str | None
    platform: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionResult(Result):
    """A conversion was taken. ``capi_status`` is ``pending`` or ``skipped``; ``dispatched`` is as AdTarget gave it."""

    conversion_id: str | None = None
    capi_status: str | None = None
    cold_lead: bool | None = None
    sends: tuple[Send, ...] = ()
    dispatched: Any = None

    @classmethod
    def _read(cls, raw: dict[str, Any], location: str | None) -> dict[str, Any]:  # noqa: ARG003
        return {
            "conversion_id": _typed(raw, "conversionId", str),
            "capi_status": _typed(raw, "capiStatus", str),
            "cold_lead": _typed(raw, "coldLead", bool),
            "sends": tuple(
                Send(_typed(item, "sendId", str), _typed(item, "platform", str))
                for item in _typed(raw, "sends", list) or ()
                if isinstance(item, dict)
            ),
            "dispatched": raw.get("dispatched"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueResult(Result):
    """A conversion has its value. The answer is not documented: what is not here is in ``raw``."""

    conversion_id: str | None = None
    success: bool = True

    @classmethod
    def _read(cls, raw: dict[str, Any], location: str | None) -> dict[str, Any]:  # noqa: ARG003
        return {"conversion_id": _typed(raw, "conversionId", str), "success": _success(raw)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadEventResult(ConversionResult):
    """An event of a known lead was taken. The answer is not documented: read as a conversion's, all of it in ``raw``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadResult(Result):
    """A lead. The answer is not documented: all but the id is in ``raw``."""

    telegram_user_id: int | None = None

    @classmethod
    def _read(cls, raw: dict[str, Any], location: str | None) -> dict[str, Any]:  # noqa: ARG003
        user = _typed(raw, "telegramUserId", int)
        return {"telegram_user_id": None if isinstance(user, bool) else user}


def link_in(raw: Mapping[str, Any]) -> str | None:
    """The first value under one of LINK_KEYS, on the top level and then one level down, that is a link into Telegram."""
    for level in (raw, *(inner for inner in raw.values() if isinstance(inner, dict))):
        for key in LINK_KEYS:
            link = invite_link(level.get(key))
            if link is not None:
                return link
    return None


def _typed(raw: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    found = raw.get(name)
    return found if isinstance(found, kind) else None


def _success(raw: Mapping[str, Any]) -> bool:
    """A 2xx that does not say ``success`` is a success."""
    return raw.get("success") is not False
