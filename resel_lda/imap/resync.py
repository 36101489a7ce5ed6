"""Quick resynchronisation (RFC 7162 §3.2): what SELECT and FETCH say to a client that was here before."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser, SequenceSet
from resel_lda.imap.session import Session
from resel_lda.imap.view import View, uid_required

Ranges = Sequence[tuple[int, int]]

MAX_MODSEQ = 2**63 - 1
_MAX_MATCHES = 100_000


@dataclass(frozen=True, slots=True)
class Known:
    """What the client says that it knows of a folder.

    uids: those it has; None is all. matches: (sequence number, UID) pairs, ascending, that were
    right when it looked last.
    """

    uidvalidity: int
    modseq: int
    uids: SequenceSet | None = None
    matches: Sequence[tuple[int, int]] = ()


def parse_select_parameters(session: Session, args: Parser) -> Known | None:
    """``(CONDSTORE)`` and ``(QRESYNC (…))`` after SELECT's mailbox name. Raises ParseError, Refused."""
    known: Known | None = None
    args.expect(b"(")
    while True:
        word = args.word()
        if word == b"CONDSTORE":
            session.use_condstore()
        elif word == b"QRESYNC":
            if not session.qresync:
                raise Refused("BAD", "QRESYNC not enabled")
            args.space()
            known = _known(session, args)
        else:
            raise ParseError("Unknown SELECT parameter")
        if args.skip(b")"):
            return known
        args.space()


def _known(session: Session, args: Parser) -> Known:
    args.expect(b"(")
    uidvalidity = args.number()
    args.space()
    modseq = args.number(MAX_MODSEQ)
    uids: SequenceSet | None = None
    matches: list[tuple[int, int]] = []
    if args.skip(b" "):
        if args.peek() != b"(":
            uids = _without_star(args.sequence_set())
        if uids is None or args.skip(b" "):
            if session.uid_only:
                raise uid_required()
            args.expect(b"(")
            sequences = _without_star(args.sequence_set())
            args.space()
            matched = _without_star(args.sequence_set())
            args.expect(b")")
            matches = list(zip(_numbers(sequences), _numbers(matched), strict=False))
    args.expect(b")")
    return Known(uidvalidity, modseq, uids, matches)


def _without_star(numbers: SequenceSet) -> SequenceSet:
    if numbers.saved or any(not first or not last for first, last in numbers.ranges):
        raise ParseError("Invalid QRESYNC parameters")
    return numbers


def _numbers(numbers: SequenceSet) -> list[int]:
    found: list[int] = []
    for low, high in numbers.resolved(0):
        if len(found) + high - low > _MAX_MATCHES:
            break
        found += range(low, high + 1)
    return found


def resynchronise(session: Session, view: View, known: Known) -> None:
    """Queue VANISHED (EARLIER) and FETCH of what changed since the client was here."""
    mailbox = view.mailbox
    if known.uidvalidity != mailbox.uidvalidity:
        return
    ranges = known.uids.resolved(0) if known.uids is not None else [(1, mailbox.uidnext - 1)]
    first = 1
    for sequence, uid in known.matches:
        # Up to here nothing was expunged, or its number would be another.
        if sequence <= len(view.uids) and view.uids[sequence - 1] == uid:
            first = uid + 1
    tell_vanished(session, view, known.modseq, common(ranges, [(first, mailbox.uidnext - 1)]))
    for info in mailbox.changed_since(known.modseq):
        if contains(ranges, info.uid):
            sequence = view.sequence(info.uid)
            if sequence:
                session.extend([view.flags_response(sequence, info)])


def tell_vanished(session: Session, view: View, since: int, ranges: Ranges) -> None:
    """VANISHED (EARLIER), of the UIDs in `ranges`. Not of messages that the session still has a
    number for: they are told of when that ends."""
    vanished: list[tuple[int, int]] = []
    uids = view.uids
    for low, high in common(view.mailbox.vanished_since(since), ranges):
        for uid in uids[bisect_left(uids, low) : bisect_right(uids, high)]:
            if uid > low:
                vanished.append((low, uid - 1))
            low = uid + 1
        if low <= high:
            vanished.append((low, high))
    if vanished:
        session.untagged(b"VANISHED (EARLIER) " + text.range_set(vanished))


def common(first: Ranges, second: Ranges) -> list[tuple[int, int]]:
    """What lies in both, of sorted disjoint ranges."""
    found: list[tuple[int, int]] = []
    left = right = 0
    while left < len(first) and right < len(second):
        low = max(first[left][0], second[right][0])
        high = min(first[left][1], second[right][1])
        if low <= high:
            found.append((low, high))
        if first[left][1] < second[right][1]:
            left += 1
        else:
            right += 1
    return found


def contains(ranges: Ranges, uid: int) -> bool:
    """Whether one of the sorted, disjoint ranges has it."""
    at = bisect_right(ranges, (uid, 1 << 62))
    return at > 0 and ranges[at - 1][1] >= uid
