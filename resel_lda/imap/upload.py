"""Messages as APPEND and REPLACE bring them: they go from the socket to the store in blocks.

A message is a literal, a literal8 (RFC 3516: taken whole, its binary parts become base64), or the
parts of CATENATE (RFC 4469), of which some are already here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.reader import Literal
from resel_lda.imap.session import Session
from resel_lda.imap.stream import ConnectionLost
from resel_lda.mailbox import AppendData
from resel_lda.mime.binary import without_binary

_BLOCK = 64 * 1024
# Seconds that a client may pause inside a message.
_STALL = 300.0
_MAX_BINARY = 64 * 1024 * 1024
_MAX_MESSAGES = 10_000
_MAX_PARTS = 1_000
_MAX_URL = 4_096

# The octets that an IMAP URL stands for. Raises Refused.
FromUrl = Callable[[Session, bytes], Awaitable[bytes]]


class Upload:
    """What follows a command's beginning, up to its end.

    args: what stands before the next literal. literal: which, None at the end of the command.
    """

    def __init__(self, session: Session, args: Parser, literal: Literal | None) -> None:
        self._session = session
        self._args = args
        self._literal = literal
        # Octets of a literal that is being read.
        self._left = 0
        self._reading = False

    async def messages(
        self, from_url: FromUrl, most: int = _MAX_MESSAGES
    ) -> AsyncIterator[AppendData]:
        """Raises ParseError, Refused: then none is to be kept. The blocks of each must have been
        read before the next is asked for."""
        for _ in range(most):
            flags, date = self._flags_and_date()
            if self._skip_word(b"CATENATE "):
                limit = self._session.reader.limits.message
                yield AppendData(self._parts(from_url), limit, flags, date)
            elif self._skip_word(b"UTF8 ("):
                yield await self._utf8(flags, date)
                await self._finish_literal()
                self._args.expect(b")")
            else:
                self._args.finish()
                yield await self._whole(flags, date)
                await self._finish_literal()
            if self._literal is None and self._args.at_end:
                return
            self._args.space()
            if self._literal is None and self._args.at_end:
                return
        if most == 1:
            raise ParseError("Only one message is allowed")
        raise Refused("NO", "Too many messages in one APPEND", "LIMIT")

    def _flags_and_date(self) -> tuple[list[str], float | None]:
        args = self._args
        flags: list[str] = []
        date: float | None = None
        if args.peek() == b"(":
            flags = args.flag_list()
            args.space()
        if args.peek() == b'"':
            date = args.date_time()
            args.space()
        return flags, date

    async def _whole(self, flags: list[str], date: float | None) -> AppendData:
        literal = self._literal
        if literal is None:
            raise ParseError("Missing or invalid message literal")
        limit = _MAX_BINARY if literal.binary else self._session.reader.limits.message
        self._check(literal, limit)
        if not literal.size:
            raise Refused("NO", "Can't save a zero byte message.")
        await self._begin(literal)
        if not literal.binary:
            return AppendData(self._blocks(), literal.size, flags, date)
        whole = b"".join([block async for block in self._blocks()])
        data = await asyncio.to_thread(without_binary, whole)
        if data is None:
            raise Refused("NO", "Binary data outside of binary parts", "UNKNOWN-CTE")
        return AppendData([data], len(data), flags, date)

    async def _utf8(self, flags: list[str], date: float | None) -> AppendData:
        """RFC 6855 §4: a message with UTF-8 in its header, kept as it is."""
        literal = self._literal8()
        self._check(literal, self._session.reader.limits.message)
        if not literal.size:
            raise Refused("NO", "Can't save a zero byte message.")
        await self._begin(literal)
        return AppendData(self._blocks(), literal.size, flags, date)

    def _literal8(self) -> Literal:
        """The one of UTF8 data. Raises Refused where that was not enabled."""
        if not self._session.utf8_accept:
            raise Refused("BAD", "UTF8 data needs ENABLE UTF8=ACCEPT")
        literal = self._literal
        if literal is None or not self._args.at_end or not literal.binary:
            raise ParseError("UTF8 data must be a literal8")
        return literal

    def _skip_word(self, word: bytes) -> bool:
        args = self._args
        if args.data[args.pos : args.pos + len(word)].upper() != word:
            return False
        args.pos += len(word)
        return True

    # CATENATE.

    async def _parts(self, from_url: FromUrl) -> AsyncIterator[bytes]:
        """``(TEXT {n}… URL "…" …)``, in blocks."""
        args = self._args
        args.expect(b"(")
        total = 0
        for _ in range(_MAX_PARTS):
            word = self._args.word()
            self._args.space()
            if word == b"TEXT":
                async for block in self._text(self._text_literal(), total):
                    total += len(block)
                    yield block
            elif word == b"UTF8":
                self._args.expect(b"(")
                async for block in self._text(self._literal8(), total):
                    total += len(block)
                    yield block
                self._args.expect(b")")
            elif word == b"URL":
                octets = await from_url(self._session, await self._url())
                total += len(octets)
                self._check_total(total)
                yield octets
            else:
                raise ParseError("Invalid CATENATE part")
            if self._args.skip(b")"):
                break
            self._args.space()
        else:
            raise Refused("NO", "Too many parts in CATENATE", "LIMIT")
        if not total:
            raise Refused("NO", "Can't save a zero byte message.")

    def _text_literal(self) -> Literal:
        literal = self._literal
        if literal is None or not self._args.at_end or literal.binary:
            raise ParseError("Missing or invalid literal in CATENATE")
        return literal

    async def _text(self, literal: Literal, total: int) -> AsyncIterator[bytes]:
        self._check(literal, self._session.reader.limits.message - total)
        await self._begin(literal)
        async for block in self._blocks():
            yield block
        await self._finish_literal()

    async def _url(self) -> bytes:
        literal = self._literal
        if literal is None or not self._args.at_end:
            return self._args.astring()
        if literal.binary:
            raise ParseError("Unexpected literal8")
        self._check(literal, _MAX_URL)
        await self._begin(literal)
        url = b"".join([block async for block in self._blocks()])
        await self._finish_literal()
        return url

    def _check_total(self, total: int) -> None:
        if total > self._session.reader.limits.message:
            raise Refused("NO", "Message size exceeds the limit", "TOOBIG")

    # Literals.

    def _check(self, literal: Literal, limit: int) -> None:
        if literal.size > min(limit, self._session.reader.limits.message):
            raise Refused("NO", "Message size exceeds the limit", "TOOBIG")

    async def _begin(self, literal: Literal) -> None:
        if literal.waits:
            self._session.extend([b"+ OK\r\n"])
            await self._session.flush()
        self._left = literal.size
        self._reading = True

    async def _blocks(self) -> AsyncIterator[bytes]:
        while self._left:
            yield await self._block()

    async def _block(self) -> bytes:
        try:
            async with asyncio.timeout(_STALL):
                block = await self._session.stream.read(min(self._left, _BLOCK))
        except TimeoutError:
            raise ConnectionLost from None
        self._left -= len(block)
        return block

    async def _finish_literal(self) -> None:
        """To what follows the literal that was begun."""
        while self._left:
            await self._block()
        self._reading = False
        data, self._literal = await self._session.reader.after_literal()
        self._args = Parser(data)

    async def abandon(self) -> None:
        """Read the command to its end. A client that waits for a "+" is told by the answer."""
        if self._reading:
            await self._finish_literal()
        while self._literal is not None:
            literal = self._literal
            if literal.waits:
                return
            if literal.size > self._session.reader.limits.skip:
                # Says why, and raises ConnectionLost: nobody reads what still comes.
                await self._session.reader.refuse_literal(literal)
            await self._session.reader.skip(literal.size)
            _, self._literal = await self._session.reader.after_literal()
