"""Carries bytes between a client under TLS and the worker's stream, with back-pressure."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from resel_lda.imap.stall import LIMIT, StallWatch


class _End(asyncio.Protocol):
    """One side: what arrives goes out on the other. A side that takes nothing for `stall_limit`
    seconds is cut off."""

    def __init__(self, stall_limit: float) -> None:
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self._watch = StallWatch(self._stalled, stall_limit)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        other = self.other
        if other is not None and other.transport is not None:
            other.transport.write(data)

    def pause_writing(self) -> None:
        if self.transport is not None:
            self._watch.start(self.transport)
        other = self.other
        if other is not None and other.transport is not None:
            other.transport.pause_reading()

    def resume_writing(self) -> None:
        other = self.other
        if other is not None and other.transport is not None and not other.transport.is_closing():
            other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.stop()
        other, self.other = self.other, None
        if other is not None:
            other.close()

    def close(self) -> None:
        """When what was written is out."""
        if self.transport is not None:
            self.transport.close()
            if self.other is not None and self.transport.get_write_buffer_size():
                self._watch.start(self.transport)

    def _stalled(self) -> None:
        if self.transport is not None:
            self.transport.abort()


async def pump(
    client: asyncio.Transport, unread: bytes, stall_limit: float = LIMIT
) -> socket.socket:
    """Join `client` to a new stream; the other end of it.

    unread: what the client had sent already; goes first. When either side is closed, the other is
    too, after all that came from it. Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    client_end, worker_end = _End(stall_limit), _End(stall_limit)
    try:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: worker_end, ours)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    assert worker_end.transport is not None
    client_end.transport = client
    client_end.other, worker_end.other = worker_end, client_end
    if unread:
        worker_end.transport.write(unread)
    client.set_protocol(client_end)
    client.resume_reading()
    return theirs
