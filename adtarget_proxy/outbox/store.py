"""The store's contract: what waits, in which order it goes, who has it, and what became of it.

Three engines keep it (memory, SQLite, Redis) and one test suite runs over all of them. Every method is synchronous, safe to
call from several threads, and takes the time (Unix seconds) as an argument, so that a test can own the clock. Writes are atomic:
a process that dies inside a call leaves the store as it was before it or after it.

A visitor's events (same account, same ``visitor``) are one queue, in the order of their puts. A queue takes the worth of its
worthiest event; among queues of one worth the one whose head was made first goes first. A claim takes events from the head
of a queue only, and while a queue's head is claimed nothing behind it can be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from adtarget_proxy.outbox.bucket import LONGEST_HOLD, SKEW
from adtarget_proxy.tracking.events import Event, Written

SETTLED_KEPT = 48 * 3600.0  # seconds that a settled id is remembered
WITHDRAWN = "withdrawn "  # before a visitor, among the settled ids: no event of theirs made up to then comes in
LINK_KEPT = 60.0  # seconds that an invite link is remembered
ASKING_KEPT = 60.0  # seconds that a visitor without cookies counts for their network
FLIGHT_KEPT = 15.0  # seconds after which a flight is taken over
PATIENCE = 900.0  # seconds after which a plain visit rises one class
DEAD_KEPT = 30 * 86_400.0  # seconds that a dead letter is kept
MAX_DEAD = 100_000  # dead letters that are kept
LONGEST_SLEEP = LONGEST_HOLD + SKEW  # seconds: further ahead no event is due, unless a clock went back
ANSWER_KEPT = 2048  # characters of an answer in a dead letter


@dataclass(frozen=True, slots=True)
class Claim:
    """An event in the hands of one process, until it is settled, put back, buried, or its owner dies."""

    event: Event
    tries: int  # attempts made before this claim
    unknown_since: float | None  # when the first attempt without a definite answer was made, or None


@dataclass(frozen=True, slots=True)
class JournalOffset:
    """How far a journal has been moved into the store: recorded in the same transaction as the events it brought."""

    name: str  # the journal's file name
    offset: int  # bytes


class DeadReason(StrEnum):
    """Why an event will not be sent any more."""

    REFUSED = "refused"  # AdTarget said no for good
    EXPIRED = "expired"  # older than max_age
    UNKNOWN = "unknown"  # sent, no definite answer, and AdTarget may have forgotten the key by now
    SHED = "shed"  # the outbox was full and this was the least worthy


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that ended without AdTarget's yes, with what AdTarget said last."""

    event: Event
    reason: DeadReason
    status: int | None
    answer: str  # at most 2 KB of AdTarget's answer, or our own words
    died_at: float
    tries: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that has not ended, as it stands in its queue."""

    event: Event
    worth: int  # its class now: a plain visit rises
    due: float  # not sent before this time (Unix seconds); 0.0: at once
    tries: int
    unknown_since: float | None
    owner: str | None  # who has claimed it


@dataclass(frozen=True, slots=True)
class Counts:
    """How many events there are, for status pages and for flush()."""

    waiting: int = 0
    claimed: int = 0
    dead: int = 0
    sent: int = 0  # since the store was made
    lost: Mapping[str, int] = field(default_factory=dict)  # bound → events given up on it


class Flight(StrEnum):
    """What ``begin_invite`` answers."""

    LINK = "link"  # the visitor has a link for this slug from the last 60 s
    LEAD = "lead"  # nobody is asking: the caller asks AdTarget, then calls end_invite
    FOLLOW = "follow"  # another call for the same visitor and slug is under way: look again


class Store(Protocol):
    """See the module's docstring. ``account`` is ``Account.id``; ``owner`` is the name of the claiming process' journal."""

    @property
    def stretch(self) -> int:
        """Bytes of a journal that one put should take: while it is under way, others wait."""

    # -- putting ---------------------------------------------------------------------------------------------------------
    def put(self, events: Sequence[Event | Written], *, now: float, journal: JournalOffset | None = None) -> int:
        """Add events; returns how many were new. Idempotent by event id, against settled ones of the last 48 h too.

        One with ``asked_at`` has had its first attempt without a definite answer then.

        An FbpUpdate whose visitor's newest waiting Visit is untried and unclaimed amends that visit (its ``fbp`` field)
        and is itself settled; one whose ``fbp`` a visit put after it already carried is dropped.

        A Withdrawal is carried out and not kept: what its visitor has here that was made up to then, claimed or not, dead letters and
        links too, is deleted, and so is what comes in of it during the next 48 h, from whatever journal. Conversions stay, without
        what they borrowed (``LENT``).
        """

    def offset(self, journal: str) -> int:
        """How far this journal has been moved into the store; 0 where it is not known."""

    def forget_journal(self, journal: str) -> None:
        """Drop the offset of a journal whose file has been deleted."""

    # -- sending ---------------------------------------------------------------------------------------------------------
    def claim(self, accounts: Collection[str], *, owner: str, now: float, limit: int) -> list[Claim]:
        """Up to ``limit`` events of these accounts in order of worth, at most one a visitor, each due (``not_before``)."""

    def promote(self, account: str, visitor: str, *, owner: str, now: float) -> list[Claim] | None:
        """Claim the visitor's waiting events up to and with their newest Visit, past every other queue.

        [] where no visit waits; None where one is in another claim's hands right now (look again).
        """

    def settle(self, event_id: str, *, now: float) -> None:
        """AdTarget took it. Its id stays behind for 48 h, also where the event was never put (a click answered at once)."""

    def put_back(self, event_id: str, *, not_before: float, now: float, unknown: bool, counted: bool = True) -> None:
        """It goes again, not before that time, at its old place in its queue. ``unknown``: this attempt had no definite answer.

        ``counted=False``: no attempt was made (a pause, a shutdown); ``tries`` stays.
        """

    def bury(self, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float) -> None:
        """To the dead letters; what stood behind it may go."""

    def release(self, owner: str) -> int:
        """Free every claim and every invite flight of a dead process; returns how many claims."""

    def owners(self) -> set[str]:
        """Who holds claims or flights."""

    def silent(self, owners: Collection[str]) -> set[str]:
        """Which of these, none of whom has a journal on this machine, are dead: all, unless the store is shared by machines.

        Then those of whom nothing was heard for 10 s: who claims is heard of every 3 s.
        """

    # -- invite links ----------------------------------------------------------------------------------------------------
    def begin_invite(
        self, account: str, visitor: str, slug: str, *, owner: str, now: float
    ) -> tuple[Flight, str | None]:
        """One call at a time for a visitor and slug, over all processes; the link where one of the last 60 s is known.

        A flight whose leader has not ended it after 15 s is taken over.
        """

    def end_invite(self, account: str, visitor: str, slug: str, *, link: str | None, now: float) -> None:
        """The flight is over; a link is remembered for 60 s."""

    def admit(self, account: str, network: str, *, now: float, limit: int | None) -> bool:
        """Whether one more visitor without cookies of this network may ask for a link; they count for 60 s from then on.

        False where ``limit`` (None: none) count already, and the refused does not. ``network`` is the caller's name for it, not
        an address; it is forgotten after those 60 s.
        """

    # -- pacing ----------------------------------------------------------------------------------------------------------
    def take(self, account: str, *, now: float, rate: float, burst: float, reserve: float, number: int = 1) -> float:
        """Take so many tokens of the account's bucket, shared by all, or none; returns 0.0, or the seconds to wait for them.

        ``rate`` in tokens a second, ``burst`` the bucket's size; ``reserve`` tokens are left in it for others.
        """

    def hold(self, account: str, *, until: float) -> None:
        """AdTarget said wait (Retry-After): the bucket is empty for all until then."""

    def halve(self, account: str, *, began: float, now: float) -> None:
        """AdTarget said 429 where it documents no limit: for all, the bucket refills at half its rate, a sixteenth at the least.

        It recovers in a straight line, in 300 s from half to all of it. ``began``: when the attempt did; one that had begun
        before the rate was last halved says nothing about the new one.
        """

    def level(self, account: str, *, now: float, rate: float, burst: float) -> float:
        """Tokens in the bucket now."""

    # -- looking after ---------------------------------------------------------------------------------------------------
    def expire(self, *, now: float, max_age: Mapping[str, float], limit: int = 1000) -> int:
        """Bury what is older than ``max_age[kind]`` seconds; forget settled ids after 48 h, links and networks after 60 s.

        It is ``expired``, or ``unknown`` where an attempt with it had no definite answer.

        Dead letters are kept for 30 days, and no more of them than the store's bound: the oldest go first, and those that go at the bound
        are counted as lost.

        Also lifts plain visits that have waited 15 minutes by one class, once, and wakes what is not due for ``LONGEST_SLEEP``: a
        clock that has since gone back put it to sleep. At most ``limit`` of each a call.
        """

    def counts(self, accounts: Collection[str] | None = None) -> Counts:
        """How many wait, are claimed, are dead, were sent; for these accounts or all."""

    def next_due(self, accounts: Collection[str], *, now: float) -> float | None:
        """Seconds until an unclaimed event of these accounts is due (0.0: now), or None where none waits."""

    def dead_letters(self, accounts: Collection[str] | None = None) -> Iterator[DeadLetter]:
        """All dead letters, oldest first."""

    def waiting(self, accounts: Collection[str] | None = None) -> Iterator[Waiting]:
        """What waits or is claimed, by worth and age. What changes during the walk may be missed."""

    def find(self, event_id: str) -> Waiting | DeadLetter | None:
        """The event of this id, whatever became of it; None where it was settled or never put."""

    def accounts(self) -> set[str]:
        """Every account that events were ever put for."""

    def replay(self, event_id: str, *, now: float) -> bool:
        """A dead letter waits again, under its old key; False where there is none of this id."""

    def purge(self, event_id: str) -> bool:
        """Delete a dead letter for good."""

    def erase(self, visitor: str, *, now: float) -> int:
        """Delete what is kept of a visitor under every account, claimed or not, dead letters, links and all; returns how many events.

        Their ids count as settled, so that none comes back from a journal.
        """

    def adopt(self, source: str, target: str, *, limit: int = 1000) -> int:
        """Give events and dead letters of one account to another; returns how many, about ``limit`` at most a call.

        A visitor's queue moves whole, into the one it has there already, in order of the puts. What is claimed stays.
        """

    def close(self) -> None:
        """Let go of files and connections. A closed store is opened again by nobody."""
