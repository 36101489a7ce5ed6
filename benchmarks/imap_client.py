"""A raw-socket IMAP client that spends as little time of its own as it can."""

from __future__ import annotations

import socket

from benchmarks.load import BenchmarkError

_BLOCK = 1 << 20


class Client:
    """One connection. The server's greeting has been read."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = 0
        if not self._until(b"\r\n").startswith(b"* OK"):
            raise BenchmarkError("no greeting")

    def _until(self, end: bytes) -> bytes:
        blocks = bytearray()
        while not blocks.endswith(end):
            block = self._socket.recv(_BLOCK)
            if not block:
                raise BenchmarkError("the server closed the connection")
            blocks += block
        return bytes(blocks)

    def command(self, text: bytes) -> bytes:
        """Send a command; all of its answer. Raises BenchmarkError if that is not OK."""
        self._number += 1
        tag = b"t%d" % self._number
        self._socket.sendall(tag + b" " + text + b"\r\n")
        return self._answer(tag, text)

    def _answer(self, tag: bytes, text: bytes) -> bytes:
        blocks: list[bytes] = []
        tail = b""
        line = b"\r\n" + tag + b" "
        while True:
            block = self._socket.recv(_BLOCK)
            if not block:
                raise BenchmarkError(f"the server closed the connection at {text[:40]!r}")
            blocks.append(block)
            tail = block[-4096:] if len(block) >= 4096 else (tail + block)[-4096:]
            if not tail.endswith(b"\r\n"):
                continue
            at = (b"\r\n" + tail).rfind(line)
            if at >= 0 and b"\r\n" not in tail[at:-2]:
                if tail[at + len(tag) + 1 :][:2] != b"OK":
                    raise BenchmarkError(f"{text[:40]!r}: {tail[at:]!r}")
                return b"".join(blocks)

    def idle(self) -> None:
        """IDLE, up to the server's "+"."""
        self._socket.sendall(b"i IDLE\r\n")
        self._until_word(b"+ ")

    def await_exists(self, count: int | None = None) -> None:
        """While idling: until the folder is said to have so many messages, or any number."""
        self._until_word(b" EXISTS\r\n" if count is None else b"* %d EXISTS\r\n" % count)

    def done(self) -> None:
        self._socket.sendall(b"DONE\r\n")
        self._until_word(b"i OK")

    def _until_word(self, word: bytes) -> None:
        """Raises BenchmarkError if it does not come in time."""
        seen = b""
        while word not in seen:
            try:
                block = self._socket.recv(_BLOCK)
            except TimeoutError:
                raise BenchmarkError(f"no {word!r} within a minute: {seen[-80:]!r}") from None
            if not block:
                raise BenchmarkError("the server closed the connection")
            seen += block

    def append(self, folder: bytes, message: bytes) -> None:
        self.command(b"APPEND %b {%d+}\r\n%b" % (folder, len(message), message))

    def login(self, user: str, password: str) -> None:
        self.command(f"LOGIN {user} {password}".encode())

    def abandon(self) -> None:
        """Without a word."""
        self._socket.close()

    def close(self) -> None:
        """With LOGOUT."""
        self.command(b"LOGOUT")
        self._socket.close()
