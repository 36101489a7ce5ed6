"""Which process writes `state` and `cache` of a user: the one that holds the lock on this file.

It is an flock, so it goes with its process however that ends. Other programs (Dovecot, a delivery
into new/) need not know of it: they do not touch our two files.
"""

from __future__ import annotations

import fcntl
import os
import time

from resel_lda.mailbox import MailboxError

FILE_NAME = "state.owner"
_PATIENCE = 10.0
_PAUSE = 0.02


class Claim:
    """The lock of one store. directory: where `state` is. Methods block."""

    def __init__(self, directory: str, patience: float = _PATIENCE) -> None:
        self._path = os.path.join(directory, FILE_NAME)
        self._patience = patience
        self._fd = -1

    def take(self) -> None:
        """Wait for it up to `patience` seconds. Raises OSError, MailboxError("INUSE")."""
        if self._fd >= 0:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + self._patience
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        text = "Another process is working on this mailbox"
                        raise MailboxError(text, "INUSE") from None
                    time.sleep(_PAUSE)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
