"""The result options of SEARCH and SORT, and the ESEARCH response that answers them.

RFC 4731 (ESEARCH), RFC 5182 (SEARCHRES), RFC 5267 (ESORT, CONTEXT), RFC 9394 (PARTIAL).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from resel_lda.imap import text
from resel_lda.imap.fetch_items import Item
from resel_lda.imap.parser import ParseError, Parser

_OPTIONS = frozenset((b"MIN", b"MAX", b"ALL", b"COUNT", b"SAVE", b"UPDATE", b"CONTEXT", b"PARTIAL"))
_SILENT = frozenset((b"SAVE", b"CONTEXT", b"UPDATE"))


@dataclass(frozen=True, slots=True)
class Range:
    """Positions in a result, 1 being the first; negative ones count from the end, -1 being the
    last. Both have the same sign, and `first` is the nearer to its end."""

    first: int
    last: int

    def of(self, result: Sequence[int]) -> Sequence[int]:
        if self.first > 0:
            return result[self.first - 1 : self.last]
        return result[max(len(result) + self.last, 0) : max(len(result) + self.first + 1, 0)]

    @property
    def shown(self) -> bytes:
        return b"%d:%d" % (self.first, self.last)


@dataclass(slots=True)
class Options:
    """words: those of `RETURN (…)`; PARTIAL has its range in `partial`, UPDATE in `items` what to
    fetch of new messages (RFC 5465 §7)."""

    words: set[bytes] = field(default_factory=set)
    partial: Range | None = None
    items: list[Item] = field(default_factory=list)

    @property
    def silent(self) -> bool:
        """Nothing of the result is asked for, only that it is kept."""
        return bool(self.words) and self.words <= _SILENT and b"SAVE" in self.words

    def told(self, result: Sequence[int]) -> list[int]:
        """What a response speaks of, in the result's order: all, or only MIN, MAX and PARTIAL
        where no more is asked for (RFC 4731 §3.1, RFC 9394 §3.2)."""
        if self.words & {b"ALL", b"COUNT"} or not self.words & {b"MIN", b"MAX", b"PARTIAL"}:
            return list(result)
        kept = set(self.partial.of(result)) if self.partial is not None else set()
        if b"MIN" in self.words:
            kept.update(result[:1])
        if b"MAX" in self.words:
            kept.update(result[-1:])
        return [number for number in result if number in kept]

    def response(self, tag: bytes, result: Sequence[int], by_uid: bool, modseq: int = 0) -> bytes:
        """ESEARCH, without ``* `` and CR LF. MIN, MAX and ALL are left out where nothing was
        found (RFC 4731 §3.1); MIN is the first in order, MAX the last (RFC 5267 §3.1)."""
        words = [b'ESEARCH (TAG "%b")' % tag]
        if by_uid:
            words.append(b"UID")
        if result:
            if b"MIN" in self.words:
                words.append(b"MIN %d" % result[0])
            if b"MAX" in self.words:
                words.append(b"MAX %d" % result[-1])
            if b"ALL" in self.words or not self.words - {b"CONTEXT"}:
                words.append(b"ALL " + text.uid_set(result))
        if self.partial is not None:
            part = text.uid_set(self.partial.of(result)) or b"NIL"
            words.append(b"PARTIAL (%b %b)" % (self.partial.shown, part))
        if b"COUNT" in self.words:
            words.append(b"COUNT %d" % len(result))
        if modseq and result:
            words.append(b"MODSEQ %d" % modseq)
        return b" ".join(words)


def parse_options(args: Parser, parse_items: Callable[[Parser], list[Item]]) -> Options | None:
    """``RETURN (…) ``; None if there is none: the old response is wanted. parse_items: reads what
    to fetch. Raises ParseError."""
    if args.data[args.pos : args.pos + 8].upper() != b"RETURN (":
        return None
    args.pos += 8
    found = Options()
    while not args.skip(b")"):
        word = args.word()
        if word not in _OPTIONS:
            raise ParseError("Unknown search return option")
        if word == b"PARTIAL":
            if found.partial is not None:
                raise ParseError("PARTIAL can be used only once")
            args.space()
            found.partial = parse_range(args)
        if word == b"UPDATE" and args.skip(b" ("):
            args.pos -= 1
            found.items = parse_items(args)
        found.words.add(word)
        args.skip(b" ")
    args.space()
    if found.partial is not None and b"ALL" in found.words:
        raise ParseError("PARTIAL and ALL can't be used together")
    if not found.words:
        found.words.add(b"ALL")
    return found


def parse_range(args: Parser) -> Range:
    """``1:100`` or ``-1:-100``, the ends in either order. Raises ParseError."""
    negative = args.skip(b"-")
    first = args.number()
    args.expect(b":")
    if negative:
        args.expect(b"-")
    last = args.number()
    if not first or not last:
        raise ParseError("Invalid PARTIAL range")
    first, last = min(first, last), max(first, last)
    return Range(-first, -last) if negative else Range(first, last)
