"""What a process says in the log, each once: how it is set up, a proxy that nobody trusts, a fault of our own.

No line holds a key, a visitor's address or what an exception says. A log handler of the app's that fails is no fault of ours.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress

from adtarget_proxy.outbox.place import Place
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.address import UNIX, is_edge_of, likely_preset, private_network
from adtarget_proxy.tracking.facts import Facts

_log = logging.getLogger("adtarget_proxy")


class Notices:
    """Says a thing once; every method may be called as often as one likes, and never raises."""

    def __init__(self) -> None:
        self.is_introduced = False
        self._said: set[str] = set()

    def introduce(self, settings: Settings) -> None:
        """What a user may not expect: where events are kept, and whom the settings take to have agreed."""
        self.is_introduced = True
        if settings.mode == "off":
            return
        with suppress(Exception):
            _log.info("adtarget-proxy keeps events in %s", Place.parse(settings.outbox))
            if settings.consent is None:
                _log.info(
                    "everybody is taken to have consented to tracking; where visitors are asked, set consent= "
                    "(ADTARGET_CONSENT) to your consent tool or a function"
                )
            if not settings.secret_key and any(site.api_key is None for site in settings.all_sites):
                _log.info(
                    "the state cookie's key is made here and kept with the outbox; several machines need secret_key set"
                )

    def consent(self, problem: str) -> None:
        """What the settings' ``consent`` did in place of answering; the visitor counts as not asked."""
        if self._is_first("consent"):
            with suppress(Exception):
                _log.error(
                    "the consent function %s: visitors whom it does not answer for are not tracked. Said once.", problem
                )

    def untrusted_proxy(self, facts: Facts) -> None:
        """The line to paste, where a request seems to have come by a proxy: a preset's name or a network, never an address."""
        if not self._is_first("proxy"):
            return
        with suppress(Exception):
            preset, words = likely_preset(facts), []
            if preset is not None:
                words.append(preset)
            if preset is None or not is_edge_of(
                preset, facts.peer
            ):  # a proxy of the user's own, behind the edge if there is one
                words.append(UNIX if facts.peer in (None, "", UNIX) else private_network(facts.peer) or "its network")
            _log.warning(
                "A proxy in front tells the visitor's address, but none is trusted: visitors' addresses are not reported. "
                'If the proxy is yours, set trusted_proxies (ADTARGET_TRUSTED_PROXIES="%s").',
                ",".join(words),
            )

    def fault(self, where: str) -> None:
        """The fault of our own that is being handled: its type and frames, for what it says may quote an address or a payload."""
        if not self._is_first(where):
            return
        with suppress(Exception):
            kind, _, trace = sys.exc_info()
            _log.error(
                "adtarget-proxy failed in %s (%s); the app's response is not affected. Said once.\n%s",
                where,
                kind.__name__ if kind else "no exception",
                "".join(traceback.format_tb(trace)).rstrip(),
            )

    def _is_first(self, what: str) -> bool:
        if what in self._said:
            return False
        self._said.add(what)
        return True
