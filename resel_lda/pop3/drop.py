"""The maildrop of one session (RFC 1939 §5): INBOX as it was at log-in, and what is to be removed."""

from __future__ import annotations

from collections.abc import Sequence

from resel_lda.large_message import LargeMessage
from resel_lda.mailbox import Mailbox, MailboxError
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.pop3.answers import Failed
from resel_lda.pop3.uidl import Namer, stored_name

# A client that fetches one message after the other gets the next ones read ahead, up to this.
_AHEAD_MESSAGES, _AHEAD_OCTETS = 16, 1 << 20


class DropLock:
    """Who has the maildrop: one session of a user at a time (RFC 1939 §3)."""

    def __init__(self) -> None:
        self.holder = ""

    def take(self, session: str) -> bool:
        """False if another session has it."""
        if self.holder:
            return False
        self.holder = session
        return True

    def release(self, session: str) -> None:
        if self.holder == session:
            self.holder = ""


class Maildrop:
    """uids: by message number minus one, fixed for the session. Numbers count from 1."""

    def __init__(self, mailbox: Mailbox, namer: Namer) -> None:
        self._mailbox = mailbox
        self._namer = namer
        self.uids = mailbox.uids()
        self.deleted: set[int] = set()
        self._retrieved: set[int] = set()
        self._sizes: Sequence[int] | None = None
        self._ahead: dict[int, bytes] = {}
        self._last = 0

    def check(self, number: int) -> int:
        """The UID of a message that is there. Raises Failed."""
        if not 1 <= number <= len(self.uids):
            raise Failed("There's no message {number}.", number=number)
        if number in self.deleted:
            raise Failed("Message is deleted.")
        return self.uids[number - 1]

    def numbers(self) -> list[int]:
        """Messages not marked as deleted."""
        if not self.deleted:
            return list(range(1, len(self.uids) + 1))
        return [number for number in range(1, len(self.uids) + 1) if number not in self.deleted]

    async def sizes(self) -> Sequence[int]:
        """Octets of each message, with CR LF line ends; 0 of one that is gone."""
        if self._sizes is None:
            found = await self._mailbox.sizes(self.uids)
            self._sizes = [found.get(uid, 0) for uid in self.uids]
        return self._sizes

    def name(self, number: int) -> str:
        """UIDL's name of a message."""
        uid = self.uids[number - 1]
        base = stored = ""
        if isinstance(self._mailbox, MaildirFolder):
            index = self._mailbox.index
            base = index.bases.get(uid, "")
            stored = stored_name(index.uidlist.noted(base))
        return stored or self._namer(uid, self._mailbox.uidvalidity, base)

    async def large(self, number: int) -> LargeMessage | None:
        """The message, if it is not to be held in memory. Raises Failed, MailboxError."""
        uid = self.check(number)
        if number in self._ahead:
            return None
        large = await self._mailbox.large(uid)
        if large is not None:
            self._last = number
        return large

    async def read(self, number: int) -> bytes:
        """A message. Raises Failed, MailboxError."""
        self.check(number)
        if number not in self._ahead:
            await self._read_ahead(number)
        self._last = number
        return self._ahead.pop(number)

    async def _read_ahead(self, number: int) -> None:
        """Read it, and those that will be asked for next if they are asked for in order."""
        wanted = [number]
        if number == self._last + 1:
            sizes = await self.sizes()
            octets = sizes[number - 1]
            for following in range(number + 1, min(number + _AHEAD_MESSAGES, len(self.uids) + 1)):
                octets += sizes[following - 1]
                if octets > _AHEAD_OCTETS:
                    break
                wanted.append(following)
        self._ahead.clear()
        found = await self._mailbox.read_many([self.uids[one - 1] for one in wanted])
        for one in wanted:
            message = found.get(self.uids[one - 1])
            if message is not None:
                self._ahead[one] = message
        if number not in self._ahead:
            raise Failed("Message is gone: another client has removed it.")

    def retrieved(self, number: int) -> None:
        """It is to be \\Seen once the session ends well."""
        self._retrieved.add(number)

    def reset(self) -> None:
        """RSET: nothing is marked any more."""
        self.deleted.clear()

    async def update(self) -> int:
        """The UPDATE state (RFC 1939 §6): how many messages were removed. Raises MailboxError."""
        seen = [self.uids[number - 1] for number in sorted(self._retrieved - self.deleted)]
        unseen = [uid for uid in seen if self._is_unseen(uid)]
        if unseen:
            await self._mailbox.store(unseen, ("\\Seen",), "add")
        if not self.deleted:
            return 0
        wanted = [self.uids[number - 1] for number in sorted(self.deleted)]
        gone = await self._mailbox.expunge(wanted)
        left = [uid for uid in wanted if uid not in set(gone) and self._mailbox.get(uid)]
        if left:
            raise MailboxError("Some deleted messages were not removed", "UNAVAILABLE")
        return len(gone)

    def _is_unseen(self, uid: int) -> bool:
        info = self._mailbox.get(uid)
        return info is not None and "\\Seen" not in info.flags
