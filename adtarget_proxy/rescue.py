"""What a request gets that something of ours has failed on: an invite route its fallback, any other the app."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from adtarget_proxy.reply import Reply
from adtarget_proxy.tracker import Plan, Tracker


def rescued(
    tracker: Tracker,
    planned: Plan | None,
    method: str,
    path: Callable[[], str],
    host: Callable[[], str | None],
    show: Callable[[Plan], None],
) -> Reply | None:
    """The answer to give, or None for the app's own. Never raises, whichever of the tracker's methods has failed.

    Where planning failed, ``show`` puts a plan of nothing before the app, which finds a working ``Tracking`` all the same.
    """
    with suppress(Exception):
        tracker.fault("request" if planned else "plan", planned)
    try:
        if planned is None:
            planned = tracker.unplanned(method, path(), _or_none(host))
            show(planned)
        return tracker.rescue(planned)
    except Exception:
        return None


def _or_none(read: Callable[[], str | None]) -> str | None:
    try:
        return read()
    except Exception:
        return None
