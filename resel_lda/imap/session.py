"""The state of one logged-in session, and how commands answer."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from resel_lda.imap.errors import End, Refused
from resel_lda.imap.fetch_items import Item
from resel_lda.imap.names import Names
from resel_lda.imap.reader import AUTHENTICATED, CommandReader
from resel_lda.imap.stream import Stream
from resel_lda.imap.view import View
from resel_lda.mailbox import Mailbox, MailboxError, MailStore

# After a command, the folder is looked at again at most this often (seconds): a client that only
# ever sends FETCH learns of new mail, and one that sends many pays nothing.
_LOOK_INTERVAL = 1.0

Report = Callable[[str], None]


class Context(Protocol):
    """See `resel_lda.imap.search_context`."""

    items: Sequence[Item]
    added: Collection[int]

    def removed(self, gone: Collection[int]) -> bytes: ...

    async def changes(self, session: Session) -> list[bytes]: ...


class Notifier(Protocol):
    """See `resel_lda.imap.notify`."""

    changed: asyncio.Event

    async def tell(self, word: bytes, expunges: bool) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Who:
    """Whose session it is. session: the identifier in the log. secured: TLS or loopback."""

    user: str
    session: str
    secured: bool = False


class Session:
    """What the commands share. `report` takes lines for the operator's log."""

    def __init__(
        self, stream: Stream, store: MailStore, who: Who, names: Names, report: Report
    ) -> None:
        self.stream = stream
        self.store = store
        self.who = who
        self.names = names
        self.report = report
        self.reader = CommandReader(stream, AUTHENTICATED)
        self.view: View | None = None
        # Results of searches that are kept up to date, by tag (RFC 5267 §4.3).
        self.contexts: dict[bytes, Context] = {}
        # What NOTIFY asked for (RFC 5465).
        self.notifier: Notifier | None = None
        # UIDs of the messages that the command in progress brought, by folder: whoever brought
        # them need not be told of them (RFC 5465 §5).
        self.brought: dict[str, set[int]] = {}
        # FETCH responses carry MODSEQ (RFC 7162 §3.1).
        self.condstore = False
        # VANISHED instead of EXPUNGE (RFC 7162 §3.2).
        self.qresync = False
        # ENABLE IMAP4rev2 (RFC 9051 §6.3.1): no \\Recent, ESEARCH for SEARCH, LIST in SELECT.
        self.rev2 = False
        # ENABLE UTF8=ACCEPT (RFC 6855): no character set in SEARCH, UTF8 data in APPEND.
        self.utf8_accept = False
        # ENABLE UIDONLY (RFC 9586): no sequence numbers, either way.
        self.uid_only = False
        self.logged_out = False
        # COMPRESS was agreed to in the command that is being answered.
        self.compressing = False
        self.expunged = 0
        # How far the running command is: messages done, and of how many.
        self.progress: tuple[int, int] | None = None
        self._sending = False
        self._out: list[bytes] = []
        self._looked = 0.0

    # Answers.

    def untagged(self, response: bytes) -> None:
        """Queue ``* response``."""
        self._out.append(b"* %b\r\n" % response)

    def extend(self, lines: list[bytes]) -> None:
        """Queue whole lines."""
        self._out += lines

    def tagged(self, tag: bytes, response: bytes) -> None:
        self._out.append(b"%b %b\r\n" % (tag, response))

    async def flush(self) -> None:
        """One write for all that is queued; waits while the peer reads too slowly. Raises
        ConnectionLost."""
        if self._out:
            self._sending = True
            try:
                # Nothing here holds what is sent while the peer takes it.
                await self.stream.send(self._take_out())
            finally:
                self._sending = False

    async def send_pieces(self, pieces: AsyncIterator[bytes]) -> None:
        """What is queued, and then one response as its pieces come. Raises ConnectionLost, and what
        `pieces` raises, after which the connection is of no use."""
        await self.flush()
        self._sending = True
        try:
            async for piece in pieces:
                await self.stream.send(piece)
        finally:
            self._sending = False

    def _take_out(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)

    def tell_progress(self, tag: bytes) -> None:
        """To a client that waits for a command's answer (RFC 9585); one that is receiving it, or
        is gone, is told nothing."""
        if self._sending or self.stream.lost:
            return
        done = b"NIL NIL" if self.progress is None else b"%d %d" % self.progress
        said = b"Still working" if self.progress is None else b"Looked at %d of %d" % self.progress
        self.untagged(b'OK [INPROGRESS ("%b" %b)] %b' % (tag, done, said))
        self.stream.write(self._take_out())

    # The selected folder.

    def selected(self, writable: bool = False) -> View:
        """Raises Refused."""
        if self.view is None:
            raise Refused("BAD", "No mailbox selected.", "CLIENTBUG")
        if writable and self.view.read_only:
            raise Refused("NO", "Mailbox is read-only", "READ-ONLY")
        return self.view

    def use_condstore(self) -> None:
        """From now on; what a client says that only one with CONDSTORE says, enables it."""
        if self.condstore:
            return
        self.condstore = True
        if self.view is not None:
            self.view.with_modseq = True
            highest = self.view.mailbox.highestmodseq
            self.untagged(b"OK [HIGHESTMODSEQ %d] Highest" % highest)

    def use_qresync(self) -> None:
        self.use_condstore()
        self.qresync = True
        if self.view is not None:
            self.view.with_uids = True

    def use_uid_only(self) -> None:
        self.uid_only = True
        if self.view is not None:
            self.view.uid_only = self.view.with_uids = True

    def use_rev2(self) -> None:
        self.rev2 = True
        self.use_utf8_names()
        if self.view is not None:
            self.view.hide_recent()

    def use_utf8(self) -> None:
        self.utf8_accept = True
        self.use_utf8_names()

    def use_utf8_names(self) -> None:
        self.names = dataclasses.replace(self.names, utf8=True)
        if self.view is not None:
            self.view.international = True

    def close_view(self) -> None:
        view, self.view = self.view, None
        self.contexts.clear()
        if view is not None:
            view.mailbox.release()

    def close_notifier(self) -> None:
        """What is told is as it was before the first NOTIFY."""
        notifier, self.notifier = self.notifier, None
        if notifier is not None:
            notifier.close()
            if self.view is not None:
                self.view.tells_flags = True

    async def look(self, now: bool = False) -> None:
        """Have the folder look at the disk, if it is time to. Raises End when it is no more."""
        view = self.view
        if view is None:
            return
        moment = time.monotonic()
        if now or moment - self._looked > _LOOK_INTERVAL:
            self._looked = moment
            try:
                await view.mailbox.refresh()
            except MailboxError as error:
                if error.code == "NONEXISTENT":
                    raise End("Selected mailbox was deleted, have to disconnect.") from None
                raise
            if view.mailbox.uidvalidity != view.uidvalidity:
                raise End("UIDVALIDITY changed, have to disconnect.")

    def sync(self, expunges: bool) -> None:
        """Queue what changed in the selected folder."""
        if self.view is not None:
            self._out += self.view.updates(expunges)

    async def folder_name(self, wire: bytes) -> str:
        """The store's name of the folder that is meant: the one given if there is such a folder,
        else its normal form (RFC 9051 §5.1). Raises Refused."""
        name, normal = self.names.store_name(wire), self.names.new_name(wire)
        if name == normal or any(one.name == name for one in await self.store.folders()):
            return name
        return normal

    async def open_folder(self, wire: bytes, missing: str = "NONEXISTENT") -> Mailbox:
        """missing: the response code when there is none. Raises Refused."""
        try:
            return await self.store.open(await self.folder_name(wire))
        except MailboxError as error:
            if error.code in ("NONEXISTENT", "TRYCREATE"):
                raise Refused("NO", self.names.explain(error), missing) from None
            raise
