"""Large messages, read piece by piece: of none more than a block is in memory."""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import apsw

from resel_lda.large_message import LargeMessage
from resel_lda.mailbox import MailboxError
from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.files import with_crlf
from resel_lda.maildir.header import read_header
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import size_in_name
from resel_lda.maildir.transfer import InThread
from resel_lda.mime.places import DIGEST_SIZE, Place, read_places

# Octets with CR LF line ends from which on a message is large.
LARGE = 1 << 20
_BLOCK = 1 << 18
# Messages whose layout is kept: some clients ask for one of them in many pieces.
_KEPT = 8

# Device, inode, size and modification time of a file.
_Version = tuple[int, int, int, int]


class Layout(NamedTuple):
    """Of a file in blocks: where each begins in the message with CR LF line ends, and in the file.
    size: of the message with CR LF line ends."""

    starts: list[int]
    positions: list[int]
    size: int


class LargeMessages:
    """Of one folder. in_thread: runs what blocks, and makes a MailboxError of its OSError."""

    def __init__(self, index: FolderIndex, reader: MessageReader, in_thread: InThread) -> None:
        self._index = index
        self._reader = reader
        self._in_thread = in_thread
        self._lock = threading.Lock()
        self._layouts: dict[_Version, Layout] = {}

    def may_be(self, uid: int) -> bool:
        """False where the name of the file says that it is small, or there is none."""
        base = self._index.bases.get(uid)
        if base is None:
            return False
        size = size_in_name(base, "W") or size_in_name(base, "S")
        return size is None or size >= LARGE

    async def open(self, uid: int) -> LargeMessage | None:
        """None if it is small, or gone. Raises MailboxError."""
        opened: _Opened | None = await self._in_thread(self._open, uid)
        return opened

    def _open(self, uid: int) -> _Opened | None:
        found = self._reader.open(uid)
        if found is None:
            return None
        opened = _Opened(self._reader, uid, found[0], self._in_thread)
        try:
            if os.fstat(found[0]).st_size >= LARGE // 2:
                opened.layout = self._layout(found[0])
                if opened.size >= LARGE:
                    return opened
        except BaseException:
            opened.close()
            raise
        opened.close()
        return None

    def _layout(self, fd: int) -> Layout:
        status = os.fstat(fd)
        version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        layout = self._layouts.get(version)
        if layout is None:
            layout = lay_out(fd)
            with self._lock:
                while len(self._layouts) >= _KEPT:
                    del self._layouts[next(iter(self._layouts))]
                self._layouts[version] = layout
        return layout


class _Opened:
    """Implements `LargeMessage`."""

    def __init__(self, reader: MessageReader, uid: int, fd: int, in_thread: InThread) -> None:
        self._reader = reader
        self._uid = uid
        self._fd = fd
        self._in_thread = in_thread
        self.layout = Layout([], [], 0)

    def __del__(self) -> None:
        # Whoever waited for it has gone away.
        self.close()

    @property
    def size(self) -> int:
        return self.layout.size

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def text(self) -> tuple[int, int]:
        start: int = await self._in_thread(self._header_size)
        return start, self.size

    def _header_size(self) -> int:
        os.lseek(self._fd, 0, os.SEEK_SET)
        return len(read_header(self._fd))

    async def part(self, path: Sequence[int]) -> tuple[int, int] | None:
        place: Place | None = await self._in_thread(self._place, path)
        if place is None:
            return None
        digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
        async for piece in self.pieces(place.start, place.start + place.length):
            digest.update(piece)
        if digest.hexdigest() != place.digest:
            return None
        return place.start + place.body, place.start + place.length

    def _place(self, path: Sequence[int]) -> Place | None:
        try:
            self._reader.take_arrivals()
            noted = self._reader.cache.single(self._reader.guid, "parts", [self._uid])
        except apsw.Error:
            return None
        if noted.get(self._uid) is None:
            return None
        places = read_places(noted[self._uid])
        if places.size != self.size:
            return None
        return places.parts.get(".".join(map(str, path)))

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        if start >= end:
            return
        block = bisect_right(self.layout.starts, start) - 1
        position = self.layout.positions[block]
        skip, left = start - self.layout.starts[block], end - start
        while left:
            position, octets = await self._in_thread(read_block, self._fd, position)
            if not octets:
                raise MailboxError("The message was changed while it was read", "UNAVAILABLE")
            if skip or left < len(octets):
                octets, skip = octets[skip : skip + left], max(0, skip - len(octets))
            left -= len(octets)
            if octets:
                yield octets


def lay_out(fd: int) -> Layout:
    """Blocks. Raises OSError."""
    starts: list[int] = []
    positions: list[int] = []
    start = position = 0
    while True:
        following, octets = read_block(fd, position)
        if not octets:
            return Layout(starts, positions, start)
        starts.append(start)
        positions.append(position)
        start += len(octets)
        position = following


def read_block(fd: int, position: int) -> tuple[int, bytes]:
    """Where the next block begins, and this one with CR LF line ends; nothing at the end of the
    file. Blocks. Raises OSError."""
    block = os.pread(fd, _BLOCK, position)
    if len(block) > 1 and block.endswith(b"\r"):
        # The next one may begin with an LF.
        block = block[:-1]
    return position + len(block), with_crlf(block)
