"""The least that a relay can do: what the others are measured against, not a mail server.

python benchmarks/bare.py PORT SINK_PORT FILE

Takes SMTP with canned replies, puts each message into FILE and syncs before its 250, sends it on
over up to 20 kept connections with canned commands, and writes and syncs that it is gone. Whatever
waits is written together, with one sync. Nothing is parsed, checked, rewritten, scheduled or
logged. Commands of its own: XPAD n m (from now on a message takes n octets of the file when it
comes, and m when it is gone, at least), XHOLD and XFLUSH (keep, and send, what comes), XCOUNT (so
many messages came and are gone, and so many syncs were made).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import uvloop

CONNECTIONS = 20
AGAIN = 0.05
"""Seconds until a connection that was refused is tried again."""
END = b"\r\n.\r\n"
GONE = b"gone".ljust(63) + b"\n"
LAP = 32 * 1024 * 1024
"""Where the file is written from its beginning again, once nothing in it is needed."""
Place = tuple[int, int]
"""Offset and length in the file."""


class Spool:
    """A file to which a thread appends."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._loop = loop
        self._waiting: queue.SimpleQueue[tuple[bytes, int, Callable[[int], None]]]
        self._waiting = queue.SimpleQueue()
        self._position = 0
        self.kept = 0
        self.syncs = 0
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, data: bytes, padding: int, done: Callable[[int], None]) -> None:
        """done: called with the offset, once the data is on disk."""
        self._waiting.put((data, padding, done))

    def read(self, place: Place) -> bytes:
        return os.pread(self._file, place[1], place[0])

    def _run(self) -> None:
        while True:
            group = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    group.append(self._waiting.get_nowait())
            if self._position > LAP and not self.kept:
                self._position = 0
            pieces: list[bytes] = []
            told: list[tuple[Callable[[int], None], int]] = []
            start = position = self._position
            for data, padding, done in group:
                pieces += (data, bytes(padding))
                told.append((done, position))
                position += len(data) + padding
            os.pwrite(self._file, b"".join(pieces), start)
            os.fdatasync(self._file)
            self._position = position
            self.syncs += 1
            self._loop.call_soon_threadsafe(_tell, told)


def _tell(told: list[tuple[Callable[[int], None], int]]) -> None:
    for done, position in told:
        done(position)


class Relay:
    """What waits, and the connections that take it."""

    def __init__(self, spool: Spool, sink_port: int) -> None:
        self.spool = spool
        self.sink_port = sink_port
        self.padded = (0, 0)
        self.holding = False
        self.taken = 0
        self.gone = 0
        self.waiting: deque[tuple[bytes, bytes | Place]] = deque()
        self.idle: list[Client] = []
        self.connections = 0

    def take(self, envelope: bytes, content: bytes, accepted: Callable[[], None]) -> None:
        """envelope: the commands of its transaction."""
        self.spool.kept += 1

        def stored(position: int) -> None:
            accepted()
            self.taken += 1
            # What has to wait is not kept in memory.
            held: bytes | Place = (position + len(envelope), len(content))
            self.waiting.append((envelope, held if self.holding else content))
            self.push()

        padding = max(0, self.padded[0] - len(envelope) - len(content) - len(GONE))
        self.spool.add(envelope + content, padding, stored)

    def push(self) -> None:
        if self.holding:
            return
        while self.waiting and self.idle:
            self.idle.pop().send(*self.waiting.popleft())
        if self.waiting and self.connections < CONNECTIONS:
            self.connections += 1
            loop = asyncio.get_running_loop()
            task = loop.create_task(
                loop.create_connection(self.client, "127.0.0.1", self.sink_port)
            )
            task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Any]) -> None:
        """A sink that is not there yet, or no more, is tried again."""
        if isinstance(task.exception(), OSError):
            self.connections -= 1
            asyncio.get_running_loop().call_later(AGAIN, self.push)
        else:
            task.result()

    def client(self) -> Client:
        return Client(self)

    def finished(self) -> None:
        def noted(_: int) -> None:
            self.gone += 1
            self.spool.kept -= 1

        self.spool.add(GONE, max(0, self.padded[1] - len(GONE)), noted)


class Client(asyncio.Protocol):
    """A connection to the sink: commands in one write, content in another."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._content: bytes | Place | None = None
        self._greeted = False
        self._seen = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._transport.write(b"EHLO bare.example\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.connections -= 1
        with contextlib.suppress(ValueError):
            self._relay.idle.remove(self)

    def send(self, envelope: bytes, content: bytes | Place) -> None:
        self._content = content
        self._transport.write(envelope)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not self._seen.endswith(b"\n"):
            return
        code = self._seen[self._seen.rfind(b"\n", 0, -1) + 1 :][:4]
        if not self._greeted:
            if code == b"250 ":
                self._greeted = True
                self._free()
        elif self._content is None:
            self._relay.finished()
            self._free()
        elif code == b"354 ":
            content, self._content = self._content, None
            whole = content if isinstance(content, bytes) else self._relay.spool.read(content)
            self._transport.write(whole)
            self._seen = b""

    def _free(self) -> None:
        self._seen = b""
        self._relay.idle.append(self)
        self._relay.push()


class Server(asyncio.Protocol):
    """A client's session."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._buffer = bytearray()
        self._envelope: list[bytes] = []
        self._in_data = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._transport.write(b"220 bare.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._in_data:
            if self._buffer.endswith(END):
                self._in_data = False
                content = bytes(self._buffer)
                self._buffer.clear()
                envelope = b"".join([*self._envelope, b"DATA\r\n"])
                self._envelope = []
                self._relay.take(envelope, content, self._accepted)
        elif self._buffer.endswith(b"\n"):
            lines = bytes(self._buffer).splitlines(keepends=True)
            self._buffer.clear()
            self._transport.write(b"".join(map(self._command, lines)))

    def _accepted(self) -> None:
        self._transport.write(b"250 2.0.0 Ok: queued\r\n")

    def _command(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb in (b"MAIL", b"RCPT"):
            self._envelope.append(line)
        elif verb == b"DATA":
            self._in_data = True
            return b"354 End data with <CR><LF>.<CR><LF>\r\n"
        elif verb == b"QUIT":
            asyncio.get_running_loop().call_soon(self._transport.close)
            return b"221 2.0.0 Bye\r\n"
        elif verb.startswith(b"X"):
            return self._own(line.split())
        return b"250 2.1.0 Ok\r\n"

    def _own(self, words: list[bytes]) -> bytes:
        relay = self._relay
        if words[0] == b"XPAD":
            relay.padded = (int(words[1]), int(words[2]))
        elif words[0] == b"XCOUNT":
            return f"250 {relay.taken} {relay.gone} {relay.spool.syncs}\r\n".encode()
        else:
            relay.holding = words[0] == b"XHOLD"
            for _ in range(CONNECTIONS):
                relay.push()
        return b"250 2.0.0 Ok\r\n"


async def main(port: int, sink_port: int, path: str) -> None:
    loop = asyncio.get_running_loop()
    relay = Relay(Spool(path, loop), sink_port)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: Server(relay), "127.0.0.1", port, backlog=1024)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
