"""How delivery is doing, as one value for consoles and health checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adtarget_proxy.delivery.breaker import State
from adtarget_proxy.outbox.store import Counts


@dataclass(frozen=True, slots=True)
class AccountHealth:
    """One account: whether it is used, and if not, why. ``account`` is ``Account.id``, which gives no key away."""

    account: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """``counts`` is None where the store cannot be read; ``lost`` counts, by cause, the events that this process gave up.

    ``hindrance`` says what keeps this process from sending at all: a server without threads.
    """

    accounts: tuple[AccountHealth, ...]
    counts: Counts | None
    lost: Mapping[str, int] = field(default_factory=dict)
    running: bool = False
    hindrance: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything that is to be sent can be."""
        well = all(account.state is State.OK for account in self.accounts)
        return well and self.counts is not None and not self.hindrance
