"""resel-sendmail -bs: SMTP on standard input and output, spoken by the daemon.

A program of this machine may end its lines with LF alone: the daemon gets CR LF throughout. So that
this changes neither BDAT's octets nor TLS, the dialog is followed as far as that needs.
"""

from __future__ import annotations

import enum
import os
import re
import selectors
import socket
from pathlib import Path

from resel_mta.commands.cli import EX_DATAERR, EX_OK, EX_TEMPFAIL, Failure
from resel_mta.sockets import unix_address

_BLOCK = 64 * 1024
#: Octets of a line that are looked at: the longest command of interest is BDAT with a size.
_PREFIX = 64
_CHUNK = re.compile(rb"BDAT\s+(\d{1,18})\b", re.IGNORECASE)
_LAST_LINE = re.compile(rb"\d{3}(?: |$)")


class _State(enum.Enum):
    COMMAND = enum.auto()
    DATA = enum.auto()
    CHUNK = enum.auto()
    RAW = enum.auto()


class Dialog:
    """What goes to the daemon of what a program writes.

    waits: nothing goes on before the daemon has answered DATA or STARTTLS.
    """

    def __init__(self) -> None:
        self._state = _State.COMMAND
        self._input = bytearray()
        self._line = bytearray()
        self._reply = bytearray()
        # The greeting.
        self._replies_due = 1
        self._left = 0
        self._then: tuple[bytes, _State] | None = None

    @property
    def waits(self) -> bool:
        return self._then is not None

    @property
    def inside_message(self) -> bool:
        """Whether a message has begun that has not come to its end."""
        return self._state in (_State.DATA, _State.CHUNK)

    def feed(self, block: bytes) -> bytes:
        """The octets for the daemon, after some of the program's."""
        self._input += block
        return self._advance()

    def replied(self, block: bytes) -> bytes:
        """The octets for the daemon, after some of its own."""
        self._reply += block
        *lines, rest = self._reply.split(b"\n")
        self._reply = bytearray(rest)
        for line in lines if self._state is not _State.RAW else ():
            if not _LAST_LINE.match(line.rstrip(b"\r")):
                continue
            self._replies_due -= 1
            if self._then is not None and (self._replies_due <= 0 or line.startswith(b"354")):
                wanted, state = self._then
                self._then = None
                if line.startswith(wanted):
                    self._state = state
        return self._advance()

    def _advance(self) -> bytes:
        out = bytearray()
        while self._input and self._then is None:
            if self._state is _State.RAW:
                out += self._take(len(self._input))
            elif self._state is _State.CHUNK:
                chunk = self._take(min(self._left, len(self._input)))
                self._left -= len(chunk)
                out += chunk
                if not self._left:
                    self._state = _State.COMMAND
            else:
                end = self._input.find(b"\n")
                if end < 0:
                    # A CR may be half of a line end.
                    end = len(self._input) - self._input.endswith(b"\r")
                    out += self._seen(self._take(end))
                    break
                out += self._seen(self._take(end + 1)[:-1].removesuffix(b"\r")) + b"\r\n"
                self._end_line()
        return bytes(out)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._input[:count])
        del self._input[:count]
        return taken

    def _seen(self, piece: bytes) -> bytes:
        self._line += piece[: _PREFIX - len(self._line)]
        return piece

    def _end_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._state is _State.DATA:
            if line == b".":
                self._state = _State.COMMAND
                self._replies_due += 1
            return
        self._replies_due += 1
        command = line.strip().upper()
        if command == b"DATA":
            self._then = b"354", _State.DATA
        elif command == b"STARTTLS":
            self._then = b"220", _State.RAW
        elif chunk := _CHUNK.match(line):
            self._left = int(chunk[1])
            self._state = _State.CHUNK if self._left else _State.COMMAND


class NoDaemon(Failure):
    """Nobody speaks SMTP there; nothing was said yet."""


def converse(path: Path) -> int:
    """Carry octets both ways until the daemon ends the session. Raises NoDaemon, Failure."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as daemon:
        try:
            with unix_address(path) as address:
                daemon.connect(address)
        except OSError as error:
            raise NoDaemon(EX_TEMPFAIL, f"no daemon: {path}: {error.strerror}") from None
        dialog = Dialog()
        try:
            _carry(daemon, dialog)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Failure(EX_TEMPFAIL, f"the daemon went away: {error.strerror}") from None
    return EX_OK


def turn_away() -> None:
    """Say that there is no service, in place of a greeting."""
    _write(b"421 4.3.2 Service not available, the daemon is not running\r\n")


def _carry(daemon: socket.socket, dialog: Dialog) -> None:
    # A regular file cannot be waited for, and need not be: it is always ready.
    waits = _can_wait(0)
    reading = sending = True
    with selectors.DefaultSelector() as selector:
        selector.register(daemon, selectors.EVENT_READ)
        while True:
            wanted = reading and sending and not dialog.waits
            _watch_input(selector, wanted and waits)
            ready = {key.fd for key, _ in selector.select(0 if wanted and not waits else None)}
            if daemon.fileno() in ready:
                block = daemon.recv(_BLOCK)
                if not block:
                    _check_end(dialog, reading)
                    return
                _write(block)
                sending = sending and _send(daemon, dialog.replied(block))
            if wanted and (0 in ready or not waits):
                block = os.read(0, _BLOCK)
                reading = bool(block)
                sending = sending and _send(daemon, dialog.feed(block))
            if sending and not reading and not dialog.waits:
                sending = False
                daemon.shutdown(socket.SHUT_WR)


def _send(daemon: socket.socket, octets: bytes) -> bool:
    """False if the daemon hears no more: what it said before is still to be read."""
    try:
        daemon.sendall(octets)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _watch_input(selector: selectors.BaseSelector, wanted: bool) -> None:
    watched = 0 in selector.get_map()
    if wanted and not watched:
        selector.register(0, selectors.EVENT_READ)
    elif watched and not wanted:
        selector.unregister(0)


def _check_end(dialog: Dialog, reading: bool) -> None:
    """Raises Failure where the session ended too early."""
    if not dialog.inside_message:
        return
    if reading:
        raise Failure(EX_TEMPFAIL, "the daemon went away before the message was complete")
    raise Failure(EX_DATAERR, "end of input within the message: it was not sent")


def _can_wait(descriptor: int) -> bool:
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(descriptor, selectors.EVENT_READ)
        except OSError:
            return False
    return True


def _write(block: bytes) -> None:
    while block:
        block = block[os.write(1, block) :]
