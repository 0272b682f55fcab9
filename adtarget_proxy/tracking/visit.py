"""A page view: ``plan`` before the app runs, ``finish`` when its response starts.

``plan`` mints the ids, so that the app has them also on a first visit; ``finish`` sees the response's head and says which
cookies it gains, what happens to its cache headers, and which events are to be kept. Every request ends in exactly one reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from adtarget_proxy.tracking.events import FROM_AN_AD, PLAIN, Event, Visit
from adtarget_proxy.tracking.facts import Facts, Response
from adtarget_proxy.tracking.identity import Identity
from adtarget_proxy.tracking.ids import new_id
from adtarget_proxy.tracking.pages import is_cacheable, is_page, protected
from adtarget_proxy.tracking.rules import Gate, Reason, Rules, SiteRules
from adtarget_proxy.tracking.withdrawal import Parting, parting_of

_NOTHING: frozenset[str] = frozenset()
_CACHE_CONTROL = frozenset({"cache-control"})


class Plan:
    """What was decided before the app runs. ``reason`` is None while the response may still decide.

    ``page`` is the visitor of a page view; None on every other request. ``event_id`` is the id of the visit that it may become.
    """

    page: Identity | None = None
    event_id: str | None = None
    external_user_id: str | None = None
    click_cookies: tuple[str, ...] | None = None  # where the app's own view made an invite click of this request
    parting: Parting | None = None  # of a visitor who said no, or threw the switch
    is_kept = False  # its events are in the outbox

    def __init__(self, facts: Facts, gate: Gate, page: Identity | None = None, event_id: str | None = None) -> None:
        self.facts = facts
        self.gate = gate
        self.reason: Reason | None = gate.reason
        if page is not None:  # the class says the rest: most requests are no page
            self.page = page
            self.event_id = event_id


class Outcome(NamedTuple):
    """What becomes of a response: headers to take off (``dropped``), then Set-Cookie values and a Cache-Control to add."""

    reason: Reason
    cookies: tuple[str, ...] = ()
    cache_control: str | None = None
    dropped: frozenset[str] = frozenset()
    events: tuple[Event, ...] = ()


def plan(facts: Facts, rules: Rules) -> Plan:
    """What the request alone decides, and who the visitor of a page view is."""
    gate = rules.gate(facts)
    planned = _planned(facts, gate, rules)
    if gate.switch is not None or gate.reason == "no-consent":
        planned.parting = parting_of(facts, gate, rules)
    return planned


def _planned(facts: Facts, gate: Gate, rules: Rules) -> Plan:
    if gate.reason is not None or gate.slug is not None or gate.rules is None or gate.origin is None:
        return Plan(facts, gate)
    page = Identity(facts, gate.origin, rules, gate.rules)
    return Plan(facts, gate, page, new_id(page.now, rules.entropy))


def finish(planned: Plan, response: Response, rules: Rules) -> Outcome:
    """What becomes of the response. A second call with another response decides anew and changes nothing of the first."""
    outcome = _finished(planned, response, rules)
    return outcome if planned.parting is None else _parted(planned, planned.parting, response, outcome)


def _parted(planned: Plan, parting: Parting, response: Response, outcome: Outcome) -> Outcome:
    """``outcome`` with the parting. A page that deletes cookies is nobody else's, so ``cache`` has no say in it.

    One with a switch is kept by no browser either: thrown again, it would be shown from there, or end in a 304 without a cookie.
    """
    events = (*parting.events, *outcome.events)
    if not (200 <= response.status < 300 and is_page(response, planned.facts)):
        return outcome._replace(events=events)
    cache_control, dropped = protected(response.headers)
    if planned.gate.switch is not None:
        cache_control, dropped = "private, no-store", dropped | _CACHE_CONTROL
    return Outcome(outcome.reason, (*outcome.cookies, *parting.cookies), cache_control, dropped, events)


def _finished(planned: Plan, response: Response, rules: Rules) -> Outcome:
    if planned.click_cookies is not None and not _is_page_view(planned, response):
        return Outcome(planned.reason or "invite", planned.click_cookies, "private, no-store", _CACHE_CONTROL)
    if planned.gate.reason is not None:
        if planned.gate.reason == "prefetch":
            return Outcome("prefetch", (), "no-store", _CACHE_CONTROL)
        return Outcome(planned.gate.reason)
    page = planned.page
    site = planned.gate.rules
    if page is None or site is None:
        return Outcome("not-a-page")
    status, headers = response.status, response.headers
    if status == 304:
        if page.new_visitor:
            return Outcome("status")
        return Outcome("tracked", events=_events(planned, page, site, set_cookies=False))
    if not 200 <= status < 300:
        return Outcome("status")
    if not is_page(response, planned.facts):
        return Outcome("not-html")
    cache = rules.settings.cache
    if cache == "skip" and is_cacheable(headers, page.now):
        if page.new_visitor:
            return Outcome("cacheable")
        return Outcome("tracked", events=_events(planned, page, site, set_cookies=False))
    events = _events(planned, page, site, set_cookies=True)
    cookies = tuple(page.cookies(touch=new_touch(page), slide=True))
    if cache != "protect":
        return Outcome("tracked", cookies, None, _NOTHING, events)
    cache_control, dropped = protected(headers)
    return Outcome("tracked", cookies, cache_control, dropped, events)


def _is_page_view(planned: Plan, response: Response) -> bool:
    """Whether a view that asked for an invite link showed it on a page of its own, in place of a redirect."""
    return planned.page is not None and 200 <= response.status < 300 and is_page(response, planned.facts)


def visit_of(
    page: Identity,
    site: SiteRules,
    *,
    event_id: str,
    href: str,
    referrer: str | None,
    touch: Mapping[str, str],
    from_ad: bool,
) -> Visit:
    """The visit event of a page view, or of a click that has none."""
    fields = page.meta()
    fields.update(page.whereabouts())
    fields["href"] = href
    if referrer:
        fields["referrer"] = referrer
    fields.update(touch)
    worth = FROM_AN_AD if from_ad else PLAIN
    return Visit(
        id=event_id, key=event_id, account=site.account, visitor=page.temp_id, at=page.now, worth=worth, fields=fields
    )


def new_touch(page: Identity) -> Mapping[str, str] | None:
    """The touch that this request brings, where it is another than the one remembered; else None."""
    if not page.touch and not page.new_fbc:
        return None
    state = page.state
    if state is not None and not page.new_fbc:
        known = {name: value for name, value in state.touch.items() if name != "landing_page"}
        if known == {name: value[:200] for name, value in page.touch.items()}:
            return None
    return page.touch


def _events(planned: Plan, page: Identity, site: SiteRules, *, set_cookies: bool) -> tuple[Event, ...]:
    """The visit, and before it the FbpUpdate that patches the visit before. Ids whose cookie cannot be set are not told."""
    visit = visit_of(
        page,
        site,
        event_id=planned.event_id or "",
        href=page.href,
        referrer=page.referrer,
        touch=page.touch,
        from_ad=page.from_ad,
    )
    if not set_cookies and page.new_fbp:
        del visit.fields["fbp"]
    if not set_cookies and not page.had_session:
        del visit.fields["client_session_id"]
    if planned.external_user_id is not None:
        visit.fields["external_user_id"] = planned.external_user_id
    return (page.fbp_update(), visit) if page.changed_fbp else (visit,)
