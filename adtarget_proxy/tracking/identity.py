"""Who the visitor is: the ids that their cookies hold, those minted for the response, and what is remembered of their coming.

Shared by page views and invite clicks. Nothing here is guessed: visitors are never merged by address or User-Agent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from adtarget_proxy.tracking.address import Origin, sent_address
from adtarget_proxy.tracking.cookies import (
    FBC,
    FBP,
    META_MAX_AGE,
    REISSUE_AFTER,
    STATE,
    STATE_MAX_AGE,
    TEMP_ID,
    TEMP_ID_MAX_AGE,
    are_several,
    choose_fbc,
    choose_fbp,
    click_id,
    mint_fbc,
    mint_fbp,
    payload_of,
    read_jar,
    render,
)
from adtarget_proxy.tracking.domains import same_site
from adtarget_proxy.tracking.events import FbpUpdate
from adtarget_proxy.tracking.facts import MAX_AGENT, MAX_URL, Facts, url_text
from adtarget_proxy.tracking.ids import new_uuid
from adtarget_proxy.tracking.rules import Rules, SiteRules
from adtarget_proxy.tracking.scrub import scrubbed_query, scrubbed_url, url_without_switch, without_switch
from adtarget_proxy.tracking.state import State

_TOUCH = re.compile(r"(?:^|&)(?:amp;)?(utm_(?:source|medium|campaign|content|term)|gclid|ttclid|sccid)=([^&]+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLICK_IDS = frozenset({"gclid", "ttclid", "sccid"})
_PAGES = ("http://", "https://", "android-app://")
_MAX_PARAMETER = 500
_MAX_REMEMBERED = 1024  # characters of a URL
_NO_TOUCH: Mapping[str, str] = {}


class Identity:
    """The visitor of one request, as of ``now`` (Unix seconds)."""

    __slots__ = (
        "_facts",
        "_rules",
        "_site",
        "_state",
        "fbc",
        "fbp",
        "from_ad",
        "had_session",
        "jar",
        "new_fbc",
        "new_fbp",
        "new_visitor",
        "now",
        "origin",
        "place",
        "query",
        "referer",
        "seen",
        "session_id",
        "temp_id",
        "touch",
    )

    def __init__(self, facts: Facts, origin: Origin, rules: Rules, site: SiteRules) -> None:
        self._facts = facts
        self._rules = rules
        self._site = site
        self._state: State | type[_NotRead] | None = _NotRead
        self.origin = origin
        self.now = now = rules.clock()
        now_ms = int(now * 1000)
        self.place = place = site.place(origin.scheme, origin.host or "")
        self.jar = jar = read_jar(facts.header("cookie"))
        temp_id, session_id = jar.temp_id, jar.session_id
        self.new_visitor = temp_id is None
        self.had_session = temp_id is not None and session_id is not None
        self.temp_id = temp_id or new_uuid(now, rules.entropy)
        self.session_id = session_id if session_id is not None and temp_id is not None else new_uuid(now, rules.entropy)
        self.seen = seen = jar.seen
        self.referer = referer = facts.header("referer")
        if jar.latest <= now_ms:
            fbp, fbc = jar.only_fbp, jar.only_fbc
        else:
            fbp, fbc = choose_fbp(jar.fbp, now_ms, seen.fbp if seen else None), choose_fbc(jar.fbc, now_ms)
        self.new_fbp = fbp is None
        self.fbp = fbp or mint_fbp(place.meta_index, now_ms, rules.entropy)

        query, clicked = facts.query, None
        if query:
            clicked = click_id(query)
            query = without_switch(query)
            query = scrubbed_query(query) if rules.settings.scrub else query
        self.query = query
        self.touch: Mapping[str, str] = touch_of(query) if query else _NO_TOUCH
        if fbc is None and clicked is None and referer is not None:
            clicked = self._referred_click(referer)
        self.from_ad = clicked is not None or not _CLICK_IDS.isdisjoint(self.touch)
        self.new_fbc = clicked is not None and (fbc is None or payload_of(fbc) != clicked)
        self.fbc = mint_fbc(place.meta_index, now_ms, clicked) if clicked and self.new_fbc else fbc

    # -- what is remembered ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        """The visitor's state, its signature checked."""
        if self._state is _NotRead:
            self._state = self._site.signer.load(self.jar.state, self.jar.temp_id)
        return self._state  # type: ignore[return-value]

    @property
    def changed_fbp(self) -> bool:
        """Whether the browser brought another valid ``_fbp`` than the one last reported. Nothing ever reported: no."""
        if self.new_fbp or self.seen is None or self.seen.fbp == self.fbp:
            return False
        state = self.state
        return state is not None and state.fbp is not None and state.fbp != self.fbp

    def fbp_update(self) -> FbpUpdate:
        """The event that tells AdTarget of the changed ``_fbp``."""
        fields = {**self.client(), "href": self.href}
        return FbpUpdate.of(account=self._site.account, visitor=self.temp_id, fbp=self.fbp, at=self.now, fields=fields)

    # -- what AdTarget is told -------------------------------------------------------------------------------------------------

    @property
    def href(self) -> str:
        """The URL in the visitor's address bar, without its fragment, scrubbed."""
        path = _shown(self._facts.raw_path, self._rules.settings.scrub)
        url = f"{self.origin.scheme}://{self.origin.host}{path}"
        return (f"{url}?{url_text(self.query)}" if self.query else url)[:MAX_URL]

    @property
    def referrer(self) -> str | None:
        """The Referer, scrubbed; None where there is none or it is no URL."""
        text = self.referer
        if not text or not text.startswith(_PAGES):
            return None
        return _shown(text[:MAX_URL], self._rules.settings.scrub)

    def same_site_referrer(self) -> str | None:
        """The referrer where it is a page of this site."""
        host = _host_of(self.referer)
        if host is None or not same_site(self.place.host, host, self._site.site.cookie_domain):
            return None
        return self.referrer

    def client(self) -> dict[str, Any]:
        """The visitor's address and agent, as far as they may be sent: a private address is nobody's on the internet."""
        fields: dict[str, Any] = {}
        address = self.origin.address
        if address is not None:
            sent = sent_address(address, self._rules.settings.ip)
            if sent is not None:
                fields["client_ip"] = sent
        agent = self._facts.header("user-agent")
        if agent:
            fields["user_agent"] = agent[:MAX_AGENT]
        return fields

    def whereabouts(self) -> Mapping[str, str]:
        """Where the visitor is: country, region, city, as far as known."""
        return self._rules.whereabouts(self._facts, self.origin)

    def meta(self) -> dict[str, Any]:
        """The fields that name the visitor and the click: tempId, session, fbp, fbc, client."""
        fields = self.client()
        fields["temp_id"] = self.temp_id
        fields["client_session_id"] = self.session_id
        fields["fbp"] = self.fbp
        if self.fbc is not None:
            fields["fbc"] = self.fbc
        return fields

    # -- cookies ---------------------------------------------------------------------------------------------------------------

    def cookies(self, *, landing: str | None = None, touch: Mapping[str, str] | None, slide: bool) -> list[str]:
        """The Set-Cookie values of this response: what is new, what is due again, and the session where it slides.

        ``landing`` (by default this request's URL) and ``touch`` are what the state keeps where it knows nothing yet, or
        where ``touch`` is new (not None). Of several ``_fbp`` the chosen one takes the place of ours: else the next page, told
        that this one is reported, would go by the other.
        """
        place, seen = self.place, self.seen
        domain, secure = place.domain, place.secure
        due = seen is not None and self.now - seen.issued > REISSUE_AFTER and self.state is not None
        found = [place.session_cookie(self.session_id)] if slide or not self.had_session else []
        if self.new_visitor or due:
            found.append(render(TEMP_ID, self.temp_id, TEMP_ID_MAX_AGE, domain, secure=secure))
        several = len(self.jar.fbp) > 1 and are_several(self.jar.fbp, int(self.now * 1000))
        if several and domain:  # the one beside the domain's own lies on the host
            found.append(render(FBP, "", 0, None, secure=secure))
        if self.new_fbp or due or several:
            found.append(render(FBP, self.fbp, META_MAX_AGE, domain, secure=secure))
        if self.fbc is not None and (self.new_fbc or due):
            found.append(render(FBC, self.fbc, META_MAX_AGE, domain, secure=secure))
        if seen is None or seen.fbp != self.fbp or touch is not None or due:
            value = self._site.signer.dump(self._next_state(landing, touch, due))
            found.append(render(STATE, value, STATE_MAX_AGE, domain, secure=secure, http_only=True))
        return found

    def _next_state(self, landing: str | None, touch: Mapping[str, str] | None, due: bool) -> State:
        old, now = self.state, int(self.now)
        issued = now if due or old is None else old.issued
        if touch is None and old is not None:
            return State(self.temp_id, self.fbp, issued, old.touched, old.touch)
        return State(self.temp_id, self.fbp, issued, now, {"landing_page": landing or self.href, **(touch or {})})

    def _referred_click(self, referer: str) -> str | None:
        """The Referer's fbclid counts from the same site only: a page that was fetched ahead, or lost its query by a redirect."""
        if "fbclid=" not in referer:
            return None
        host = _host_of(referer)
        if host is None or not same_site(self.place.host, host, self._site.site.cookie_domain):
            return None
        return click_id(referer.partition("?")[2].partition("#")[0])


class _NotRead:
    """The state has not been asked for."""


def touch_of(query: str) -> dict[str, str]:
    """The UTMs and click ids of a raw query by API field, the first value of each; ``fbclid`` lives in ``_fbc`` instead."""
    found: dict[str, str] = {}
    for match in _TOUCH.finditer(query):
        value = _CONTROL.sub("", unquote_plus(match[2]))[:_MAX_PARAMETER]
        if value and match[1] not in found:
            found[match[1]] = value
    return found


def _host_of(url: str | None) -> str | None:
    if not url:
        return None
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return host.rstrip(".") if host else None


def _shown(url: str, scrub: bool) -> str:
    """A path or URL as AdTarget is told of it."""
    return _shown_again(url, scrub) if len(url) <= _MAX_REMEMBERED else _shown_again.__wrapped__(url, scrub)


@lru_cache(maxsize=2048)
def _shown_again(url: str, scrub: bool) -> str:
    """Pages repeat, and so do the pages that lead to them."""
    url = url_without_switch(url)
    return url_text(scrubbed_url(url) if scrub else url.partition("#")[0])
