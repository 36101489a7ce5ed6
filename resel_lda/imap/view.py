"""What one session has been told of its folder: sequence numbers, flags, what comes next.

A sequence number stays with its message until the session is told of an EXPUNGE, whatever other
sessions do meanwhile. All here works on memory and never waits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import SequenceSet
from resel_lda.imap.recent import RecentUids
from resel_lda.mailbox import MAX_KEYWORDS, SYSTEM_FLAGS, Mailbox, MessageInfo

# What carries the items of a message: FETCH, or UIDFETCH, whose number is the UID (RFC 9586 §3.4).
_HEADS = (b"FETCH", b"UIDFETCH")
# Orders and threads kept of a folder.
_MAX_MEMOS = 8


def uid_required() -> Refused:
    """RFC 9586 §3: a sequence number, where the client wanted to do without."""
    return Refused("BAD", "Message numbers can't be used with UIDONLY", "UIDREQUIRED")


class View:
    """uids: by sequence number minus one. recent: those this session shows as \\Recent.

    with_modseq: whether FETCH responses carry MODSEQ (RFC 7162 §3.1). with_uids: whether expunged
    messages are told of by UID, with VANISHED.
    """

    def __init__(self, mailbox: Mailbox, name: str, read_only: bool, recent_count: int = 0) -> None:
        self.mailbox = mailbox
        self.name = name
        self.read_only = read_only
        self.uidvalidity = mailbox.uidvalidity
        self.with_modseq = False
        self.with_uids = False
        self._modseq = self._expunged_to = mailbox.highestmodseq
        self.uids = mailbox.uids()
        self._highest = self.uids[-1] if self.uids else 0
        self._shows_recent = True
        self.recent = RecentUids()
        if not read_only:
            self._claim()
        elif recent_count:
            # EXAMINE takes \\Recent from nobody: the newest are shown so, and stay so.
            self.recent.add(self.uids[-recent_count:], self.uids)
        # Whether flags that others changed are told of (RFC 5465).
        self.tells_flags = True
        # No message has another number than its UID (RFC 9586).
        self.uid_only = False
        # The session may be sent what only IMAP4rev2 and UTF8=ACCEPT know.
        self.international = False
        # UIDs that "$" stands for (RFC 5182).
        self.saved: list[int] = []
        self._memos: dict[tuple[object, ...], object] = {}
        self._told: dict[int, int] = {}
        self._flag_text: dict[tuple[frozenset[str], bool], bytes] = {}
        self._keywords = tuple(mailbox.keywords())

    @property
    def modseq(self) -> int:
        """Up to which the session knows all changes of flags and all new messages."""
        return self._modseq

    def _claim(self) -> None:
        claimed = self.mailbox.claim_recent()
        if claimed and self._shows_recent:
            self.recent.add(sorted(claimed.intersection(self.uids)), self.uids)

    def count_recent(self) -> int:
        """How many messages the session shows as \\Recent."""
        return self.recent.count(self.uids)

    def hide_recent(self) -> None:
        """The session knows no \\Recent (RFC 9051). It takes it from later ones all the same."""
        self._shows_recent = False
        self.recent.clear()

    def memo(self, key: tuple[object, ...]) -> Any:
        """What was remembered of the messages as they are now, or None. Flags do not count."""
        return self._memos.get(key)

    def remember(self, key: tuple[object, ...], value: object) -> None:
        """Until a message comes or goes."""
        if len(self._memos) >= _MAX_MEMOS:
            self._memos.clear()
        self._memos[key] = value

    def highest_modseq(self, uids: Iterable[int]) -> int:
        """Of these messages; 0 if there are none."""
        marks = self.mailbox.marks_of(list(uids))
        return max((one.modseq for one in marks if one is not None), default=0)

    # Numbers.

    @property
    def head(self) -> bytes:
        return _HEADS[self.uid_only]

    def sequence(self, uid: int) -> int:
        """Its number; 0 if this session does not know the UID."""
        at = bisect_left(self.uids, uid)
        if at == len(self.uids) or self.uids[at] != uid:
            return 0
        return uid if self.uid_only else at + 1

    def select(self, numbers: SequenceSet, by_uid: bool) -> list[tuple[int, int]]:
        """(number, UID) pairs, ascending. UIDs that are not there are passed over; a sequence
        number beyond the end is the client's error (RFC 3501 §9, seq-number), any at all where
        there are only UIDs (RFC 9586 §3). Raises Refused."""
        if self.uid_only and not by_uid:
            raise uid_required()
        uids = self.uids
        if numbers.saved:
            found = [(self.sequence(uid), uid) for uid in self.saved]
            return [pair for pair in found if pair[0]]
        chosen: list[tuple[int, int]] = []
        if by_uid:
            for low, high in numbers.resolved(uids[-1] if uids else 0):
                first, last = bisect_left(uids, low), bisect_right(uids, high)
                if self.uid_only:
                    chosen.extend((uid, uid) for uid in uids[first:last])
                    continue
                chosen.extend(zip(range(first + 1, last + 1), uids[first:last], strict=True))
            return chosen
        for low, high in numbers.resolved(len(uids)):
            if high > len(uids):
                raise Refused("BAD", "Invalid messageset")
            chosen.extend(zip(range(low, high + 1), uids[low - 1 : high], strict=True))
        return chosen

    # Flags.

    def flags(self, info: MessageInfo) -> bytes:
        """``\\Seen \\Recent`` without parentheses."""
        return self.flag_words(info.flags, info.uid in self.recent)

    def flag_words(self, flags: frozenset[str], recent: bool) -> bytes:
        key = flags, recent
        words = self._flag_text.get(key)
        if words is None:
            words = self._flag_text[key] = text.flag_list(*key)
        return words

    def flags_response(self, sequence: int, info: MessageInfo) -> bytes:
        """An untagged FETCH that says a message's flags."""
        if self.uid_only:
            modseq = b"MODSEQ (%d) " % info.modseq if self.with_modseq else b""
            return b"* %d UIDFETCH (%bFLAGS (%b))\r\n" % (info.uid, modseq, self.flags(info))
        if self.with_modseq:
            return b"* %d FETCH (UID %d MODSEQ (%d) FLAGS (%b))\r\n" % (
                sequence,
                info.uid,
                info.modseq,
                self.flags(info),
            )
        return b"* %d FETCH (UID %d FLAGS (%b))\r\n" % (sequence, info.uid, self.flags(info))

    def modseq_response(self, sequence: int, info: MessageInfo) -> bytes:
        """What a silent STORE still has to say where MODSEQ is used (RFC 7162 §3.1.3)."""
        if self.uid_only:
            return b"* %d UIDFETCH (MODSEQ (%d))\r\n" % (info.uid, info.modseq)
        return b"* %d FETCH (UID %d MODSEQ (%d))\r\n" % (sequence, info.uid, info.modseq)

    def flag_responses(self) -> list[bytes]:
        """FLAGS and PERMANENTFLAGS (RFC 3501 §7.2.6, §7.1)."""
        known = text.flag_list((*SYSTEM_FLAGS, *self._keywords))
        # RFC 9051 §7.1: without "\*" where no keyword can be new any more.
        more = b" \\*" if len(self._keywords) < MAX_KEYWORDS else b""
        permanent = b"" if self.read_only else known + more
        words = b"Read-only mailbox." if self.read_only else b"Flags permitted."
        return [
            b"* FLAGS (%b)\r\n" % known,
            b"* OK [PERMANENTFLAGS (%b)] %b\r\n" % (permanent, words),
        ]

    def new_keywords(self) -> list[bytes]:
        """FLAGS and PERMANENTFLAGS, if there are keywords that they did not hold yet."""
        keywords = tuple(self.mailbox.keywords())
        if keywords == self._keywords:
            return []
        self._keywords = keywords
        return self.flag_responses()

    def already_told(self, uids: Sequence[int]) -> None:
        """The running command tells these flags itself, or was asked not to (.SILENT)."""
        known = self._modseq
        if self.mailbox.highestmodseq == known:
            return
        marks = self.mailbox.marks_of(uids)
        self._told.update(
            (uid, one.modseq)
            for uid, one in zip(uids, marks, strict=True)
            if one is not None and one.modseq > known
        )

    # Changes.

    def updates(self, expunges: bool) -> list[bytes]:
        """Untagged responses for what changed since the last call. Without `expunges`, those
        wait; sequence numbers then stay as they are."""
        mailbox = self.mailbox
        now = mailbox.highestmodseq
        out: list[bytes] = []
        recent_before = self.count_recent()
        if expunges and now != self._expunged_to:
            out += self._expunge(self.going())
            self._expunged_to = now
        if now != self._modseq:
            changed = mailbox.changed_since(self._modseq)
            self._modseq = now
            out += self.new_keywords()
            out += self._changes(changed, recent_before)
        elif self.count_recent() != recent_before:
            out.append(b"* %d RECENT\r\n" % self.count_recent())
        self._told.clear()
        return out

    def _changes(self, changed: Sequence[MessageInfo], recent_before: int) -> list[bytes]:
        new = [info.uid for info in changed if info.uid > self._highest]
        out: list[bytes] = []
        if new:
            self.uids += new
            self._memos.clear()
            out.append(b"* %d EXISTS\r\n" % len(self.uids))
        # One that was new at the last call may have become claimable since.
        if not self.read_only:
            self._claim()
        if self._shows_recent and (new or self.count_recent() != recent_before):
            out.append(b"* %d RECENT\r\n" % self.count_recent())
        for info in changed:
            if info.uid > self._highest or self._told.get(info.uid) == info.modseq:
                continue
            sequence = self.sequence(info.uid) if self.tells_flags else 0
            if sequence:
                out.append(self.flags_response(sequence, info))
        if new:
            self._highest = new[-1]
        return out

    def going(self) -> list[int]:
        """UIDs that the next `updates` with expunges takes away."""
        mailbox = self.mailbox
        if mailbox.highestmodseq == self._expunged_to:
            return []
        uids = self.uids
        gone: list[int] = []
        for low, high in mailbox.vanished_since(self._expunged_to):
            gone += uids[bisect_left(uids, low) : bisect_right(uids, high)]
        return gone

    def _expunge(self, gone: Sequence[int]) -> list[bytes]:
        """From the highest number down, so that none of them moves another."""
        if not gone:
            return []
        if self.with_uids:
            out = [b"* VANISHED %b\r\n" % text.uid_set(gone)]
        else:
            out = [b"* %d EXPUNGE\r\n" % self.sequence(uid) for uid in reversed(gone)]
        self._memos.clear()
        dropped = set(gone)
        self.uids = [uid for uid in self.uids if uid not in dropped]
        return out
