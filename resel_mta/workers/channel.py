"""What worker 0 and the others say to each other, over a socket pair (SOCK_SEQPACKET).

Packets are those of `resel_lda.handover`: a kind, fields as a JSON object, and at most one
descriptor, which belongs to whoever receives it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from resel_lda import handover
from resel_lda.handover import HandoverError

# To a worker: the shared memory; a socket to the supervisor; a socket to listen on; listen there no
# more; the configuration, in a file; open the log anew; end within so many seconds.
BOARD = b"B"
LINK = b"K"
LISTEN = b"L"
UNLISTEN = b"U"
CONFIGURE = b"C"
REOPEN = b"r"
STOP = b"S"
# From it: it is about to open its part; it serves, with these settings; it keeps the settings it had; what it
# has warned of; a delivery to a mailbox, with the message.
OPENING = b"P"
READY = b"R"
REFUSED = b"F"
WARNED = b"W"
DELIVER = b"D"
# What became of that.
DELIVERED = b"O"
# Among schedulers, in both directions: a next hop is down, or back; a turn is wanted, granted,
# over; how many they are.
DOWN = b"d"
UP = b"u"
WANT = b"w"
GRANT = b"g"
OVER = b"o"
SHARES = b"s"

_AT_ONCE = 64
"""Packets that are read before others get their turn."""

Fields = Mapping[str, Any]


class Channel:
    """One end. received: takes kind, fields and descriptor (or None). ended: called once, when the
    other side is gone."""

    def __init__(
        self,
        control: socket.socket,
        received: Callable[[bytes, Fields, int | None], None],
        ended: Callable[[], None],
    ) -> None:
        control.setblocking(False)
        self._control = control
        self._received = received
        self._ended = ended
        self._outgoing: deque[tuple[bytes, int | None]] = deque()
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control, self._readable)

    def send(self, kind: bytes, fields: Fields, descriptor: int | None = None) -> None:
        """Never waits. A descriptor stays the caller's. To one that is gone, nothing is sent."""
        if not self._open:
            return
        kept = os.dup(descriptor) if descriptor is not None else None
        self._outgoing.append((handover.pack(kind, fields), kept))
        if len(self._outgoing) == 1:
            self._flush()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        for _, descriptor in self._outgoing:
            if descriptor is not None:
                os.close(descriptor)
        self._outgoing.clear()

    def _flush(self) -> None:
        while self._outgoing:
            packet, descriptor = self._outgoing[0]
            try:
                handover.send(self._control, packet, descriptor)
            except BlockingIOError:
                self._loop.add_writer(self._control, self._flush)
                return
            except OSError:
                self._end()
                return
            self._outgoing.popleft()
            if descriptor is not None:
                os.close(descriptor)
        self._loop.remove_writer(self._control)

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._open:
                return
            try:
                found = handover.receive(self._control)
            except BlockingIOError:
                return
            if found is None:
                self._end()
                return
            packet, descriptor = found
            try:
                kind, fields, _ = handover.unpack(packet)
            except HandoverError:
                # Neither side makes such; whoever did is not to be trusted with more.
                if descriptor is not None:
                    os.close(descriptor)
                self._end()
                return
            self._received(kind, fields, descriptor)

    def _end(self) -> None:
        if self._open:
            self.close()
            self._ended()
