"""Messages as POP3 sends them: their lines stuffed (RFC 1939 §3), or only the first of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from resel_lda.large_message import LargeMessage


def stuffed(message: bytes) -> bytes:
    """With dots doubled at the beginning of lines (RFC 1939 §3), and its last line ended."""
    if b"\n." in message:
        message = message.replace(b"\n.", b"\n..")
    if message.startswith(b"."):
        message = b"." + message
    return message if message.endswith(b"\r\n") or not message else message + b"\r\n"


def first_lines(message: bytes, count: int) -> bytes:
    """The header, the empty line, and so many lines of the body."""
    if message.startswith(b"\r\n"):
        end = 2
    else:
        found = message.find(b"\r\n\r\n")
        if found < 0:
            return message
        end = found + 4
    for _ in range(count):
        found = message.find(b"\n", end)
        if found < 0:
            return message
        end = found + 1
    return message[:end]


class Stuffing:
    """As `stuffed`, of a message that comes in pieces."""

    def __init__(self) -> None:
        self._last = b"\n"
        self._end = b""

    def add(self, piece: bytes) -> bytes:
        """What goes out for the next piece, which is not empty."""
        at_start = self._last == b"\n"
        self._end = (self._end + piece[-2:])[-2:]
        self._last = piece[-1:]
        piece = piece.replace(b"\n.", b"\n..")
        return b"." + piece if at_start and piece.startswith(b".") else piece

    def end(self) -> bytes:
        """With the line that ends the answer."""
        return b".\r\n" if self._end in (b"\r\n", b"") else b"\r\n.\r\n"


async def is_ascii(large: LargeMessage) -> bool:
    """Raises MailboxError."""
    async for piece in large.pieces(0, large.size):
        if not piece.isascii():
            return False
    return True


async def pieces_of(large: LargeMessage, count: int | None = None) -> AsyncIterator[bytes]:
    """All of it; count: as `first_lines`. Raises MailboxError."""
    if count is None:
        async for piece in large.pieces(0, large.size):
            yield piece
        return
    start, end = await large.text()
    async for piece in large.pieces(0, start):
        yield piece
    left = count
    if not left:
        return
    async for piece in large.pieces(start, end):
        lines = piece.count(b"\n")
        if lines >= left:
            at = -1
            for _ in range(left):
                at = piece.index(b"\n", at + 1)
            yield piece[: at + 1]
            return
        left -= lines
        yield piece
