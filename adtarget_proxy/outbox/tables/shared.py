"""What all senders of an account share besides its events: invite links, flights, who asks without cookies, the token bucket."""

from __future__ import annotations

from sqlite3 import Connection

from adtarget_proxy.outbox.bucket import SKEW, Bucket
from adtarget_proxy.outbox.store import ASKING_KEPT, FLIGHT_KEPT, LINK_KEPT, Flight

Key = tuple[str, str, str]  # account, visitor, slug


def begin_invite(db: Connection, key: Key, *, owner: str, now: float) -> tuple[Flight, str | None]:
    """See ``Store.begin_invite``."""
    row = db.execute("SELECT link, at FROM links WHERE account = ? AND visitor = ? AND slug = ?", key).fetchone()
    if row is not None:
        link, age = row[0], abs(now - row[1])  # one from the future was kept by a clock that has gone back
        if link is not None and age < LINK_KEPT:
            return Flight.LINK, str(link)
        if link is None and age < FLIGHT_KEPT:
            return Flight.FOLLOW, None
    db.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?, NULL, ?, ?)", (*key, owner, now))
    return Flight.LEAD, None


def end_invite(db: Connection, key: Key, *, link: str | None, now: float) -> None:
    """See ``Store.end_invite``. A flight without a link does not take away one that another has brought."""
    if link is not None:
        db.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, NULL, ?)", (*key, link, now))
    else:
        db.execute("DELETE FROM links WHERE account = ? AND visitor = ? AND slug = ? AND link IS NULL", key)


def admit(db: Connection, account: str, network: str, *, now: float, limit: int | None) -> bool:
    """See ``Store.admit``. What a clock that has since gone back has counted counts no more."""
    counted = db.execute(
        "SELECT count(*) FROM askings WHERE account = ? AND network = ? AND at > ? AND at <= ?",
        (account, network, now - ASKING_KEPT, now + SKEW),
    ).fetchone()[0]
    if limit is not None and counted >= limit:
        return False
    db.execute("INSERT INTO askings VALUES (?, ?, ?)", (account, network, now))
    return True


def take(db: Connection, account: str, *, now: float, rate: float, burst: float, reserve: float, number: int) -> float:
    """See ``Store.take``."""
    before = bucket_of(db, account) or Bucket(burst, now)
    bucket, wait = before.take(now=now, rate=rate, burst=burst, reserve=reserve, number=number)
    if bucket is not before:
        keep_bucket(db, account, bucket)
    return wait


def bucket_of(db: Connection, account: str) -> Bucket | None:
    """The account's bucket; None for one that nobody has used."""
    row = db.execute("SELECT tokens, at, until, share, slowed FROM buckets WHERE account = ?", (account,)).fetchone()
    return Bucket(*row) if row else None


def keep_bucket(db: Connection, account: str, bucket: Bucket) -> None:
    """Write it down."""
    db.execute(
        "INSERT OR REPLACE INTO buckets (account, tokens, at, until, share, slowed) VALUES (?, ?, ?, ?, ?, ?)",
        (account, bucket.tokens, bucket.at, bucket.until, bucket.share, bucket.slowed),
    )
