"""What a client sent and nobody has looked at yet, with TCP back-pressure."""

from __future__ import annotations

import asyncio

#: Octets that may wait before the peer is made to wait.
HIGH_WATER = 256 * 1024


class Input:
    """Blocks from `data_received`, taken out by one reader."""

    __slots__ = ("_blocks", "_eof", "_error", "_loop", "_paused", "_size", "_transport", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.ReadTransport | None = None
        self._blocks: list[bytes] = []
        self._size = 0
        self._eof = False
        self._error: Exception | None = None
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    def attach(self, transport: asyncio.ReadTransport) -> None:
        """Read from this transport from now on."""
        self._transport = transport

    def detach(self) -> None:
        """Forget everything that has not been read, and the transport that brought it."""
        self._blocks.clear()
        self._size = 0
        if self._paused:
            self._resume()
        self._transport = None

    def feed(self, data: bytes) -> None:
        self._blocks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        self._eof = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Make the reader raise `error`, now or at its next call."""
        self._error = error
        self._wake()

    async def read(self) -> bytes:
        """All that is there, waiting until there is something; b"" at the end."""
        if not self._blocks and not self._eof and self._error is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        blocks = self._blocks
        if len(blocks) == 1:
            data = blocks.pop()
        else:
            data = b"".join(blocks)
            blocks.clear()
        self._size = 0
        if self._paused:
            self._resume()
        return data

    def _resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
