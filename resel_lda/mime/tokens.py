"""The lexical elements of header field values (RFC 5322 §3.2, RFC 2045 §5.1), read leniently.

Each method of `Scanner` returns whether there is more input: MORE, END, or BROKEN where the
element is not there or unfinished. That third answer is what lets address and parameter parsers
go on after rubbish the way Dovecot does, instead of failing.
"""

from __future__ import annotations

import re

MORE, END, BROKEN = 1, 0, -1

# atext of RFC 5322 plus everything above 0x7f, which real mail has raw.
_ATEXT = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]*")
_ATEXT_OR_DOT = re.compile(rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.\x80-\xff]*")
_TOKEN = re.compile(rb"[^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=]*")
_LWSP = re.compile(rb"[ \t\r\n]*")
_QUOTED = re.compile(rb"[^\"\\]*")
_COMMENT = re.compile(rb"[^()\\]*")
_SPACE_OR_COMMENT = (b" ", b"\t", b"\r", b"\n", b"(")
_WORD_START = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_ATEXT_SET = _WORD_START | frozenset(b"!#$%&'*+-/=?^_`{|}~") | frozenset(range(0x80, 0x100))


class Scanner:
    """A position in one field value. `comment` is the last comment that was skipped."""

    __slots__ = ("comment", "data", "end", "pos")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0
        self.end = len(data)
        self.comment = b""

    def at(self, octet: bytes) -> bool:
        """Whether `octet` comes next."""
        return self.data.startswith(octet, self.pos)

    def run(self, pattern: re.Pattern[bytes]) -> bytes:
        match = pattern.match(self.data, self.pos)
        if match is None:
            return b""
        self.pos = match.end()
        return match.group()

    def skip_space(self) -> int:
        """Skip white space and comments. BROKEN: a comment without end (skipped to the end)."""
        while True:
            self.run(_LWSP)
            if self.pos >= self.end:
                return END
            if self.data[self.pos] != 0x28:
                return MORE
            if not self._skip_comment():
                return BROKEN

    def _skip_comment(self) -> bool:
        self.pos += 1
        self.comment = b""
        level = 1
        text: list[bytes] = []
        while True:
            text.append(self.run(_COMMENT))
            if self.pos >= self.end:
                return False
            octet = self.data[self.pos : self.pos + 1]
            self.pos += 1
            if octet == b"\\":
                text.append(self.data[self.pos : self.pos + 1])
                self.pos += 1
                if self.pos > self.end:
                    self.pos = self.end
                continue
            level += 1 if octet == b"(" else -1
            if level == 0:
                self.comment = b"".join(text)
                return True
            text.append(octet)

    def quoted_string(self, out: list[bytes]) -> int:
        """At a double quote. Appends the text without quotes and backslashes."""
        self.pos += 1
        while True:
            out.append(self.run(_QUOTED))
            if self.pos >= self.end:
                return BROKEN
            octet = self.data[self.pos]
            self.pos += 1
            if octet == 0x22:
                return self.skip_space()
            if self.pos >= self.end:
                return BROKEN
            out.append(self.data[self.pos : self.pos + 1])
            self.pos += 1

    def local_part(self, out: list[bytes]) -> int:
        """As `dot_atom`, with dots wherever they stand, but no space after one."""
        while True:
            found = self.run(_ATEXT_OR_DOT)
            if not found:
                return BROKEN
            out.append(found)
            if found.endswith(b".") and self.data[self.pos : self.pos + 1] in _SPACE_OR_COMMENT:
                return BROKEN
            state = self.skip_space()
            if state != MORE or not self.at(b"."):
                return state

    def dot_atom(self, out: list[bytes]) -> int:
        """Atoms with dots between, white space and comments around the dots allowed. BROKEN where
        there is no atom at either side of a dot."""
        while True:
            atom = self.run(_ATEXT)
            if not atom:
                return BROKEN
            out.append(atom)
            state = self.skip_space()
            if state != MORE:
                return state
            if not self.at(b"."):
                return MORE
            self.pos += 1
            out.append(b".")
            if self.skip_space() != MORE:
                return BROKEN

    def phrase(self, out: list[bytes]) -> int:
        """Words, quoted strings and dots, one space between. May be empty."""
        if self.pos >= self.end:
            return END
        if self.at(b"."):
            return BROKEN
        return self.words(out)

    def words(self, out: list[bytes]) -> int:
        """As `phrase`, where a dot may come first."""
        while True:
            if self.at(b'"'):
                state = self.quoted_string(out)
            else:
                out.append(self.run(_ATEXT_OR_DOT))
                state = self.skip_space()
            if state != MORE:
                return state
            octet = self.data[self.pos]
            if octet not in _ATEXT_SET and octet not in b'".':
                return MORE
            out.append(b" ")

    def domain(self, out: list[bytes]) -> int:
        """At the "@" before a domain or domain literal."""
        self.pos += 1
        if self.skip_space() != MORE:
            return BROKEN
        if not self.at(b"["):
            return self.dot_atom(out)
        close = self.data.find(b"]", self.pos)
        if close < 0:
            return BROKEN
        out.append(self.data[self.pos : close + 1])
        self.pos = close + 1
        return self.skip_space()

    def token(self, out: list[bytes]) -> int:
        """A MIME token. BROKEN if there is none."""
        found = self.run(_TOKEN)
        if not found:
            return BROKEN if self.pos < self.end else END
        out.append(found)
        return self.skip_space()
