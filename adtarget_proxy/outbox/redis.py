"""The store of ``redis://``: one for any number of machines. What a call does is in ``redis.lua``, so that each is atomic.

Needs Redis 6.2 or newer (or Valkey), not a cluster. Journals stay on each machine: a Redis that is down delays events and loses none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, cast

from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox.store import (
    ANSWER_KEPT,
    FLIGHT_KEPT,
    LINK_KEPT,
    PATIENCE,
    SETTLED_KEPT,
    Claim,
    Counts,
    DeadLetter,
    DeadReason,
    Flight,
    JournalOffset,
    Waiting,
)
from adtarget_proxy.tracking.events import PLAIN, Event, FbpUpdate, decode

try:
    import redis as client
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ModuleNotFoundError:
    raise OutboxError("the Redis client is not installed; run: pip install 'adtarget-proxy[redis]'") from None

_log = logging.getLogger("adtarget_proxy.outbox")
BEAT = 3.0  # seconds between two signs of life of who claims
SILENCE = 10.0  # seconds without one, after which its claims are taken over
PREFIX = "adtarget:"
_TIMEOUT = 5.0  # seconds for one command
_PAGE = 200
_SAY_AGAIN = 60.0  # seconds between two log lines about a full outbox
_STANDING = ("account", "body", "fbp", "worth", "due", "tries", "unknown", "owner")
_LETTER = ("account", "body", "fbp", "reason", "status", "answer", "died_at", "tries")


class RedisStore:
    """The contract of ``Store``. Connects at its first use; every method raises OutboxError where Redis does not answer.

    ``where`` is the place without its password, for messages.
    """

    def __init__(self, url: str, *, where: str, max_events: int = 2_000_000, prefix: str = PREFIX) -> None:
        self._where = where
        self._max_events = max_events
        self._prefix = prefix
        try:
            self._client = client.Redis.from_url(
                url,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT / 2,
                health_check_interval=int(SILENCE),
                encoding_errors="surrogatepass",
                retry=Retry(NoBackoff(), 0),  # a claim that is made twice would be held by nobody
            )
        except ValueError as error:
            raise OutboxError(f"outbox {where}: {error}") from None
        self._script = self._client.register_script(_source())
        self._claiming = threading.Lock()
        self._held: set[str] = set()
        self._doubtful = False  # a claim's answer was lost, and with it what it claimed
        self._failed_at = float("-inf")
        self._said_full = float("-inf")
        self._looked = self._closed = False
        self._pulse = _Pulse(self._beat)

    # -- putting ---------------------------------------------------------------------------------------------------------

    def put(self, events: Sequence[Event], *, now: float, journal: JournalOffset | None = None) -> int:
        """See ``Store.put``. A batch whose journal offset was recorded before is passed over whole."""
        flat: list[Any] = []
        for event in events:
            fbp = event.fields["fbp"] if isinstance(event, FbpUpdate) else ""
            place = (event.id, event.account, event.visitor, event.kind, event.worth, event.at, event.not_before)
            flat += (*place, event.encode(), fbp)
        name, offset = (journal.name, journal.offset) if journal is not None else ("", 0)
        new, shed = self._do("put", now, self._max_events, name, offset, *flat)
        if shed and time.monotonic() - self._said_full >= _SAY_AGAIN:
            self._said_full = time.monotonic()
            _log.warning("the outbox is full (%d events): the least worthy are given up", self._max_events)
        return int(new)

    def offset(self, journal: str) -> int:
        """See ``Store.offset``."""
        with self._faults():
            return int(cast("bytes", self._client.hget(self._key("journals"), journal)) or 0)

    def forget_journal(self, journal: str) -> None:
        """See ``Store.forget_journal``."""
        with self._faults():
            self._client.hdel(self._key("journals"), journal)

    # -- sending ---------------------------------------------------------------------------------------------------------

    def claim(self, accounts: Collection[str], *, owner: str, now: float, limit: int) -> list[Claim]:
        """See ``Store.claim``."""
        return self._claimed(owner, "claim", owner, now, limit, _ms(SILENCE), *set(accounts)) or []

    def promote(self, account: str, visitor: str, *, owner: str, now: float) -> list[Claim] | None:
        """See ``Store.promote``."""
        return self._claimed(owner, "promote", account, visitor, owner, now, _ms(SILENCE))

    def settle(self, event_id: str, *, now: float) -> None:
        """See ``Store.settle``."""
        self._do("settle", event_id, now)
        self._held.discard(event_id)

    def put_back(self, event_id: str, *, not_before: float, now: float, unknown: bool, counted: bool = True) -> None:
        """See ``Store.put_back``."""
        self._do("put_back", event_id, not_before, now, int(unknown), int(counted))
        self._held.discard(event_id)

    def bury(self, event_id: str, *, reason: DeadReason, status: int | None, answer: str, now: float) -> None:
        """See ``Store.bury``."""
        self._do("bury", event_id, reason.value, "" if status is None else status, answer[:ANSWER_KEPT], now)
        self._held.discard(event_id)

    def release(self, owner: str) -> int:
        """See ``Store.release``."""
        self._pulse.forget(owner)
        return int(self._do("release", owner))

    def owners(self) -> set[str]:
        """See ``Store.owners``."""
        with self._faults():
            return _texts(self._client.smembers(self._key("owners")))

    def silent(self, owners: Collection[str]) -> set[str]:
        """See ``Store.silent``. Nobody is called dead for being silent while Redis could not be heard from here either."""
        names = sorted(owners)
        if not names or time.monotonic() - self._failed_at < SILENCE:
            return set()
        with self._faults():
            signs = cast("list[Any]", self._client.mget([self._key("alive:" + name) for name in names]))
        return {name for name, sign in zip(names, signs, strict=True) if sign is None}

    def next_due(self, accounts: Collection[str], *, now: float) -> float | None:
        """See ``Store.next_due``."""
        wait = self._do("next_due", now, *accounts)
        return None if wait is None else float(wait)

    def _claimed(self, owner: str, command: str, *arguments: Any) -> list[Claim] | None:
        """What a command claims for ``owner``; None where another claim is in its way."""
        with self._claiming:
            if self._doubtful:
                self._reconcile(owner)
            self._doubtful = True
            answer = self._do(command, *arguments)
            self._doubtful = False
            if isinstance(answer, bytes):
                return None
            claims = [
                Claim(_event(account, body, fbp), int(tries), _number(unknown))
                for _, (account, body, fbp, tries, unknown) in answer
            ]
            self._held.update(claim.event.id for claim in claims)
        if claims:
            self._pulse.keep(owner)
        return claims

    def _reconcile(self, owner: str) -> None:
        """Give back what this process holds without knowing."""
        with self._faults():
            claimed = _texts(self._client.smembers(self._key("claims:" + owner)))
        for event_id in claimed - self._held:
            self._do("put_back", event_id, 0, 0, 0, 0)

    def _beat(self, owner: str) -> None:
        with suppress(OutboxError), self._faults():
            self._client.set(self._key("alive:" + owner), 1, px=_ms(SILENCE))

    # -- invite links and pacing -----------------------------------------------------------------------------------------

    def begin_invite(
        self, account: str, visitor: str, slug: str, *, owner: str, now: float
    ) -> tuple[Flight, str | None]:
        """See ``Store.begin_invite``."""
        words = (account, visitor, slug, owner, now, LINK_KEPT, FLIGHT_KEPT, _ms(SILENCE))
        flight, *link = self._do("begin_invite", *words)
        if flight == b"lead":
            self._pulse.keep(owner)
        return Flight(flight.decode()), link[0].decode() if link else None

    def end_invite(self, account: str, visitor: str, slug: str, *, link: str | None, now: float) -> None:
        """See ``Store.end_invite``."""
        self._do("end_invite", account, visitor, slug, link or "", now)

    def take(self, account: str, *, now: float, rate: float, burst: float, reserve: float) -> float:
        """See ``Store.take``."""
        return float(self._do("take", account, now, rate, burst, reserve))

    def hold(self, account: str, *, until: float) -> None:
        """See ``Store.hold``."""
        self._do("hold", account, until)

    def level(self, account: str, *, now: float, rate: float, burst: float) -> float:
        """See ``Store.level``."""
        return float(self._do("level", account, now, rate, burst))

    # -- looking after ---------------------------------------------------------------------------------------------------

    def expire(self, *, now: float, max_age: Mapping[str, float], limit: int = 1000) -> int:
        """See ``Store.expire``; returns how many were buried."""
        limits = [word for kind, age in max_age.items() for word in (kind, now - age)]
        before = (now - PATIENCE, now - SETTLED_KEPT, now - LINK_KEPT)
        return int(self._do("expire", now, limit, "older than max_age", *before, *limits))

    def counts(self, accounts: Collection[str] | None = None) -> Counts:
        """See ``Store.counts``."""
        chosen = sorted(self._accounts() if accounts is None else accounts)
        with self._faults():
            pipe = self._client.pipeline(transaction=False)
            pipe.hgetall(self._key("lost"))
            for account in chosen:
                pipe.hgetall(self._key("t:" + account))
            lost, *tallies = pipe.execute()
        sums = {name: sum(int(tally.get(name.encode(), 0)) for tally in tallies) for name in _TALLIED}
        return Counts(**sums, lost={bound.decode(): int(number) for bound, number in lost.items()})

    def waiting(self, accounts: Collection[str] | None = None) -> Iterator[Waiting]:
        """See ``Store.waiting``."""
        for worth in range(1, PLAIN + 1):
            for event_id in self._walk(f"w:{worth}"):
                found = self._standing(event_id)
                if found is not None and (accounts is None or found.event.account in accounts):
                    yield found

    def dead_letters(self, accounts: Collection[str] | None = None) -> Iterator[DeadLetter]:
        """See ``Store.dead_letters``."""
        for event_id in self._walk("dead"):
            found = self._letter(event_id)
            if found is not None and (accounts is None or found.event.account in accounts):
                yield found

    def find(self, event_id: str) -> Waiting | DeadLetter | None:
        """See ``Store.find``."""
        return self._standing(event_id) or self._letter(event_id)

    def accounts(self) -> set[str]:
        """See ``Store.accounts``."""
        return self._accounts() - {""}

    def replay(self, event_id: str, *, now: float) -> bool:
        """See ``Store.replay``."""
        return bool(self._do("replay", event_id, now))

    def purge(self, event_id: str) -> bool:
        """See ``Store.purge``."""
        return bool(self._do("purge", event_id))

    def erase(self, visitor: str, *, now: float) -> int:
        """See ``Store.erase``. An append-only file keeps what is deleted until Redis rewrites it (BGREWRITEAOF)."""
        return int(self._do("erase", visitor, now))

    def adopt(self, source: str, target: str, *, limit: int = 1000) -> int:
        """See ``Store.adopt``."""
        return int(self._do("adopt", source, target, limit))

    def close(self) -> None:
        """See ``Store.close``."""
        self._closed = True
        self._pulse.stop()
        with suppress(client.RedisError):
            self._client.close()

    def _accounts(self) -> set[str]:
        with self._faults():
            return _texts(self._client.smembers(self._key("accounts")))

    def _walk(self, index: str) -> Iterator[str]:
        """The ids of a sorted set from the lowest score on, page by page, so that a long list holds nobody up."""
        last, passed = "-inf", 0
        while True:
            with self._faults():
                page = cast(
                    "list[tuple[bytes, float]]",
                    self._client.zrangebyscore(
                        self._key(index), last, "+inf", start=passed, num=_PAGE, withscores=True
                    ),
                )
            if not page:
                return
            for event_id, _ in page:
                yield event_id.decode()
            score = repr(page[-1][1])
            level = sum(repr(each) == score for _, each in page)
            last, passed = score, (passed + level if score == last else level)

    def _standing(self, event_id: str) -> Waiting | None:
        account, body, fbp, worth, due, tries, unknown, owner = self._fields("e:" + event_id, _STANDING)
        if body is None:
            return None
        event, by = _event(account, body, fbp), None if owner is None else owner.decode()
        return Waiting(event, int(worth), float(due), int(tries), _number(unknown), by)

    def _letter(self, event_id: str) -> DeadLetter | None:
        account, body, fbp, reason, status, answer, died_at, tries = self._fields("d:" + event_id, _LETTER)
        if body is None:
            return None
        event = _event(account, body, fbp)
        said = answer.decode("utf-8", "surrogatepass")
        return DeadLetter(
            event, DeadReason(reason.decode()), int(status) if status else None, said, float(died_at), int(tries)
        )

    # -- Redis -----------------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _fields(self, name: str, fields: Sequence[str]) -> list[Any]:
        with self._faults():
            return cast("list[Any]", self._client.hmget(self._key(name), list(fields)))

    def _do(self, command: str, *arguments: Any) -> Any:
        """Run a command of the script."""
        with self._faults():
            return self._script(keys=[self._prefix], args=[command, *arguments])

    def _faults(self) -> _Faults:
        if self._closed:
            raise OutboxError(f"outbox {self._where}: closed")
        return _Faults(self)

    def reached(self) -> None:
        """Redis answers. At the first time it is asked how it keeps what it is given, and a warning said where it may forget."""
        if self._looked:
            return
        self._looked = True
        with suppress(client.RedisError):  # a hosted one may not tell
            told = self._client.info("everything")
            if not told.get("aof_enabled"):
                _log.warning(
                    "outbox %s: appendonly is off, so a restart of Redis loses events that wait; set appendonly yes",
                    self._where,
                )
            policy = told.get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                _log.warning(
                    "outbox %s: Redis may evict events that wait (maxmemory-policy %s); set it to noeviction",
                    self._where,
                    policy,
                )

    def missed(self, error: Exception) -> OutboxError:
        """Redis did not answer, or refused; what to raise."""
        self._failed_at = time.monotonic()
        return OutboxError(f"outbox {self._where}: {str(error).partition(chr(10))[0]}")


_TALLIED = ("waiting", "claimed", "dead", "sent")


class _Faults:
    """Turns the client's errors into ours, and tells the store how Redis is."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._store.reached()
        elif isinstance(error, (client.RedisError, OSError)):
            raise self._store.missed(error) from None


class _Pulse:
    """Signs of life of the owners that claim through a store, in a thread of their own that starts with the first of them."""

    def __init__(self, beat: Any) -> None:
        self._beat = beat
        self._owners: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def keep(self, owner: str) -> None:
        """From now on, every ``BEAT`` seconds."""
        if owner in self._owners:
            return
        with self._lock:
            self._owners.add(owner)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="adtarget-pulse", daemon=True)
                with suppress(RuntimeError):  # the interpreter is on its way out; so is the claim
                    self._thread.start()

    def forget(self, owner: str) -> None:
        """No more of this one."""
        with self._lock:
            self._owners.discard(owner)

    def stop(self) -> None:
        """No more at all."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(BEAT):
            for owner in tuple(self._owners):
                self._beat(owner)


@cache
def _source() -> str:
    return files(__package__).joinpath("redis.lua").read_text(encoding="utf-8")


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _number(text: bytes | None) -> float | None:
    return None if text is None else float(text)


def _texts(members: Any) -> set[str]:
    return {member.decode("utf-8", "surrogatepass") for member in members}


def _event(account: bytes, body: bytes, fbp: bytes | None) -> Event:
    """The event as it was put, with what has changed since: an adoption, an amendment."""
    event = decode(body.decode("ascii"))
    if fbp is not None:
        event = replace(event, fields={**event.fields, "fbp": fbp.decode("utf-8", "surrogatepass")})
    home = account.decode()
    return event if event.account == home else replace(event, account=home)
