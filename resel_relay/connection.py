"""One connection to a server: octets out, replies in, one deadline, back-pressure.

A hand-written protocol instead of streams: a whole group of replies costs one wake-up.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from resel_mta.wire.reply import ReplyError, ReplyParser, ServerReply

LOST = "lost connection"
TIMED_OUT = "conversation timed out"


class Connection(asyncio.Protocol):
    """error: "" while it is usable, then what ended it (LOST, TIMED_OUT, or what was wrong with
    the server's words). idle: no reply is due; anything that comes now ends the connection.
    """

    __slots__ = (
        "_deadline",
        "_loop",
        "_parser",
        "_replies",
        "_seconds",
        "_timer",
        "_timer_at",
        "_waiter",
        "_wanted",
        "_writable",
        "error",
        "idle",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.transport: asyncio.Transport
        self.error = ""
        self.idle = False
        self._parser = ReplyParser()
        self._replies: list[ServerReply] = []
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._wanted = 0
        self._seconds = 0.0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def surplus(self) -> bool:
        """Whether the server has said more than it was asked."""
        return bool(self._replies) or self._parser.pending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.idle or self.error:
            # A 421 before the server closes, or words nobody asked for.
            self.fail(LOST)
            return
        try:
            found = self._parser.feed(data)
        except ReplyError as error:
            self.fail(f"sent an invalid reply: {error}")
            return
        if self._replies:
            self._replies += found
        else:
            self._replies = found
        self._deadline = self._loop.time() + self._seconds
        waiter = self._waiter
        if waiter is not None and len(self._replies) >= self._wanted and not waiter.done():
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = self.error or LOST
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def write(self, data: bytes) -> None:
        """Hand octets to the transport; nothing happens on a connection that has ended."""
        if not self.error:
            self.transport.write(data)

    async def drain(self, seconds: float) -> bool:
        """Wait until more may be written; False once the connection has ended."""
        if self._writable is not None and not self.error:
            self._start_clock(seconds)
            await asyncio.shield(self._writable)
            self._seconds = 0.0
        return not self.error

    async def replies(self, count: int, seconds: float) -> list[ServerReply]:
        """The next `count` replies; fewer if the connection ends first (see `error`).

        seconds: how long the server may be silent.
        """
        if len(self._replies) < count and not self.error:
            self._wanted = count
            self._waiter = waiter = self._loop.create_future()
            self._start_clock(seconds)
            try:
                await waiter
            finally:
                self._waiter = None
                self._seconds = 0.0
        found = self._replies
        self._replies = found[count:]
        return found if len(found) <= count else found[:count]

    async def start_tls(self, context: ssl.SSLContext, seconds: float) -> None:
        """Raises OSError. What the server sent ahead of the handshake is an attack: refused."""
        if self._parser.pending or self._replies:
            self.fail("sent data between STARTTLS and TLS")
            raise ConnectionAbortedError("plaintext after STARTTLS")
        self._parser = ReplyParser()
        transport = await self._loop.start_tls(
            self.transport, self, context, ssl_handshake_timeout=seconds
        )
        if transport is None:
            raise ConnectionAbortedError("connection closed during the handshake")
        self.transport = transport

    def fail(self, error: str) -> None:
        """End the connection at once."""
        self.error = self.error or error
        self.transport.abort()
        self._wake()

    def close(self, farewell: bytes = b"") -> None:
        """Send the last words and close, without waiting for an answer."""
        if not self.error:
            if farewell:
                self.transport.write(farewell)
            self.error = LOST
            self.transport.close()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.error:
            self.resume_writing()

    def _start_clock(self, seconds: float) -> None:
        # One timer per connection that is moved lazily: setting a deadline costs no heap operation.
        self._seconds = seconds
        self._deadline = self._loop.time() + seconds
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_later(seconds, self._tick)
            self._timer_at = self._deadline
        elif self._timer_at > self._deadline:
            timer.cancel()
            self._timer = self._loop.call_later(seconds, self._tick)
            self._timer_at = self._deadline

    def _tick(self) -> None:
        self._timer = None
        if not self._seconds:
            return
        left = self._deadline - self._loop.time()
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._tick)
            self._timer_at = self._deadline
        else:
            self.fail(TIMED_OUT)
