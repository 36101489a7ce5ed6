"""Assembles commands from a stream: lines and the literals in them (RFC 3501 §4.3, RFC 7888)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.stream import ConnectionLost, LineTooLong, Stream

_LITERAL_END = re.compile(rb"(~?)\{([0-9]{1,20})(\+?)\}\Z")


@dataclass(frozen=True, slots=True)
class Limits:
    """line, command: octets of one line, and of a command with its literals.
    message: octets of an appended message. skip: a literal up to this size that the client sends
    without waiting is read and dropped when refused; a larger one ends the connection."""

    line: int
    command: int
    message: int = 0
    skip: int = 0


PREAUTH = Limits(line=8 * 1024, command=8 * 1024)
AUTHENTICATED = Limits(
    line=64 * 1024, command=128 * 1024, message=256 * 1024 * 1024, skip=256 * 1024 * 1024
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal that is announced and not read yet. waits: the client waits for our "+".
    binary: it is a literal8 (RFC 3516)."""

    size: int
    waits: bool
    binary: bool = False


def _literal(found: re.Match[bytes]) -> Literal:
    return Literal(int(found[2]), waits=not found[3], binary=bool(found[1]))


@dataclass(frozen=True, slots=True)
class Incoming:
    """A command. message: set for APPEND and REPLACE, whose literal is then still to be read;
    `data` ends before the literal's brace."""

    data: bytes
    message: Literal | None = None


class CommandRefused(Exception):
    """A command that cannot be taken; it has been read to its end.

    tag: b"*" if it has none that could be read.
    """

    def __init__(self, tag: bytes, status: bytes, text: str) -> None:
        super().__init__(text)
        self.tag = tag
        self.status = status
        self.text = text


def tag_of(data: bytes) -> bytes:
    """The tag a command starts with, b"*" if none."""
    try:
        return Parser(data).tag()
    except ParseError:
        return b"*"


def _announces_message(data: bytes) -> bool:
    """Whether the literal after `data` is of APPEND's or REPLACE's message, not its mailbox name."""
    parser = Parser(data)
    try:
        parser.tag()
        parser.space()
        word = parser.word()
        if word == b"UID":
            parser.space()
            word = parser.word()
        elif word == b"APPEND":
            parser.space()
            parser.astring()
            parser.space()
            return True
        if word != b"REPLACE":
            return False
        parser.space()
        parser.sequence_set()
        parser.space()
        parser.astring()
        parser.space()
    except ParseError:
        return False
    return True


def _takes_binary(data: bytes) -> bool:
    """Whether it is SETMETADATA, whose values may hold NUL (RFC 5464 §5)."""
    return data[:256].partition(b" ")[2].upper().startswith(b"SETMETADATA ")


class CommandReader:
    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self.limits = limits

    async def next(self) -> Incoming:
        """Raises ConnectionLost, CommandRefused."""
        stream = self._stream
        pieces: list[bytes] = []
        length = 0
        while True:
            try:
                line = await stream.line(self.limits.line)
            except LineTooLong:
                tag = tag_of(pieces[0]) if pieces else b"*"
                raise CommandRefused(tag, b"BAD", "Command line too long") from None
            found = _LITERAL_END.search(line) if line.endswith(b"}") else None
            length += len(line)
            pieces.append(line)
            if found is None:
                self._check_length(pieces, length)
                return Incoming(b"".join(pieces))
            literal = _literal(found)
            if self.limits.message:
                before = b"".join(pieces)[: -len(found[0])]
                if _announces_message(before):
                    self._check_length(pieces, length)
                    return Incoming(before, literal)
            if literal.binary and not _takes_binary(pieces[0]):
                await self.refuse_literal(literal)
                raise CommandRefused(tag_of(pieces[0]), b"BAD", "Unexpected literal8")
            length += literal.size
            if length > self.limits.command:
                await self.refuse_literal(literal)
                raise CommandRefused(tag_of(pieces[0]), b"BAD", "[TOOBIG] Literal too large")
            if literal.waits:
                stream.write(b"+ OK\r\n")
            pieces.append(b"\r\n")
            pieces.append(await stream.exactly(literal.size))

    def _check_length(self, pieces: list[bytes], length: int) -> None:
        if length > self.limits.command:
            raise CommandRefused(tag_of(pieces[0]), b"BAD", "[TOOBIG] Command too long")

    async def refuse_literal(self, literal: Literal) -> None:
        """A client that waits is simply told; one that sends at once is read out, up to a limit."""
        if literal.waits:
            return
        if literal.size > self.limits.skip:
            # RFC 7888 §4: it is said, though it may not arrive: nobody reads what still comes.
            self._stream.write(b"* BYE [TOOBIG] Literal too large\r\n")
            raise ConnectionLost
        await self.skip(literal.size)
        await self.rest_of_line()

    async def skip(self, count: int) -> None:
        while count:
            count -= len(await self._stream.read(min(count, 64 * 1024)))

    async def rest_of_line(self) -> bytes:
        """What follows a literal, to the line's end; literals in it are not expected."""
        try:
            return await self._stream.line(self.limits.line)
        except LineTooLong:
            raise CommandRefused(b"*", b"BAD", "Command line too long") from None

    async def after_literal(self) -> tuple[bytes, Literal | None]:
        """What follows an appended message in its line, and the literal that this announces."""
        line = await self.rest_of_line()
        found = _LITERAL_END.search(line) if line.endswith(b"}") else None
        return (line, None) if found is None else (line[: found.start()], _literal(found))
