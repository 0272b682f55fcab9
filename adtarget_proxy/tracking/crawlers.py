"""The extra ``[bots]``: the community's list of crawlers (https://github.com/monperrus/crawler-user-agents), where it is installed.

It knows machines by name that no rule of ours would: link checkers, HTTP libraries of other languages, old crawlers.
"""

from __future__ import annotations

from adtarget_proxy.tracking.facts import MAX_AGENT

try:
    import crawleruseragents
except Exception:  # not installed, or a broken list: our own rules decide alone
    crawleruseragents = None


def is_listed(agent: str) -> bool:
    """Whether the list has this agent. Takes some 0.3 ms, so ask once an agent; of a long one the beginning is looked at."""
    return crawleruseragents is not None and bool(crawleruseragents.is_crawler(agent[:MAX_AGENT]))
