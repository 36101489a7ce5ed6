"""One message for one mailbox, command or file, and what it looks like there."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from resel_mta.content import Content
from resel_mta.mail import Deferred, Outcome, Reply
from resel_mta.users import User

_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Job:
    """One recipient of a message. address, orig_to: for Delivered-To and X-Original-To.

    relay: "local" or "virtual", as in the log.
    """

    user: User
    address: str
    orig_to: str
    reverse_path: str
    queue_id: str
    size: int
    relay: str


def deferred(job: Job, text: str, enhanced: str, code: int = 451) -> Outcome:
    """It is to be tried again."""
    return Deferred(Reply(code, enhanced, text), relay=job.relay)


def message_blocks(content: Content, job: Job, *, delivered_to: bool = True) -> Iterator[bytes]:
    """The message as stored: Postfix's three fields, the header, an empty line, the body."""
    prefix = f"Return-Path: <{job.reverse_path}>\r\nX-Original-To: {job.orig_to}\r\n"
    if delivered_to:
        prefix += f"Delivered-To: {job.address}\r\n"
    head = prefix.encode("utf-8", "surrogateescape") + content.header.raw + b"\r\n"
    body = content.body
    position = 0
    if body.size <= _BLOCK:
        # A small message in one piece, which is one write.
        block = body.read(0, body.size)
        head += block
        position = len(block)
    yield head
    while position < body.size:
        block = body.read(position, _BLOCK)
        if not block:
            raise OSError(errno.EIO, "the queue file is shorter than it should be")
        yield block
        position += len(block)
