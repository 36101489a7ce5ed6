"""The reading half of an open folder: from memory, and in threads without the folder's lock."""

from __future__ import annotations

import asyncio
import errno
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress, count
from typing import Any, TypeVar

import apsw

from resel_lda.large_message import LargeMessage
from resel_lda.mailbox import MailboxError, Marks, MessageInfo, Part, PartOctets, TextAnswers
from resel_lda.maildir import dates, facts
from resel_lda.maildir.background import Background
from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.large import LargeMessages
from resel_lda.maildir.partial import read_part
from resel_lda.maildir.readahead import ReadAhead
from resel_lda.maildir.table import FileMarks
from resel_mta.maillog import MailLog

T = TypeVar("T")

# Messages put into the cache at a time in the background, and how long they wait until the first
# commands of a session are answered (seconds).
_FILL_BATCH = 20
_FILL_DELAY = 1.0
# Messages whose rows in the cache are changed at a time.
_CACHE_BATCH = 100


def mailbox_error(error: OSError | apsw.Error) -> MailboxError:
    """The cause in plain words for the client, with its RFC 5530 code."""
    if isinstance(error, apsw.Error):
        if isinstance(error, apsw.FullError):
            return MailboxError("Not enough disk space", "UNAVAILABLE")
        return MailboxError("The mailbox's state file cannot be used at present", "UNAVAILABLE")
    number = error.errno
    if number == errno.ENOSPC:
        return MailboxError("Not enough disk space", "UNAVAILABLE")
    if number == errno.EDQUOT:
        return MailboxError("Disk quota exceeded", "OVERQUOTA")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MailboxError("Permission denied", "NOPERM")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return MailboxError("Mailbox does not exist any more", "NONEXISTENT")
    return MailboxError(f"The disk failed: {os.strerror(number or errno.EIO)}", "UNAVAILABLE")


class ReadableFolder:
    """What `Mailbox` says of reading, and the filling of the cache in the background."""

    def __init__(
        self,
        index: FolderIndex,
        reader: MessageReader,
        executor: ThreadPoolExecutor,
        log: MailLog,
        background: Background,
    ) -> None:
        self.index = index
        self.reader = reader
        self._executor = executor
        self._log = log
        self._events_lost = False
        # What the loop shows; replaced when a piece of work is finished, never in its middle.
        self._uids: list[int] = []
        self._marks: list[FileMarks] = []
        # Those that there are; None for not looked for yet.
        self._kinds: Collection[FileMarks] | None = None
        # A sequence number, 0 for none, -1 for not looked for yet.
        self._first_unseen = -1
        self.highestmodseq = 0
        self.uidnext = 1
        self.uidvalidity = 0
        self._ahead = ReadAhead()
        self._large = LargeMessages(index, reader, self._in_thread)
        self._background_turns = background
        self._filler: asyncio.Task[None] | None = None
        self._fill_from = 0
        # The piece that a thread is at.
        self._filling: asyncio.Future[None] | None = None
        self._ending = False
        self._background: set[asyncio.Future[object]] = set()
        self._cache_work: asyncio.Future[None] | None = None

    # -- from memory --------------------------------------------------------------------------

    def _publish(self) -> None:
        index = self.index
        self._uids = list(index.marks)
        self._marks = list(index.marks.values())
        self._kinds = None
        self._first_unseen = -1
        self.highestmodseq = index.highestmodseq
        self.uidvalidity = index.uidlist.uidvalidity
        self.uidnext = max(index.uidlist.next_uid, index.last_uid + 1)

    def messages(self) -> Sequence[MessageInfo]:
        return [
            MessageInfo(uid, marks.flags, marks.modseq)
            for uid, marks in zip(self._uids, self._marks, strict=True)
        ]

    def count(self) -> int:
        """How many messages there are."""
        return len(self._uids)

    def uids(self) -> list[int]:
        return self._uids.copy()

    def first_unseen(self) -> int:
        if self._first_unseen < 0:
            self._first_unseen = 0
            kinds = self._with((("\\Seen", False),))
            if kinds:
                found = compress(count(1), map(kinds.__contains__, self._marks))
                self._first_unseen = next(found, 0)
        return self._first_unseen

    def with_flags(self, flags: Sequence[tuple[str, bool]]) -> Sequence[int]:
        kinds = self._with(flags)
        return list(compress(self._uids, map(kinds.__contains__, self._marks))) if kinds else []

    def _with(self, flags: Sequence[tuple[str, bool]]) -> set[FileMarks]:
        if self._kinds is None:
            self._kinds = set(self._marks)
        return {
            kind for kind in self._kinds if all((flag in kind.flags) is has for flag, has in flags)
        }

    def count_by_marks(self) -> Mapping[FileMarks, int]:
        """How many messages have the same marks, of all messages."""
        return Counter(self._marks)

    def recent_count(self) -> int:
        return len(self._unclaimed())

    def _unclaimed(self) -> list[int]:
        """Of the messages that sessions can see: what a look finds that is under way in a thread
        is not yet there to be claimed by one of them."""
        return self._uids[bisect_left(self._uids, self.index.state.first_recent) :]

    def get(self, uid: int) -> MessageInfo | None:
        return self.index.info(uid)

    def marks_of(self, uids: Sequence[int]) -> Sequence[Marks | None]:
        return list(map(self.index.marks.get, uids))

    def changed_since(self, modseq: int) -> Sequence[MessageInfo]:
        return self.index.changed_since(modseq)

    def vanished_since(self, modseq: int) -> Sequence[tuple[int, int]]:
        return self.index.vanished_since(modseq)

    def keywords(self) -> Sequence[str]:
        return self.index.keywords.names()

    # -- from the disk ------------------------------------------------------------------------

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Reading needs no lock: a message is found again if it is renamed meanwhile."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, work, *arguments)
        except (OSError, apsw.Error) as error:
            self._log.warning("imap", f"{self.index.files.directory}: {error}")
            raise mailbox_error(error) from error

    async def read(self, uid: int) -> bytes:
        ahead = self._ahead.follow(uid, self._uids)
        data = self._ahead.take(uid)
        if data is not None and uid in self.index.marks:
            return data
        with self._background_turns.waits():
            data, more = await self._in_thread(self.reader.read_with, uid, ahead)
        if data is None:
            self._events_lost = True
            raise MailboxError("The message is gone", "EXPUNGEISSUED")
        if more:
            self._ahead.keep(more)
        return data

    async def read_many(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        with self._background_turns.waits():
            found = await self._in_thread(self.reader.read_many, uids)
        if len(found) < len(uids):
            self._events_lost = True
        return found

    async def large(self, uid: int) -> LargeMessage | None:
        if self._ahead.has(uid) or not self._large.may_be(uid):
            return None
        with self._background_turns.waits():
            return await self._large.open(uid)

    async def part(self, uid: int, path: Sequence[int]) -> PartOctets | None:
        return await self._in_thread(read_part, self.reader, uid, path)

    async def envelopes(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        return await self._in_thread(self.reader.single, "envelope", uids)

    async def structures(self, uids: Sequence[int]) -> Mapping[int, tuple[bytes, bytes]]:
        found: Mapping[int, tuple[bytes, bytes]] = await self._in_thread(
            self.reader.rows, "structure", ("body", "bodystructure"), uids
        )
        return found

    async def selected_fields(
        self, uids: Sequence[int], names: Sequence[bytes], exclude: bool
    ) -> Mapping[int, bytes]:
        return await self._in_thread(self.reader.fields, uids, names, exclude)

    async def sort_keys(
        self, uids: Sequence[int], names: Sequence[str]
    ) -> Mapping[int, tuple[Any, ...]]:
        return await self._in_thread(self.reader.rows, "sort", names, uids)

    async def sent_days(self, uids: Sequence[int]) -> Mapping[int, int | None]:
        return await self._in_thread(self.reader.single, "search", uids)

    async def find(self, column: str, needle: str) -> Collection[int] | None:
        if "\n" in needle or "\0" in needle:
            return None
        return await self._in_thread(self.reader.find, column, needle, list(self.index.marks))

    async def may_contain(self, uids: Sequence[int], needle: str) -> Collection[int]:
        if any(char in needle for char in "\n\r\0"):
            return uids
        return await self._in_thread(self.reader.may_contain, uids, needle)

    def text_answers(self, needle: str, with_header: bool) -> TextAnswers:
        return self.reader.needles.answers(needle, with_header)

    async def parts(self, uids: Sequence[int]) -> Mapping[int, Part]:
        return await self._in_thread(self.reader.parts, uids)

    async def header_fields(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        return await self._in_thread(self.reader.headers, uids)

    async def sizes(self, uids: Sequence[int]) -> Mapping[int, int]:
        return await self._in_thread(self.reader.sizes, uids)

    async def likely_sizes(self, uids: Sequence[int]) -> Mapping[int, int]:
        sizes = facts.named_sizes(self.index, uids)
        unnamed = [uid for uid in uids if uid not in sizes]
        if unnamed:
            sizes.update(await self._in_thread(facts.file_sizes, self.index, unnamed))
        return sizes

    async def internal_dates(self, uids: Sequence[int]) -> Mapping[int, float]:
        known = self.index.dates
        if any(uid not in known for uid in uids):
            return await self._in_thread(dates.internal_dates, self.index, uids)
        return {uid: known[uid] for uid in uids}

    async def saved_dates(self, uids: Sequence[int]) -> Mapping[int, int]:
        return await self._in_thread(dates.saved_dates, self.index, uids)

    async def object_ids(self, uids: Sequence[int]) -> Mapping[int, tuple[str, str]]:
        return await self._in_thread(facts.object_ids, self.index, self.reader, uids)

    async def previews(self, uids: Sequence[int], ready: bool = False) -> Mapping[int, str]:
        return await self._in_thread(facts.previews, self.reader, uids, ready)

    @property
    def mailbox_id(self) -> str:
        return f"F{self.index.uidlist.guid}"

    # -- the cache ----------------------------------------------------------------------------

    def keep(self, future: asyncio.Future[T]) -> None:
        kept: asyncio.Future[object] = future  # type: ignore[assignment]
        self._background.add(kept)
        kept.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[object]) -> None:
        self._background.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, MailboxError):
            self._log.warning("imap", f"{self.index.files.directory}: {error!r}")

    def _behind(
        self, work: Callable[..., None], items: Sequence[object], *arguments: object
    ) -> None:
        """Work on the cache, one piece after the other, that nobody waits for; as much time is left
        to others as it takes."""
        loop = asyncio.get_running_loop()
        before, self._cache_work = self._cache_work, loop.create_future()
        done = self._cache_work

        async def go() -> None:
            try:
                if before is not None:
                    await before
                for start in range(0, len(items), _CACHE_BATCH):
                    if not self._ending:
                        await self._background_turns.quiet()
                    began = loop.time()
                    await self._in_thread(work, items[start : start + _CACHE_BATCH], *arguments)
                    if not self._ending:
                        await asyncio.sleep(loop.time() - began)
            finally:
                done.set_result(None)

        self.keep(asyncio.ensure_future(go()))

    def start_filling(self) -> None:
        """New messages get into the cache, and at first what is not in it yet."""
        if self._filler is not None and not self._filler.done():
            return
        if self._fill_from <= self.index.last_uid and not self._ending:
            self._filler = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        try:
            if self._fill_from == 0:
                await asyncio.sleep(_FILL_DELAY)
            while self._fill_from <= self.index.last_uid:
                first, last = self._fill_from, self.index.last_uid
                self._fill_from = last + 1
                uids = [uid for uid in list(self.index.marks) if uid >= first]
                waiting = await self._in_thread(self.reader.unfilled, uids, 0 if first else last)
                for start in range(0, len(waiting), _FILL_BATCH):
                    await self._fill_some(waiting[start : start + _FILL_BATCH])
        except MailboxError:
            # Logged. What is asked for is made then.
            self._fill_from = self.index.last_uid + 1

    async def _fill_some(self, uids: Sequence[int]) -> None:
        def work() -> None:
            self.reader.fill(uids)
            dates.note_dates(self.index, uids)

        async with self._background_turns.turn():
            self._filling = asyncio.ensure_future(self._in_thread(work))
            await asyncio.shield(self._filling)

    async def stop_filling(self) -> None:
        """Wait for the messages that are being put into the cache now."""
        self._ending = True
        if self._filler is not None:
            self._filler.cancel()
            await asyncio.wait((self._filler,))
        if self._filling is not None:
            await asyncio.wait((self._filling,))
            # Its failure has been logged.
            self._filling.exception()
