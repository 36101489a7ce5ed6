"""FETCH of large messages: what is asked for goes out in pieces as it is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from resel_lda.imap.errors import End
from resel_lda.imap.fetch_items import Item, Need, Section
from resel_lda.imap.session import Session
from resel_lda.large_message import LargeMessage
from resel_lda.mailbox import MailboxError

# A rendered item, or octets of the message (from, to) after the beginning of a literal.
Piece = bytes | tuple[int, int]


def can_be(items: Sequence[Item]) -> bool:
    """Whether what needs the message can be cut out of it without a look at its structure."""
    return all(_kind_of(item) is not None for item in items if item.needs & Need.MESSAGE)


def _kind_of(item: Item) -> Section | None:
    section = item.section
    if section is None or section.kind not in (b"", b"TEXT") or (section.path and section.kind):
        return None
    return section


async def literals(large: LargeMessage, items: Sequence[Item]) -> dict[Item, Piece] | None:
    """Where the items that need the message lie in it. None if one has to be looked for. Raises
    MailboxError."""
    found: dict[Item, Piece] = {}
    for item in items:
        if not item.needs & Need.MESSAGE:
            continue
        section = item.section
        assert section is not None
        span: tuple[int, int] | None = (0, large.size)
        if section.path:
            span = await large.part(section.path)
        elif section.kind:
            span = await large.text()
        if span is None:
            return None
        if section.partial is not None:
            start = min(span[0] + section.partial[0], span[1])
            span = start, min(start + section.partial[1], span[1])
        found[item] = span
    return found


async def send(
    session: Session, large: LargeMessage, begin: bytes, pieces: Sequence[tuple[bytes, Piece]]
) -> None:
    """One response. begin: up to the parenthesis. pieces: names of items, and what comes with them.
    Raises ConnectionLost, End."""
    await session.send_pieces(_response(large, begin, pieces))


async def _response(
    large: LargeMessage, begin: bytes, pieces: Sequence[tuple[bytes, Piece]]
) -> AsyncIterator[bytes]:
    head = begin + b"("
    for name, piece in pieces:
        if isinstance(piece, bytes):
            head += piece + b" "
            continue
        start, end = piece
        yield head + b"%b {%d}\r\n" % (name, end - start)
        head = b" "
        try:
            async for octets in large.pieces(start, end):
                # NUL may not be in a literal (RFC 3501 §9, CHAR8).
                yield octets.replace(b"\0", b"\x80") if b"\0" in octets else octets
        except MailboxError as error:
            # The client takes whatever follows for the rest of the literal.
            raise End(f"{error.text}, in the middle of an answer", said="") from None
    yield head.removesuffix(b" ") + b")\r\n"
