"""Where finished log lines go."""

from __future__ import annotations

import contextlib
import os
import socket
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


class FileSink:
    """`maillog_file`: appended to; reopened on reload, as logrotate needs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

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


class SyslogSink:
    """/dev/log, facility mail (2). Severity by the word that starts the text, as Postfix has it."""

    def __init__(self, path: str = "/dev/log") -> None:
        self._path = path
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        connection.connect(self._path)
        return connection

    def write(self, lines: list[str]) -> None:
        for line in lines:
            text = line.rstrip("\n")
            priority = 16 + severity_of(line)
            data = f"<{priority}>{text}".encode("utf-8", "backslashreplace")
            try:
                self._socket.send(data)
            except OSError:
                # syslogd was restarted: its socket is a new one.
                with contextlib.suppress(OSError):
                    self.reopen()
                    self._socket.send(data)

    def reopen(self) -> None:
        new = self._connect()
        self._socket.close()
        self._socket = new
