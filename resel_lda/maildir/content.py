"""Reading a folder's messages: whole, their headers, and what the cache keeps of them. Everything
blocks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import apsw

from resel_lda.mailbox import Part
from resel_lda.maildir.arrivals import Identity, identity_of, take_in
from resel_lda.maildir.cache import LAYERS, TEXT_COLUMNS, CacheFile, Whole
from resel_lda.maildir.files import read_all, with_crlf
from resel_lda.maildir.header import cut, header_of, read_header, set_name
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import base_of, size_in_name
from resel_lda.maildir.needles import Needles
from resel_lda.maildir.readahead import MAX_OCTETS
from resel_lda.maildir.state import StateFile
from resel_lda.mime.rawsearch import may_contain
from resel_lda.mime.searchtext import whole_text
from resel_lda.mime.sections import header_fields
from resel_mta.maillog import MailLog

# Rows handed to the cache at a time.
_BATCH = 500


class MessageReader:
    """Needs no lock: the index is only looked at. Any thread may call it. arrivals: mail is
    delivered to this folder (see `arrivals`)."""

    def __init__(
        self,
        index: FolderIndex,
        state: StateFile,
        cache: CacheFile,
        log: MailLog,
        arrivals: bool = False,
    ) -> None:
        self._index = index
        self.state = state
        self.cache = cache
        self._log = log
        self._expects_arrivals = arrivals
        self._sizes: dict[int, int] = {}
        self.needles = Needles()
        # UIDs that have a row in the layer "search", once that was asked.
        self._searchable: set[int] | None = None

    @property
    def guid(self) -> str:
        """Under which the cache has this folder: with another UIDVALIDITY it is another folder."""
        uidlist = self._index.uidlist
        return f"{uidlist.guid}.{uidlist.uidvalidity}"

    def open(self, uid: int) -> tuple[int, str] | None:
        """(descriptor, name in cur/); None if the message is gone."""
        name = self._index.name(uid)
        if name is None:
            return None
        files = self._index.files
        try:
            return os.open(f"{files.cur}/{name}", os.O_RDONLY | os.O_CLOEXEC), name
        except FileNotFoundError:
            return files.open_message(base_of(name), name)

    def read(self, uid: int) -> bytes | None:
        stored = self._stored(uid)
        return None if stored is None else with_crlf(stored)

    def _stored(self, uid: int) -> bytes | None:
        """With the line ends that it has on disk."""
        opened = self.open(uid)
        return None if opened is None else read_all(opened[0])

    def read_with(self, uid: int, others: Sequence[int]) -> tuple[bytes | None, dict[int, bytes]]:
        """A message, and of the others as many as are not too large together."""
        data = self.read(uid)
        found: dict[int, bytes] = {}
        octets = 0
        for other in others:
            opened = self.open(other)
            if opened is None:
                continue
            octets += os.fstat(opened[0]).st_size
            if octets > MAX_OCTETS:
                os.close(opened[0])
                break
            found[other] = with_crlf(read_all(opened[0]))
        return data, found

    def read_many(self, uids: Sequence[int]) -> dict[int, bytes]:
        """Without those that are gone."""
        found = {}
        for uid in uids:
            data = self.read(uid)
            if data is not None:
                found[uid] = data
        return found

    def may_contain(self, uids: Sequence[int], needle: str) -> set[int]:
        """Those whose decoded text may contain `needle` (folded, no line ends)."""
        found: set[int] = set()
        try:
            first = self.cache.first_key(self.guid)
            keys, unknown = self.cache.fulltext.possible([first + uid for uid in uids], needle)
            found = {key - first for key in keys}
            uids = [key - first for key in unknown]
        except apsw.Error as error:
            self._failed(error)
        for uid in uids:
            opened = self.open(uid)
            if opened is not None and may_contain(read_all(opened[0]), needle):
                found.add(uid)
        return found

    def _identify(self, uid: int) -> Identity | None:
        name = self._index.name(uid)
        with contextlib.suppress(OSError):
            return identity_of(os.stat(self._index.files.path(name))) if name is not None else None
        return None

    def take_arrivals(self) -> None:
        """What was made of messages when they came is theirs, from the first time that something
        is asked of the folder. Raises apsw.Error."""
        if self._expects_arrivals:
            self._expects_arrivals = False
            take_in(self.cache, self.guid, self._index.uids, self._identify)

    # What the cache keeps. It must not keep anyone from reading mail: its failures are logged.

    def _failed(self, error: apsw.Error) -> None:
        self._log.warning("imap", f"{self.cache.database.path}: {error}")

    def rows(
        self, layer: str, columns: Sequence[str], uids: Sequence[int]
    ) -> dict[int, tuple[Any, ...]]:
        """Columns of a layer, from the cache or made now. Messages that are gone are left out."""
        found: dict[int, tuple[Any, ...]] = {}
        try:
            self.take_arrivals()
            found = self.cache.rows(self.guid, layer, columns, uids)
        except apsw.Error as error:
            self._failed(error)
        if len(found) < len(uids) or any(uid not in found for uid in uids):
            places = [LAYERS[layer].columns.index(name) for name in columns]
            for some in self._make(layer, [uid for uid in uids if uid not in found]):
                if len(places) == 1:
                    found.update([(uid, (row[places[0]],)) for uid, row in some])
                else:
                    pick = itemgetter(*places)
                    found.update([(uid, pick(row)) for uid, row in some])
        return found

    def single(self, layer: str, uids: Sequence[int]) -> dict[int, Any]:
        """As `rows`, of a layer with one column."""
        found: dict[int, Any] = {}
        try:
            self.take_arrivals()
            found = self.cache.single(self.guid, layer, uids)
        except apsw.Error as error:
            self._failed(error)
        if len(found) < len(uids) or any(uid not in found for uid in uids):
            for some in self._make(layer, [uid for uid in uids if uid not in found]):
                found.update([(uid, row[0]) for uid, row in some])
        return found

    def _make(self, name: str, uids: Sequence[int]) -> Iterator[list[tuple[int, tuple[Any, ...]]]]:
        """Rows of messages that have none yet, kept from now on."""
        layer = LAYERS[name]
        for start in range(0, len(uids), _BATCH):
            batch = uids[start : start + _BATCH]
            if layer.of_message:
                rows = [
                    (uid, layer.make(Whole(stored)))
                    for uid in batch
                    if (stored := self._stored(uid)) is not None
                ]
            else:
                headers = self._read_headers(batch) if name == "header" else self.headers(batch)
                rows = [(uid, layer.make(octets)) for uid, octets in headers.items()]
            self._remember(name, rows)
            yield rows

    def _remember(self, layer: str, rows: list[tuple[int, tuple[Any, ...]]]) -> None:
        try:
            self.cache.add(self.guid, layer, rows)
        except apsw.Error as error:
            self._failed(error)
            return
        if layer == "search" and self._searchable is not None:
            self._searchable.update(uid for uid, _ in rows)

    def parts(self, uids: Sequence[int]) -> dict[int, Part]:
        envelopes = self.single("envelope", uids)
        structures = self.rows("structure", ("body", "bodystructure"), uids)
        sizes = self.sizes(uids)
        return {
            uid: Part(envelopes[uid], structures[uid][0], structures[uid][1], sizes[uid])
            for uid in uids
            if uid in envelopes and uid in structures and uid in sizes
        }

    def forget(self, uids: Sequence[int]) -> None:
        """Expunged messages. Their UIDs are never used again, so there is no hurry."""
        for uid in uids:
            self._sizes.pop(uid, None)
        if self._searchable is not None:
            self._searchable.difference_update(uids)
        self.needles.forget(uids)
        with contextlib.suppress(apsw.Error):
            self.cache.remove(self.guid, uids)

    def copied(self, pairs: Sequence[tuple[int, int]], target: str) -> None:
        """What is kept of messages holds for their copies (uid, new uid) in the folder `target`."""
        try:
            self.cache.copy(self.guid, pairs, target)
        except apsw.Error as error:
            self._failed(error)

    def fill(self, uids: Sequence[int]) -> None:
        """Make all that is not kept yet of these messages (at least one), each read once."""
        self.take_arrivals()
        missing: dict[str, set[int]] = {}
        for name in LAYERS:
            known = self.cache.single(self.guid, name, uids)
            missing[name] = {uid for uid in uids if uid not in known}
        rows: dict[str, list[tuple[int, tuple[Any, ...]]]] = {name: [] for name in LAYERS}
        headers: dict[int, bytes] = {}
        first = self.cache.first_key(self.guid)
        indexed = self.cache.fulltext.known(first + min(uids), first + max(uids))
        missing["fulltext"] = {uid for uid in uids if first + uid not in indexed}
        texts: list[tuple[int, str]] = []
        for uid in uids:
            # One at a time in memory: they may be large.
            message = self.read(uid) if any(uid in some for some in missing.values()) else None
            if message is None:
                continue
            headers[uid] = header_of(message)
            whole = Whole(message)
            for name, layer in LAYERS.items():
                if uid in missing[name]:
                    rows[name].append(
                        (uid, layer.make(whole if layer.of_message else headers[uid]))
                    )
            if uid in missing["fulltext"]:
                texts.append((first + uid, whole_text(message, headers[uid], whole.root)))
        for name, made in rows.items():
            self.cache.add(self.guid, name, made)
        self.cache.fulltext.add(texts)
        for names, number in self.cache.field_sets().items():
            cut = [(uid, cut(header, names)) for uid, header in headers.items()]
            self.cache.add_fields(self.guid, number, cut)

    def unfilled(self, uids: Sequence[int], last: int = 0) -> list[int]:
        """Those that `fill` has not seen yet. last: these are all up to this UID, so that others are
        gone: expunged by another program, or just before a kill."""
        self.take_arrivals()
        if last:
            self.cache.keep_only(self.guid, uids, last)
        layers = ("search", "sort", "structure", "content", "parts")
        known = [self.cache.known(self.guid, layer) for layer in layers]
        if uids:
            first = self.cache.first_key(self.guid)
            keys = self.cache.fulltext.known(first + min(uids), first + max(uids))
            known.append({key - first for key in keys})
        return [uid for uid in uids if not all(uid in some for some in known)]

    # Headers.

    def headers(self, uids: Sequence[int]) -> dict[int, bytes]:
        """Header blocks with the empty line."""
        found: dict[int, bytes | None] = {}
        with contextlib.suppress(apsw.Error):
            self.take_arrivals()
            found = self.cache.single(self.guid, "header", uids)
        headers = {uid: octets for uid, octets in found.items() if octets is not None}
        if len(headers) < len(uids) or any(uid not in headers for uid in uids):
            read = self._read_headers([uid for uid in uids if uid not in headers])
            make = LAYERS["header"].make
            fresh = [(uid, make(octets)) for uid, octets in read.items() if uid not in found]
            if fresh:
                self._remember("header", fresh)
            headers.update(read)
        return headers

    def _read_headers(self, uids: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for uid in uids:
            opened = self.open(uid)
            if opened is None:
                continue
            fd = opened[0]
            try:
                found[uid] = read_header(fd)
            finally:
                os.close(fd)
        return found

    def fields(
        self, uids: Sequence[int], names: Sequence[bytes], exclude: bool
    ) -> dict[int, bytes]:
        """These fields (exclude: all others) and an empty line, as HEADER.FIELDS has them."""
        key = set_name(names, exclude)
        number = 0
        found: dict[int, bytes] = {}
        try:
            number = self.cache.field_set(key)
            self.take_arrivals()
            if number:
                found = self.cache.fields(self.guid, number, uids)
        except apsw.Error as error:
            self._failed(error)
        missing = [uid for uid in uids if uid not in found]
        for start in range(0, len(missing), _BATCH):
            headers = self.headers(missing[start : start + _BATCH])
            fresh = [
                (uid, header_fields(header, names, exclude)) for uid, header in headers.items()
            ]
            found.update(fresh)
            if number:
                try:
                    self.cache.add_fields(self.guid, number, fresh)
                except apsw.Error as error:
                    self._failed(error)
        return found

    def find(self, column: str, needle: str, uids: Sequence[int]) -> set[int] | None:
        """UIDs whose text in a column of "search" contains `needle` (folded); None if the cache
        does not have all of these messages, and cannot be made to have them."""
        if column not in TEXT_COLUMNS:
            raise ValueError(f"column {column!r}")
        try:
            for _ in range(2):
                generation = self.cache.database.generation
                if not self._all_searchable(uids):
                    return None
                found = self.cache.find(self.guid, column, needle)
                if generation == self.cache.database.generation:
                    return found
                # The file was damaged and is a new one now.
                self._searchable = None
        except apsw.Error as error:
            self._failed(error)
        return None

    def _all_searchable(self, uids: Sequence[int]) -> bool:
        self.take_arrivals()
        if self._searchable is None:
            self._searchable = self.cache.known(self.guid, "search")
        gone = 0
        missing = [uid for uid in uids if uid not in self._searchable]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            made = sum(len(rows) for rows in self._make("search", batch))
            gone += len(batch) - made
        return len([uid for uid in missing if uid not in self._searchable]) <= gone

    # Sizes.

    def sizes(self, uids: Sequence[int]) -> dict[int, int]:
        """From the file's name, the UID list, the cache, or by reading the message."""
        sizes = self._sizes
        unknown = [uid for uid in uids if uid not in sizes]
        if unknown:
            self._find_sizes(unknown)
        return {uid: sizes[uid] for uid in uids if uid in sizes}

    def _find_sizes(self, uids: Sequence[int]) -> None:
        index, sizes = self._index, self._sizes
        unnamed: list[int] = []
        for uid in uids:
            base = index.bases.get(uid)
            if base is None:
                continue
            size = size_in_name(base, "W")
            if size is None:
                size = _noted_size(index.uidlist.noted(base))
            if size is None:
                unnamed.append(uid)
            else:
                sizes[uid] = size
        if unnamed:
            sizes.update(self.single("size", unnamed))


def _noted_size(extensions: str) -> int | None:
    """The W of a line of the UID list."""
    for word in extensions.split():
        if word[0] == "W" and word[1:].isdigit():
            return int(word[1:])
    return None
