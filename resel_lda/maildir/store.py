"""All folders of one user: the MailStore door on Maildir++ or LAYOUT=fs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw

from resel_lda.mailbox import FolderInfo, FolderStatus, Mailbox, MailboxError, QuotaInfo
from resel_lda.maildir import arrivals, subscriptions, tree
from resel_lda.maildir.annotations import Annotations
from resel_lda.maildir.background import Background
from resel_lda.maildir.bin import Bin
from resel_lda.maildir.cache import CacheFile
from resel_lda.maildir.claim import Claim
from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.dotlock import LockFile, discard_left
from resel_lda.maildir.files import MaildirFiles, create_maildir
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.layout import Layout, LocationError, is_inbox
from resel_lda.maildir.locate import locate
from resel_lda.maildir.names import NameMaker
from resel_lda.maildir.quota import Quota, limit_of
from resel_lda.maildir.reading import mailbox_error
from resel_lda.maildir.state import StateFile
from resel_lda.maildir.status import folder_status
from resel_lda.maildir.tree_events import TreeEvents
from resel_lda.maildir.uidlist import FILE_NAME, read_uidlist
from resel_lda.maildir.watch import Watcher
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.users import User

T = TypeVar("T")

_THREADS = 2
# Folders kept in memory after the last session closed them, and messages in all of these.
_KEEP_OPEN = 100
_KEEP_MESSAGES = 100_000


class MaildirStore(TreeEvents):
    """Implements `MailStore`. Made and used inside a running event loop.

    executor, background: threads, and turns of what nobody waits for, shared with other stores;
    without them the store has its own.
    Raises MailboxError("UNAVAILABLE") from the first call if the user's mail_location is unusable.
    """

    def __init__(
        self,
        user: User,
        settings: Settings,
        disk: Disk,
        log: MailLog,
        *,
        executor: ThreadPoolExecutor | None = None,
        background: Background | None = None,
    ) -> None:
        super().__init__()
        self.user = user
        self._disk = disk
        self._log = log
        try:
            location = locate(user, settings)
        except LocationError as error:
            log.warning("imap", f"user {user.name}: {error}")
            raise MailboxError("The mailbox is not configured correctly", "UNAVAILABLE") from error
        self.layout = Layout(location)
        self._own_executor = executor is None
        self._executor = executor or ThreadPoolExecutor(_THREADS, f"store-{user.name}")
        self._background = background or Background()
        self._maker = NameMaker()
        self._quota = Quota(disk, self.layout, limit_of(user, settings))
        self._claim = Claim(location.control)
        self._lock_file = LockFile(disk, os.path.join(location.control, FILE_NAME))
        self.bin = Bin(disk, self.layout, settings, log)
        self._state = StateFile(os.path.join(location.control, "state"), disk, log)
        admin = f"mailto:postmaster@{settings.text('mydomain')}".encode()
        self._annotations = Annotations(self._state, {"/shared/admin": admin})
        self._cache = CacheFile(os.path.join(location.index, "cache"), disk, log)
        self._subscriptions = subscriptions.Subscriptions(
            disk, os.path.join(location.control, subscriptions.FILE_NAME), self.layout.separator
        )
        self._open: dict[str, MaildirFolder] = {}
        # Those that finish what they have under way; not to be loaded anew before that.
        self._closing: dict[str, asyncio.Future[None]] = {}
        self._opening = asyncio.Lock()
        self._watcher: Watcher | None = None
        self._ready = False

    async def _thread(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, work, *arguments)
        except (OSError, apsw.Error) as error:
            self._log.warning("imap", f"{self.layout.location.root}: {error}")
            raise mailbox_error(error) from error

    async def _prepare(self) -> None:
        if not self._ready:
            await self._thread(self._create_root)
            self._ready = True

    def _create_root(self) -> None:
        location = self.layout.location
        self._disk.make_directories(location.root)
        create_maildir(self._disk, location.inbox)
        self._disk.make_directories(location.control)
        self._disk.make_directories(location.index)
        self._claim.take()
        discard_left(self._disk, os.path.join(location.control, FILE_NAME))
        if tree.sweep(self._disk, location.root):
            self._quota.recount()
        self.bin.sweep()

    # -- listing ------------------------------------------------------------------------------

    async def folders(self) -> Sequence[FolderInfo]:
        await self._prepare()
        return await self._thread(self._folders)

    def _folders(self) -> Sequence[FolderInfo]:
        names = {"INBOX": True, **self.layout.names()}
        subscribed = {"INBOX" if is_inbox(name) else name for name in self._subscriptions.read()}
        return tree.describe(names, subscribed, self._state.special_uses())

    # -- opening ------------------------------------------------------------------------------

    async def open(self, name: str) -> Mailbox:
        """Raises MailboxError("NONEXISTENT")."""
        return await self.open_folder(name)

    async def open_folder(self, name: str) -> MaildirFolder:
        """`open`, with what only this package needs."""
        await self._prepare()
        name = "INBOX" if is_inbox(name) else name
        folder = self._open.get(name)
        if folder is not None and not self._opening.locked() and folder.is_quiet():
            # The last one used is the last one closed.
            self._open[name] = self._open.pop(name)
            folder.holders += 1
            return folder
        # Shielded: a session that goes away must not leave a folder half open for the others.
        return await asyncio.shield(asyncio.ensure_future(self._open_folder(name)))

    async def _open_folder(self, name: str) -> MaildirFolder:
        async with self._opening:
            folder = self._open.pop(name, None)
            if folder is None:
                if name in self._closing:
                    await asyncio.wait((self._closing[name],))
                folder = await self._load(name)
            self._open[name] = folder
            folder.holders += 1
        try:
            await folder.refresh()
        except MailboxError:
            folder.release()
            raise
        return folder

    async def _load(self, name: str) -> MaildirFolder:
        if not is_inbox(name):
            self.layout.check_name(name)
        prepare = tree.prepare_folder
        directory, control, exists = await self._thread(prepare, self._disk, self.layout, name)
        if not exists:
            raise MailboxError(f"Mailbox doesn't exist: {name}", "NONEXISTENT", name)
        index = FolderIndex(
            MaildirFiles(self._disk, directory, self._maker),
            control,
            self._state,
            self._log,
            self._new_uidvalidity,
        )
        index.counted, index.room = self._quota.changed, self._quota.check
        index.bin, index.shared_lock = self.bin.folder(name), self._lock_file
        reader = MessageReader(index, self._state, self._cache, self._log, name == "INBOX")
        folder = MaildirFolder(
            name,
            index,
            reader,
            self._executor,
            self._log,
            self._background,
            self._target,
            self._released,
        )
        if self._watcher is None:
            self._watcher = Watcher()
        folder.start_watching(self._watcher)
        try:
            await folder.load()
        except BaseException:
            await folder.close()
            raise
        return folder

    async def prepare_arrivals(self, bases: Sequence[str]) -> None:
        """Fill the cache of messages that were just delivered, unless the folder is open and does
        that itself."""
        if "INBOX" not in self._open and not self._opening.locked():
            await self._prepare()
            inbox = self.layout.location.inbox
            await self._thread(arrivals.prepare, self._cache, inbox, bases)

    def _new_uidvalidity(self) -> int:
        return tree.next_uidvalidity(self._disk, self.layout.location.control)

    def _released(self, folder: MaildirFolder) -> None:
        idle = [one for one in self._open.values() if one.holders <= 0]
        messages = sum(one.count() for one in idle)
        left = len(idle)
        for one in idle:
            if left <= _KEEP_OPEN and messages <= _KEEP_MESSAGES:
                break
            left -= 1
            messages -= one.count()
            del self._open[one.name]
            self._closing[one.name] = asyncio.ensure_future(self._close_folder(one))

    async def _close_folder(self, folder: MaildirFolder) -> None:
        try:
            with contextlib.suppress(MailboxError):
                await folder.close()
        finally:
            del self._closing[folder.name]

    @contextlib.asynccontextmanager
    async def _target(self, name: str) -> AsyncIterator[MaildirFolder]:
        try:
            folder = await self.open_folder(name)
        except MailboxError as error:
            if error.code == "NONEXISTENT":
                raise MailboxError(error.text, "TRYCREATE", error.name) from error
            raise
        try:
            yield folder
        finally:
            folder.release()

    async def status(self, name: str, sizes: bool = True) -> FolderStatus:
        folder = await self.open_folder(name)
        try:
            return await folder_status(folder, sizes)
        finally:
            folder.release()

    async def metadata(self, name: str) -> Mapping[str, bytes]:
        await self._prepare()
        return await self._thread(self._annotations.read, name)

    async def set_metadata(self, name: str, values: Mapping[str, bytes | None]) -> None:
        await self._prepare()
        await self._thread(self._annotations.write, name, values)
        self.tree_changed("metadata", name, entries=values)

    async def quota(self) -> QuotaInfo | None:
        if not self._quota.limit:
            return None
        await self._prepare()
        return await self._thread(self._quota.info)

    # -- changing the tree --------------------------------------------------------------------

    async def create(self, name: str, special_use: str = "") -> None:
        name = name.rstrip("/")
        await self._make(name, special_use)
        self.tree_changed("created", name)

    async def _make(self, name: str, special_use: str = "") -> None:
        await self._prepare()
        if is_inbox(name):
            raise MailboxError("INBOX already exists", "ALREADYEXISTS")
        self.layout.check_name(name)
        await self._thread(self._create, name, special_use)

    def _create(self, name: str, special_use: str) -> None:
        if self.layout.exists(name):
            raise MailboxError(f"Mailbox already exists: {name}", "ALREADYEXISTS", name)
        create_maildir(self._disk, self.layout.directory(name), not self.layout.location.fs)
        if special_use:
            self._state.set_special_use(name, special_use)

    async def delete(self, name: str) -> None:
        await self._prepare()
        if is_inbox(name):
            raise MailboxError("INBOX cannot be deleted", "CANNOT")
        self.layout.check_name(name)
        await self._forget_open([name])
        await self._thread(self._delete, name)
        self.tree_changed("deleted", name)

    def _delete(self, name: str) -> None:
        if not self.layout.exists(name):
            raise MailboxError(f"Mailbox doesn't exist: {name}", "NONEXISTENT", name)
        directory = self.layout.directory(name)
        control = self.layout.control_directory(name)
        guid = read_uidlist(os.path.join(control, FILE_NAME)).guid
        self.bin.keep_folder(name, directory, control)
        for path in dict.fromkeys((directory, control)):
            tree.remove_folder(self._disk, path, self.layout.location, self._quota.recount)
        self._state.set_special_use(name, "")
        self._annotations.forget(name)
        if guid:
            self._state.forget(guid)
            self._cache.forget(guid)

    async def rename(self, name: str, new_name: str) -> None:
        await self._prepare()
        new_name = new_name.rstrip("/")
        if is_inbox(new_name):
            raise MailboxError("INBOX already exists", "ALREADYEXISTS")
        self.layout.check_name(new_name)
        if is_inbox(name):
            await self._rename_inbox(new_name)
            return
        self.layout.check_name(name)
        if new_name.startswith(f"{name}/"):
            raise MailboxError("A mailbox cannot be moved below itself", "CANNOT")
        affected = [name, *await self._thread(self.layout.descendants, name)]
        await self._forget_open(affected)
        await self._thread(self._rename, name, new_name, affected)
        self.tree_renamed(name, new_name, affected)

    async def _rename_inbox(self, new_name: str) -> None:
        await self._make(new_name)
        self.tree_renamed("INBOX", new_name, ["INBOX"])
        inbox = await self.open_folder("INBOX")
        try:
            await inbox.move(inbox.uids(), new_name)
        finally:
            inbox.release()

    def _rename(self, name: str, new_name: str, affected: Sequence[str]) -> None:
        pairs = tree.rename_folders(self._disk, self.layout, name, new_name, affected)
        self._annotations.moved(pairs)
        uses = self._state.special_uses()
        for one, target in pairs:
            if one in uses:
                self._state.set_special_use(one, "")
                self._state.set_special_use(target, uses[one])

    async def _forget_open(self, names: Sequence[str]) -> None:
        """Sessions that have such a folder open get NONEXISTENT from then on."""
        async with self._opening:
            for name in names:
                folder = self._open.pop(name, None)
                if folder is not None:
                    await folder.close()

    async def subscribe(self, name: str) -> None:
        if not is_inbox(name):
            self.layout.check_name(name)
        await self._subscribe("INBOX" if is_inbox(name) else name, True)

    async def unsubscribe(self, name: str) -> None:
        await self._subscribe("INBOX" if is_inbox(name) else name, False)

    async def _subscribe(self, name: str, wanted: bool) -> None:
        await self._prepare()
        await self._thread(self._subscriptions.set, name, wanted)
        self.tree_changed("subscribed" if wanted else "unsubscribed", name)

    async def close(self) -> None:
        """Close every folder; sessions must be done."""
        async with self._opening:
            for folder in list(self._open.values()):
                await folder.close()
            self._open.clear()
            if self._closing:
                await asyncio.wait(list(self._closing.values()))
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        await self._thread(self._close_files)
        if self._own_executor:
            self._executor.shutdown(wait=False)

    def _close_files(self) -> None:
        self._state.database.close()
        self._cache.database.close()
        self._lock_file.discard()
        self._claim.release()
