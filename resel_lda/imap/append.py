"""APPEND, also of several messages (RFC 3502): they go from the socket to the store in blocks.

A literal8 (RFC 3516) is taken whole: its binary parts become base64 on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.reader import Literal
from resel_lda.imap.session import Session
from resel_lda.imap.stream import ConnectionLost
from resel_lda.mailbox import AppendData, MailboxError
from resel_lda.mime.binary import without_binary

_BLOCK = 64 * 1024
# Seconds that a client may pause inside a message.
_STALL = 300.0
_MAX_BINARY = 64 * 1024 * 1024
_MAX_MESSAGES = 10_000


class _Upload:
    """The blocks of one literal. `left` is what has not been read yet."""

    def __init__(self, session: Session, size: int) -> None:
        self._session = session
        self.left = size

    async def blocks(self) -> AsyncIterator[bytes]:
        while self.left:
            yield await self._block()

    async def _block(self) -> bytes:
        try:
            async with asyncio.timeout(_STALL):
                block = await self._session.stream.read(min(self.left, _BLOCK))
        except TimeoutError:
            raise ConnectionLost from None
        self.left -= len(block)
        return block

    async def skip(self) -> None:
        while self.left:
            await self._block()


class _Messages:
    """The messages of one command, as they come."""

    def __init__(
        self, session: Session, literal: Literal, flags: list[str], date: float | None
    ) -> None:
        self._session = session
        self._literal: Literal | None = literal
        self._flags = flags
        self._date = date
        self._upload: _Upload | None = None

    async def all(self) -> AsyncIterator[AppendData]:
        """Raises ParseError, Refused: then none is to be kept."""
        count = 0
        while self._literal is not None:
            count += 1
            if count > _MAX_MESSAGES:
                raise Refused("NO", "Too many messages in one APPEND", "LIMIT")
            yield await self._next(self._literal)
            await self._finish_literal()

    async def _next(self, literal: Literal) -> AppendData:
        session = self._session
        limit = _MAX_BINARY if literal.binary else session.reader.limits.message
        if literal.size > min(limit, session.reader.limits.message):
            raise Refused("NO", "Message size exceeds the limit", "TOOBIG")
        if not literal.size:
            raise Refused("NO", "Can't save a zero byte message.")
        if literal.waits:
            session.extend([b"+ OK\r\n"])
            await session.flush()
        upload = self._upload = _Upload(session, literal.size)
        if not literal.binary:
            return AppendData(upload.blocks(), literal.size, self._flags, self._date)
        whole = b"".join([block async for block in upload.blocks()])
        data = await asyncio.to_thread(without_binary, whole)
        if data is None:
            raise Refused("NO", "Binary data outside of binary parts", "UNKNOWN-CTE")
        return AppendData([data], len(data), self._flags, self._date)

    async def _finish_literal(self) -> None:
        """To the next message, or the end of the command."""
        if self._upload is not None:
            await self._upload.skip()
            self._upload = None
        data, self._literal = await self._session.reader.after_literal()
        args = Parser(data)
        if self._literal is None:
            if data.strip(b" "):
                raise ParseError("Unexpected text after the message")
            return
        args.space()
        self._flags, self._date = _flags_and_date(args)

    async def abandon(self) -> None:
        """Read the command to its end. A client that waits for a "+" is told by the answer."""
        if self._upload is None and self._literal is not None:
            await self._skip_announced()
        elif self._upload is not None:
            await self._upload.skip()
            _, self._literal = await self._session.reader.after_literal()
        while self._literal is not None:
            await self._skip_announced()

    async def _skip_announced(self) -> None:
        literal, self._literal = self._literal, None
        if literal is None or literal.waits:
            return
        if literal.size > self._session.reader.limits.skip:
            raise ConnectionLost
        await self._session.reader.skip(literal.size)
        _, self._literal = await self._session.reader.after_literal()


async def append(session: Session, args: Parser, literal: Literal | None) -> str:
    """literal: the announced message; None if the command has none, which is an error."""
    if literal is None:
        raise ParseError("Missing or invalid message literal")
    messages = _Messages(session, literal, [], None)
    try:
        args.space()
        wire = args.astring()
        args.space()
        flags, date = _flags_and_date(args)
        messages = _Messages(session, literal, flags, date)
        mailbox = await session.open_folder(wire, missing="TRYCREATE")
        try:
            uids = await mailbox.append(messages.all())
        finally:
            mailbox.release()
    except (ParseError, Refused, MailboxError):
        await messages.abandon()
        raise
    code = text.uid_set(uids).decode("ascii")
    return f"[APPENDUID {mailbox.uidvalidity} {code}] Append completed."


def _flags_and_date(args: Parser) -> tuple[list[str], float | None]:
    """What stands before a literal, up to it."""
    flags: list[str] = []
    date: float | None = None
    if args.peek() == b"(":
        flags = args.flag_list()
        args.space()
    if args.peek() == b'"':
        date = args.date_time()
        args.space()
    args.finish()
    return flags, date
