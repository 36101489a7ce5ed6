"""Finds the addresses in an address field of a header, by offset, and changes nothing else.

A grammar loose enough for real mail (RFC 5322 §3.4 and §4.4): mailboxes, groups, comments,
quoted strings, folding, encoded words. What is no address is skipped; nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: Words, dots and @ with nothing between them; quoted strings and domain literals belong to it.
_RUN = re.compile(rb'(?:[^\s()<>,;:\\"\[\]\x00]+|"(?:[^"\\]|\\.)*"|\[[^\[\]\\\r\n]*\])+', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]+")
_ENCODED_WORD = re.compile(rb"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=")


@dataclass(frozen=True, slots=True)
class Span:
    """Where an address stands: value[start:end]."""

    start: int
    end: int


class _Mailbox:
    """What was seen since the last comma: runs of words, and those between < and >."""

    __slots__ = ("angle", "broken", "inside", "runs")

    def __init__(self) -> None:
        self.runs: list[Span] = []
        self.inside: list[Span] = []
        self.angle = ""
        self.broken = False

    def add(self, span: Span) -> None:
        if self.angle == "open":
            self.inside.append(span)
        elif not self.angle:
            self.runs.append(span)

    def address(self) -> Span | None:
        """The one address it holds, None where there is none or it is unclear."""
        if self.broken or self.angle == "open":
            return None
        found = self.inside if self.angle else self.runs
        return found[0] if len(found) == 1 else None


def find_addresses(value: bytes) -> list[Span]:
    """The addresses of a field's value (folding and all), in order."""
    return [span for span in _mailboxes(value) if _is_address(value[span.start : span.end])]


def _is_address(text: bytes) -> bool:
    if _ENCODED_WORD.fullmatch(text) or text.startswith(b"["):
        return False
    local, at, domain = text.rpartition(b"@")
    return bool(local and domain) if at else True


def _mailboxes(value: bytes) -> Iterator[Span]:
    mailbox = _Mailbox()
    position = 0
    end = len(value)
    while position < end:
        char = value[position : position + 1]
        if char in b" \t\r\n":
            match = _SPACE.match(value, position)
            assert match is not None
            position = match.end()
            continue
        if char == b"(":
            position = _after_comment(value, position)
            continue
        match = _RUN.match(value, position)
        if match is not None:
            mailbox.add(Span(position, match.end()))
            position = match.end()
            continue
        if char == b'"':
            # A quoted string that never ends: the rest is nobody's address.
            return
        if char in b",;" and mailbox.angle != "open":
            span = mailbox.address()
            if span is not None:
                yield span
            mailbox = _Mailbox()
        else:
            _special(char, mailbox)
        position += 1
    span = mailbox.address()
    if span is not None:
        yield span


def _special(char: bytes, mailbox: _Mailbox) -> None:
    """One of <>:\\[] or a comma in a source route."""
    if char == b"<" and not mailbox.angle:
        mailbox.angle = "open"
    elif char == b">" and mailbox.angle == "open":
        mailbox.angle = "closed"
    elif char == b":" and mailbox.angle == "open":
        mailbox.inside.clear()  # The source route before it (RFC 5322 §4.4: obs-route).
    elif char == b"," and mailbox.angle == "open":
        mailbox.inside.clear()
    elif char == b":" and not mailbox.angle:
        mailbox.runs.clear()  # A group's name.
    else:
        mailbox.broken = True


def _after_comment(value: bytes, position: int) -> int:
    """Where a comment ends, nested ones counted; the end of the value if it never does."""
    depth = 0
    end = len(value)
    while position < end:
        char = value[position]
        if char == 0x5C:
            position += 1
        elif char == 0x28:
            depth += 1
        elif char == 0x29:
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return end


def replace_addresses(value: bytes, changes: Iterable[tuple[Span, bytes]]) -> bytes:
    """The value with these addresses (in order) in the place of what stands there."""
    parts = []
    done = 0
    for span, address in changes:
        parts.append(value[done : span.start])
        parts.append(address)
        done = span.end
    parts.append(value[done:])
    return b"".join(parts)
