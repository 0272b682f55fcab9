"""Who counts: no machines, no previews, nothing fetched ahead, nobody whose browser says no.

The lists are those of meta-cookies ("Who gets no ids, no visit, no invite"), and the community's where the extra ``[bots]`` is
installed. In-app browsers are people and come before the generic rule, unless the agent also names a previewer.
"""

from __future__ import annotations

import re
from functools import lru_cache

from adtarget_proxy.tracking.crawlers import is_listed
from adtarget_proxy.tracking.facts import MAX_AGENT, Facts

_PREVIEWS = (
    "facebookexternalhit|facebot|facebookcatalog|meta-externalagent|meta-externalfetcher|meta-externalads|meta-webindexer|"
    "telegrambot|whatsapp/|twitterbot|slackbot|discordbot|vkshare|skypeuripreview|viber"
)
_TOOLS = (
    "kube-probe|elb-healthchecker|googlehc|prometheus|blackbox exporter|uptimerobot|pingdom|"
    "curl/|wget/|python-requests|python-httpx|aiohttp|go-http-client|okhttp"
)
_GENERIC = "bot|crawl|spider|slurp|headless|lighthouse|inspect|scan|monitor|preview|fetch|feed|archiv|\\+http"
_PREVIEW = re.compile(_PREVIEWS, re.IGNORECASE)
_PERSON = re.compile(r"FBAN|FBAV|FB_IAB|Instagram|Telegram", re.IGNORECASE)
_MACHINE = re.compile(f"{_GENERIC}|{_TOOLS}", re.IGNORECASE)
_CUBOT = re.compile("cubot", re.IGNORECASE)

_PURPOSES = ("sec-purpose", "purpose", "x-purpose", "x-moz", "x-sec-purpose")
_AHEAD_ALWAYS = frozenset({"next-router-prefetch", "x-fb-http-engine"})
_AHEAD_HEADERS = _AHEAD_ALWAYS.union(_PURPOSES)
# every header that can keep a browser's page from counting: an ordinary page pays for one look at all of them
RARE_HEADERS = _AHEAD_HEADERS | {"sec-gpc", "dnt"}
_AHEAD = re.compile("prefetch|prerender|preview", re.IGNORECASE)


def is_machine(agent: str) -> bool:
    """Whether a User-Agent belongs to a bot, a link preview, a monitor or an HTTP library. An empty one does."""
    return _is_machine(agent) if len(agent) <= MAX_AGENT else _is_machine.__wrapped__(agent)


@lru_cache(maxsize=4096)
def _is_machine(agent: str) -> bool:
    if not agent.strip() or _PREVIEW.search(agent):
        return True
    if _PERSON.search(agent):
        return False
    agent = _CUBOT.sub("", agent)
    return _MACHINE.search(agent) is not None or is_listed(agent)


def is_ahead_of_time(facts: Facts) -> bool:
    """Whether the browser (or a router in the page) fetches what nobody has asked to see yet."""
    if not facts.has_any(_AHEAD_HEADERS):
        return False
    if facts.has_any(_AHEAD_ALWAYS):
        return True
    return any(_AHEAD.search(facts.header(name) or "") for name in _PURPOSES)


def signals_gpc(facts: Facts) -> bool:
    """``Sec-GPC: 1``, the Global Privacy Control signal."""
    return facts.header("sec-gpc") == "1"


def signals_dnt(facts: Facts) -> bool:
    """``DNT: 1``, Do Not Track."""
    return facts.header("dnt") == "1"
