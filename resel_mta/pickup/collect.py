"""Reads a message from a program of this machine and makes it one that can be sent.

Lines may end in LF or CR LF; what is kept ends in CR LF throughout. A CR that ends no line cannot
be sent by SMTP: in the body (the progress of a command, say) it becomes a line end, in the header,
where that would let text become a field of its own, a space. The rest is as in Postfix: mbox
"From " lines at the top are dropped, and a line with nothing but a dot ends the message unless
that is switched off.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from resel_mta.pickup.letter import BLOCK
from resel_mta.receiver import HEADER_LIMIT

#: Octets that are held in memory; more goes to a file without a name.
MEMORY_LIMIT = 256 * 1024

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_DOT_LINE = re.compile(rb"^\.\r*\n", re.MULTILINE)
_LINE_END = re.compile(rb"\r*\n")


class TooBig(Exception):
    """More than the size limit."""


class HeaderTooBig(Exception):
    """A header that goes on for megabytes."""


class Hold:
    """Octets, in memory while they are few.

    folders: where a file may be made, best first; a machine that lets us write nowhere gets one in
    memory.
    """

    def __init__(self, folders: Iterable[str | None] = (None,)) -> None:
        self._folders = tuple(folders)
        self._file: IO[bytes] = io.BytesIO()
        self._in_memory = True
        self.size = 0

    def write(self, block: bytes) -> None:
        """Raises OSError when the disk is full."""
        if self._in_memory and self.size + len(block) > MEMORY_LIMIT:
            file = self._open()
            file.write(self._file.getvalue())  # type: ignore[attr-defined]
            self._file = file
            self._in_memory = False
        self._file.write(block)
        self.size += len(block)

    def _open(self) -> IO[bytes]:
        for folder in self._folders:
            try:
                return tempfile.TemporaryFile(dir=folder)
            except OSError:
                continue
        return os.fdopen(os.memfd_create("message", os.MFD_CLOEXEC), "w+b")

    def close(self) -> None:
        """Forget them."""
        self._file.close()

    def blocks(self) -> Iterator[bytes]:
        """All of it, from the start."""
        self._file.seek(0)
        while block := self._file.read(BLOCK):
            yield block


@dataclass(frozen=True, slots=True)
class Collected:
    """A message. header: its header block, for those who look for recipients; it is in `hold`
    too."""

    header: bytes
    hold: Hold


def collect(source: io.BufferedIOBase, hold: Hold, *, dot_ends: bool, size_limit: int) -> Collected:
    """Read a message to its end. size_limit: in octets, 0 for none.

    Raises TooBig, HeaderTooBig, OSError.
    """
    reader = _Reader(source, hold, dot_ends, size_limit)
    header = reader.read_header()
    reader.read_body()
    return Collected(header, hold)


class _Reader:
    def __init__(self, source: io.BufferedIOBase, hold: Hold, dot_ends: bool, limit: int) -> None:
        self._source = source
        self._hold = hold
        self._dot_ends = dot_ends
        self._limit = limit
        self._ended = False
        self._first = b""

    def _keep(self, block: bytes) -> None:
        if 0 < self._limit < self._hold.size + len(block):
            raise TooBig
        self._hold.write(block)

    def _skip_mbox_lines(self) -> bytes:
        """The first line that is none."""
        while True:
            line = self._source.readline(BLOCK)
            if not line.lstrip(b">").startswith(b"From "):
                return line
            while line and not line.endswith(b"\n"):
                line = self._source.readline(BLOCK)

    def read_header(self) -> bytes:
        """The header block. The empty line after it is kept as well; any other line that ends it
        is left to the body."""
        lines: list[bytes] = []
        size = 0
        line = self._skip_mbox_lines()
        while line:
            while len(line) <= HEADER_LIMIT and not line.endswith(b"\n"):
                more = self._source.readline(BLOCK)
                if not more:
                    break
                line += more
            bare = line.rstrip(b"\r\n")
            if self._dot_ends and bare == b".":
                self._ended = True
                break
            if not bare:
                self._keep(b"\r\n")
                break
            if not (_FIELD.match(bare) or (lines and bare[:1] in b" \t")):
                self._first = line
                break
            kept = bare.replace(b"\r", b" ") + b"\r\n"
            size += len(kept)
            if size > HEADER_LIMIT:
                raise HeaderTooBig
            self._keep(kept)
            lines.append(kept)
            line = self._source.readline(BLOCK)
        return b"".join(lines)

    def read_body(self) -> None:
        # `held` is what follows the last LF seen, or all of it where a line is very long: then
        # `inside` says that its beginning was kept already.
        held = b""
        inside = False
        while not self._ended:
            block, self._first = self._first or self._source.read1(BLOCK), b""
            data = held + block
            if not block:
                self._keep_end(data, inside)
                return
            cut = data.rfind(b"\n") + 1
            if not cut and len(data) > BLOCK:
                cut = len(data.rstrip(b"\r"))
            if not cut:
                held = data
                continue
            lines, held = data[:cut], data[cut:]
            if self._dot_ends:
                end = _DOT_LINE.search(lines, 1 if inside else 0)
                if end is not None:
                    self._ended = True
                    lines = lines[: end.start()]
            if lines:
                inside = not lines.endswith(b"\n")
                self._keep(_normalize(lines))

    def _keep_end(self, data: bytes, inside: bool) -> None:
        """A last line that nothing ended."""
        line = data.rstrip(b"\r")
        if self._dot_ends and not inside and line == b".":
            return
        if data or inside:
            self._keep(_normalize(line) + b"\r\n")


def _normalize(lines: bytes) -> bytes:
    if b"\r" in lines:
        lines = _LINE_END.sub(b"\n", lines).replace(b"\r", b"\n")
    return lines.replace(b"\n", b"\r\n")
