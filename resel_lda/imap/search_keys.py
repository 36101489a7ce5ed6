"""SEARCH keys (RFC 3501 §6.4.4): a tree whose nodes answer yes, no, or not known yet.

A node is asked with what is loaded of a message so far; "not known yet" (None) makes the caller
load more: first from memory, then sizes, then headers, then the text. Most messages are decided
before anything is read.
"""

from __future__ import annotations

import datetime
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from resel_lda.imap.parser import ParseError
from resel_lda.mailbox import MessageInfo
from resel_lda.mime.searchtext import body_text, header_values

Answer = bool | None


@dataclass(slots=True)
class Candidate:
    """A message that is searched, and what is loaded of it (None: not yet)."""

    sequence: int
    info: MessageInfo
    recent: bool
    size: int | None = None
    header: bytes | None = None
    message: bytes | None = None
    _fields: list[tuple[bytes, str]] | None = None
    _text: str | None = None

    def fields(self) -> list[tuple[bytes, str]] | None:
        """(lower-case name, decoded and folded value) of all header fields."""
        if self._fields is None and self.header is not None:
            self._fields = header_values(self.header)
        return self._fields

    @property
    def plain_header(self) -> bool:
        """Whether the header's octets are its text: no encoded words, nothing beyond ASCII."""
        return self.header is not None and self.header.isascii() and b"=?" not in self.header

    def body(self) -> str | None:
        """All decoded text of the body, folded."""
        if self._text is None and self.message is not None:
            self._text = body_text(self.message)
        return self._text

    def forget_text(self) -> None:
        """Decided: only its number is still of interest."""
        self.message = self.header = self._fields = self._text = None


Key = Callable[[Candidate], Answer]


@dataclass(slots=True)
class Needs:
    """What the keys of a search may have to look at."""

    size: bool = False
    header: bool = False
    message: bool = False


# Keys that combine others.


def all_of(keys: Sequence[Key]) -> Key:
    if len(keys) == 1:
        return keys[0]

    def ask(candidate: Candidate) -> Answer:
        known = True
        for key in keys:
            answer = key(candidate)
            if answer is False:
                return False
            if answer is None:
                known = False
        return True if known else None

    return ask


def any_of(first: Key, second: Key) -> Key:
    def ask(candidate: Candidate) -> Answer:
        left = first(candidate)
        if left:
            return True
        right = second(candidate)
        if right:
            return True
        return None if left is None or right is None else False

    return ask


def not_(key: Key) -> Key:
    def ask(candidate: Candidate) -> Answer:
        answer = key(candidate)
        return None if answer is None else not answer

    return ask


# Keys on what is in memory.


class FlagKey:
    """Whether a message has a system flag (wanted), or has it not."""

    def __init__(self, flag: str, wanted: bool) -> None:
        self.flag = flag
        self.wanted = wanted

    def __call__(self, candidate: Candidate) -> Answer:
        return (self.flag in candidate.info.flags) is self.wanted


def keyword(word: str, wanted: bool) -> Key:
    folded = word.lower()

    def ask(candidate: Candidate) -> Answer:
        return any(flag.lower() == folded for flag in candidate.info.flags) is wanted

    return ask


def within(ranges: list[tuple[int, int]], by_uid: bool) -> Key:
    starts = [low for low, _ in ranges]

    def ask(candidate: Candidate) -> Answer:
        number = candidate.info.uid if by_uid else candidate.sequence
        at = bisect_right(starts, number)
        return at > 0 and number <= ranges[at - 1][1]

    return ask


def in_uids(uids: Collection[int]) -> Key:
    """The result saved before (RFC 5182)."""
    return lambda candidate: candidate.info.uid in uids


def changed(modseq: int) -> Key:
    """RFC 7162 §3.1.5."""
    return lambda candidate: candidate.info.modseq >= modseq


def _day_start(day: datetime.date) -> float:
    """When a day begins where the server is, as Dovecot counts days of INTERNALDATE."""
    try:
        return time.mktime((day.year, day.month, day.day, 0, 0, 0, 0, 0, -1))
    except OverflowError:
        raise ParseError("Invalid date") from None


def days_meant(word: bytes, day: datetime.date) -> tuple[float, float]:
    """From and up to when, for BEFORE, ON and SINCE."""
    start = _day_start(day)
    if word == b"BEFORE":
        return float("-inf"), start
    if word == b"SINCE":
        return start, float("inf")
    following = _day_start(day + datetime.timedelta(days=1)) if day.year < 9999 else start + 86400
    return start, following


# Keys on sizes.


def size(word: bytes, number: int) -> Key:
    def ask(candidate: Candidate) -> Answer:
        if candidate.size is None:
            return None
        return candidate.size > number if word == b"LARGER" else candidate.size < number

    return ask


def always(_: Candidate) -> Answer:
    return True
