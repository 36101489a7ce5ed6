"""SEARCH keys (RFC 3501 §6.4.4): a tree whose nodes answer yes, no, or not known yet.

A node is asked with what is loaded of a message so far; "not known yet" (None) makes the caller
load more: first from memory, then sizes, then headers, then the text. Most messages are decided
before anything is read.
"""

from __future__ import annotations

import datetime
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_tz

from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser, SequenceSet
from resel_lda.imap.view import View
from resel_lda.mailbox import MessageInfo
from resel_lda.mime.sections import decoded_text, parse
from resel_lda.mime.text import decode_header

# AND, OR, NOT and parentheses inside each other, and keys in all.
_MAX_DEPTH = 50
_MAX_KEYS = 2_000

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
        """(lower-case name, decoded and casefolded value) of all header fields."""
        if self._fields is None and self.header is not None:
            self._fields = _header_values(self.header)
        return self._fields

    @property
    def plain_header(self) -> bool:
        """Whether the header's octets are its text: no encoded words, nothing beyond ASCII."""
        return self.header is not None and self.header.isascii() and b"=?" not in self.header

    def body(self) -> str | None:
        """All decoded text of the body, casefolded."""
        if self._text is None and self.message is not None:
            self._text = _body_text(self.message)
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


def _header_values(header: bytes) -> list[tuple[bytes, str]]:
    values: list[tuple[bytes, list[bytes]]] = []
    for line in header.split(b"\n"):
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            if values:
                values[-1][1].append(line)
            continue
        name, colon, rest = line.partition(b":")
        if colon:
            values.append((name.rstrip(b" \t").lower(), [rest]))
    return [
        (name, decode_header(b"".join(lines).strip(b" \t")).casefold()) for name, lines in values
    ]


def _body_text(message: bytes) -> str:
    """The leaf parts' text, and the headers of messages inside (they are body text, too)."""
    root = parse(message)
    texts: list[str] = []
    for node in root.walk():
        if node is not root and node.is_root:
            inner = _header_values(message[node.start : node.body])
            texts += [f"{name.decode('latin-1')}: {value}" for name, value in inner]
        found = decoded_text(message, node)
        if found:
            texts.append(found.casefold())
    return "\n".join(texts)


# Keys that combine others.


def _all_of(keys: Sequence[Key]) -> Key:
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


def _any_of(first: Key, second: Key) -> Key:
    def ask(candidate: Candidate) -> Answer:
        left = first(candidate)
        if left:
            return True
        right = second(candidate)
        if right:
            return True
        return None if left is None or right is None else False

    return ask


def _not(key: Key) -> Key:
    def ask(candidate: Candidate) -> Answer:
        answer = key(candidate)
        return None if answer is None else not answer

    return ask


# Keys on what is in memory.


def _flag(flag: str, wanted: bool) -> Key:
    return lambda candidate: (flag in candidate.info.flags) is wanted


def _keyword(word: str, wanted: bool) -> Key:
    folded = word.lower()

    def ask(candidate: Candidate) -> Answer:
        return any(flag.lower() == folded for flag in candidate.info.flags) is wanted

    return ask


def _within(ranges: list[tuple[int, int]], by_uid: bool) -> Key:
    starts = [low for low, _ in ranges]

    def ask(candidate: Candidate) -> Answer:
        number = candidate.info.uid if by_uid else candidate.sequence
        at = bisect_right(starts, number)
        return at > 0 and number <= ranges[at - 1][1]

    return ask


def _day_start(day: datetime.date) -> float:
    """When a day begins where the server is, as Dovecot counts days of INTERNALDATE."""
    try:
        return time.mktime((day.year, day.month, day.day, 0, 0, 0, 0, 0, -1))
    except OverflowError:
        raise ParseError("Invalid date") from None


def _received(word: bytes, day: datetime.date) -> Key:
    start = _day_start(day)
    if word == b"BEFORE":
        return lambda candidate: candidate.info.internal_date < start
    if word == b"SINCE":
        return lambda candidate: candidate.info.internal_date >= start
    following = _day_start(day + datetime.timedelta(days=1)) if day.year < 9999 else start + 86400
    return lambda candidate: start <= candidate.info.internal_date < following


# Keys on sizes, headers, text.


def _size(word: bytes, number: int) -> Key:
    def ask(candidate: Candidate) -> Answer:
        if candidate.size is None:
            return None
        return candidate.size > number if word == b"LARGER" else candidate.size < number

    return ask


def _sent(word: bytes, day: datetime.date) -> Key:
    """On the date as it stands in the Date field, whatever its time zone."""

    def ask(candidate: Candidate) -> Answer:
        fields = candidate.fields()
        if fields is None:
            return None
        sent = next((_written_day(value) for name, value in fields if name == b"date"), None)
        if sent is None:
            return False
        if word == b"SENTBEFORE":
            return sent < day
        return sent >= day if word == b"SENTSINCE" else sent == day

    return ask


def _written_day(value: str) -> datetime.date | None:
    try:
        found = parsedate_tz(value[:200])
        return datetime.date(*found[:3]) if found else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _field(name: bytes, needle: str) -> Key:
    """An empty needle asks whether the field is there at all."""
    wanted = name.lower()
    needle = needle.casefold()
    # White space may be folded differently in the header, so one word is what to look for first.
    word = max(needle.split(), key=len, default="").encode()

    def ask(candidate: Candidate) -> Answer:
        header = candidate.header
        if header is None:
            return None
        if word and candidate.plain_header and word not in header.lower():
            return False
        fields = candidate.fields() or ()
        return any(name == wanted and needle in value for name, value in fields)

    return ask


def _text(needle: str, with_header: bool) -> Key:
    needle = needle.casefold()

    def ask(candidate: Candidate) -> Answer:
        if not needle:
            return True
        if with_header:
            fields = candidate.fields()
            if fields and any(
                needle in f"{name.decode('latin-1')}: {value}" for name, value in fields
            ):
                return True
        body = candidate.body()
        return None if body is None else needle in body

    return ask


def _always(_: Candidate) -> Answer:
    return True


_FLAG_KEYS = {
    b"ANSWERED": ("\\Answered", True),
    b"DELETED": ("\\Deleted", True),
    b"DRAFT": ("\\Draft", True),
    b"FLAGGED": ("\\Flagged", True),
    b"SEEN": ("\\Seen", True),
    b"UNANSWERED": ("\\Answered", False),
    b"UNDELETED": ("\\Deleted", False),
    b"UNDRAFT": ("\\Draft", False),
    b"UNFLAGGED": ("\\Flagged", False),
    b"UNSEEN": ("\\Seen", False),
}
_RECENT_KEYS: dict[bytes, Key] = {
    b"ALL": _always,
    b"RECENT": lambda candidate: candidate.recent,
    b"OLD": lambda candidate: not candidate.recent,
    b"NEW": lambda candidate: candidate.recent and "\\Seen" not in candidate.info.flags,
}
_DATE_KEYS = (b"BEFORE", b"ON", b"SINCE")
_SENT_KEYS = (b"SENTBEFORE", b"SENTON", b"SENTSINCE")
_FIELD_KEYS = (b"BCC", b"CC", b"FROM", b"SUBJECT", b"TO")
_SET = re.compile(rb"[0-9*]")


class KeyParser:
    """Reads a search program. needs: what its keys may have to look at."""

    def __init__(self, args: Parser, view: View, charset: str) -> None:
        self.args = args
        self.view = view
        self.charset = charset
        self.needs = Needs()
        self._keys = 0

    def program(self) -> Key:
        """One or more keys up to the end, all of which must match. Raises ParseError, Refused."""
        keys = [self.key(0)]
        while not self.args.at_end:
            self.args.space()
            if self.args.at_end:
                break
            keys.append(self.key(0))
        return _all_of(keys)

    def key(self, depth: int) -> Key:
        self._keys += 1
        if depth > _MAX_DEPTH or self._keys > _MAX_KEYS:
            raise ParseError("Search query is too complex")
        args = self.args
        if args.skip(b"("):
            return self._group(depth)
        if _SET.match(args.data, args.pos):
            return self._set(args.sequence_set(), by_uid=False)
        word = args.word()
        if word in _FLAG_KEYS:
            return _flag(*_FLAG_KEYS[word])
        if word in _RECENT_KEYS:
            return _RECENT_KEYS[word]
        args.space()
        if word == b"NOT":
            return _not(self.key(depth + 1))
        if word == b"OR":
            first = self.key(depth + 1)
            args.space()
            return _any_of(first, self.key(depth + 1))
        if word == b"UID":
            return self._set(args.sequence_set(), by_uid=True)
        return self._with_argument(word)

    def _group(self, depth: int) -> Key:
        keys = [self.key(depth + 1)]
        while not self.args.skip(b")"):
            self.args.space()
            keys.append(self.key(depth + 1))
        return _all_of(keys)

    def _set(self, numbers: SequenceSet, by_uid: bool) -> Key:
        uids = self.view.uids
        largest = (uids[-1] if uids else 0) if by_uid else len(uids)
        ranges = numbers.resolved(largest)
        if not by_uid and ranges and ranges[-1][1] > largest:
            raise Refused("BAD", "Invalid messageset")
        return _within(ranges, by_uid)

    def _with_argument(self, word: bytes) -> Key:
        args, needs = self.args, self.needs
        if word in _DATE_KEYS:
            return _received(word, args.date())
        if word in (b"KEYWORD", b"UNKEYWORD"):
            return _keyword(args.atom().decode("ascii"), word == b"KEYWORD")
        if word in (b"LARGER", b"SMALLER"):
            needs.size = True
            return _size(word, args.number(2**63 - 1))
        if word in _SENT_KEYS:
            needs.header = True
            return _sent(word, args.date())
        if word in _FIELD_KEYS:
            needs.header = True
            return _field(word, self._needle())
        if word == b"HEADER":
            needs.header = True
            name = args.astring()
            args.space()
            return _field(name, self._needle())
        if word in (b"BODY", b"TEXT"):
            needs.message = True
            needs.header = needs.header or word == b"TEXT"
            return _text(self._needle(), word == b"TEXT")
        raise ParseError(f"Unknown search key {word.decode('ascii')}")

    def _needle(self) -> str:
        raw = self.args.astring()
        try:
            return raw.decode(self.charset)
        except UnicodeDecodeError:
            raise ParseError("Search string is not valid in its character set") from None


def numbers(found: Iterable[Candidate], by_uid: bool) -> list[int]:
    """UIDs or sequence numbers of what was found."""
    if by_uid:
        return [candidate.info.uid for candidate in found]
    return [candidate.sequence for candidate in found]
