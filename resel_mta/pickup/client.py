"""Hands a letter to the daemon over its public socket. Blocks."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

from resel_mta.pickup.letter import Answer, Letter, LetterError
from resel_mta.sockets import unix_address

#: Seconds for each step; the daemon gives up earlier.
PATIENCE = 300.0
ANSWER_LIMIT = 4 * 1024 * 1024


class NotTaken(Exception):
    """Nobody took the letter, as far as can be known; str() says why.

    certain: it never reached a daemon.
    """

    def __init__(self, text: str, *, certain: bool) -> None:
        super().__init__(text)
        self.certain = certain


def hand_over(
    path: Path, letter: Letter, blocks: Iterable[bytes], timeout: float = PATIENCE
) -> Answer:
    """The daemon's answer. Raises NotTaken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(timeout)
        try:
            with unix_address(path) as address:
                channel.connect(address)
        except OSError as error:
            raise NotTaken(f"{path}: {error.strerror or error}", certain=True) from error
        try:
            # A daemon that refuses stops reading; its answer tells why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                channel.sendall(letter.encode())
                for block in blocks:
                    channel.sendall(block)
            with channel.makefile("rb") as answers:
                line = answers.readline(ANSWER_LIMIT)
        except OSError as error:
            raise NotTaken(str(error), certain=False) from error
    if not line.endswith(b"\n"):
        raise NotTaken("the daemon went away before it had answered", certain=False)
    try:
        return Answer.decode(line)
    except LetterError as error:
        raise NotTaken(str(error), certain=False) from error
