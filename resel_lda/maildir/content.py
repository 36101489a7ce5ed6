"""Reading a folder's messages: whole, their headers, structure and sizes. Everything blocks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence

import apsw

from resel_lda.mailbox import Part
from resel_lda.maildir.database import CacheFile, StateFile
from resel_lda.maildir.files import read_all, with_crlf
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import base_of, size_in_name
from resel_lda.mime.sections import parse, render_body, render_bodystructure, render_envelope
from resel_mta.maillog import MailLog

_HEADER_BLOCK = 8192
# Parsed messages handed to the cache at a time.
_BATCH = 200


def make_part(data: bytes) -> Part:
    """The wire strings of a message with CR LF line ends."""
    root = parse(data)
    return Part(render_envelope(root), render_body(root), render_bodystructure(root), len(data))


class MessageReader:
    """Needs no lock: the index is only looked at."""

    def __init__(
        self, index: FolderIndex, state: StateFile, cache: CacheFile, log: MailLog
    ) -> None:
        self._index = index
        self.state = state
        self._cache = cache
        self._log = log
        self._sizes: dict[int, int] = {}
        self._sizes_loaded = False

    @property
    def _guid(self) -> str:
        return self._index.uidlist.guid

    def open(self, uid: int) -> tuple[int, str] | None:
        """(descriptor, name in cur/); None if the message is gone."""
        name = self._index.names.get(uid)
        if name is None:
            return None
        return self._index.files.open_message(base_of(name), name)

    def read(self, uid: int) -> bytes | None:
        opened = self.open(uid)
        return None if opened is None else with_crlf(read_all(opened[0]))

    def parts(self, uids: Sequence[int]) -> dict[int, Part]:
        found: dict[int, Part] = {}
        try:
            found = self._cache.parts(self._guid, uids)
        except apsw.Error as error:
            self._log.warning("imap", f"{self._cache.database.path}: {error}")
        fresh: list[tuple[int, Part]] = []
        for uid in uids:
            if uid in found:
                continue
            data = self.read(uid)
            if data is None:
                continue
            part = found[uid] = make_part(data)
            fresh.append((uid, part))
            if len(fresh) >= _BATCH:
                self._remember(fresh)
                fresh = []
        if fresh:
            self._remember(fresh)
        return found

    def _remember(self, fresh: Sequence[tuple[int, Part]]) -> None:
        # A full disk must not keep anyone from reading mail.
        try:
            self._cache.add(self._guid, fresh)
        except apsw.Error as error:
            self._log.warning("imap", f"{self._cache.database.path}: {error}")

    def forget(self, uids: Collection[int]) -> None:
        """Expunged messages."""
        with contextlib.suppress(apsw.Error):
            self._cache.remove(self._guid, uids)
        for uid in uids:
            self._sizes.pop(uid, None)

    def headers(self, uids: Sequence[int]) -> dict[int, bytes]:
        """Header blocks with the empty line."""
        found: dict[int, bytes] = {}
        for uid in uids:
            opened = self.open(uid)
            if opened is None:
                continue
            fd = opened[0]
            try:
                found[uid] = _header(fd)
            finally:
                os.close(fd)
        return found

    def sizes(self, uids: Sequence[int]) -> dict[int, int]:
        """From the file's name, the cache, or by reading the message."""
        sizes = self._sizes
        found: dict[int, int] = {}
        for uid in uids:
            size = sizes.get(uid)
            if size is None:
                name = self._index.names.get(uid)
                if name is None:
                    continue
                size = size_in_name(base_of(name), "W")
                if size is None:
                    size = self._unnamed_size(uid)
                    if size is None:
                        continue
                sizes[uid] = size
            found[uid] = size
        return found

    def _unnamed_size(self, uid: int) -> int | None:
        if not self._sizes_loaded:
            self._sizes_loaded = True
            with contextlib.suppress(apsw.Error):
                self._sizes.update(self._cache.sizes(self._guid))
            if uid in self._sizes:
                return self._sizes[uid]
        part = self.parts([uid]).get(uid)
        return None if part is None else part.size


def _header(fd: int) -> bytes:
    """Blocks until the empty line, which may lie across two."""
    data = b""
    while True:
        block = os.read(fd, _HEADER_BLOCK)
        start = max(0, len(data) - 3)
        data += block
        if data.startswith((b"\n", b"\r\n")):
            return b"\r\n"
        ends = [end for end in (data.find(b"\n\n", start), data.find(b"\n\r\n", start)) if end >= 0]
        if ends:
            return with_crlf(data[: min(ends) + 1] + b"\n")
        if not block:
            return with_crlf(data)
