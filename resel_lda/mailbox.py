"""The Mailbox door: what IMAP, POP3, local delivery and resel-adm see of a user's mail.

Imports nothing else of ours. Names of folders are `str` with "/" between levels whatever the layout
on disk, "INBOX" in any case being the inbox. Flags are `str`: "\\Seen" and keywords as the
client spelled them. All methods are coroutines that never block the loop, unless said otherwise.
One `Mailbox` object per folder is shared by all sessions of its user; only the worker that owns
the user has one. MODSEQ grows with every change of a folder, so "what changed since m" is
enough for untagged responses, for IDLE and for CONDSTORE.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from resel_lda.large_message import LargeMessage

# Keywords of one folder: Maildir has a letter for each.
MAX_KEYWORDS = 26
SYSTEM_FLAGS = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")


class MailboxError(Exception):
    """A request that cannot be fulfilled. code: an RFC 5530 response code such as "NONEXISTENT",
    "ALREADYEXISTS", "CANNOT", "OVERQUOTA", "UNAVAILABLE", "EXPUNGEISSUED", "TRYCREATE".
    name: the folder's, where the text has it: a client has another separator."""

    def __init__(self, text: str, code: str = "", name: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.name = name


@dataclass(eq=False, slots=True)
class Marks:
    """Flags, and the MODSEQ of their last change: one object for all messages that are alike.
    Replaced, never edited."""

    flags: frozenset[str]
    modseq: int


@dataclass(frozen=True, slots=True)
class MessageInfo:
    """One message of a folder, as it is when it is asked for. modseq: of its last change."""

    uid: int
    flags: frozenset[str]
    modseq: int


@dataclass(frozen=True, slots=True)
class FolderInfo:
    """A folder of the list.

    attributes: "\\Noselect", "\\NonExistent", "\\HasChildren", "\\HasNoChildren" and special uses
    ("\\Sent", RFC 6154).
    """

    name: str
    attributes: frozenset[str] = frozenset()
    subscribed: bool = False


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """STATUS of a folder. size: octets (RFC 8438), deleted: messages with \\Deleted, and
    deleted_size their octets. mailbox_id: see `Mailbox`."""

    messages: int
    recent: int
    unseen: int
    uidnext: int
    uidvalidity: int
    highestmodseq: int
    size: int
    deleted: int
    deleted_size: int = 0
    mailbox_id: str = ""


@dataclass(frozen=True, slots=True)
class QuotaInfo:
    """A user's quota. octets, messages: in use; limit: octets."""

    name: str
    octets: int
    limit: int
    messages: int


@dataclass(frozen=True, slots=True)
class StoreResult:
    """UIDs. done: messages that are now as was asked, also where that changed nothing; conflicts:
    not touched because of UNCHANGEDSINCE."""

    done: Sequence[int]
    conflicts: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Ready-made wire strings of a message's MIME structure, and where its parts lie.

    envelope, body, bodystructure: as in FETCH, without the item's name.
    size: RFC822.SIZE, octets with CR LF line ends.
    """

    envelope: bytes
    body: bytes
    bodystructure: bytes
    size: int


@dataclass(frozen=True, slots=True)
class PartOctets:
    """A part that holds no others, from its header on, with CR LF line ends. header_end, body: where
    the header ends, and where the body starts."""

    octets: bytes
    header_end: int
    body: int


@dataclass(frozen=True, slots=True)
class FolderEvent:
    """What became of a folder. kind: "created", "deleted", "renamed" (old_name is then what it was
    called), "moved" (it lies below one that was renamed), "subscribed", "unsubscribed" or
    "metadata" (name "" is the server's; entries: those that were set or removed)."""

    kind: str
    name: str
    old_name: str = ""
    entries: tuple[str, ...] = ()


class TextAnswers(dict[int, bool]):
    """UID -> whether the message contains a text, of those that somebody looked at."""

    def take(self, other: Mapping[int, bool], answer: bool) -> None:
        """What `other` says `answer` of is the same here."""
        # Copied first: a thread may be adding to it.
        self.update((uid, known) for uid, known in list(other.items()) if known is answer)


@dataclass(slots=True)
class AppendData:
    """One message to append: octets in blocks as the client sent them."""

    blocks: AsyncIterator[bytes] | Sequence[bytes]
    size: int
    flags: Collection[str] = ()
    internal_date: float | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


class Mailbox(Protocol):
    """An open folder. What is returned by UID may have more messages than were asked for, and lacks
    those that are gone."""

    name: str
    uidvalidity: int
    uidnext: int
    highestmodseq: int

    def messages(self) -> Sequence[MessageInfo]:
        """All messages by ascending UID, from memory, at once."""
        ...

    def uids(self) -> list[int]:
        """Of all messages, ascending; the caller's own list."""
        ...

    def first_unseen(self) -> int:
        """Sequence number of the first message without \\Seen; 0 if there is none."""
        ...

    def with_flags(self, flags: Sequence[tuple[str, bool]]) -> Sequence[int]:
        """UIDs, ascending, of the messages that have each of these system flags (True), or have it
        not (False), from memory."""
        ...

    def marks_of(self, uids: Sequence[int]) -> Sequence[Marks | None]:
        """Flags of messages, None of those that are gone, from memory."""
        ...

    def get(self, uid: int) -> MessageInfo | None: ...

    def changed_since(self, modseq: int) -> Sequence[MessageInfo]:
        """Messages new or with other flags since `modseq`, by ascending UID."""
        ...

    def vanished_since(self, modseq: int) -> Sequence[tuple[int, int]]:
        """UIDs expunged since `modseq`, as sorted disjoint (low, high) ranges. Where it is no
        longer known when some went, more than that; never one that is there."""
        ...

    def keywords(self) -> Sequence[str]:
        """Keywords known in this folder, for the FLAGS response."""
        ...

    def recent_count(self) -> int:
        """How many messages no session was told of yet."""
        ...

    def claim_recent(self) -> frozenset[int]:
        """UIDs that no session was told of yet; a second call does not give them again."""
        ...

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back (in the loop) after each change; returns what ends that."""
        ...

    async def refresh(self) -> None:
        """Look at the disk now: new mail, and what other programs renamed or deleted."""
        ...

    async def read(self, uid: int) -> bytes:
        """The whole message with CR LF line ends. MailboxError("EXPUNGEISSUED") if it is gone."""
        ...

    async def read_many(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        """As `read`, of several; those that are gone are left out."""
        ...

    async def large(self, uid: int) -> LargeMessage | None:
        """A message to be read in pieces; None where `read` costs little, or it is gone."""
        ...

    async def part(self, uid: int, path: Sequence[int]) -> PartOctets | None:
        """A part of a large message, without reading all of it, if that can be done; `path` is its
        number."""
        ...

    async def envelopes(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        """ENVELOPE as it goes on the wire. Here and below messages that are gone are left out, and
        there may be more than was asked for."""
        ...

    async def structures(self, uids: Sequence[int]) -> Mapping[int, tuple[bytes, bytes]]:
        """(BODY, BODYSTRUCTURE) as they go on the wire."""
        ...

    async def selected_fields(
        self, uids: Sequence[int], names: Sequence[bytes], exclude: bool
    ) -> Mapping[int, bytes]:
        """These header fields (exclude: all others) as they are, and an empty line."""
        ...

    async def sort_keys(
        self, uids: Sequence[int], names: Sequence[str]
    ) -> Mapping[int, tuple[Any, ...]]:
        """What SORT and THREAD compare: these fields of a `mime.lookup.SortRow`."""
        ...

    async def sent_days(self, uids: Sequence[int]) -> Mapping[int, int | None]:
        """The day in the Date field as written there, as `datetime.date.toordinal`."""
        ...

    async def find(self, column: str, needle: str) -> Collection[int] | None:
        """UIDs with the folded `needle` in a header field. column: "subject", "sender",
        "recipient", "cc" or "bcc". None: not known here, look at the headers."""
        ...

    async def may_contain(self, uids: Sequence[int], needle: str) -> Collection[int]:
        """Those of these messages whose decoded text may contain the folded `needle`; the
        others surely do not, or are gone."""
        ...

    def text_answers(self, needle: str, with_header: bool) -> TextAnswers:
        """What earlier searches found out about the folded `needle` in the decoded body
        (with_header: or header), for this one to use and to add to."""
        ...

    async def parts(self, uids: Sequence[int]) -> Mapping[int, Part]:
        """MIME structure, from the cache or parsed now. Messages that are gone are left out."""
        ...

    async def header_fields(self, uids: Sequence[int]) -> Mapping[int, bytes]:
        """Header blocks (with the empty line) of the messages, CR LF line ends."""
        ...

    async def sizes(self, uids: Sequence[int]) -> Mapping[int, int]:
        """RFC822.SIZE of the messages."""
        ...

    async def likely_sizes(self, uids: Sequence[int]) -> Mapping[int, int]:
        """About how many octets the messages have: no message is read for it."""
        ...

    @property
    def mailbox_id(self) -> str:
        """The folder's object identifier (RFC 8474 §4): it keeps it when it is renamed."""
        ...

    async def object_ids(self, uids: Sequence[int]) -> Mapping[int, tuple[str, str]]:
        """(EMAILID, THREADID) of RFC 8474 §5. Copies have those of what they were copied from."""
        ...

    async def internal_dates(self, uids: Sequence[int]) -> Mapping[int, float]:
        """When the messages were received, seconds since the epoch."""
        ...

    async def saved_dates(self, uids: Sequence[int]) -> Mapping[int, int]:
        """When the messages came into this folder (RFC 8514), seconds since the epoch."""
        ...

    async def previews(self, uids: Sequence[int], ready: bool = False) -> Mapping[int, str]:
        """The beginning of the messages' text (RFC 8970). ready: only those that can be had
        without reading mail."""
        ...

    async def store(
        self,
        uids: Sequence[int],
        flags: Collection[str],
        mode: str,
        unchanged_since: int | None = None,
    ) -> StoreResult:
        """mode: "set", "add" or "remove". Durable when it returns."""
        ...

    async def expunge(self, uids: Sequence[int], keep: bool = True) -> Sequence[int]:
        """Remove these messages; those that were there. keep: where they can be brought back
        from, if there is such a place."""
        ...

    async def append(
        self, messages: Sequence[AppendData] | AsyncIterator[AppendData]
    ) -> Sequence[int]:
        """All or none; their UIDs. Synced to disk when it returns. From an iterator each message is
        read before the next is asked for."""
        ...

    async def copy(self, uids: Sequence[int], target: str) -> tuple[int, Sequence[tuple[int, int]]]:
        """(target's UIDVALIDITY, [(UID, new UID)]); all or none. MailboxError("TRYCREATE")."""
        ...

    async def move(self, uids: Sequence[int], target: str) -> tuple[int, Sequence[tuple[int, int]]]:
        """As `copy`, then gone here."""
        ...

    def release(self) -> None:
        """This holder is done with it (each `MailStore.open` is paired with one)."""
        ...


class MailStore(Protocol):
    """All mail of one user."""

    async def folders(self) -> Sequence[FolderInfo]:
        """Every folder, and subscribed names that do not exist ("\\NonExistent"), sorted, INBOX first."""
        ...

    async def open(self, name: str) -> Mailbox:
        """As it is on disk now. MailboxError("NONEXISTENT")."""
        ...

    async def status(self, name: str, sizes: bool = True) -> FolderStatus:
        """sizes: whether `size` and `deleted_size` are wanted; else they may be 0."""
        ...

    async def quota(self) -> QuotaInfo | None:
        """None if there is no limit."""
        ...

    async def metadata(self, name: str) -> Mapping[str, bytes]:
        """Entries (RFC 5464) of a folder, or of the server: ""; names in lower case."""
        ...

    async def set_metadata(self, name: str, values: Mapping[str, bytes | None]) -> None:
        """All or none, durable; None removes. MailboxError("METADATA TOOMANY")."""
        ...

    async def create(self, name: str, special_use: str = "") -> None: ...

    async def delete(self, name: str) -> None: ...

    async def rename(self, name: str, new_name: str) -> None:
        """With its children; INBOX keeps existing and its messages move (RFC 3501 §6.3.5)."""
        ...

    def watch_tree(self, callback: Callable[[FolderEvent], None]) -> Callable[[], None]:
        """Call back after each change of the folders, in the task that made it; returns what ends
        that."""
        ...

    async def subscribe(self, name: str) -> None: ...

    async def unsubscribe(self, name: str) -> None: ...

    async def close(self) -> None: ...
