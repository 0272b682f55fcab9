"""What becomes of an event after an attempt, and what the attempt says about its account. Pure: clock and randomness are passed in.

Retried are network errors, 408, 425, 429 and 5xx but 501 and 505; a 2xx that is no AdTarget answer (a proxy's page) is no
definite answer either. Everything else ends in the dead letters with its status.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from adtarget_proxy.delivery.timing import Timing
from adtarget_proxy.errors import ApiDisabled, ApiError, AuthError, SubscriptionInactive, UnexpectedAnswer, Unreachable
from adtarget_proxy.outbox.store import Claim, DeadReason
from adtarget_proxy.tracking.events import Event, FbpUpdate

UNKNOWN_FOR = 23 * 3600.0  # AdTarget forgets an idempotency key after 24 h
_TRANSIENT = frozenset({408, 425, 429})
_FINAL_5XX = frozenset({501, 505})
_SLOWLY = 4  # an API that was switched off is asked as if it had failed this often already

Random = Callable[[], float]  # 0 ≤ x < 1


@dataclass(frozen=True, slots=True)
class Settled:
    """AdTarget took it."""


@dataclass(frozen=True, slots=True)
class Again:
    """It goes again. ``not_before`` in Unix seconds; ``unknown``: this attempt may have been counted."""

    not_before: float
    unknown: bool = False
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Buried:
    """It will not be sent any more. ``answer`` may hold AdTarget's own words: it is kept, never logged; ``told`` may be."""

    reason: DeadReason
    status: int | None
    answer: str = field(repr=False)
    told: str = ""


Verdict = Settled | Again | Buried
Reply = object  # a result of adtarget_proxy.api, or the ApiError that came in its place


class Signal(Enum):
    """What an attempt tells about the account as a whole."""

    ALIVE = "alive"  # a definite answer, whatever it said
    FAILED = "failed"  # no answer, a fault of AdTarget's, or a page that is not AdTarget's
    LIMITED = "limited"  # over the rate
    PAUSED = "paused"  # the credential or the subscription


def is_transient(error: ApiError) -> bool:
    """Whether sending the same event again can help."""
    if isinstance(error, Unreachable):
        return True
    status = error.status or 0
    if isinstance(error, UnexpectedAnswer) and 200 <= status < 300:
        return True
    return status in _TRANSIENT or (500 <= status < 600 and status not in _FINAL_5XX)


def is_unknown(error: ApiError) -> bool:
    """Whether AdTarget may have counted the attempt all the same: it was sent and no definite answer came; 5xx is none."""
    if isinstance(error, Unreachable):
        return error.sent
    status = error.status or 0
    return status >= 500 or (isinstance(error, UnexpectedAnswer) and 200 <= status < 300)


def signal(reply: Reply) -> Signal:
    """What this answer, or its absence, tells about the account."""
    if not isinstance(reply, ApiError):
        return Signal.ALIVE
    if isinstance(reply, (AuthError, SubscriptionInactive)):
        return Signal.PAUSED
    if reply.status == 429:
        return Signal.LIMITED
    return Signal.FAILED if is_transient(reply) else Signal.ALIVE


def verdict(event: Event, tries: int, reply: Reply, *, now: float, random: Random, timing: Timing) -> Verdict:
    """What becomes of ``event``, of which ``tries`` attempts were made before the one that ended in ``reply``."""
    if not isinstance(reply, ApiError):
        if isinstance(event, FbpUpdate) and getattr(reply, "success", None) is False:
            return Buried(DeadReason.REFUSED, 200, "success: false")
        return Settled()
    if signal(reply) is Signal.PAUSED:
        return Again(now, counted=False)
    if not is_transient(reply):
        return Buried(DeadReason.REFUSED, reply.status, reply.answer or str(reply), str(reply))
    steps = tries + _SLOWLY if isinstance(reply, ApiDisabled) else tries
    delay = max(backoff(steps, random=random, timing=timing), reply.retry_after or 0.0)
    return Again(now + delay, unknown=is_unknown(reply))


def backoff(tries: int, *, random: Random, timing: Timing) -> float:
    """Seconds to wait after ``tries`` + 1 failures: full jitter under a ceiling that doubles (AWS, "Exponential Backoff
    And Jitter").
    """
    ceiling = min(timing.backoff_longest, timing.backoff_first * 2.0 ** min(tries, 32))
    return ceiling * random()


def outdated(claim: Claim, *, now: float) -> Buried | None:
    """The end of an event whose key AdTarget may have forgotten since an attempt of unknown outcome, or None."""
    if claim.unknown_since is None or now - claim.unknown_since < UNKNOWN_FOR:
        return None
    return Buried(DeadReason.UNKNOWN, None, "sent without a definite answer 23 h ago or more; it may have been counted")
