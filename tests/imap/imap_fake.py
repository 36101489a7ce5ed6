"""A MailStore in memory, for the IMAP tests. Follows the door's words to the letter."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

from resel_lda.mailbox import (
    AppendData,
    FolderInfo,
    FolderStatus,
    MailboxError,
    Marks,
    MessageInfo,
    Part,
    QuotaInfo,
    StoreResult,
    TextAnswers,
)
from resel_lda.maildir.ranges import uid_ranges
from resel_lda.maildir.transfer import each
from resel_lda.maildir.tree_events import TreeEvents
from resel_lda.mime import sections
from resel_lda.mime.lookup import search_row, sort_row
from resel_lda.mime.preview import preview_of


class FakeMailbox:
    def __init__(self, store: FakeStore, name: str, uidvalidity: int) -> None:
        self.store_ = store
        self.name = name
        self.uidvalidity = uidvalidity
        self.uidnext = 1
        self.highestmodseq = 1
        self.infos: dict[int, MessageInfo] = {}
        self.data: dict[int, bytes] = {}
        self.dates: dict[int, float] = {}
        self.saved: dict[int, int] = {}
        self.vanished: list[tuple[int, int]] = []
        self.unclaimed: set[int] = set()
        self.watchers: list[Callable[[], None]] = []
        self.held = 0
        self.reads = 0
        self.known: set[str] = set()

    def add(self, message: bytes, flags: Collection[str] = (), date: float | None = None) -> int:
        uid = self.uidnext
        self.uidnext += 1
        self.highestmodseq += 1
        self.dates[uid] = time.time() if date is None else date
        self.infos[uid] = MessageInfo(uid, frozenset(flags), self.highestmodseq)
        self.data[uid] = message
        self.saved[uid] = int(time.time())
        self.unclaimed.add(uid)
        self.tell()
        return uid

    def tell(self) -> None:
        for watcher in list(self.watchers):
            watcher()

    def messages(self) -> Sequence[MessageInfo]:
        return [self.infos[uid] for uid in sorted(self.infos)]

    def get(self, uid: int) -> MessageInfo | None:
        return self.infos.get(uid)

    def changed_since(self, modseq: int) -> Sequence[MessageInfo]:
        return [info for info in self.messages() if info.modseq > modseq]

    def vanished_since(self, modseq: int) -> Sequence[tuple[int, int]]:
        return uid_ranges({uid for uid, when in self.vanished if when > modseq})

    def keywords(self) -> Sequence[str]:
        return sorted(self.known)

    def recent_count(self) -> int:
        return len(self.unclaimed)

    def claim_recent(self) -> frozenset[int]:
        claimed = frozenset(self.unclaimed)
        self.unclaimed.clear()
        return claimed

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.watchers.append(callback)
        return lambda: self.watchers.remove(callback)

    async def refresh(self) -> None:
        """Nothing outside memory can change."""

    async def read(self, uid: int) -> bytes:
        self.reads += 1
        try:
            return self.data[uid]
        except KeyError:
            raise MailboxError("Message is gone", "EXPUNGEISSUED") from None

    def uids(self) -> list[int]:
        return sorted(self.infos)

    def with_flags(self, flags: Sequence[tuple[str, bool]]) -> Sequence[int]:
        return [
            info.uid
            for info in self.messages()
            if all((flag in info.flags) is has for flag, has in flags)
        ]

    def marks_of(self, uids: Sequence[int]) -> Sequence[Marks | None]:
        infos = [self.infos.get(uid) for uid in uids]
        return [None if info is None else Marks(info.flags, info.modseq) for info in infos]

    def first_unseen(self) -> int:
        for number, info in enumerate(self.messages(), 1):
            if "\\Seen" not in info.flags:
                return number
        return 0

    async def read_many(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        return {uid: await self.read(uid) for uid in uids if uid in self.data}

    async def large(self, uid: int) -> None:
        return None

    async def part(self, uid: int, path: Sequence[int]) -> None:
        return None

    async def envelopes(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        return {uid: part.envelope for uid, part in (await self.parts(uids)).items()}

    async def structures(self, uids: Sequence[int]) -> Mapping[int, tuple[bytes, bytes]]:
        parts = await self.parts(uids)
        return {uid: (part.body, part.bodystructure) for uid, part in parts.items()}

    async def selected_fields(
        self, uids: Sequence[int], names: Sequence[bytes], exclude: bool
    ) -> Mapping[int, bytes]:
        headers = await self.header_fields(uids)
        return {
            uid: sections.header_fields(header, names, exclude) for uid, header in headers.items()
        }

    async def sort_keys(
        self, uids: Sequence[int], names: Sequence[str]
    ) -> Mapping[int, tuple[Any, ...]]:
        rows = {uid: sort_row(head) for uid, head in (await self.header_fields(uids)).items()}
        return {uid: tuple(getattr(row, name) for name in names) for uid, row in rows.items()}

    async def sent_days(self, uids: Sequence[int]) -> Mapping[int, int | None]:
        headers = await self.header_fields(uids)
        return {uid: search_row(header).day for uid, header in headers.items()}

    async def find(self, column: str, needle: str) -> Collection[int] | None:
        """Not known here: the headers are looked at."""
        return None

    async def may_contain(self, uids: Sequence[int], needle: str) -> Collection[int]:
        return uids

    def text_answers(self, needle: str, with_header: bool) -> TextAnswers:
        return TextAnswers()

    async def parts(self, uids: Sequence[int]) -> Mapping[int, Part]:
        found = {}
        for uid in uids:
            if uid in self.data:
                data = self.data[uid]
                root = sections.parse(data)
                found[uid] = Part(
                    sections.render_envelope(root),
                    sections.render_body(root),
                    sections.render_bodystructure(root),
                    len(data),
                )
        return found

    async def header_fields(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        found = {}
        for uid in uids:
            if uid in self.data:
                root = sections.parse(self.data[uid])
                found[uid] = sections.header_of(self.data[uid], root, whole=True)
        return found

    async def sizes(self, uids: Sequence[int]) -> Mapping[int, int]:
        return {uid: len(self.data[uid]) for uid in uids if uid in self.data}

    async def likely_sizes(self, uids: Sequence[int]) -> Mapping[int, int]:
        return await self.sizes(uids)

    @property
    def mailbox_id(self) -> str:
        return f"F{self.uidvalidity}"

    async def object_ids(self, uids: Sequence[int]) -> Mapping[int, tuple[str, str]]:
        digests = {
            uid: hashlib.sha256(self.data[uid]).hexdigest() for uid in uids if uid in self.data
        }
        return {uid: (f"M{digest}", f"T{digest}") for uid, digest in digests.items()}

    async def internal_dates(self, uids: Sequence[int]) -> Mapping[int, float]:
        return {uid: self.dates[uid] for uid in uids if uid in self.data}

    async def saved_dates(self, uids: Sequence[int]) -> Mapping[int, int]:
        return {uid: self.saved[uid] for uid in uids if uid in self.data}

    async def previews(self, uids: Sequence[int], ready: bool = False) -> Mapping[int, str]:
        return {uid: preview_of(self.data[uid]) for uid in uids if uid in self.data}

    async def store(
        self,
        uids: Sequence[int],
        flags: Collection[str],
        mode: str,
        unchanged_since: int | None = None,
    ) -> StoreResult:
        done = []
        conflicts = []
        for uid in uids:
            info = self.infos.get(uid)
            if info is None:
                continue
            if unchanged_since is not None and info.modseq > unchanged_since:
                conflicts.append(uid)
                continue
            given = frozenset(flags)
            self.known.update(flag for flag in given if flag[0] != "\\")
            new = {"set": given, "add": info.flags | given, "remove": info.flags - given}[mode]
            if new != info.flags:
                self.highestmodseq += 1
                info = MessageInfo(uid, new, self.highestmodseq)
                self.infos[uid] = info
            done.append(uid)
        self.tell()
        return StoreResult(done, conflicts)

    async def expunge(self, uids: Sequence[int]) -> Sequence[int]:
        gone = [uid for uid in uids if uid in self.infos]
        for uid in gone:
            del self.infos[uid], self.data[uid]
            self.unclaimed.discard(uid)
        if gone:
            self.highestmodseq += 1
            self.vanished += [(uid, self.highestmodseq) for uid in gone]
            self.tell()
        return gone

    async def append(
        self, messages: Sequence[AppendData] | AsyncIterator[AppendData]
    ) -> Sequence[int]:
        taken = []
        async for message in each(messages):
            if self.store_.full:
                raise MailboxError("Quota exceeded (mailbox for user is full)", "OVERQUOTA")
            if isinstance(message.blocks, Sequence):
                data = b"".join(message.blocks)
            else:
                data = b"".join([block async for block in message.blocks])
            taken.append((data, message.flags, message.internal_date))
        return [self.add(*one) for one in taken]

    async def copy(self, uids: Sequence[int], target: str) -> tuple[int, Sequence[tuple[int, int]]]:
        folder = self.store_.boxes.get(target)
        if folder is None:
            raise MailboxError(f"Mailbox doesn't exist: {target}", "TRYCREATE")
        pairs = []
        for uid in uids:
            info = self.infos[uid]
            pairs.append((uid, folder.add(self.data[uid], info.flags, self.dates[uid])))
        return folder.uidvalidity, pairs

    async def move(self, uids: Sequence[int], target: str) -> tuple[int, Sequence[tuple[int, int]]]:
        result = await self.copy(uids, target)
        await self.expunge(uids)
        return result

    def release(self) -> None:
        self.held -= 1


class FakeStore(TreeEvents):
    def __init__(self) -> None:
        super().__init__()
        self.boxes: dict[str, FakeMailbox] = {}
        self.subscribed: set[str] = set()
        self.uses: dict[str, str] = {}
        self.full = False
        self.entries: dict[str, dict[str, bytes]] = {}
        self._validity = 1_000
        self._make("INBOX")

    def _make(self, name: str) -> None:
        self._validity += 1
        self.boxes[name] = FakeMailbox(self, name, self._validity)

    async def folders(self) -> Sequence[FolderInfo]:
        names = sorted(self.boxes.keys() | self.subscribed, key=lambda n: (n != "INBOX", n))
        found = []
        for name in names:
            attributes = set()
            if name in self.boxes:
                child = any(other.startswith(name + "/") for other in self.boxes)
                attributes.add("\\HasChildren" if child else "\\HasNoChildren")
            else:
                attributes.add("\\NonExistent")
            if name in self.uses:
                attributes.add(self.uses[name])
            found.append(FolderInfo(name, frozenset(attributes), name in self.subscribed))
        return found

    async def open(self, name: str) -> FakeMailbox:
        if name not in self.boxes:
            raise MailboxError(f"Mailbox doesn't exist: {name}", "NONEXISTENT", name)
        self.boxes[name].held += 1
        return self.boxes[name]

    async def status(self, name: str, sizes: bool = True) -> FolderStatus:
        box = await self.open(name)
        box.release()
        infos = box.infos.values()
        return FolderStatus(
            len(infos),
            len(box.unclaimed),
            sum("\\Seen" not in info.flags for info in infos),
            box.uidnext,
            box.uidvalidity,
            box.highestmodseq,
            sum(map(len, box.data.values())),
            sum("\\Deleted" in info.flags for info in infos),
            sum(len(box.data[info.uid]) for info in infos if "\\Deleted" in info.flags),
            box.mailbox_id,
        )

    async def metadata(self, name: str) -> Mapping[str, bytes]:
        return self.entries.get(name, {})

    async def set_metadata(self, name: str, values: Mapping[str, bytes | None]) -> None:
        kept = {**self.entries.get(name, {}), **values}
        self.entries[name] = {entry: value for entry, value in kept.items() if value is not None}
        self.tree_changed("metadata", name, entries=values)

    async def quota(self) -> QuotaInfo | None:
        return QuotaInfo("User quota", 10_000, 512 * 1024, 3)

    async def create(self, name: str, special_use: str = "") -> None:
        if name in self.boxes:
            raise MailboxError(f"Mailbox already exists: {name}", "ALREADYEXISTS", name)
        levels = name.split("/")
        for depth in range(1, len(levels) + 1):
            if "/".join(levels[:depth]) not in self.boxes:
                self._make("/".join(levels[:depth]))
        self.tree_changed("created", name)

    async def delete(self, name: str) -> None:
        if name not in self.boxes:
            raise MailboxError(f"Mailbox doesn't exist: {name}", "NONEXISTENT", name)
        del self.boxes[name]
        self.tree_changed("deleted", name)

    async def rename(self, name: str, new_name: str) -> None:
        if name not in self.boxes:
            raise MailboxError(f"Mailbox doesn't exist: {name}", "NONEXISTENT", name)
        if new_name in self.boxes:
            raise MailboxError(f"Mailbox already exists: {new_name}", "ALREADYEXISTS", new_name)
        if name == "INBOX":
            self._make(new_name)
            self.tree_renamed("INBOX", new_name, ["INBOX"])
            inbox = self.boxes["INBOX"]
            await inbox.move(sorted(inbox.infos), new_name)
            return
        names = [one for one in self.boxes if one == name or one.startswith(name + "/")]
        for old in names:
            self.boxes[new_name + old[len(name) :]] = self.boxes.pop(old)
        self.tree_renamed(name, new_name, names)

    async def subscribe(self, name: str) -> None:
        self.subscribed.add(name)
        self.tree_changed("subscribed", name)

    async def unsubscribe(self, name: str) -> None:
        self.subscribed.discard(name)
        self.tree_changed("unsubscribed", name)

    async def close(self) -> None:
        """Nothing is open."""
