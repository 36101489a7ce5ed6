"""The grammar of commands (RFC 3501 §9), pure.

A command is one `bytes` without its final CR LF; each literal lies in it as it came:
``{n}`` CR LF and n octets. Every method reads at `pos` and moves it; each octet is looked at a
bounded number of times, whatever a client sends.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Sequence

# atom-specials: ( ) { SP CTL % * " \ ]; 8-bit octets are in no atom.
_ATOM = re.compile(rb'[^(){%*"\\\]\x00-\x20\x7f-\xff]+')
# ASTRING-CHAR is ATOM-CHAR or "]".
_ASTRING = re.compile(rb'[^(){%*"\\\x00-\x20\x7f-\xff]+')
_TAG = re.compile(rb'[^+(){%*"\\\x00-\x20\x7f-\xff]+')
# list-char: ATOM-CHAR, list-wildcards or "]".
_LIST = re.compile(rb'[^(){"\\\x00-\x20\x7f-\xff]+')
_NUMBER = re.compile(rb"[0-9]{1,20}")
_LITERAL = re.compile(rb"\{([0-9]{1,20})\+?\}\r?\n")
# No octet of a quoted string can start two branches, so it is read in one pass.
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"')
_SET = re.compile(rb"[0-9*:,]+")
_RANGE = re.compile(rb"([1-9][0-9]{0,9}|\*)(?::([1-9][0-9]{0,9}|\*))?")
_DATE = re.compile(rb"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})")
_DATE_TIME = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
_FLAG = re.compile(rb'\\?[^(){%*"\\\]\x00-\x20\x7f-\xff]+')

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBER = {name.upper().encode(): number for number, name in enumerate(MONTHS, 1)}
_SYSTEM_FLAGS = {
    flag.lower(): flag
    for flag in ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft", "\\Recent")
}
UINT32 = 0xFFFFFFFF


class ParseError(Exception):
    """The command breaks the grammar: answered with BAD and this text."""


class SequenceSet:
    """A sequence-set as given; 0 stands for "*".

    ranges: (first, last) pairs in the client's order, not sorted.
    saved: it was "$", the result saved by a search (RFC 5182).
    """

    __slots__ = ("ranges", "saved")

    def __init__(self, ranges: Sequence[tuple[int, int]], saved: bool = False) -> None:
        self.ranges = ranges
        self.saved = saved

    def resolved(self, largest: int) -> list[tuple[int, int]]:
        """Sorted disjoint (low, high) pairs, "*" replaced by `largest`. In a folder that is empty
        (`largest` 0) "*" is nothing."""
        pairs = []
        for first, last in self.ranges:
            low, high = first or largest, last or largest
            if low > high:
                low, high = high, low
            if high:
                pairs.append((max(low, 1), high))
        pairs.sort()
        merged: list[tuple[int, int]] = []
        for low, high in pairs:
            if merged and low <= merged[-1][1] + 1:
                if high > merged[-1][1]:
                    merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        return merged


def parse_sequence_set(text: bytes) -> SequenceSet:
    """Raises ParseError."""
    ranges = []
    for item in text.split(b","):
        found = _RANGE.fullmatch(item)
        if found is None:
            raise ParseError("Invalid messageset")
        first = 0 if found[1] == b"*" else int(found[1])
        last = first if found[2] is None else 0 if found[2] == b"*" else int(found[2])
        if first > UINT32 or last > UINT32:
            raise ParseError("Invalid messageset")
        ranges.append((first, last))
    return SequenceSet(ranges)


def normal_flag(raw: bytes) -> str:
    """A flag as the doors spell it: system flags in their one spelling, keywords as given."""
    flag = raw.decode("ascii")
    return _SYSTEM_FLAGS.get(flag.lower(), flag)


class Parser:
    """Reads one command from left to right."""

    __slots__ = ("data", "pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data = data
        self.pos = pos

    @property
    def at_end(self) -> bool:
        return self.pos >= len(self.data)

    def peek(self) -> bytes:
        """The next octet; b"" at the end."""
        return self.data[self.pos : self.pos + 1]

    def skip(self, word: bytes) -> bool:
        """Go past `word` if it is next."""
        if self.data.startswith(word, self.pos):
            self.pos += len(word)
            return True
        return False

    def expect(self, word: bytes) -> None:
        if not self.skip(word):
            raise ParseError(f"Expected {word.decode('ascii')!r}")

    def space(self) -> None:
        if not self.skip(b" "):
            raise ParseError("Missing argument" if self.at_end else "Expected a space")

    def finish(self) -> None:
        """Nothing may follow (a trailing space is let pass, as some clients send one)."""
        if self.data[self.pos :].strip(b" "):
            raise ParseError("Unexpected extra arguments")

    def _take(self, pattern: re.Pattern[bytes], what: str) -> bytes:
        found = pattern.match(self.data, self.pos)
        if found is None:
            raise ParseError(f"Invalid {what}" if not self.at_end else f"Missing {what}")
        self.pos = found.end()
        return found[0]

    def tag(self) -> bytes:
        return self._take(_TAG, "tag")

    def atom(self) -> bytes:
        return self._take(_ATOM, "atom")

    def word(self) -> bytes:
        """An atom in upper case: a command, an item, a search key."""
        return self._take(_ATOM, "atom").upper()

    def number(self, largest: int = UINT32) -> int:
        value = int(self._take(_NUMBER, "number"))
        if value > largest:
            raise ParseError("Number is too large")
        return value

    def string(self) -> bytes:
        """A quoted string or a literal."""
        if self.peek() == b'"':
            found = _QUOTED.match(self.data, self.pos)
            if found is None:
                raise ParseError("Invalid quoted string")
            self.pos = found.end()
            text = found[1]
            if b"\\" in text:
                text = re.sub(rb"\\(.)", rb"\1", text)
            return text
        found = _LITERAL.match(self.data, self.pos)
        if found is None:
            raise ParseError("Expected a string" if not self.at_end else "Missing argument")
        end = found.end() + int(found[1])
        if end > len(self.data):
            raise ParseError("Literal is incomplete")
        self.pos = end
        return self.data[found.end() : end]

    def astring(self) -> bytes:
        if self.peek() in (b'"', b"{"):
            return self.string()
        return self._take(_ASTRING, "string")

    def nstring(self) -> bytes | None:
        if self.peek() in (b'"', b"{"):
            return self.string()
        if self.word() != b"NIL":
            raise ParseError("Expected a string or NIL")
        return None

    def list_mailbox(self) -> bytes:
        """A pattern of LIST: an astring in which % and * may stand bare."""
        if self.peek() in (b'"', b"{"):
            return self.string()
        return self._take(_LIST, "mailbox pattern")

    def sequence_set(self) -> SequenceSet:
        if self.skip(b"$"):
            return SequenceSet((), saved=True)
        return parse_sequence_set(self._take(_SET, "messageset"))

    def flag(self) -> str:
        """A system flag or keyword. \\Recent is the server's own and refused."""
        flag = normal_flag(self._take(_FLAG, "flag"))
        if flag == "\\Recent":
            raise ParseError("\\Recent cannot be changed")
        if flag.startswith("\\") and flag.lower() not in _SYSTEM_FLAGS:
            raise ParseError(f"Invalid system flag {flag}")
        return flag

    def flag_list(self) -> list[str]:
        """``(flag flag …)``, perhaps empty."""
        self.expect(b"(")
        return self._flags_until(b")")

    def flags(self) -> list[str]:
        """STORE's argument: a flag list, or flags without parentheses up to the end."""
        if self.peek() == b"(":
            return self.flag_list()
        found = [self.flag()]
        while self.skip(b" "):
            found.append(self.flag())
        return found

    def _flags_until(self, end: bytes) -> list[str]:
        found: list[str] = []
        if self.skip(end):
            return found
        while True:
            found.append(self.flag())
            if self.skip(end):
                return found
            self.space()

    def date(self) -> datetime.date:
        """``1-Feb-1994``, quoted or not."""
        quoted = self.skip(b'"')
        found = _DATE.match(self.data, self.pos)
        if found is None:
            raise ParseError("Invalid date")
        self.pos = found.end()
        if quoted:
            self.expect(b'"')
        month = _MONTH_NUMBER.get(found[2].upper(), 0)
        try:
            return datetime.date(int(found[3]), month, int(found[1]))
        except ValueError:
            raise ParseError("Invalid date") from None

    def date_time(self) -> float:
        """``"17-Jul-1996 02:44:25 -0700"`` in seconds since the epoch."""
        found = _DATE_TIME.match(self.data, self.pos)
        if found is None:
            raise ParseError("Invalid internal date")
        self.pos = found.end()
        day, year = int(found[1]), int(found[3])
        hour, minute, second = int(found[4]), int(found[5]), int(found[6])
        month = _MONTH_NUMBER.get(found[2].upper(), 0)
        try:
            datetime.datetime(year, month, day, hour, minute, min(second, 59))
        except ValueError:
            raise ParseError("Invalid internal date") from None
        offset = (int(found[8]) * 60 + int(found[9])) * 60
        seconds = calendar.timegm((year, month, day, hour, minute, second))
        return float(seconds - offset if found[7] == b"+" else seconds + offset)
