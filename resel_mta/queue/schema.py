"""The queue's database: its tables, and opening it.

One connection, exclusively locked (no shared-memory file, no lock system calls per commit), WAL
with every commit synced. SQLite before 3.51.3 can lose committed transactions in WAL mode when
two connections meet; ours is one, but an older library is refused all the same.
"""

from __future__ import annotations

import contextlib
import os

import apsw

from resel_mta.queue.ledger import TABLE

MINIMUM_SQLITE = 3_051_003
VERSION = 2
PAGE_SIZE = 4096
WAL_PAGES = 4096
"""The WAL is checkpointed when it reaches this many pages (16 MB) and starts over."""

FREE_PAGES = 4096
"""So many pages may stay free in the database; of more, those at its end go when it is idle."""
FREED_AT_ONCE = 2048

ROWS_LOST = "rows_lost"
"""meta.key of a database that cannot know of every body in content/: it is new, or was salvaged."""
LIVE, HELD, CORRUPT, TRASHED = 0, 1, 2, 3
"""message.state"""
PENDING, DONE = 0, 1
"""recipient.status"""

# recipients: all of them as one JSON array (see rows.pack), until something has to be noted about one
# of them; from then on "", and they are rows of their own. Most mail is delivered at the first
# attempt, and never has any.
# due, waiting: only messages that nobody has claimed and recipients whose next hop is down are in
# the indexes, so that a message which is entered, delivered and removed at once never touches them.
SCHEMA = """
CREATE TABLE message(
  id INTEGER PRIMARY KEY,
  arrival REAL NOT NULL,
  size INTEGER NOT NULL,
  reverse_path TEXT NOT NULL,
  body TEXT NOT NULL,
  smtputf8 INTEGER NOT NULL,
  ret TEXT NOT NULL,
  envid TEXT NOT NULL,
  protocol TEXT NOT NULL,
  state INTEGER NOT NULL,
  owner TEXT,
  next_attempt REAL NOT NULL,
  expires REAL NOT NULL,
  warned INTEGER NOT NULL,
  spooled INTEGER,
  recipients TEXT NOT NULL
) STRICT;
CREATE INDEX due ON message(next_attempt) WHERE owner IS NULL AND state = 0;
CREATE TABLE content(
  id INTEGER PRIMARY KEY,
  header BLOB NOT NULL,
  body BLOB
) STRICT;
CREATE TABLE recipient(
  message INTEGER NOT NULL,
  row INTEGER NOT NULL,
  address TEXT NOT NULL,
  orig_to TEXT NOT NULL,
  reverse_path TEXT,
  orcpt TEXT NOT NULL,
  notify INTEGER NOT NULL,
  via TEXT NOT NULL,
  status INTEGER NOT NULL,
  next_attempt REAL NOT NULL,
  attempts INTEGER NOT NULL,
  reply TEXT NOT NULL,
  relay TEXT NOT NULL,
  waits_for TEXT NOT NULL,
  PRIMARY KEY(message, row)
) STRICT, WITHOUT ROWID;
CREATE INDEX waiting ON recipient(waits_for) WHERE waits_for <> '';
CREATE TABLE owner(name TEXT PRIMARY KEY, lease REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""


# Beside a version's own tables. trash.state: what message.state was before.
BESIDE = """
CREATE TABLE IF NOT EXISTS token(
  token TEXT PRIMARY KEY,
  message INTEGER NOT NULL,
  at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trash(
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  state INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS trash_at ON trash(at);
"""


TABLES = ("message", "content", "recipient", "owner", "meta", "token", "trash", "ledger")


def is_damage(error: BaseException) -> bool:
    """Whether an error means that what lies in the database is not what was written."""
    if isinstance(error, apsw.SQLError):
        return str(error).startswith("malformed JSON")
    return isinstance(error, apsw.CorruptError | apsw.NotADBError | UnicodeDecodeError)


def is_fatal(error: BaseException) -> bool:
    """Whether an error is about the database, and not about what was asked of it."""
    return is_damage(error) or isinstance(error, apsw.IOError | apsw.FullError | OSError)


class UnusableLibrary(Exception):
    """SQLite is too old to be trusted with WAL."""


class UnknownVersion(Exception):
    """The database was made by another release, which this one cannot read."""


def open_database(path: str, vfs: str | None = None) -> apsw.Connection:
    """Open (or make) the queue's database; `settle` it before anything is changed.

    Raises OSError, UnusableLibrary, UnknownVersion, apsw.Error.
    """
    if apsw.SQLITE_VERSION_NUMBER < MINIMUM_SQLITE:
        raise UnusableLibrary(f"SQLite {apsw.sqlite_lib_version()} is older than 3.51.3")
    _keep_private(path)
    db = apsw.Connection(path, vfs=vfs, statementcachesize=200)
    try:
        _prepare(db)
    except BaseException:
        close_damaged(db)
        raise
    return db


def close_damaged(db: apsw.Connection) -> None:
    """Close a database of which nothing more is wanted; a damaged one may fail even at that."""
    with contextlib.suppress(apsw.Error):
        db.close()


def _keep_private(path: str) -> None:
    """Mail is in it, whatever the umask of whoever comes first (a root's `mailq`); SQLite gives
    the WAL the mode of the database. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for each in (path, f"{path}-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.chmod(each, 0o600)


def _prepare(db: apsw.Connection) -> None:
    db.pragma("locking_mode", "EXCLUSIVE")
    db.pragma("page_size", PAGE_SIZE)
    version = db.pragma("user_version")
    if version == 0:
        # Lets the file shrink in small steps after a backlog. Only a new file takes it; in
        # another it would be a write, at each start, and a full disk has no room for that.
        db.pragma("auto_vacuum", "INCREMENTAL")
    mode = db.pragma("journal_mode", "WAL")
    if mode != "wal":
        raise UnusableLibrary(f"the queue's file system cannot do WAL (journal mode {mode})")
    db.pragma("synchronous", "FULL")
    db.pragma("temp_store", "MEMORY")
    db.pragma("cache_size", -16384)
    db.pragma("journal_size_limit", WAL_PAGES * PAGE_SIZE)
    db.wal_autocheckpoint(WAL_PAGES)
    if version == 0:
        try:
            with db:
                db.execute(SCHEMA)
                db.execute("INSERT INTO meta VALUES(?, 1)", (ROWS_LOST,))
                db.pragma("user_version", VERSION)
        except apsw.SQLError as error:
            # It is there already: not a new file after all.
            raise apsw.CorruptError(f"schema: {error}") from error
    elif version != VERSION:
        raise UnknownVersion(f"the queue has format {version}, this release reads {VERSION}")
    try:
        db.execute(BESIDE + TABLE)
        for table in TABLES:
            db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()
    except apsw.SQLError as error:
        raise apsw.CorruptError(f"schema: {error}") from error


def check_envelopes(db: apsw.Connection) -> None:
    """Raises apsw.CorruptError if a row of `message` or `recipient` may be there and not be found:
    mail that nobody would ever try again. What is wrong with a content shows when it is read."""
    for table in ("message", "recipient"):
        check = db.execute(f"PRAGMA integrity_check({table})").get
        if check != "ok":
            raise apsw.CorruptError(" ".join(str(check).split()))


def may_lack_rows(db: apsw.Connection) -> bool:
    """Whether there may have been messages that have no row now."""
    return db.execute("SELECT 1 FROM meta WHERE key = ?", (ROWS_LOST,)).get is not None


def settle(db: apsw.Connection) -> None:
    """Move what the WAL holds into the database and sync it: after a failed sync, only that makes
    sure that what is read is on the disk. Raises apsw.Error, FullError when there is no room."""
    db.pragma("wal_checkpoint", "TRUNCATE")


def shrink(db: apsw.Connection) -> bool:
    """Give some of what is free back to the file system. Whether there is more to give."""
    free = db.pragma("freelist_count")
    if not isinstance(free, int) or free <= FREE_PAGES:
        return False
    give = min(free - FREE_PAGES, FREED_AT_ONCE)
    db.execute(f"PRAGMA incremental_vacuum({give})").fetchall()
    more = free - give > FREE_PAGES
    if not more:
        # Only then the file itself gets shorter.
        db.pragma("wal_checkpoint", "TRUNCATE")
    return more
