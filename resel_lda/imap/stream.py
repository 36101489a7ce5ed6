"""A byte stream on a transport: lines, blocks, back-pressure in both directions."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from resel_lda.imap.deflate import Deflate
from resel_lda.imap.stall import LIMIT, StallWatch

# What is read ahead of the commands: pipelining needs little, memory is held per session.
_READ_AHEAD = 64 * 1024
# Octets compressed in the event loop.
_IN_LOOP = 32 * 1024
# Seconds for which a peer may keep the loop with lines that are here already.
_SLICE = 0.005


class ConnectionLost(Exception):
    """The peer is gone, or was cut off; nothing more can be said to it."""


class LineTooLong(Exception):
    """A line passed the limit; what there was of it is dropped and its end not yet seen."""


class Stream(asyncio.Protocol):
    """One connection. One reader and one writer at a time.

    initial: octets that were read before the stream was made. stall_limit: seconds after which a
    peer is cut off that takes nothing of what is sent to it.
    """

    def __init__(self, initial: bytes = b"", stall_limit: float = LIMIT) -> None:
        self._buffer = bytearray(initial)
        self._transport: asyncio.Transport | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False
        self._deflate: Deflate | None = None
        self._eof = False
        self._turn_began = 0.0
        self._watch = StallWatch(self._stalled, stall_limit)
        self._why_lost = "Connection closed"
        self.lost = False
        self.received = len(initial)
        self.sent = 0

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._deflate is None:
            self._buffer += data
        elif not self._deflate.feed(data, self._buffer):
            self.abort()
        if len(self._buffer) > _READ_AHEAD and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        # A peer that has closed its side may still read what it asked for.
        self._eof = True
        self._wake_reader()
        return self._transport is not None and not self.secured

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._watch.stop()
        self._wake_reader()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._watch.start(self.transport)

    def _stalled(self) -> None:
        self._why_lost = "Client does not take what is sent to it"
        self.abort()

    @property
    def why_lost(self) -> str:
        """For the log."""
        return self._why_lost

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    # Reading.

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _more(self) -> None:
        """Wait until there is more in the buffer. Raises ConnectionLost."""
        if self._deflate is not None and self._deflate.waiting:
            # Much came out of little: the rest is unpacked when it is wanted.
            if not self._deflate.feed(b"", self._buffer):
                self.abort()
            # A few octets can become a thousand times as many: others get their turn.
            await asyncio.sleep(0)
            return
        if self._eof or self.lost:
            raise ConnectionLost
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    async def line(self, limit: int) -> bytes:
        """The next line, its end (LF, CR LF) taken off. Raises ConnectionLost, LineTooLong."""
        searched = 0
        if self._buffer:
            await self._let_others()
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(memoryview(self._buffer)[:end])
                del self._buffer[: end + 1]
                if end > limit:
                    raise LineTooLong
                return line[:-1] if line.endswith(b"\r") else line
            searched = len(self._buffer)
            if searched > limit:
                await self._skip_line()
                raise LineTooLong
            await self._more()

    async def _let_others(self) -> None:
        """Thousands of commands can come at once, and answering them need not wait for anything."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._turn_began > _SLICE:
            await asyncio.sleep(0)
            self._turn_began = loop.time()

    async def _skip_line(self) -> None:
        """Forget the rest of a line that is too long. A peer that never ends it is cut off."""
        dropped = 0
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                del self._buffer[: end + 1]
                return
            dropped += len(self._buffer)
            self._buffer.clear()
            if dropped > 16 * _READ_AHEAD:
                raise ConnectionLost
            await self._more()

    async def read(self, most: int) -> bytes:
        """1 to `most` octets. Raises ConnectionLost."""
        while not self._buffer:
            await self._more()
        if most >= len(self._buffer):
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        data = bytes(memoryview(self._buffer)[:most])
        del self._buffer[:most]
        return data

    async def exactly(self, count: int) -> bytes:
        """Raises ConnectionLost."""
        blocks = []
        while count:
            block = await self.read(count)
            count -= len(block)
            blocks.append(block)
        return b"".join(blocks)

    def take_unread(self) -> bytes:
        """What was received and not yet read; reading stops."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
        self._read_paused = True
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    @property
    def pending(self) -> bool:
        """Whether something waits to be read."""
        return bool(self._buffer)

    # Writing.

    @property
    def transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise ConnectionLost
        return self._transport

    def write(self, data: bytes) -> None:
        """Raises ConnectionLost."""
        if self.lost:
            raise ConnectionLost
        if self._deflate is not None:
            data = self._deflate.pack(data)
        self.sent += len(data)
        self.transport.write(data)

    async def send(self, data: bytes) -> None:
        """`write` and `drain`. A large piece is compressed in a thread."""
        if self._deflate is not None and len(data) > _IN_LOOP:
            data = await asyncio.to_thread(self._deflate.pack, data)
            if self.lost:
                raise ConnectionLost
            self.sent += len(data)
            self.transport.write(data)
        else:
            self.write(data)
        # The transport has its own copy, for which one may wait long.
        del data
        await self.drain()

    def start_deflate(self) -> None:
        """Both directions are compressed from here on (RFC 4978); what was received already, too."""
        early = bytes(self._buffer)
        self._buffer.clear()
        self._deflate = Deflate()
        if early and not self._deflate.feed(early, self._buffer):
            self.abort()

    @property
    def compressed(self) -> bool:
        return self._deflate is not None

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was written. Raises ConnectionLost."""
        if self._write_paused:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self.lost:
            raise ConnectionLost

    async def start_tls(self, context: ssl.SSLContext, timeout: float) -> None:
        """Server side of a TLS handshake. All that was received before it is forgotten, so that
        nothing said in the clear is taken for said under TLS. Raises OSError, TimeoutError."""
        self._buffer.clear()
        loop = asyncio.get_running_loop()
        secured = await loop.start_tls(
            self.transport, self, context, server_side=True, ssl_handshake_timeout=timeout
        )
        if secured is None:
            raise ConnectionResetError("connection lost in the handshake")
        self._transport = secured
        self._read_paused = False

    @property
    def secured(self) -> bool:
        """Whether this end speaks TLS."""
        return self.transport.get_extra_info("ssl_object") is not None

    def close(self) -> None:
        """Send what is written, then close."""
        if self._transport is not None:
            self._transport.close()
            if not self.lost and self._transport.get_write_buffer_size():
                self._watch.start(self._transport)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
