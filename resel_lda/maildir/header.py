"""Header blocks of messages, and sets of their fields."""

from __future__ import annotations

import os
from collections.abc import Sequence

from resel_lda.maildir.files import with_crlf
from resel_lda.mime.sections import header_fields

# What is read at first holds nearly all headers; then always more, so that long ones take no square
# time.
_FIRST = 4096
_MORE = 1 << 16


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
    data = os.read(fd, _FIRST)
    end = data.find(b"\n\n")
    if end > 0 and b"\r" not in (header := data[: end + 2]) and header[0] != 0x0A:
        return header.replace(b"\n", b"\r\n")
    block, start = data, 0
    while True:
        if data.startswith((b"\n", b"\r\n")):
            return b"\r\n"
        ends = [end for end in (data.find(b"\n\n", start), data.find(b"\n\r\n", start)) if end >= 0]
        if ends:
            return with_crlf(data[: min(ends) + 1] + b"\n")
        if not block:
            return with_crlf(data)
        start = max(0, len(data) - 3)
        block = os.read(fd, max(len(data), _MORE))
        data += block
