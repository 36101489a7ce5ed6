"""Where finished log lines go."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable
from typing import Protocol


class Sink(Protocol):
    """Where finished lines go. write takes whole lines, each ended by a newline."""

    def write(self, lines: list[str]) -> None: ...

    def reopen(self) -> None: ...


class StreamSink:
    """A file descriptor that stays open: standard output, journald's stream."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd

    def write(self, lines: list[str]) -> None:
        data = "".join(lines).encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]

    def reopen(self) -> None:
        """Nothing to reopen."""


def open_to_append(path: str, flags: int = 0) -> int:
    """A log file, made if there is none. flags: more of them. Raises OSError."""
    flags |= os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    try:
        # In /tmp not even root may open somebody else's file and ask for it to be made.
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o640)


class FileSink:
    """`maillog_file`: appended to; reopened on reload, as logrotate needs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        return open_to_append(self._path)

    def write(self, lines: list[str]) -> None:
        os.write(self._fd, "".join(lines).encode("utf-8", "backslashreplace"))

    def reopen(self) -> None:
        new = self._open()
        os.close(self._fd)
        self._fd = new


_SEVERITIES = {"warning": 4, "error": 3, "fatal": 2, "panic": 2}
_INFO = 6


def severity_of(line: str) -> int:
    """syslog(3)'s number, by the word that the text or what follows its queue id starts with."""
    words = line.split(": ", 3)[1:3]
    return next((_SEVERITIES[word] for word in words if word in _SEVERITIES), _INFO)


class Datagrams:
    """The unix datagram socket of a log daemon. Raises OSError when it cannot be reached at first.

    A daemon that does not read must not hold up the mail: after `patience` seconds its lines are
    dropped, and for `rest` seconds those after them without a wait.
    """

    def __init__(self, path: str, patience: float = 0.5, rest: float = 5.0) -> None:
        self._path = path
        self._patience = patience
        self._rest = rest
        self._resting_until = 0.0
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        connection.settimeout(self._patience)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection

    def reopen(self) -> None:
        new = self._connect()
        self._socket.close()
        self._socket = new

    def close(self) -> None:
        self._socket.close()

    def send_all(self, datagrams: Iterable[bytes]) -> None:
        """Raises OSError when some of them were dropped."""
        dropped = sum(not self._send(data) for data in datagrams)
        if dropped:
            raise OSError(errno.EAGAIN, f"{self._path} did not take {dropped} of them")

    def _send(self, data: bytes) -> bool:
        if self._resting_until and time.monotonic() < self._resting_until:
            return False
        try:
            self._socket.send(data)
        except TimeoutError:
            self._resting_until = time.monotonic() + self._rest
            return False
        except OSError:
            # The daemon was started again: its socket is a new one.
            try:
                self.reopen()
                self._socket.send(data)
            except OSError:
                return False
        return True


class SyslogSink:
    """/dev/log, facility mail (2). Severity by the word that starts the text, as Postfix has it."""

    def __init__(self, path: str = "/dev/log") -> None:
        self._daemon = Datagrams(path)

    def write(self, lines: list[str]) -> None:
        self._daemon.send_all(
            f"<{16 + severity_of(line)}>{line.rstrip()}".encode("utf-8", "backslashreplace")
            for line in lines
        )

    def reopen(self) -> None:
        self._daemon.reopen()

    def close(self) -> None:
        self._daemon.close()
