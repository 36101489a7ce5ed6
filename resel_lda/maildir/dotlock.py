"""Dovecot's lock files: ``<file>.lock`` holding ``pid:hostname``.

The lock appears by link() of a file that already has its content, so a kill at any moment leaves
either no lock or one that names its owner. The lock of an owner that is dead on this host is broken
at once, also when this process has its number now; anything else (another host, an empty lock of a
killed Dovecot) by Dovecot's stale rule.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator

from resel_lda.mailbox import MailboxError
from resel_mta.disk import Disk

STALE_AFTER = 120.0
_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.05
# Why a file that lies elsewhere may not be linked to where the lock is to be.
_ELSEWHERE = frozenset(
    (errno.EXDEV, errno.EMLINK, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS)
)


class LockFile:
    """What is linked into place as `path`.lock, or as the locks of several files, also at once. To
    make it anew for each of many locks is slow: ext4 looks past the inodes of files that were just
    deleted. While it is in use it is held with flock(2), which ends with the process, whoever gets
    its number then. Any thread may call it."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._lock = f"{path}.lock"
        self._path = ""
        self._inode = 0
        # That of `_path`, and of those before it, which somebody removed.
        self._held: list[int] = []
        self._guard = threading.Lock()

    def ready(self) -> tuple[str, int]:
        """Its path, with the time of this lock, and its inode. Raises OSError."""
        with self._guard:
            return self._ready()

    def _ready(self) -> tuple[str, int]:
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                self._disk.utime(self._path, time.time())
                return self._path, self._inode
        host = socket.gethostname()
        path = f"{self._lock}.{host}.{os.getpid()}.{os.urandom(4).hex()}"
        fd = self._disk.create(path)
        self._path = path
        self._held.append(fd)
        # Not every file system can; such a lock of ours is waited for.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self._disk.write(fd, f"{os.getpid()}:{host}".encode())
            self._inode = os.fstat(fd).st_ino
        except BaseException:
            self.unname()
            self._disk.close(self._held.pop())
            raise
        return self._path, self._inode

    def unname(self) -> None:
        """Remove it; the next lock makes another. What it was linked to stays held."""
        path, self._path = self._path, ""
        if path:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(path)

    def discard(self) -> None:
        """As `unname`, when no lock is held."""
        try:
            self.unname()
        finally:
            while self._held:
                self._disk.close(self._held.pop())


def discard_left(disk: Disk, path: str) -> None:
    """Remove the `LockFile`s of processes of this host that are dead. Blocks; raises OSError."""
    directory, name = os.path.split(path)
    head = f"{name}.lock.{socket.gethostname()}."
    for entry in os.listdir(directory):
        pid = entry.removeprefix(head).partition(".")[0]
        path = os.path.join(directory, entry)
        if entry.startswith(head) and pid.isascii() and pid.isdigit() and _is_dead(int(pid), path):
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(path)


@contextlib.contextmanager
def dotlock(
    disk: Disk, path: str, timeout: float = 130.0, kept: LockFile | None = None
) -> Iterator[None]:
    """Hold `path`.lock. kept: used if it can be; its owner discards it. Blocks; raises
    MailboxError("INUSE") after `timeout` seconds, OSError."""
    lock = f"{path}.lock"
    with contextlib.ExitStack() as stack:
        inode = None if kept is None else _take_kept(disk, kept, lock, timeout)
        if inode is None:
            file = LockFile(disk, path)
            stack.callback(file.discard)
            inode = _take(disk, file, lock, timeout)
            file.unname()
        try:
            yield
        finally:
            # Only our own: it may have been broken as stale while this process was stopped.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(lock).st_ino == inode:
                    disk.unlink(lock)


def _take_kept(disk: Disk, file: LockFile, lock: str, timeout: float) -> int | None:
    """As `_take`; None if it cannot be linked to there: a folder may lie in another file system."""
    try:
        return _take(disk, file, lock, timeout)
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
        return None


def _take(disk: Disk, file: LockFile, lock: str, timeout: float) -> int:
    """The lock's inode."""
    temporary, inode = file.ready()
    _acquire(disk, temporary, lock, socket.gethostname(), timeout)
    return inode


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
    return _is_dead(int(pid), lock)


def _is_dead(pid: int, path: str) -> bool:
    """Whether the process that made this file is."""
    if pid == os.getpid():
        return not _is_held(path)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _is_held(path: str) -> bool:
    """Whether a file with our number is a `LockFile` in use: one that is not was left by a process
    that had this number before, as happens in containers all the time."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
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
