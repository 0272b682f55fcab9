"""AdTarget's side of the business: visitors, invites, leads and conversions, and what each call answers."""

from __future__ import annotations

import hashlib
import os
import uuid
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import validation as check
from .answers import Answer, Refusal, invalid
from .options import Options

Payload = Mapping[str, object]


@dataclass(slots=True)
class Visitor:
    """What is known under one ``tempId``. ``visit`` is the newest visit, whose ``fbp`` an update patches."""

    visits: int = 0
    visit: dict[str, object] | None = None
    invites: list[str] = field(default_factory=list)
    telegram_user_id: int | None = None


@dataclass(slots=True)
class Lead:
    cold: bool
    channel_id: str | None = None
    temp_id: str | None = None
    conversions: dict[str, dict[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """A validated call's surroundings: whose key, which path arguments, and whether invites must leave Telegram."""

    account_key: bool = False
    lead: str = ""
    conversion: str = ""
    foreign_link: bool = False


class Account:
    """The state of one AdTarget account. Every method raises ``Refusal`` where the API would refuse."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._leads: OrderedDict[int, Lead] = OrderedDict()
        self.clear()

    def clear(self) -> None:
        self._visitors.clear()
        self._leads.clear()
        self._leads.update((user, Lead(cold=False)) for user in self._options.leads)

    def handler(self, endpoint: str) -> Callable[[Payload, Call], tuple[Answer, dict[str, object] | None]]:
        return {
            "visit": self.visit,
            "update-fbp": self.update_fbp,
            "invite": self.invite,
            "conversion": self.conversion,
            "value": self.value,
            "lead": self.lead,
            "lead-event": self.lead_event,
        }[endpoint]

    def visitor(self, temp_id: str) -> dict[str, object] | None:
        """What is known of a visitor, as JSON."""
        found = self._visitors.get(temp_id.lower())
        if found is None:
            return None
        return {
            "tempId": temp_id.lower(),
            "visits": found.visits,
            "visit": found.visit,
            "invites": list(found.invites),
            "telegramUserId": found.telegram_user_id,
        }

    def join(self, temp_id: str, telegram_user_id: object) -> None:
        """Telegram reports a join by this visitor's invite: they become a known lead."""
        user = check.telegram_user_id(telegram_user_id)
        self._visitor(temp_id.lower()).telegram_user_id = user
        self._keep_lead(user, Lead(cold=False, temp_id=temp_id.lower()))

    def visit(self, payload: Payload, _call: Call) -> tuple[Answer, dict[str, object] | None]:
        check.check_visit(payload)
        temp_id = str(payload.get("tempId") or uuid.uuid4())
        session = str(payload.get("clientSessionId") or uuid.uuid4())
        visit_id = _fresh()
        state: dict[str, object] = {
            "visitId": visit_id,
            "fbp": payload.get("fbp"),
            "fbpPatched": False,
            "clientIp": payload.get("clientIp"),
            "userAgent": payload.get("userAgent"),
        }
        visitor = self._visitor(temp_id.lower())
        visitor.visits += 1
        visitor.visit = state
        body = {
            "visitId": visit_id,
            "sessionId": _fresh(),
            "tempId": temp_id,
            "clientSessionId": session,
            "cookies": {
                "tempId": _cookie("adtarget_temp_id", temp_id, 31_536_000),
                "session": _cookie("adtarget_session_id", session, 1800),
            },
        }
        return Answer(200, body), state

    def update_fbp(self, payload: Payload, _call: Call) -> tuple[Answer, dict[str, object] | None]:
        check.check_update_fbp(payload)
        visitor = self._visitors.get(str(payload["tempId"]).lower())
        if visitor is None or visitor.visit is None:
            if self._options.fbp_miss == "404":
                raise Refusal(404, "VISIT_NOT_FOUND", "No visit has this tempId")
            return Answer(200, {"success": False}), None
        visitor.visit.update(fbp=payload["fbp"], fbpPatched=True)
        return Answer(200, {"success": True}), None

    def invite(self, payload: Payload, call: Call) -> tuple[Answer, dict[str, object] | None]:
        check.check_invite(payload)
        channel = self._channel(payload) or self._options.default_channel
        temp_id = str(payload.get("tempId") or uuid.uuid4())
        link = f"https://{'links.example' if call.foreign_link else 't.me'}/+{invite_hash(temp_id, channel)}"
        visitor = self._visitor(temp_id.lower())
        if link not in visitor.invites:
            visitor.invites = [*visitor.invites[-99:], link]
        if self._options.invite_as == "redirect":
            return Answer(302, None, {"Location": link}), None
        head, _, inner = self._options.invite_field.partition(".")
        return Answer(200, {head: {inner: link} if inner else link, "tempId": temp_id, "channelId": channel}), None

    def conversion(self, payload: Payload, call: Call) -> tuple[Answer, dict[str, object] | None]:
        check.check_conversion(payload)
        channel = self._channel(payload)
        user = check.telegram_user_id(payload["telegramUserId"])
        lead = self._leads.get(user)
        if lead is None:
            if channel is None:
                raise invalid("channelId is required for a cold lead: this telegramUserId is not known")
            if call.account_key and not (payload.get("siteId") or payload.get("websiteId")):
                raise invalid("siteId or websiteId is required for a cold lead with an account key")
            lead = self._keep_lead(user, Lead(cold=True, channel_id=channel))
        return self._convert(lead, payload)

    def lead_event(self, payload: Payload, call: Call) -> tuple[Answer, dict[str, object] | None]:
        lead = self._lead(call)
        check.check_event(payload)
        self._channel(payload)
        return self._convert(lead, payload)

    def value(self, payload: Payload, call: Call) -> tuple[Answer, dict[str, object] | None]:
        lead = self._lead(call)
        check.check_value(payload)
        found = lead.conversions.get(call.conversion)
        if found is None:
            raise Refusal(404, "CONVERSION_NOT_FOUND", "This lead has no such conversion")
        found.update(value=payload["value"], currency=payload["currency"])
        return Answer(200, {"conversionId": call.conversion, **found}), None

    def lead(self, _payload: Payload, call: Call) -> tuple[Answer, dict[str, object] | None]:
        lead = self._lead(call)
        body = {
            "telegramUserId": int(call.lead),
            "coldLead": lead.cold,
            "channelId": lead.channel_id,
            "tempId": lead.temp_id,
            "conversions": [{"conversionId": name, **held} for name, held in lead.conversions.items()],
        }
        return Answer(200, body), None

    def _convert(self, lead: Lead, payload: Payload) -> tuple[Answer, dict[str, object] | None]:
        # Meta matches on nothing else: a cold lead without any of them has nothing to be sent with.
        skipped = lead.cold and not any(payload.get(name) for name in ("fbc", "fbp", "pii"))
        status = "skipped" if skipped else "pending"
        conversion_id = _fresh()
        named = ("eventType", "customEventName", "value", "currency")
        if len(lead.conversions) >= 1000:
            del lead.conversions[next(iter(lead.conversions))]
        lead.conversions[conversion_id] = {"capiStatus": status} | {n: payload[n] for n in named if n in payload}
        sends = [] if skipped else [{"sendId": _fresh(), "platform": "meta"}]
        body = {"conversionId": conversion_id, "capiStatus": status, "coldLead": lead.cold, "sends": sends}
        return Answer(200, body), None

    def _channel(self, payload: Payload) -> str | None:
        channel = payload.get("channelId")
        if channel is not None and self._options.channels and channel not in self._options.channels:
            raise Refusal(404, "CHANNEL_NOT_FOUND", "channelId is no channel of this account")
        return None if channel is None else str(channel)

    def _lead(self, call: Call) -> Lead:
        lead = self._leads.get(check.telegram_user_id_of_path(call.lead))
        if lead is None:
            raise Refusal(404, "LEAD_NOT_FOUND", "No lead has this telegramUserId")
        return lead

    def _visitor(self, temp_id: str) -> Visitor:
        visitor = self._visitors.pop(temp_id, None) or Visitor()
        self._visitors[temp_id] = visitor
        if len(self._visitors) > self._options.keep:
            self._visitors.popitem(last=False)
        return visitor

    def _keep_lead(self, user: int, lead: Lead) -> Lead:
        self._leads[user] = lead
        if len(self._leads) > self._options.keep:
            self._leads.popitem(last=False)
        return lead


def invite_hash(temp_id: str, channel: str) -> str:
    """The hash of a visitor's invite to a channel: the same for the same two, as long as Telegram's own."""
    digest = hashlib.blake2b(f"{temp_id.lower()}\n{channel}".encode("utf-8", "replace"), digest_size=12).digest()
    return urlsafe_b64encode(digest).decode()


def _fresh() -> str:
    return os.urandom(16).hex()


def _cookie(name: str, value: str, max_age: int) -> dict[str, object]:
    return {"name": name, "value": value, "maxAge": max_age, "sameSite": "Lax"}
