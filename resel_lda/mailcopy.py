"""A message as programs and mbox files get it: Unix line ends, Postfix's fields before the header."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from resel_lda.job import Job, message_blocks
from resel_mta.content import Content


def mail_copy(
    content: Content, job: Job, *, delivered_to: bool = True, mbox: bool = False
) -> Iterator[bytes]:
    """The message in blocks, after a "From " line (what Postfix's mail_copy() writes).

    mbox: lines that begin with "From " get a ">", and an empty line ends the message.
    Raises OSError when the body cannot be read.
    """
    sender = (job.reverse_path or "MAILER-DAEMON").replace(" ", "_").replace("\n", "_")
    first = f"From {sender}  {time.asctime()}\n"
    yield first.encode("utf-8", "surrogateescape")
    lines = unix_lines(message_blocks(content, job, delivered_to=delivered_to))
    if not mbox:
        yield from lines
        return
    yield from quote_from(lines)
    yield b"\n"


def unix_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """CR LF becomes LF, wherever blocks are cut; the last line is ended."""
    carry = b""
    last = b"\n"
    for block in blocks:
        data = carry + block
        carry = b""
        if data.endswith(b"\r"):
            data, carry = data[:-1], b"\r"
        data = data.replace(b"\r\n", b"\n")
        if data:
            last = data[-1:]
            yield data
    if carry:
        yield carry
        last = carry
    if last != b"\n":
        yield b"\n"


def quote_from(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """ ">From " for "From " at the beginning of a line, wherever blocks are cut."""
    # What is held back: from the last line end on, if it may still become "From ".
    held = b"\n"
    first = True
    for block in blocks:
        data = held + block
        cut = data.rfind(b"\n")
        tail = data[cut:]
        if len(tail) < 6 and b"\nFrom ".startswith(tail):
            data, held = data[:cut], tail
        else:
            held = b""
        data = data.replace(b"\nFrom ", b"\n>From ")
        if first and data:
            data, first = data[1:], False
        if data:
            yield data
    if held:
        yield held[1:] if first else held
