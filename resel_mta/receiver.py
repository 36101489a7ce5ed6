"""Takes a message's content as it comes in: header in memory, a large body to the intake's disk."""

from __future__ import annotations

from collections.abc import Callable

from resel_mta.content import CRLF, Content, Header, split_header
from resel_mta.mail import BodySink, Intake, PermFail, Reply, TempFail

#: Content up to this many octets stays in memory; blocks of this size go to the sink.
MEMORY_LIMIT = 256 * 1024
#: The most octets that a header block may have. It lies in memory whole, and is refused rather
#: than cut.
HEADER_LIMIT = 2 * 1024 * 1024

#: The most lines of a header block: all that look at it look at each of them.
HEADER_LINES = 50_000
_SMALL = 2048

TOO_BIG = Reply(552, "5.3.4", "Error: message file too big")
HEADER_TOO_BIG = Reply(552, "5.3.4", "Error: message header too big")


#: Gives the reply that refuses a message with this header, else None.
HeaderCheck = Callable[[Header], Reply | None]


class ContentReceiver:
    """One message. Content must come normalised (see wire.data).

    failure: set once the content cannot be accepted any more; what still comes is dropped.
    size: octets so far.
    """

    __slots__ = (
        "_blocks",
        "_header",
        "_held",
        "_intake",
        "_limit",
        "_sink",
        "_spill_at",
        "failure",
        "size",
    )

    def __init__(self, intake: Intake, size_limit: int) -> None:
        """size_limit: in octets; 0 is none."""
        self._intake = intake
        self._limit = size_limit
        self._blocks: list[bytes] = []
        self._held = 0
        self._header: bytes | None = None
        self._sink: BodySink | None = None
        self._spill_at = MEMORY_LIMIT
        self.failure: Reply | None = None
        self.size = 0

    def feed(self, piece: bytes) -> bool:
        """The next piece. True: `settle` is to be awaited before the next one."""
        if self.failure is not None:
            return False
        size = len(piece)
        self.size += size
        if 0 < self._limit < self.size:
            return self._give_up(TOO_BIG)
        blocks = self._blocks
        if size < _SMALL and blocks and len(blocks[-1]) < _SMALL:
            # A client that sends a few octets at a time must not cost an object each.
            blocks[-1] += piece
        else:
            blocks.append(piece)
        self._held += size
        return self._held > self._spill_at

    async def settle(self) -> None:
        """Move what lies in memory to the disk, or take away what is of no use there.

        Whatever goes wrong ends up in `failure`, or is raised if it is a bug.
        """
        if self.failure is None:
            try:
                await self._spill()
            except (TempFail, PermFail) as error:
                self._give_up(error.reply)
        if self.failure is not None:
            await self.fail(self.failure)

    async def add(self, piece: bytes) -> None:
        """`feed`, and `settle` where it is due."""
        if self.feed(piece):
            await self.settle()

    def _give_up(self, reply: Reply) -> bool:
        """The first reason stays. Whether something is left to be taken away."""
        if self.failure is None:
            self.failure = reply
        self._blocks.clear()
        self._held = 0
        return self._sink is not None

    @property
    def on_disk(self) -> bool:
        """Whether giving it up means taking something away, which `fail` does."""
        return self._sink is not None

    async def fail(self, reply: Reply) -> None:
        """Give the content up, with `reply` as the reason."""
        self._give_up(reply)
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.discard()

    async def finish(self, check: HeaderCheck | None = None) -> Content:
        """The content, which the caller then owns. Raises TempFail, and PermFail with what `check`
        says of the header.

        Not to be called after a failure.
        """
        if self._sink is None and self._header is None:
            blocks = self._blocks
            data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
            content = Content.from_bytes(_without_mbox_line(data))
            _apply(check, content.header)
            return content
        header = Header(self._header or b"")
        _apply(check, header)
        if self._sink is None:
            self._sink = self._intake.sink()
        if self._blocks:
            await self._sink.write(b"".join(self._blocks))
            self._blocks.clear()
        body = await self._sink.finish()
        self._sink = None
        return Content(header, body)

    async def _spill(self) -> None:
        data = self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)
        self._blocks.clear()
        if self._header is None:
            data = _without_mbox_line(data)
            ended = split_streamed_header(data)
            if ended is None:
                self._blocks.append(data)
                self._held = len(data)
                if self._held > HEADER_LIMIT or data.count(b"\n") > HEADER_LINES:
                    self._give_up(HEADER_TOO_BIG)
                # Looking again at every small block would cost time in its square.
                self._spill_at = self._held + MEMORY_LIMIT
                return
            self._header, data = ended
            self._sink = self._intake.sink()
        self._held = 0
        self._spill_at = MEMORY_LIMIT
        if self._sink is not None:
            await self._sink.write(data)


def split_streamed_header(data: bytes) -> tuple[bytes, bytes] | None:
    """`split_header` of the beginning of a message; None while the header may still go on."""
    complete = data[: data.rfind(CRLF) + 2] if CRLF in data else b""
    header, body = split_header(complete)
    if len(header) == len(complete):
        return None
    return header, body + data[len(complete) :]


def _without_mbox_line(data: bytes) -> bytes:
    """An mbox "From " line before the header becomes a field, as in Postfix; else it would end
    the header before it began."""
    if data[:1] in b"F>" and data[:8].lstrip(b">").startswith(b"From "):
        return b"X-Mailbox-Line: " + data
    return data


def _apply(check: HeaderCheck | None, header: Header) -> None:
    refusal = check(header) if check is not None else None
    if refusal is not None:
        raise PermFail(refusal)
