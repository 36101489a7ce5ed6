"""Accepts connections from a socket that other processes accept from too.

All of them are woken by a connection. One that has more sessions than another leaves it to that
one for a moment; nobody takes more than one at a time, so that no process gets them all.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from resel_mta.maillog import MailLog
from resel_mta.workers.board import Board

#: Seconds for which a connection is left to others, and for which none is accepted after a failure
#: (no descriptors, no memory).
_LEAVE = 0.002
_PAUSE = 1.0

Factory = Callable[[], asyncio.BaseProtocol]


class SharedServer:
    """Serves a listening socket until `close`, which closes it."""

    def __init__(
        self,
        listening: socket.socket,
        factory: Factory,
        context: ssl.SSLContext | None,
        board: Board,
        log: MailLog,
    ) -> None:
        self._socket = listening
        self._factory = factory
        self._context = context
        self._board = board
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._loop.add_reader(listening, self._readable)

    def close(self) -> None:
        """Accept no more; connections that were accepted go on."""
        if self._later is not None:
            self._later.cancel()
        else:
            self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        if self._board.is_busier:
            self._wait(_LEAVE)
        else:
            self._accept()

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket)
        self._later = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        """Nobody else may have wanted it: one is taken in any case."""
        self._later = None
        self._loop.add_reader(self._socket, self._readable)
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another one was quicker, or the client has gone.
            return
        except OSError as error:
            self._log.warning("master", f"connections cannot be accepted: {error}")
            if self._later is None:
                self._wait(_PAUSE)
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection, ssl=self._context)
        except OSError:
            # It failed in its TLS handshake, or is gone: nothing was said yet.
            connection.close()
