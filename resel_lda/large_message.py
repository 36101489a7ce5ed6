"""A part of the Mailbox door: messages too large to be held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class LargeMessage(Protocol):
    """A message that is read in pieces. All numbers are octets with CR LF line ends. It stays as it
    is when the message is expunged."""

    @property
    def size(self) -> int: ...

    async def text(self) -> tuple[int, int]:
        """Where what follows the header starts and ends. Raises MailboxError."""
        ...

    async def part(self, path: Sequence[int]) -> tuple[int, int] | None:
        """Where the body of a part starts and ends; None if it is not known, or there is no such
        part. Raises MailboxError."""
        ...

    def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        """All from `start` to `end`, which is not after `size`, some hundred KB at a time. Raises
        MailboxError, also in the middle, where the file is no longer as it was."""
        ...

    def close(self) -> None:
        """For each that was opened. At once."""
        ...
