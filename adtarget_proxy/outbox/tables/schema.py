"""The schema of the outbox' tables, and what brings an older file up to it.

``events`` keeps each event at its place (``seq``), ``queues`` one row a visitor with what a claim needs to know of it, indexed in
the order of claims. A queue is READY, CLAIMED, or ASLEEP: its head has a due time, which a claim looks at once it has passed.
"""

from __future__ import annotations

from sqlite3 import Connection

from adtarget_proxy.errors import OutboxError

READY, ASLEEP, CLAIMED = 0, 1, 2  # queues.state

# What brings a file from version N to N+1; a new version appends one and never edits an old one.
MIGRATIONS = (
    """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, queue INTEGER NOT NULL, kind TEXT NOT NULL, worth INTEGER NOT NULL,
        at REAL NOT NULL, due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, unknown_since REAL, owner TEXT,
        body TEXT NOT NULL);
    CREATE INDEX events_in_queue ON events (queue, seq);
    CREATE INDEX events_worth_in_queue ON events (queue, worth);
    CREATE INDEX updates_in_queue ON events (queue) WHERE kind = 'fbp-update';
    CREATE INDEX events_by_worth ON events (worth, at);
    CREATE INDEX events_by_age ON events (kind, at);
    CREATE INDEX events_claimed ON events (owner) WHERE owner IS NOT NULL;
    CREATE TABLE queues (
        id INTEGER PRIMARY KEY, account TEXT NOT NULL, visitor TEXT NOT NULL, worth INTEGER NOT NULL, head INTEGER NOT NULL,
        head_at REAL NOT NULL, due REAL NOT NULL, state INTEGER NOT NULL, UNIQUE (account, visitor));
    CREATE INDEX queues_ready ON queues (account, worth, head_at, head) WHERE state = 0;
    CREATE INDEX queues_asleep ON queues (account, due) WHERE state = 1;
    CREATE TABLE dead (
        n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, account TEXT NOT NULL, reason TEXT NOT NULL,
        status INTEGER, answer TEXT NOT NULL, died_at REAL NOT NULL, tries INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE TABLE settled (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX settled_by_age ON settled (at);
    CREATE TABLE visits (
        account TEXT NOT NULL, visitor TEXT NOT NULL, at REAL NOT NULL, settled_at REAL NOT NULL,
        PRIMARY KEY (account, visitor)) WITHOUT ROWID;
    CREATE INDEX visits_by_age ON visits (settled_at);
    CREATE TABLE links (
        account TEXT NOT NULL, visitor TEXT NOT NULL, slug TEXT NOT NULL, link TEXT, owner TEXT, at REAL NOT NULL,
        PRIMARY KEY (account, visitor, slug)) WITHOUT ROWID;
    CREATE INDEX links_by_age ON links (at);
    CREATE INDEX links_by_owner ON links (owner) WHERE owner IS NOT NULL;
    CREATE TABLE buckets (account TEXT PRIMARY KEY, tokens REAL NOT NULL, at REAL NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE journals (name TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE tally (
        account TEXT PRIMARY KEY, waiting INTEGER NOT NULL, claimed INTEGER NOT NULL, dead INTEGER NOT NULL,
        sent INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE lost (bound TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE buckets ADD COLUMN share REAL NOT NULL DEFAULT 1.0;
    ALTER TABLE buckets ADD COLUMN slowed REAL NOT NULL DEFAULT 0.0;
    CREATE TABLE askings (account TEXT NOT NULL, network TEXT NOT NULL, at REAL NOT NULL);
    CREATE INDEX askings_of_network ON askings (account, network, at);
    CREATE INDEX askings_by_age ON askings (at);
    """,
    """
    CREATE INDEX dead_by_visitor ON dead (json_extract(body, '$.v'));
    CREATE INDEX queues_by_visitor ON queues (visitor);
    CREATE INDEX links_by_visitor ON links (visitor);
    """,
)


def migrate(db: Connection) -> None:
    """Bring the tables to this version. Raises OutboxError where they are a newer one's."""
    if _version(db) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # again: another process may have been first
        if version > len(MIGRATIONS):
            raise OutboxError(f"the outbox was written by a newer adtarget-proxy (schema {version})")
        for script in MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _version(db: Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
