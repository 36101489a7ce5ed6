"""Notices a peer that takes nothing of what is sent to it."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any

# Seconds for which nothing moves until a peer is given up (as Dovecot's CLIENT_OUTPUT_TIMEOUT).
LIMIT = 5 * 60.0
# Looks within that time.
_LOOKS = 10


class StallWatch:
    """Runs while a transport has octets that it cannot write. on_stall: called once, when nothing
    of them has moved for `limit` seconds."""

    def __init__(self, on_stall: Callable[[], None], limit: float = LIMIT) -> None:
        self._on_stall = on_stall
        self._limit = limit
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen: tuple[int, int] = (0, 0)
        self._moved = 0.0

    def start(self, transport: asyncio.Transport) -> None:
        """Watch until nothing waits any more; once is enough."""
        self._transport = transport
        if self._timer is None:
            self._seen = waiting(transport)
            self._moved = asyncio.get_running_loop().time()
            self._again()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._limit / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        assert self._transport is not None
        now = asyncio.get_running_loop().time()
        seen = waiting(self._transport)
        if not seen[0]:
            return
        if seen != self._seen:
            self._seen, self._moved = seen, now
        elif now - self._moved >= self._limit:
            self._on_stall()
            return
        self._again()


def waiting(transport: asyncio.Transport) -> tuple[int, int]:
    """Octets not yet written, and octets that the kernel has and the peer has not: both stand still
    if the peer takes nothing, and a slow peer may move the second alone for a long time."""
    socket: Any = transport.get_extra_info("socket")
    queued = 0
    if socket is not None and socket.fileno() >= 0:
        found = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        queued = struct.unpack("i", found)[0]
    return transport.get_write_buffer_size(), queued
