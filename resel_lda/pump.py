"""Carries bytes between a client under TLS and the worker's stream, with back-pressure."""

from __future__ import annotations

import asyncio
import socket
from typing import cast


class _End(asyncio.Protocol):
    """One side: what arrives goes out on the other."""

    def __init__(self) -> None:
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        other = self.other
        if other is not None and other.transport is not None:
            other.transport.write(data)

    def pause_writing(self) -> None:
        other = self.other
        if other is not None and other.transport is not None:
            other.transport.pause_reading()

    def resume_writing(self) -> None:
        other = self.other
        if other is not None and other.transport is not None and not other.transport.is_closing():
            other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        other, self.other = self.other, None
        if other is not None and other.transport is not None:
            other.transport.close()


async def pump(client: asyncio.Transport, unread: bytes) -> tuple[socket.socket, asyncio.Transport]:
    """Join `client` to a new stream; (the other end of the stream, our end's transport).

    unread: what the client had sent already; goes first. Closing either side closes the other.
    Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    client_end, worker_end = _End(), _End()
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
    return theirs, worker_end.transport
