"""One process at a time holds a queue directory."""

from __future__ import annotations

import contextlib
import fcntl
import os


class QueueLocked(Exception):
    """Another process holds the queue."""


def lock_queue(directory: str) -> int:
    """A descriptor that holds the queue until it is closed. Raises QueueLocked, OSError."""
    path = os.path.join(directory, "queue.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        by = f" by process {holder}" if holder else ""
        raise QueueLocked(f"the queue in {directory} is in use{by}") from None
    except OSError:
        os.close(fd)
        raise
    # Only for people to read: a full disk does not matter.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
