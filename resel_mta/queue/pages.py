"""The rows of a damaged SQLite file, read without SQLite, page by page.

Nothing is asked of the pages that say where a table begins and how it goes on (the schema, the
inner pages of a tree): each leaf is read for itself, so a damaged page costs only what it held.
Tables are told apart by the shape of their rows. Pages on the free list are left out: they still
hold the rows of mail that was delivered long ago.

Layout: https://www.sqlite.org/fileformat2.html; the log of changes (WAL) is followed as far as its
checksums hold, as SQLite does.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from resel_mta.queue.schema import PAGE_SIZE

Value = int | float | str | bytes | None
Record = tuple[Value, ...]

MAGIC = b"SQLite format 3\0"
_WAL_HEADER, _FRAME_HEADER = 32, 24
_INTERIOR_INDEX, _LEAF_INDEX, _LEAF_TABLE = 2, 10, 13
_POINTERS = PAGE_SIZE // 5
"""Entries of a pointer map: page 2, and every so many pages, say what the pages behind them are."""
_IS_ROOT, _IS_FREE = b"\1", b"\2"
_LEAST = (PAGE_SIZE - 12) * 32 // 255 - 23
_MOST = {
    _LEAF_TABLE: PAGE_SIZE - 35,
    _LEAF_INDEX: (PAGE_SIZE - 12) * 64 // 255 - 23,
    _INTERIOR_INDEX: (PAGE_SIZE - 12) * 64 // 255 - 23,
}
"""Octets of a row that lie in its page itself: at least, if not all of them do; at most."""
LARGEST_ROW = 64 * 1024 * 1024
"""Octets; a row that claims to be larger is none."""
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Damaged(Exception):
    """What is here is no row."""


class Pages:
    """A database file with what its WAL holds. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._file = _open(path)
        self._log = _open(f"{path}-wal")
        self._frames: dict[int, int] = {}
        self.count = 0 if self._file is None else os.fstat(self._file.fileno()).st_size // PAGE_SIZE
        if self._log is not None:
            self._read_log(self._log)

    def close(self) -> None:
        for file in (self._file, self._log):
            if file is not None:
                file.close()

    def _read_log(self, log: BinaryIO) -> None:
        """Which page lies where, up to the last commit."""
        header = log.read(_WAL_HEADER)
        if len(header) < _WAL_HEADER or header[:3] != b"\x37\x7f\x06":
            return
        order = ">" if header[3] & 1 else "<"
        sums = _checksum(header[:24], (0, 0), order)
        pending: dict[int, int] = {}
        if sums != struct.unpack(">II", header[24:]):
            return
        while len(frame := log.read(_FRAME_HEADER + PAGE_SIZE)) == _FRAME_HEADER + PAGE_SIZE:
            number, size, *_ = struct.unpack(">II", frame[:8])
            sums = _checksum(frame[:8] + frame[_FRAME_HEADER:], sums, order)
            if frame[8:16] != header[16:24] or sums != struct.unpack(">II", frame[16:24]):
                return
            pending[number] = log.tell() - PAGE_SIZE
            if size:
                self._frames.update(pending)
                pending.clear()
                self.count = size

    def page(self, number: int) -> bytes:
        """A page; shorter or empty if the file ends before."""
        place = self._frames.get(number)
        file = self._file if place is None else self._log
        if file is None or not 0 < number <= self.count:
            return b""
        return os.pread(
            file.fileno(), PAGE_SIZE, (number - 1) * PAGE_SIZE if place is None else place
        )

    def rows(self) -> Iterator[Record]:
        """Every row of every table; where a table has a rowid, that is the column that is None.
        Entries of indexes are rows like others."""
        free = self._free_list()
        mapped = self._has_pointer_maps()
        pointers = b""
        for number in range(2, self.count + 1):
            behind = (number - 2) % (_POINTERS + 1)
            page = self.page(number)
            if mapped and behind == 0:
                pointers = page
            if len(page) < PAGE_SIZE or page[0] not in _MOST or number in free:
                continue
            place = (behind - 1) * 5
            if not behind or pointers[place : place + 1] != _IS_FREE:
                yield from self._rows_of(page)

    def _has_pointer_maps(self) -> bool:
        first = self.page(1)
        if first.startswith(MAGIC):
            return any(first[52:56])
        # What they say first is that page 3 is a root.
        return self.page(2)[:1] == _IS_ROOT

    def _free_list(self) -> set[int]:
        first = self.page(1)
        found: set[int] = set()
        if not first.startswith(MAGIC):
            return found
        trunk = int.from_bytes(first[32:36])
        while 0 < trunk <= self.count and trunk not in found:
            found.add(trunk)
            page = self.page(trunk)
            leaves = min(int.from_bytes(page[4:8]), PAGE_SIZE // 4 - 2)
            found.update(struct.unpack_from(f">{leaves}I", page.ljust(PAGE_SIZE, b"\0"), 8))
            trunk = int.from_bytes(page[:4])
        return found

    def _rows_of(self, page: bytes) -> Iterator[Record]:
        kind = page[0]
        start = 12 if kind == _INTERIOR_INDEX else 8
        cells = int.from_bytes(page[3:5])
        if start + 2 * cells > PAGE_SIZE:
            return
        for place in struct.unpack_from(f">{cells}H", page, start):
            try:
                yield self._row(page, kind, place)
            except (Damaged, struct.error, IndexError, UnicodeDecodeError):
                # Counted by what is missing of its message.
                continue

    def _row(self, page: bytes, kind: int, place: int) -> Record:
        if kind == _INTERIOR_INDEX:
            place += 4
        length, place = _varint(page, place)
        rowid = None
        if kind == _LEAF_TABLE:
            rowid, place = _varint(page, place)
        values = _decode(self._payload(page, place, length, _MOST[kind]))
        if rowid is not None and values and values[0] is None:
            return (rowid, *values[1:])
        return values

    def _payload(self, page: bytes, place: int, length: int, most: int) -> bytes:
        if length > LARGEST_ROW:
            raise Damaged
        here = length
        if length > most:
            here = _LEAST + (length - _LEAST) % (PAGE_SIZE - 4)
            if here > most:
                here = _LEAST
        if place + here + (4 if here < length else 0) > PAGE_SIZE:
            raise Damaged
        parts = [page[place : place + here]]
        following = page[place + here : place + here + 4]
        while here < length:
            more = self.page(int.from_bytes(following))
            part = more[4 : 4 + length - here]
            if not part:
                raise Damaged
            parts.append(part)
            here += len(part)
            following = more[:4]
        return b"".join(parts)


def _open(path: str) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for n in range(8):
        octet = data[place + n]
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            return value, place + n + 1
    return value << 8 | data[place + 8], place + 9


def _decode(payload: bytes) -> Record:
    end, place = _varint(payload, 0)
    values: list[Value] = []
    at = end
    while place < end:
        kind, place = _varint(payload, place)
        if kind in _INTEGERS or kind == 7 or kind >= 12:
            size = _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2)
            raw = payload[at : at + size]
            if len(raw) != size:
                raise Damaged
            at += size
            values.append(_value(kind, raw))
        elif kind in (0, 8, 9):
            values.append(None if kind == 0 else kind - 8)
        else:
            raise Damaged
    if at != len(payload) or place != end:
        raise Damaged
    return tuple(values)


def _value(kind: int, raw: bytes) -> Value:
    if kind < 7:
        return int.from_bytes(raw, signed=True)
    if kind == 7:
        number: float = struct.unpack(">d", raw)[0]
        return number
    return raw.decode() if kind % 2 else raw
