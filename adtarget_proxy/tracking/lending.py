"""What a conversion borrows from the request that it is reported in: the visitor's own, with consent, or nothing (design.md, "Consent")."""

from __future__ import annotations

from typing import Any

from adtarget_proxy.consent import Consent
from adtarget_proxy.settings import Site
from adtarget_proxy.tracking.audience import is_machine
from adtarget_proxy.tracking.cookies import has_opted_out
from adtarget_proxy.tracking.events import LENT
from adtarget_proxy.tracking.identity import Identity
from adtarget_proxy.tracking.rules import Rules
from adtarget_proxy.tracking.visit import Plan

_NOTHING_FOR = frozenset({"off", "opted-out", "gpc", "no-consent", "bot"})


def lent(planned: Plan, site: Site, rules: Rules) -> tuple[str | None, dict[str, Any]]:
    """The tempId and the fields of LENT: none of a webhook, of a machine, without a valid tempId, or without consent."""
    facts = planned.facts
    if planned.gate.reason in _NOTHING_FOR or is_machine(facts.header("user-agent") or ""):
        return None, {}
    origin = rules.origin(facts)
    if rules.signals_privacy(facts) or has_opted_out(facts.header("cookie") or ""):  # also where pages are excluded
        return None, {}
    if rules.asking.answer(facts, origin.host) is not Consent.GRANTED:
        return None, {}
    visitor = planned.page or Identity(facts, origin, rules, rules.site_rules(site))
    if visitor.new_visitor:
        return None, {}
    fields = {name: value for name, value in visitor.meta().items() if name in LENT}
    if visitor.new_fbp:
        fields.pop("fbp", None)
    return visitor.temp_id, fields
