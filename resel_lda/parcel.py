"""A message and its outcomes as they go from process to process: the message as a file without a
name (header block, empty line, body), an outcome as a JSON object."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from resel_mta.content import Content, Header
from resel_mta.mail import Bounced, Deferred, Delivered, Outcome, Reply

_BLOCK = 1 << 18
_SMALL = 1 << 20
_KINDS: Mapping[str, type[Outcome]] = MappingProxyType(
    {"delivered": Delivered, "deferred": Deferred, "bounced": Bounced}
)


def is_small(content: Content) -> bool:
    """Whether `wrap` needs no disk, and so no thread."""
    return content.body.in_memory and content.size <= _SMALL


def wrap(content: Content, directory: str) -> int:
    """A descriptor of the whole message; a large one's file lies in `directory`. Raises OSError."""
    if is_small(content):
        return _copy(content, os.memfd_create("mail", os.MFD_CLOEXEC))
    with tempfile.TemporaryFile(dir=directory) as file:
        return _copy(content, os.dup(file.fileno()))


def _copy(content: Content, descriptor: int) -> int:
    """Write the whole message into an open file, which is closed if that fails."""
    try:
        with open(descriptor, "wb", closefd=False, buffering=0) as file:
            _write(file.fileno(), content.header.raw + b"\r\n")
            offset = 0
            while block := content.body.read(offset, _BLOCK):
                _write(file.fileno(), block)
                offset += len(block)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class _FileBody:
    """A body in an open file, after the header. Implements `content.Body`."""

    in_memory = False

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self.size = os.fstat(descriptor).st_size - start

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, self._start + offset)


def unwrap(descriptor: int, header: int) -> Content:
    """The message again; `descriptor` must stay open. header: octets of its header block."""
    return Content(Header(os.pread(descriptor, header, 0)), _FileBody(descriptor, header + 2))


def outcome_row(outcome: Outcome) -> dict[str, object]:
    """One of the three outcomes of a delivery on this machine, as JSON has it."""
    reply = outcome.reply
    kind = next(name for name, one in _KINDS.items() if isinstance(outcome, one))
    return {"kind": kind, "code": reply.code, "enhanced": reply.enhanced, "text": reply.text}


def row_outcome(row: Mapping[str, Any], relay: str) -> Outcome:
    """Raises KeyError, TypeError, ValueError for a row that is none."""
    reply = Reply(int(row["code"]), str(row["enhanced"]), str(row["text"]))
    return _KINDS[str(row["kind"])](reply, relay=relay)
