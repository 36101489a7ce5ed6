"""Dovecot's lock files: ``<file>.lock`` holding ``pid:hostname``.

The lock appears by link() of a file that already has its content, so a kill at any moment leaves
either no lock or one that names its owner. An owner that is dead on this host is broken at once;
anything else (another host, an empty lock of a killed Dovecot) by Dovecot's stale rule.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

from resel_lda.mailbox import MailboxError
from resel_mta.disk import Disk

STALE_AFTER = 120.0
_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.05


@contextlib.contextmanager
def dotlock(disk: Disk, path: str, timeout: float = 130.0) -> Iterator[None]:
    """Hold `path`.lock. Blocks; raises MailboxError("INUSE") after `timeout` seconds, OSError."""
    lock = f"{path}.lock"
    host = socket.gethostname()
    mine = f"{os.getpid()}:{host}".encode()
    temporary = f"{lock}.{host}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = disk.create(temporary)
    try:
        try:
            disk.write(fd, mine)
        finally:
            disk.close(fd)
        inode = os.stat(temporary).st_ino
        _acquire(disk, temporary, lock, host, timeout)
    finally:
        disk.unlink(temporary)
    try:
        yield
    finally:
        # Only our own: it may have been broken as stale while this process was stopped.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(lock).st_ino == inode:
                disk.unlink(lock)


def _acquire(disk: Disk, temporary: str, lock: str, host: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    wait = _FIRST_WAIT
    watched: tuple[int, int, float] | None = None
    since = time.monotonic()
    while True:
        try:
            disk.link(temporary, lock)
            return
        except FileExistsError:
            pass
        seen = _identity(lock)
        if seen is None:
            continue
        if seen != watched:
            watched, since = seen, time.monotonic()
        stale = time.time() - seen[2] > STALE_AFTER
        if _owner_is_dead(lock, host) or stale or time.monotonic() - since > STALE_AFTER:
            _break(disk, lock, seen)
            continue
        if time.monotonic() > deadline:
            raise MailboxError(f"Timeout while waiting for {os.path.basename(lock)}", "INUSE")
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)


def _identity(lock: str) -> tuple[int, int, float] | None:
    try:
        stat = os.stat(lock, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime


def _owner_is_dead(lock: str, host: str) -> bool:
    try:
        with open(lock, "rb") as file:
            pid, _, owner_host = file.read(1024).decode("utf-8", "replace").partition(":")
    except OSError:
        return False
    if owner_host.strip() != host or not pid.isascii() or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _break(disk: Disk, lock: str, seen: tuple[int, int, float]) -> None:
    """Move the lock aside first: if another process broke it and took its own in between, what
    we moved is not what we saw, and goes back."""
    aside = f"{lock}.stale.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        disk.rename(lock, aside)
    except FileNotFoundError:
        return
    if _identity(aside) != seen:
        with contextlib.suppress(FileExistsError):
            disk.link(aside, lock)
    disk.unlink(aside)
