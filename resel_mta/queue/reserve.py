"""Room that is kept for a full disk: without any, not even deleting mail would make some.

A file in the queue directory takes it up. While the disk is full, it is given up for what makes
room or needs little (deliveries, deleting, holding), and taken back at once; new mail gets none.
It holds nothing that could be lost, so it does not go through `resel_mta.disk`.
"""

from __future__ import annotations

import contextlib
import os

SIZE = 4 * 1024 * 1024
"""Octets. A thousand messages on hold, or hundreds that are removed, take less."""
LEAST = SIZE // 16


class Reserve:
    """The file `reserve` in `directory`. Used in the writer's thread.

    given_up: and not taken back yet.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "reserve")
        self._size = 0
        self.given_up = False

    def keep(self) -> None:
        """Have as much of it as there is room for."""
        self.given_up = False
        if self._size >= SIZE:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        # A queue without it is as good, as long as the disk is not full.
        with contextlib.suppress(OSError):
            fd = os.open(self._path, flags, 0o600)
            try:
                self._size = _grow(fd)
            finally:
                os.close(fd)

    def give_up(self) -> bool:
        """Whether there was any, which is free now."""
        self._size = 0
        try:
            found = os.stat(self._path).st_size
            os.truncate(self._path, 0)
        except OSError:
            return False
        self.given_up = found > 0
        return self.given_up


def _grow(fd: int) -> int:
    """How large the file is then."""
    found = os.fstat(fd).st_size
    size = SIZE
    while size > found and size >= LEAST:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            # Some of it may have been taken.
            os.ftruncate(fd, found)
            size //= 2
        else:
            return size
    return found
