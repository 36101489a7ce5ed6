"""LMTP with many connections, and the least that a delivery can be.

The bare loop writes the same message into a Maildir's tmp/, syncs it, renames it into new/ and syncs
that directory, once for each message, in as many threads as there are connections. It parses,
checks and answers nothing.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.load import BenchmarkError

_BLOCK = 1 << 16


class LmtpClient:
    """One connection kept open. The greeting and LHLO have been answered."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies(1, b"220")
        self._socket.sendall(b"LHLO client.bench.example\r\n")
        self._replies(1, b"250")

    def deliver(self, address: str, mail: bytes) -> None:
        """mail: with CR LF, no line of it begins with a dot. Raises BenchmarkError if it is not
        taken."""
        envelope = f"MAIL FROM:<liste@example.org>\r\nRCPT TO:<{address}>\r\nDATA\r\n"
        self._socket.sendall(envelope.encode())
        self._replies(3, b"354")
        self._socket.sendall(mail + b".\r\n")
        self._replies(1, b"250")

    def _replies(self, count: int, last: bytes) -> None:
        """Read so many; the last one has this code."""
        seen = b""
        while True:
            block = self._socket.recv(_BLOCK)
            if not block:
                raise BenchmarkError("the LMTP server closed the connection")
            seen += block
            if not seen.endswith(b"\n"):
                continue
            whole = [line for line in seen.splitlines() if line[3:4] == b" "]
            if len(whole) >= count:
                break
        if not whole[-1].startswith(last):
            raise BenchmarkError(f"LMTP: {whole[-1]!r}")

    def close(self) -> None:
        self._socket.sendall(b"QUIT\r\n")
        self._replies(1, b"221")
        self._socket.close()


def in_threads(count: int, works: Sequence[Callable[[], None]]) -> None:
    """Each of these again and again in a thread of its own, so many times in all. Raises what the
    first that failed raised."""
    numbers = iter(range(count))
    guard = threading.Lock()
    failures: list[Exception] = []

    def run(work: Callable[[], None]) -> None:
        try:
            while True:
                with guard:
                    number = next(numbers, None)
                if number is None:
                    return
                work()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class BareLoop:
    """directory: a Maildir of its own, made here."""

    name = "bare loop"

    def __init__(self, directory: Path) -> None:
        for part in ("cur", "new", "tmp"):
            (directory / part).mkdir(parents=True)
        self._directory = directory
        self._numbers = itertools.count()

    def deliver(self, mail: bytes) -> None:
        """Any thread may call it."""
        name = f"{next(self._numbers)}.bare"
        temporary = self._directory / "tmp" / name
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, mail)
        os.fsync(fd)
        os.close(fd)
        os.rename(temporary, self._directory / "new" / name)
        fd = os.open(self._directory / "new", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
