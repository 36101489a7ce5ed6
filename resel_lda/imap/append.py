"""APPEND: the message goes from the socket to the store in blocks, never whole into memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.reader import Literal
from resel_lda.imap.session import Session
from resel_lda.imap.stream import ConnectionLost
from resel_lda.mailbox import AppendData, Mailbox, MailboxError

_BLOCK = 64 * 1024
# Seconds that a client may pause inside a message.
_STALL = 300.0


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


async def append(session: Session, args: Parser, literal: Literal | None) -> str:
    """literal: the announced message; None if the command has none, which is an error."""
    if literal is None:
        raise ParseError("Missing or invalid message literal")
    refusal: Exception
    try:
        wire, flags, date = _arguments(args)
        if literal.size > session.reader.limits.message:
            raise Refused("NO", "Message size exceeds the limit", "TOOBIG")
        if not literal.size:
            raise Refused("NO", "Can't save a zero byte message.")
        mailbox = await session.open_folder(wire, missing="TRYCREATE")
    except (ParseError, Refused, MailboxError) as error:
        refusal = error
        await session.reader.refuse_literal(literal)
        raise refusal from None
    try:
        return await _receive(session, mailbox, literal, flags, date)
    finally:
        mailbox.release()


def _arguments(args: Parser) -> tuple[bytes, list[str], float | None]:
    args.space()
    wire = args.astring()
    args.space()
    flags: list[str] = []
    date: float | None = None
    if args.peek() == b"(":
        flags = args.flag_list()
        args.space()
    if args.peek() == b'"':
        date = args.date_time()
        args.space()
    args.finish()
    return wire, flags, date


async def _receive(
    session: Session,
    mailbox: Mailbox,
    literal: Literal,
    flags: list[str],
    date: float | None,
) -> str:
    if literal.waits:
        session.extend([b"+ OK\r\n"])
        await session.flush()
    upload = _Upload(session, literal.size)
    data = AppendData(upload.blocks(), literal.size, flags, date)
    try:
        uids = await mailbox.append([data])
    except MailboxError:
        await upload.skip()
        await session.reader.rest_of_line()
        raise
    await upload.skip()
    rest = await session.reader.rest_of_line()
    code = f"[APPENDUID {mailbox.uidvalidity} {uids[0]}] "
    if rest.strip(b" "):
        # The message is in the folder already: say so, and that the rest was not understood.
        raise Refused("BAD", f"{code}Saved; only one message can be appended at a time")
    return f"{code}Append completed."
