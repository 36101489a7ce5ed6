"""`cache` of one user: what can be computed again from the messages. Delete it and nothing is lost.

Each layer is a table whose key is the folder's number and the UID in one integer, so that a
folder's messages lie together in the order of their UIDs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import apsw

from resel_lda.maildir import fulltext
from resel_lda.maildir.database import Database, all_rows
from resel_lda.maildir.files import with_crlf
from resel_lda.mime.lookup import SearchRow, SortRow, search_row, sort_row
from resel_lda.mime.places import noted_places
from resel_lda.mime.preview import preview_of
from resel_lda.mime.sections import (
    Node,
    envelope_of,
    flat_structures,
    parse,
    render_structures,
)
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

_UIDS = 0xFFFFFFFF
# Larger header blocks are read from the message each time.
_MAX_HEADER = 16 * 1024
# Sets of header fields that clients ask for and that are kept ready; further ones are cut out of
# the header each time.
_MAX_FIELD_SETS = 8
_BATCH = 500


class Whole:
    """A message as it is stored. Its structure is looked for once, and only if it is needed."""

    def __init__(self, stored: bytes) -> None:
        self.stored = stored

    @cached_property
    def octets(self) -> bytes:
        """With CR LF line ends."""
        return with_crlf(self.stored)

    @cached_property
    def root(self) -> Node:
        return parse(self.octets, with_envelope=False)


@dataclass(frozen=True, slots=True)
class Layer:
    """columns: names in the table, after the key. make: a row from a header block, or from a
    `Whole` (of_message)."""

    columns: tuple[str, ...]
    make: Callable[[Any], tuple[Any, ...]]
    of_message: bool = False


def _structure(message: Whole) -> tuple[bytes, bytes]:
    bare = b"\r" not in message.stored
    flat = flat_structures(message.stored if bare else message.octets, bare)
    if flat is None and bare:
        return render_structures(parse(message.stored, with_envelope=False), bare)
    return flat or render_structures(message.root)


def _content(message: Whole) -> tuple[bytes, str]:
    digest = hashlib.blake2b(message.octets, digest_size=16).digest()
    return digest, preview_of(message.octets, message.root)


def _places(message: Whole) -> tuple[str | None]:
    return (noted_places(message.octets, message.root),)


LAYERS: Mapping[str, Layer] = {
    "header": Layer(("octets",), lambda header: (header if len(header) <= _MAX_HEADER else None,)),
    "envelope": Layer(("octets",), lambda header: (envelope_of(header),)),
    "structure": Layer(("body", "bodystructure"), _structure, of_message=True),
    "size": Layer(("octets",), lambda message: (len(message.octets),), of_message=True),
    "search": Layer(SearchRow._fields, search_row),
    "sort": Layer(SortRow._fields, sort_row),
    "content": Layer(("digest", "preview"), _content, of_message=True),
    "parts": Layer(("places",), _places, of_message=True),
}
# What SEARCH may be asked of the layer "search".
TEXT_COLUMNS = frozenset(SearchRow._fields) - {"day"}

_SCHEMA = (
    "CREATE TABLE folder (id INTEGER PRIMARY KEY, guid TEXT NOT NULL UNIQUE);"
    "CREATE TABLE field_set (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);"
    "CREATE TABLE fields (field_set INTEGER, key INTEGER, octets BLOB, PRIMARY KEY (field_set, key))"
    " WITHOUT ROWID;"
    + "".join(
        f"CREATE TABLE {name} (key INTEGER PRIMARY KEY, {', '.join(layer.columns)});"
        for name, layer in LAYERS.items()
        if name not in ("content", "parts")
    )
)
_CONTENT = "CREATE TABLE content (key INTEGER PRIMARY KEY, digest, preview)"
# See `arrivals`. Strings of broken mail were made otherwise before.
_ARRIVED = """
CREATE TABLE arrived (number INTEGER PRIMARY KEY, base TEXT NOT NULL UNIQUE, inode, size, mtime);
DELETE FROM envelope;
DELETE FROM structure;
"""
_PARTS = "CREATE TABLE parts (key INTEGER PRIMARY KEY, places)"


class CacheFile:
    """Methods block; raise apsw.Error."""

    def __init__(self, path: str, disk: Disk, log: MailLog) -> None:
        steps = (_SCHEMA, fulltext.SCHEMA, _CONTENT, _ARRIVED, _PARTS, fulltext.SHARED)
        self.database = Database(path, steps, disk, log, oldest=1)
        self.fulltext = fulltext.FullText(self.database)
        self._folders: dict[str, int] = {}
        self._field_sets: dict[str, int] = {}
        self._generation = 0

    def _forget_numbers(self) -> None:
        """After a damaged file was replaced, what was known of the old one is void."""
        if self._generation != self.database.generation:
            self._generation = self.database.generation
            self._folders.clear()
            self._field_sets.clear()

    def folder_key(self, db: apsw.Connection, guid: str) -> int:
        """The first key of a folder, within a transaction of the caller's."""
        self._forget_numbers()
        number = self._folders.get(guid)
        if number is None:
            db.execute("INSERT OR IGNORE INTO folder (guid) VALUES (?)", (guid,))
            number = int(all_rows(db, "SELECT id FROM folder WHERE guid = ?", guid)[0][0])
            self._folders[guid] = number
        return number << 32

    def first_key(self, guid: str) -> int:
        """What is added to a UID of this folder to make its key."""
        return self.database.run(lambda db: self.folder_key(db, guid))

    def rows(
        self, guid: str, layer: str, columns: Sequence[str], uids: Sequence[int]
    ) -> dict[int, tuple[Any, ...]]:
        """uid -> these of the layer's columns, of those messages that have a row."""
        names = ", ".join(columns)

        def work(db: apsw.Connection) -> dict[int, tuple[Any, ...]]:
            first = self.folder_key(db, guid)
            found: dict[int, tuple[Any, ...]] = {}
            sql = f"SELECT key - {first}, {names} FROM {layer} WHERE key "
            for condition, values in _conditions(first, uids):
                for row in db.execute(sql + condition, values):
                    found[row[0]] = row[1:]
            return found

        return self.database.read(work)

    def single(self, guid: str, layer: str, uids: Sequence[int]) -> dict[int, Any]:
        """As `rows`, of a layer with one column."""
        column = LAYERS[layer].columns[0]

        def work(db: apsw.Connection) -> dict[int, Any]:
            first = self.folder_key(db, guid)
            found: dict[int, Any] = {}
            sql = f"SELECT key - {first}, {column} FROM {layer} WHERE key "
            for condition, values in _conditions(first, uids):
                found.update(all_rows(db, sql + condition, *values))
            return found

        return self.database.read(work)

    def known(self, guid: str, layer: str) -> set[int]:
        """UIDs that have a row."""

        def work(db: apsw.Connection) -> set[int]:
            first = self.folder_key(db, guid)
            sql = f"SELECT key - {first} FROM {layer} WHERE key BETWEEN ? AND ?"
            return {uid for (uid,) in db.execute(sql, (first, first + _UIDS))}

        return self.database.read(work)

    def find(self, guid: str, column: str, needle: str) -> set[int]:
        """UIDs whose text in this column of "search" contains `needle`; an empty one: that have
        such a field at all."""

        def work(db: apsw.Connection) -> set[int]:
            first = self.folder_key(db, guid)
            test = f"instr({column}, ?)" if needle else f"{column} IS NOT NULL AND ? = ''"
            sql = f"SELECT key - {first} FROM search WHERE key BETWEEN ? AND ? AND {test}"
            return {uid for (uid,) in db.execute(sql, (first, first + _UIDS, needle))}

        return self.database.read(work)

    def add(self, guid: str, layer: str, rows: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
        """rows: (uid, the layer's columns)."""
        marks = ", ?" * len(LAYERS[layer].columns)

        def work(db: apsw.Connection) -> None:
            first = self.folder_key(db, guid)
            db.executemany(
                f"INSERT OR REPLACE INTO {layer} VALUES (?{marks})",
                [(first + uid, *row) for uid, row in rows],
            )

        self.database.run(work)

    # Ready-made sets of header fields.

    def field_set(self, names: str) -> int:
        """The number of a set that is kept; 0 if it is not and there is no room for it."""

        def work(db: apsw.Connection) -> int:
            self._forget_numbers()
            known: dict[str, int] = dict(all_rows(db, "SELECT names, id FROM field_set"))
            if names not in known and len(known) < _MAX_FIELD_SETS:
                db.execute("INSERT INTO field_set (names) VALUES (?)", (names,))
                known[names] = db.last_insert_rowid()
            self._field_sets = known
            return known.get(names, 0)

        return self._field_sets.get(names) or self.database.run(work)

    def field_sets(self) -> dict[str, int]:
        """All that are kept."""
        return self.database.read(lambda db: dict(all_rows(db, "SELECT names, id FROM field_set")))

    def fields(self, guid: str, number: int, uids: Sequence[int]) -> dict[int, bytes]:
        """uid -> octets of a set."""

        def work(db: apsw.Connection) -> dict[int, bytes]:
            first = self.folder_key(db, guid)
            found: dict[int, bytes] = {}
            sql = f"SELECT key - {first}, octets FROM fields WHERE field_set = {number} AND key "
            for condition, values in _conditions(first, uids):
                found.update(all_rows(db, sql + condition, *values))
            return found

        return self.database.read(work)

    def add_fields(self, guid: str, number: int, rows: Iterable[tuple[int, bytes]]) -> None:
        def work(db: apsw.Connection) -> None:
            first = self.folder_key(db, guid)
            db.executemany(
                "INSERT OR REPLACE INTO fields VALUES (?, ?, ?)",
                [(number, first + uid, octets) for uid, octets in rows],
            )

        self.database.run(work)

    # Forgetting.

    def remove(self, guid: str, uids: Collection[int]) -> None:
        """Expunged messages."""

        def work(db: apsw.Connection) -> None:
            first = self.folder_key(db, guid)
            keys = [(first + uid,) for uid in uids]
            for layer in LAYERS:
                db.executemany(f"DELETE FROM {layer} WHERE key = ?", keys)
            for (number,) in all_rows(db, "SELECT id FROM field_set"):
                db.executemany(f"DELETE FROM fields WHERE field_set = {number} AND key = ?", keys)
            self.fulltext.remove(db, keys)

        self.database.run(work)

    def keep_only(self, guid: str, uids: Collection[int], last: int) -> None:
        """Forget messages, up to the UID `last`, that are not among these."""
        known = set[int]().union(*(self.known(guid, layer) for layer in LAYERS))
        gone = [uid for uid in known.difference(uids) if uid <= last]
        if gone:
            self.remove(guid, gone)

    def copy(self, guid: str, pairs: Sequence[tuple[int, int]], target: str) -> None:
        """Copied messages (uid, new uid) have all that is kept of them."""

        def work(db: apsw.Connection) -> None:
            first, second = self.folder_key(db, guid), self.folder_key(db, target)
            keys = [(second + new, first + old) for old, new in pairs]
            for name, layer in LAYERS.items():
                columns = ", ".join(layer.columns)
                db.executemany(
                    f"INSERT OR IGNORE INTO {name} SELECT ?, {columns} FROM {name} WHERE key = ?",
                    keys,
                )
            for (number,) in all_rows(db, "SELECT id FROM field_set"):
                db.executemany(
                    f"INSERT OR IGNORE INTO fields SELECT {number}, ?, octets FROM fields"
                    f" WHERE field_set = {number} AND key = ?",
                    keys,
                )
            self.fulltext.copy(db, keys)

        self.database.run(work)

    def forget(self, guid: str) -> None:
        """A deleted folder, whatever its UIDVALIDITY was."""

        def work(db: apsw.Connection) -> None:
            for (name,) in all_rows(db, "SELECT guid FROM folder WHERE guid GLOB ?", f"{guid}.*"):
                forget(db, name)

        def forget(db: apsw.Connection, name: str) -> None:
            first = self.folder_key(db, name)
            for layer in LAYERS:
                db.execute(f"DELETE FROM {layer} WHERE key BETWEEN ? AND ?", (first, first + _UIDS))
            for (number,) in all_rows(db, "SELECT id FROM field_set"):
                db.execute(
                    "DELETE FROM fields WHERE field_set = ? AND key BETWEEN ? AND ?",
                    (number, first, first + _UIDS),
                )
            self.fulltext.forget(db, first, first + _UIDS)
            db.execute("DELETE FROM folder WHERE guid = ?", (name,))
            self._folders.pop(name, None)

        self.database.run(work)


def _conditions(first: int, uids: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """SQL for these UIDs: as a range where few others lie between. A range may give
    rows of messages that were not asked for."""
    if not uids:
        return
    if len(uids) == 1:
        yield "= ?", (first + uids[0],)
        return
    low, high = min(uids), max(uids)
    if high - low < 2 * len(uids) + 16:
        yield "BETWEEN ? AND ?", (first + low, first + high)
    else:
        for start in range(0, len(uids), _BATCH):
            batch = uids[start : start + _BATCH]
            yield f"IN ({','.join('?' * len(batch))})", tuple(first + uid for uid in batch)
