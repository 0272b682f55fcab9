"""Whether threads run in this process. Where the server keeps them from running, delivery starts none and says so.

uWSGI before 2.0.27 takes Python's global lock for itself between two requests, unless it was started with ``enable-threads`` or
``threads``: a thread would start and then stand still (https://uwsgi-docs.readthedocs.io/en/latest/ThingsToKnow.html). Greenlets,
which run within the request's own thread, do not mind.
"""

from __future__ import annotations

import sys
from typing import Any


def hindrance() -> str:
    """What keeps threads from running, for the log and the health; empty where they run.

    The module ``uwsgi`` is there only inside of uWSGI. Its ``has_threads`` says what is; ``opt`` what was asked for, and newer versions
    have threads without being asked.
    """
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None or getattr(uwsgi, "has_threads", True) or _are_greenlets():
        return ""
    return "uWSGI runs without threads"


def _are_greenlets() -> bool:
    """Whether gevent has put greenlets in the place of threads."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
