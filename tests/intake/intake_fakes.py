"""A store and a log in memory."""

from __future__ import annotations

from resel_mta.content import Body, Content, MemoryBody
from resel_mta.mail import Message, TempFail


class MemorySink:
    def __init__(self) -> None:
        self.data = b""

    async def write(self, block: bytes) -> None:
        self.data += block

    async def finish(self) -> Body:
        return MemoryBody(self.data)

    async def discard(self) -> None:
        self.data = b""


class MemoryStore:
    """As much of QueueStore as the intake uses."""

    def __init__(self) -> None:
        self.dropped_recipients = 0
        self.entered: list[Message] = []
        self.discarded: list[Content] = []
        self.failure: TempFail | None = None
        self._count = 0

    def new_id(self) -> str:
        self._count += 1
        return f"{self._count:06X}"

    def check_space(self, size: int) -> None:
        """There is room."""

    def sink(self) -> MemorySink:
        return MemorySink()

    async def discard(self, content: Content) -> None:
        self.discarded.append(content)

    async def dropped(self, recipients: int) -> None:
        self.dropped_recipients += recipients

    async def enter(self, message: Message, *, claim_for: str | None = None) -> None:
        if self.failure:
            raise self.failure
        self.entered.append(message)

    async def load(self, queue_id: str) -> Message | None:
        return next((m for m in self.entered if m.queue_id == queue_id), None)


class ListSink:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += lines

    def reopen(self) -> None: ...
