"""Header blocks of messages, and sets of their fields."""

from __future__ import annotations

import os
from collections.abc import Sequence

from resel_lda.maildir.files import with_crlf
from resel_lda.mime.sections import header_fields

_BLOCK = 8192


def set_name(names: Sequence[bytes], exclude: bool) -> str:
    """What a set of field names (exclude: all but these) is called in the cache."""
    words = sorted({name.upper().decode("ascii") for name in names})
    # No field name has a colon.
    return (":" if exclude else "") + " ".join(words)


def cut(header: bytes, set_name: str) -> bytes:
    """The fields of a set."""
    names = set_name.removeprefix(":").encode("ascii").split(b" ")
    return header_fields(header, names, set_name.startswith(":"))


def header_of(message: bytes) -> bytes:
    """The header block of a message with CR LF line ends, with its empty line."""
    if message.startswith(b"\r\n"):
        return message[:2]
    end = message.find(b"\r\n\r\n")
    return message if end < 0 else message[: end + 4]


def read_header(fd: int) -> bytes:
    """The same of a stored message, whatever its line ends; of a large one no more is read."""
    data = b""
    while True:
        block = os.read(fd, _BLOCK)
        start = max(0, len(data) - 3)
        data += block
        if data.startswith((b"\n", b"\r\n")):
            return b"\r\n"
        ends = [end for end in (data.find(b"\n\n", start), data.find(b"\n\r\n", start)) if end >= 0]
        if ends:
            return with_crlf(data[: min(ends) + 1] + b"\n")
        if not block:
            return with_crlf(data)
