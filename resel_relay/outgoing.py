"""A message's content as it goes over the wire: long lines broken, dots stuffed, end marked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from resel_mta.content import CRLF, Content
from resel_mta.wire.data import DotStuffer, dot_stuff

BLOCK = 65536
END = b".\r\n"


class LineBreaker:
    """Breaks lines of more than `limit` octets with CR LF SPACE, as Postfix does
    (smtp_line_length_limit): RFC 5321 §4.5.3.1.6 lets a server refuse longer ones.

    Takes a stream in blocks cut anywhere; limit 0 changes nothing.
    """

    __slots__ = ("_column", "_limit")

    def __init__(self, limit: int) -> None:
        # The space that begins a continuation is an octet of its line; another must fit behind it.
        self._limit = max(limit, 2) if limit else 0
        self._column = 0

    def feed(self, block: bytes) -> bytes:
        """The next block with its long lines broken."""
        limit = self._limit
        if not limit:
            return block
        column, start, done = self._column, 0, 0
        pieces: list[bytes] = []
        size = len(block)
        while True:
            # The last line end that a line of legal length could reach: one search per ~1000 octets.
            end = block.rfind(b"\n", start, start + limit + 2 - column)
            if end >= 0:
                start, column = end + 1, 0
                continue
            rest = size - start
            trailing = 1 if rest and block[-1] == 0x0D else 0
            if column + rest - trailing <= limit:
                self._column = column + rest
                break
            cut = start + max(0, limit - column)
            pieces += (block[done:cut], b"\r\n ")
            start = done = cut
            column = 1
        if not pieces:
            return block
        pieces.append(block[done:])
        return b"".join(pieces)


class Outgoing:
    """One message on its way; made once, sent to any number of hosts.

    size: octets declared with SIZE. header_is_ascii: whether the header needs SMTPUTF8 if asked.
    """

    __slots__ = ("_content", "_eight_bit", "_limit", "_wire", "size")

    def __init__(self, content: Content, line_length_limit: int) -> None:
        self.size = content.size
        self._content = content
        self._limit = line_length_limit
        self._wire: bytes | None = None
        self._eight_bit: bool | None = None

    @property
    def header_is_ascii(self) -> bool:
        return self._content.header.raw.isascii()

    @property
    def eight_bit(self) -> bool | None:
        """Whether any octet is above 127; None if only the disk can tell (`is_eight_bit`)."""
        if self._eight_bit is None:
            body = self._content.body
            if not self.header_is_ascii:
                self._eight_bit = True
            elif body.in_memory:
                self._eight_bit = not body.read(0, body.size).isascii()
        return self._eight_bit

    async def is_eight_bit(self) -> bool:
        """Whether any octet is above 127. Raises OSError."""
        known = self.eight_bit
        if known is None:
            known = self._eight_bit = await asyncio.to_thread(self._scan)
        return known

    def _scan(self) -> bool:
        body, offset = self._content.body, 0
        while block := body.read(offset, BLOCK):
            if not block.isascii():
                return True
            offset += len(block)
        return False

    def whole(self) -> bytes | None:
        """Everything after 354, end mark included, if it is small and in memory; else None."""
        content = self._content
        if self.size > 2 * BLOCK or not content.body.in_memory:
            return None
        if self._wire is None:
            data = content.header.raw + CRLF + content.body.read(0, self.size)
            data = LineBreaker(self._limit).feed(data)
            if not data.endswith(CRLF):
                data += CRLF
            self._wire = dot_stuff(data) + END
        return self._wire

    async def blocks(self) -> AsyncIterator[bytes]:
        """Everything after 354, end mark included, in blocks. Raises OSError: the disk failed, and
        the end mark must not be sent."""
        breaker, stuffer = LineBreaker(self._limit), DotStuffer()
        body = self._content.body
        yield stuffer.feed(breaker.feed(self._content.header.raw + CRLF))
        offset = 0
        while offset < body.size:
            if body.in_memory:
                block = body.read(offset, BLOCK)
            else:
                block = await asyncio.to_thread(body.read, offset, BLOCK)
            if not block:
                raise OSError(f"body ends at {offset} of {body.size} octets")
            offset += len(block)
            yield stuffer.feed(breaker.feed(block))
        yield stuffer.finish()
