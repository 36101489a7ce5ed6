"""What the cache keeps of mail that has come and has no UID yet.

It lies in the layers under numbers of its own, and belongs to a file: its name, inode, size and time
of change. It goes over to the UID when something is asked of the folder; what is of no message by
then, or of a file that another program has changed, is dropped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

import apsw

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.cache import LAYERS, CacheFile, Whole
from resel_lda.maildir.claim import Claim
from resel_lda.maildir.database import all_rows
from resel_lda.maildir.files import read_all, with_crlf
from resel_lda.maildir.header import cut, header_of
from resel_lda.maildir.layout import MailLocation
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

# A file's inode, size and time of change (ns).
Identity = tuple[int, int, int]

_GUID = "arrived"
_NUMBERS = 0xFFFFFFFF
# Larger ones are left for later, so that a few cannot fill the memory.
_LARGEST = 16 * 1024 * 1024


def prepare(cache: CacheFile, inbox: str, bases: Sequence[str]) -> None:
    """Make all that is kept of messages in new/ of the Maildir `inbox`; those that are there no
    more are left out. Blocks. Raises OSError, apsw.Error."""
    for base in bases:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(os.path.join(inbox, "new", base), os.O_RDONLY | os.O_CLOEXEC)
            identity = identity_of(os.fstat(fd))
            if identity[1] > _LARGEST:
                os.close(fd)
                continue
            _add(cache, base, identity, with_crlf(read_all(fd)))


def identity_of(stat: os.stat_result) -> Identity:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _add(cache: CacheFile, base: str, identity: Identity, message: bytes) -> None:
    header, whole = header_of(message), Whole(message)
    rows = {
        name: layer.make(whole if layer.of_message else header) for name, layer in LAYERS.items()
    }
    fields = {number: cut(header, names) for names, number in cache.field_sets().items()}

    def work(db: apsw.Connection) -> None:
        first = cache.folder_key(db, _GUID)
        db.execute(
            "INSERT OR REPLACE INTO arrived (base, inode, size, mtime) VALUES (?, ?, ?, ?)",
            (base, *identity),
        )
        key = first + db.last_insert_rowid()
        for name, row in rows.items():
            marks = ", ?" * len(row)
            db.execute(f"INSERT OR REPLACE INTO {name} VALUES (?{marks})", (key, *row))
        db.executemany(
            "INSERT OR REPLACE INTO fields VALUES (?, ?, ?)",
            [(number, key, octets) for number, octets in fields.items()],
        )

    cache.database.run(work)


def take_in(
    cache: CacheFile,
    guid: str,
    uids: Mapping[str, int],
    identify: Callable[[int], Identity | None],
) -> None:
    """Give what was made to the messages of a folder. uids: by base. identify: the file that a
    message is in now. Blocks. Raises apsw.Error."""

    def work(db: apsw.Connection) -> None:
        arrived = all_rows(db, "SELECT number, base, inode, size, mtime FROM arrived")
        if not arrived:
            return
        first, target = cache.folder_key(db, _GUID), cache.folder_key(db, guid)
        keys: list[tuple[int, int]] = []
        for number, base, *identity in arrived:
            uid = uids.get(base)
            if uid is not None and identify(uid) == tuple(identity):
                keys.append((target + uid, first + number))
        everything = first, first + _NUMBERS
        for name in LAYERS:
            db.executemany(f"UPDATE OR IGNORE {name} SET key = ? WHERE key = ?", keys)
            db.execute(f"DELETE FROM {name} WHERE key BETWEEN ? AND ?", everything)
        for (number,) in all_rows(db, "SELECT id FROM field_set"):
            change = f"UPDATE OR IGNORE fields SET key = ? WHERE field_set = {number} AND key = ?"
            db.executemany(change, keys)
            remove = f"DELETE FROM fields WHERE field_set = {number} AND key BETWEEN ? AND ?"
            db.execute(remove, everything)
        db.execute("DELETE FROM arrived")

    # Asked outside of a transaction, since there are none nearly always.
    if cache.database.read(lambda db: all_rows(db, "SELECT 1 FROM arrived LIMIT 1")):
        cache.database.run(work)


def prepare_closed(location: MailLocation, bases: Sequence[str], disk: Disk, log: MailLog) -> bool:
    """`prepare` for a user whose store nobody has open; False if somebody has, who makes it
    himself then. Blocks. Raises OSError, apsw.Error."""
    disk.make_directories(location.control)
    disk.make_directories(location.index)
    claim = Claim(location.control, patience=0.0)
    try:
        claim.take()
    except MailboxError:
        return False
    try:
        cache = CacheFile(os.path.join(location.index, "cache"), disk, log)
        try:
            prepare(cache, location.inbox, bases)
        finally:
            cache.database.close()
    finally:
        claim.release()
    return True
