"""A message's content: an editable header block and an immutable body stream.

On the wire a message is ``header.raw + CRLF + body``. Every line of both ends in CR LF and
neither holds a bare CR or LF; whoever builds a `Content` keeps that promise (RFC 5321 §2.3.8),
so that nothing downstream can be made to send a peer what it could split in two.

A body is read through `Body.read`, never through a path: a small one lies in memory, a large
one in a file of the queue. `Body.read` of a body that is not `in_memory` touches the disk and
belongs in a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

CRLF = b"\r\n"


@runtime_checkable
class Body(Protocol):
    """Immutable octets after the empty line that ends the header.

    size: octets, as on the wire before dot-stuffing.
    in_memory: whether `read` answers without touching the disk.
    """

    @property
    def size(self) -> int: ...

    @property
    def in_memory(self) -> bool: ...

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` octets from `offset`; b"" at the end. Raises OSError."""
        ...


class MemoryBody:
    """A body held as one bytes object."""

    __slots__ = ("data", "size")
    in_memory = True

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        if offset == 0 and length >= self.size:
            return self.data
        return self.data[offset : offset + length]


class Header:
    """An ordered header block. Names compare without case; untouched fields keep their bytes.

    `raw` is the block: each field with its folding and final CR LF, no empty line at the end.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: bytes = b"") -> None:
        self.raw = raw

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """(name, whole field with folding and CR LF) in order. A line without a colon is (b"", line)."""
        start = 0
        raw = self.raw
        end = len(raw)
        while start < end:
            stop = raw.find(CRLF, start)
            stop = end if stop < 0 else stop + 2
            while stop < end and raw[stop] in b" \t":
                next_line = raw.find(CRLF, stop)
                stop = end if next_line < 0 else next_line + 2
            field = raw[start:stop]
            name, colon, _ = field.partition(b":")
            yield (name.rstrip(b" \t") if colon else b"", field)
            start = stop

    def get_all(self, name: bytes) -> list[bytes]:
        """The unfolded values of every field called `name`, stripped of surrounding space."""
        wanted = name.lower()
        return [
            field.partition(b":")[2].replace(CRLF, b"").strip()
            for found, field in self.fields()
            if found.lower() == wanted
        ]

    def get(self, name: bytes) -> bytes | None:
        """The first such value, or None."""
        values = self.get_all(name)
        return values[0] if values else None

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, bytes):
            return False
        probe = b"\n" + name.lower()
        # A field name is followed by optional space and a colon; the cheap test first.
        return probe in b"\n" + self.raw.lower() and bool(self.get_all(name))

    def prepend(self, field: bytes) -> None:
        """Put a whole field (with its CR LF) before all others."""
        self.raw = field + self.raw

    def append(self, field: bytes) -> None:
        """Put a whole field (with its CR LF) after all others."""
        self.raw += field

    def replace(self, fields: Iterator[tuple[bytes, bytes]] | list[tuple[bytes, bytes]]) -> None:
        """Set the block to these (name, whole field) pairs."""
        self.raw = b"".join(field for _, field in fields)

    def remove(self, name: bytes) -> int:
        """Drop every field called `name`; how many there were."""
        wanted = name.lower()
        kept = []
        dropped = 0
        for found, field in self.fields():
            if found.lower() == wanted:
                dropped += 1
            else:
                kept.append(field)
        if dropped:
            self.raw = b"".join(kept)
        return dropped


class Content:
    """What a message says, as opposed to where it goes (the envelope)."""

    __slots__ = ("body", "header")

    def __init__(self, header: Header, body: Body) -> None:
        self.header = header
        self.body = body

    @classmethod
    def from_bytes(cls, data: bytes) -> Content:
        """Split a whole message whose lines end in CR LF.

        A first line that cannot be a header field starts the body, as Postfix has it.
        """
        header, body = split_header(data)
        return cls(Header(header), MemoryBody(body))

    @property
    def size(self) -> int:
        """Octets of the whole message on the wire, before dot-stuffing."""
        return len(self.header.raw) + 2 + self.body.size


# RFC 5322 §2.2: printable ASCII but the colon; space before the colon is obsolete (§4.5.8).
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
# Fields with their continuations and nothing else; possessive, so that it takes one pass.
_FIELDS = re.compile(rb"(?:[!-9;-~]++[ \t]*+:[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*+")


def split_header(data: bytes) -> tuple[bytes, bytes]:
    """(header block, body) of a message; the empty line between them belongs to neither."""
    if data.startswith(CRLF):
        return b"", data[2:]
    end = data.find(b"\r\n\r\n")
    if end >= 0 and _FIELDS.fullmatch(data, 0, end + 2):
        return data[: end + 2], data[end + 4 :]
    block, rest = (data, b"") if end < 0 else (data[: end + 2], data[end + 4 :])
    # Every line up to there must be a field or a continuation; else the body began earlier.
    start = 0
    first = True
    while start < len(block):
        stop = block.find(CRLF, start)
        stop = len(block) if stop < 0 else stop + 2
        continuation = not first and block[start] in b" \t"
        if not continuation and not _FIELD.match(block, start, stop):
            return data[:start], data[start:]
        first = False
        start = stop
    return block, rest
