"""How fast an account may be used: the bucket lives in the store, shared by all; what is asked of it is decided here.

AdTarget takes 300 requests a minute and key, burst 50. Ten tokens are held back for invite clicks and five more for conversions,
so a queue of page views never makes a button wait. Nor does a flood of clicks: while the bucket is below half, visitors without
cookies get ten links a minute for each network.
"""

from __future__ import annotations

from adtarget_proxy.tracking.events import Conversion, Event

FOR_CLICKS = 10.0
FOR_CONVERSIONS = 5.0
FLOOD = 10  # clicks without cookies from one network within a minute


def reserve(event: Event) -> float:
    """Tokens that must be left in the bucket when this event, waiting in the outbox, takes one."""
    return FOR_CLICKS if isinstance(event, Conversion) else FOR_CLICKS + FOR_CONVERSIONS
