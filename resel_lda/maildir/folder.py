"""An open folder: the Mailbox door on top of a `FolderIndex`.

Blocking work runs in the store's threads, one piece at a time per folder, and is finished even
if the session that asked for it goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

import apsw

from resel_lda.mailbox import AppendData, FolderStatus, MailboxError, StoreResult
from resel_lda.maildir import transfer
from resel_lda.maildir.background import Background
from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.files import Identity
from resel_lda.maildir.flags import canonical_flags, change_flags
from resel_lda.maildir.hushing import Hush
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import size_in_name
from resel_lda.maildir.reading import ReadableFolder, mailbox_error
from resel_lda.maildir.removal import remove_messages
from resel_lda.maildir.settling import Settling
from resel_lda.maildir.transfer import Item, copy_messages, move_messages
from resel_lda.maildir.watch import (
    IN_CREATE,
    IN_DELETE_SELF,
    IN_MOVE_SELF,
    IN_MOVED_TO,
    Watcher,
    by_kind,
)
from resel_mta.maillog import MailLog

T = TypeVar("T")
Pairs = Sequence[tuple[int, int]]

# Events that come together are looked at together; where nobody watches, whoever asks looks.
_SETTLE, _UNWATCHED = 0.004, 0.25
_BLOCK = 1 << 18
# Seconds after which what a first look found is written to `state`.
_SAVE_DELAY = 0.5
# Seconds for which new/ and cur/ are trusted to be those that are watched.
_VERIFY = 2.0


class MaildirFolder(ReadableFolder):
    """One folder, shared by all sessions of its user. Implements `Mailbox`."""

    def __init__(
        self,
        name: str,
        index: FolderIndex,
        reader: MessageReader,
        executor: ThreadPoolExecutor,
        log: MailLog,
        background: Background,
        resolve: Callable[[str], contextlib.AbstractAsyncContextManager[MaildirFolder]],
        on_release: Callable[[MaildirFolder], None],
    ) -> None:
        super().__init__(index, reader, executor, log, background)
        self.name = name
        self.holders = 0
        # As it was when somebody asked last.
        self.known_status: FolderStatus | None = None
        self.known_sizes = False
        self._resolve = resolve
        self._on_release = on_release
        self._settling = Settling(index, self._in_thread)
        self._hush = Hush(index)
        self._lock = asyncio.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._watches: list[tuple[int, Callable[[int, str], None]]] = []
        self._watched: Identity | None = None
        self._watcher: Watcher | None = None
        self._verified = 0.0
        self._events: list[tuple[str, int, str]] = []
        # Those under way.
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.TimerHandle | None = None

    # -- \Recent ------------------------------------------------------------------------------

    def claim_recent(self) -> frozenset[int]:
        claimed = self._unclaimed()
        if claimed:
            following = claimed[-1] + 1
            self.index.state.first_recent = following
            self._later(lambda: self.reader.state.set_first_recent(self.index.state.id, following))
        return frozenset(claimed)

    # -- changes ------------------------------------------------------------------------------

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        if self._timer is not None:
            self._timer.cancel()
            self._settled()

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return stop

    def start_watching(self, watcher: Watcher) -> None:
        """Before the first scan, so that nothing falls between."""
        self._watcher = watcher
        self._verified = asyncio.get_running_loop().time()
        self._watched = self.index.files.identity()
        for kind, directory in (("new", self.index.files.new), ("cur", self.index.files.cur)):
            event = partial(self._event, kind)
            number = watcher.add(directory, event)
            if number is not None:
                self._watches.append((number, event))

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            for number, callback in self._watches:
                self._watcher.remove(number, callback)
        self._watches.clear()

    def _event(self, kind: str, mask: int, name: str) -> None:
        if mask == 0 or mask & (IN_DELETE_SELF | IN_MOVE_SELF):
            # Another directory may have the number of one that is gone.
            self._watched = None
            self._events_lost = True
        elif kind == "new" and not mask & (IN_CREATE | IN_MOVED_TO):
            return
        else:
            self._events.append((kind, mask, name))
        self._background_turns.busy()
        if self._timer is None:
            delay = _SETTLE if self._callbacks else _UNWATCHED
            self._timer = asyncio.get_running_loop().call_later(delay, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self.keep(asyncio.ensure_future(self._refresh_quietly()))

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except MailboxError as error:
            if error.code != "NONEXISTENT":
                self._log.warning("imap", f"{self.index.files.directory}: {error.text}")

    def is_quiet(self) -> bool:
        """Whether it is known without a look that it is as it was at the last one."""
        if self._watcher is not None:
            self._watcher.look()
        trusted_until = self._verified + _VERIFY
        return self._is_untouched() and asyncio.get_running_loop().time() < trusted_until

    def _is_untouched(self) -> bool:
        if self._events or self._events_lost or self._hush.active:
            return False
        # What a look has taken up is not shown before it ends.
        return len(self._watches) == 2 and not self._looks

    async def refresh(self) -> None:
        if self.is_quiet():
            return
        await self._verify()
        if not self._is_untouched():
            await self._finished(self._look_now(len(self._watches) == 2))

    async def _look_now(self, watching: bool) -> None:
        self._looks += 1
        try:
            await self._locked(self._look, watching)
        finally:
            self._looks -= 1

    async def _verify(self) -> None:
        """Watch the directories that have these names now: a backup that was put back, or a Maildir
        moved away, tells nobody who watches the old ones."""
        watcher = self._watcher
        if watcher is None:
            return
        found = await self._in_thread(self.index.files.identity)
        self._verified = asyncio.get_running_loop().time()
        if found is None or found == self._watched:
            return
        self._stop_watching()
        self.start_watching(watcher)
        self._events_lost = True

    def _look(self, watching: bool) -> None:
        events, self._events = self._events, []
        lost, self._events_lost = self._events_lost, False
        index = self.index
        if lost or not watching:
            # If they are lost, the watch may be of directories that are there no more.
            if lost or not index.stamps_unchanged():
                try:
                    index.scan()
                except BaseException:
                    self._events_lost = lost
                    raise
            return
        new, cur, gone = by_kind(events, index.is_news)
        if new or cur or gone:
            index.take_events(new, cur, gone)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work` in a thread under the folder's lock; then tell the watchers what changed."""
        return await self._finished(self._locked(work, *arguments))

    async def _finished(self, work: Awaitable[T]) -> T:
        task = asyncio.ensure_future(work)
        self.keep(task)
        return await asyncio.shield(task)

    async def _locked(self, work: Callable[..., T], *arguments: object) -> T:
        run = asyncio.get_running_loop().run_in_executor
        return await self._holding(lambda: run(self._executor, work, *arguments))

    async def _holding(self, work: Callable[[], Awaitable[T]]) -> T:
        """What is awaited under the folder's lock."""
        async with self._lock:
            try:
                return await work()
            except (OSError, apsw.Error) as error:
                self._log.warning("imap", f"{self.index.files.directory}: {error}")
                raise mailbox_error(error) from error
            finally:
                if self.index.highestmodseq != self.highestmodseq:
                    self._publish()
                    self.start_filling()
                    for callback in list(self._callbacks):
                        asyncio.get_running_loop().call_soon(callback)

    def _later(self, work: Callable[[], None]) -> None:
        self.keep(asyncio.ensure_future(self._locked(work)))

    async def load(self) -> None:
        turns = self._background_turns
        async with turns.loads:
            with turns.waits():
                await self._run(self.index.load)
        # Where nobody has to wait for it.
        loop = asyncio.get_running_loop()
        self._saving = loop.call_later(_SAVE_DELAY, self._later, self.index.save)

    # -- writing ------------------------------------------------------------------------------

    @staticmethod
    def _changing(
        folders: Sequence[MaildirFolder], count: int, work: Callable[..., T], *arguments: object
    ) -> T:
        """`work` that changes so many names in cur/ of each of these. Blocks, under their locks."""
        with contextlib.ExitStack() as stack:
            for one in folders:
                stack.enter_context(one._hushed(count))
            return work(*arguments)

    def _change_flags(
        self, uids: Sequence[int], flags: Collection[str], mode: str, unchanged_since: int | None
    ) -> StoreResult:
        with contextlib.ExitStack() as stack:
            what = (uids, flags, mode, unchanged_since)
            # Where nothing changes, no listing is needed either.
            return change_flags(
                self.index, self._settling, *what, lambda n: stack.enter_context(self._hushed(n))
            )

    def _hushed(self, count: int) -> contextlib.AbstractContextManager[None]:
        number = self._watches[1][0] if len(self._watches) == 2 else None
        return self._hush.over(self._watcher, number, count)

    async def store(
        self,
        uids: Sequence[int],
        flags: Collection[str],
        mode: str,
        unchanged_since: int | None = None,
    ) -> StoreResult:
        try:
            with self._background_turns.waits():
                return await self._run(self._change_flags, uids, flags, mode, unchanged_since)
        finally:
            self._settling.soon()

    async def expunge(self, uids: Sequence[int], keep: bool = True) -> Sequence[int]:
        what = (self.index, uids, keep)
        done: Sequence[int]
        with self._background_turns.waits():
            done = await self._run(self._changing, (self,), len(uids), remove_messages, *what)
        if done:
            self._behind(self.reader.forget, done)
        return done

    async def append(
        self, messages: Sequence[AppendData] | AsyncIterator[AppendData]
    ) -> Sequence[int]:
        items: list[Item] = []
        try:
            async for message in transfer.each(messages):
                flags = canonical_flags(message.flags)
                path, base = await self._write(message)
                items.append((path, base, flags))
            with self._background_turns.waits():
                return await self._run(self.install, items)
        except BaseException:
            await asyncio.shield(self._in_thread(transfer.discard, self.index.files.disk, items))
            raise

    async def _write(self, message: AppendData) -> tuple[str, str]:
        """(path of a synced file in tmp/, base)."""
        files, blocks = self.index.files, message.blocks
        if not isinstance(blocks, Sequence):
            if message.size > _BLOCK:
                return await transfer.write_large(
                    self._in_thread, files, blocks, message.internal_date
                )
            blocks = [block async for block in blocks]
        return await self._in_thread(files.write_temporary, blocks, message.internal_date)

    def install(self, items: Sequence[Item], *, moved: bool = False, **how: Any) -> list[int]:
        """Blocks, under the folder's lock. moved: the user does not have more mail for it.
        how: see `FolderIndex.install`. Raises MailboxError("OVERQUOTA"), OSError."""
        if not moved:
            self.index.room(sum(size_in_name(base, "S") or 0 for _, base, _ in items))
        self.index.keywords.refresh()
        # Many messages have few different sets of flags.
        letters = {frozenset(flags): "" for _, _, flags in items}
        letters = {flags: self.index.keywords.letters(flags) for flags in letters}
        lettered = [(path, base, letters[frozenset(flags)]) for path, base, flags in items]
        return self.index.install(lettered, **how)

    async def copy(self, uids: Sequence[int], target: str) -> tuple[int, Pairs]:
        return await self._transfer(copy_messages, uids, target)

    async def move(self, uids: Sequence[int], target: str) -> tuple[int, Pairs]:
        return await self._transfer(move_messages, uids, target)

    async def _transfer(
        self, work: Callable[..., list[int]], uids: Sequence[int], target: str
    ) -> tuple[int, Pairs]:
        async with self._resolve(target) as folder:
            sources = [uid for uid in uids if uid in self.index.marks]
            if not sources:
                return folder.uidvalidity, []
            what = (self.index, self.reader, sources, folder.index.files, folder.install)
            with self._background_turns.waits():
                if work is copy_messages or folder is self:
                    new = await folder._run(self._changing, (folder,), len(sources), work, *what)
                else:
                    # In this order everywhere, so that two do not wait for each other.
                    first, second = sorted((self, folder), key=attrgetter("name"))
                    change = partial(self._changing, (first, second), len(sources), work, *what)
                    new = await first._finished(first._holding(lambda: second._locked(change)))
            pairs = list(zip(sources, new, strict=True))
            self._behind(self.reader.copied, pairs, folder.reader.guid)
            if work is move_messages:
                self._behind(self.reader.forget, sources)
            return folder.uidvalidity, pairs

    # -- ending -------------------------------------------------------------------------------

    def release(self) -> None:
        self.holders -= 1
        self._on_release(self)

    async def close(self) -> None:
        """Stop watching and wait for what is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_watching()
        if self._saving is not None:
            self._saving.cancel()
            self._later(self.index.save)
        await self.stop_filling()
        while self._background:
            await asyncio.wait(set(self._background))
        await self._settling.finish()
