"""resel-sendmail -bs: SMTP on standard input and output, spoken by the daemon."""

from __future__ import annotations

import os
import selectors
import socket
from pathlib import Path

from resel_mta.commands.cli import EX_OK, EX_TEMPFAIL, Failure
from resel_mta.sockets import unix_address

_BLOCK = 64 * 1024


def converse(path: Path) -> int:
    """Carry octets both ways until the daemon ends the session. Raises Failure."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as daemon:
        try:
            with unix_address(path) as address:
                daemon.connect(address)
        except OSError as error:
            _write(b"421 4.3.2 Service not available, the daemon is not running\r\n")
            raise Failure(EX_TEMPFAIL, f"no daemon: {path}: {error.strerror}") from None
        try:
            _carry(daemon)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Failure(EX_TEMPFAIL, f"the daemon went away: {error.strerror}") from None
    return EX_OK


def _carry(daemon: socket.socket) -> None:
    # A regular file cannot be waited for, and need not be: it is always ready.
    waits = _can_wait(0)
    reading = True
    with selectors.DefaultSelector() as selector:
        selector.register(daemon, selectors.EVENT_READ)
        if waits:
            selector.register(0, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select(None if waits or not reading else 0)}
            if daemon.fileno() in ready:
                block = daemon.recv(_BLOCK)
                if not block:
                    return
                _write(block)
            if reading and (0 in ready or not waits):
                block = os.read(0, _BLOCK)
                if block:
                    daemon.sendall(block)
                    continue
                reading = False
                daemon.shutdown(socket.SHUT_WR)
                if waits:
                    selector.unregister(0)


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
