"""Appending to mbox files, and to whatever else a ``/file`` target names, as local(8) does.

Blocks; runs with the rights of the calling process. Locks are those of `mailbox_delivery_lock`:
first the dotlock ``file.lock``, then fcntl or flock on the file. What was written is synced before
it counts, and cut off again when it could not be written whole. A file that is not a plain one of
its own (a symbolic link, a hard link, a directory, a pipe) is refused; a device such as /dev/null
takes what it is given.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from resel_lda.job import Job, message_blocks
from resel_lda.mailcopy import mail_copy
from resel_lda.maildir.files import MaildirFiles, create_maildir
from resel_lda.maildir.names import NameMaker
from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.disk import Disk
from resel_mta.mail import Bounced, Deferred, Delivered, Outcome, PermFail, Reply, TempFail

_OPEN = os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
# Errors that a later attempt may not meet, with their status; a lost race among them.
_LATER = {
    errno.EAGAIN: "4.2.0",
    errno.EDQUOT: "4.2.2",
    errno.EIO: "4.3.0",
    errno.EEXIST: "4.2.0",
    errno.EMFILE: "4.3.0",
    errno.ENFILE: "4.3.0",
    errno.ENOLCK: "4.3.0",
    errno.ENOMEM: "4.3.0",
    errno.ENOSPC: "4.3.1",
    errno.EROFS: "4.3.0",
    errno.ESTALE: "4.2.0",
}


@dataclass(frozen=True, slots=True)
class Locking:
    """mailbox_delivery_lock, deliver_lock_attempts, deliver_lock_delay, stale_lock_time (seconds).

    dotlock_may_fail: where no lock file can be made, the other lock must do (``/file``).
    """

    kinds: tuple[str, ...] = ("fcntl", "dotlock")
    attempts: int = 20
    delay: float = 1.0
    stale: float = 500.0
    dotlock_may_fail: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Locking:
        return cls(
            settings.items("mailbox_delivery_lock"),
            settings.number("deliver_lock_attempts"),
            settings.seconds("deliver_lock_delay"),
            settings.seconds("stale_lock_time"),
        )


def append(
    disk: Disk,
    path: str,
    blocks: Iterable[bytes],
    locking: Locking,
    *,
    limit: int = 0,
    own: bool = False,
) -> None:
    """Append a message, durably. limit: the most octets the file may have then; 0 is any.
    own: the file must belong to this process's account: where everyone may create files, somebody
    else could have made it, to read what comes.

    Raises TempFail and PermFail whose text says what is wrong with the file.
    """
    try:
        with _dotlock(path, locking):
            descriptor, created = _open(path)
            try:
                status = os.fstat(descriptor)
                _check(status)
                if own and status.st_uid != os.geteuid():
                    text = f"destination {path} is not owned by recipient"
                    raise TempFail(Reply(451, "4.2.0", text))
                if stat.S_ISREG(status.st_mode):
                    _lock(descriptor, locking)
                    _check_still_there(descriptor, path)
                    _append_regular(disk, descriptor, blocks, limit)
                    if created:
                        _sync_parent(disk, path)
                else:
                    for block in blocks:
                        disk.write(descriptor, block)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise failure(error, error.strerror or str(error)) from error


def append_message(
    disk: Disk,
    path: str,
    content: Content,
    job: Job,
    locking: Locking,
    *,
    limit: int = 0,
    delivered_to: bool = True,
) -> Outcome:
    """The message in a ``/file`` target; one that ends with "/" is a Maildir."""
    try:
        if path.endswith("/"):
            _to_maildir(disk, path.rstrip("/"), content, job, delivered_to)
            return Delivered(Reply(250, "2.0.0", "delivered to maildir"), relay=job.relay)
        blocks = mail_copy(content, job, delivered_to=delivered_to, mbox=True)
        append(disk, path, blocks, replace(locking, dotlock_may_fail=True), limit=limit)
    except (TempFail, PermFail) as failed:
        kind = Deferred if isinstance(failed, TempFail) else Bounced
        text = f"cannot append message to file {path}: {failed.reply.text}"
        return kind(replace(failed.reply, text=text), relay=job.relay)
    return Delivered(Reply(250, "2.0.0", f"delivered to file: {path}"), relay=job.relay)


def _to_maildir(disk: Disk, path: str, content: Content, job: Job, delivered_to: bool) -> None:
    """Raises TempFail, PermFail."""
    try:
        create_maildir(disk, path)
        files = MaildirFiles(disk, path, NameMaker())
        files.deliver(message_blocks(content, job, delivered_to=delivered_to))
    except OSError as error:
        raise failure(error, f"create maildir file in {path}: {error.strerror}") from error


def failure(error: OSError, text: str, default: str = "5.2.0") -> TempFail | PermFail:
    """The exception for an OSError: for now where its kind may pass, else with `default`."""
    enhanced = _LATER.get(error.errno or errno.EIO, default)
    if error.errno == errno.EFBIG:
        enhanced = "5.2.2"
    if enhanced.startswith("4"):
        return TempFail(Reply(451, enhanced, text))
    return PermFail(Reply(550, enhanced, text))


def _refused(text: str, enhanced: str = "5.2.0") -> PermFail:
    return PermFail(Reply(550, enhanced, text))


def _open(path: str) -> tuple[int, bool]:
    """(descriptor, whether the file is new). Raises PermFail, OSError."""
    for _ in range(3):
        try:
            return _open_existing(path), False
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.ELOOP and os.path.islink(path):
                raise _refused("file is a symbolic link") from None
            raise _named(error, "cannot open file") from error
        try:
            return os.open(path, _OPEN | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            if os.path.islink(path):
                raise _refused("file is a symbolic link") from None
        except OSError as error:
            raise _named(error, "cannot create file exclusively") from error
    raise OSError(errno.EAGAIN, "file appears and disappears")


def _named(error: OSError, what: str) -> TempFail | PermFail:
    return failure(error, f"{what}: {error.strerror}")


def _open_existing(path: str) -> int:
    """Readable too where possible, to see how the file ends."""
    try:
        return os.open(path, _OPEN | os.O_RDWR)
    except PermissionError:
        return os.open(path, _OPEN | os.O_WRONLY)


def _check(status: os.stat_result) -> None:
    """Raises PermFail."""
    if stat.S_ISREG(status.st_mode):
        if status.st_mode & 0o111:
            raise _refused("file is executable", "5.7.1")
        if status.st_nlink > 1:
            raise _refused(f"file has {status.st_nlink} hard links")
    elif not stat.S_ISCHR(status.st_mode):
        raise _refused("file is not a regular file")


def _check_still_there(descriptor: int, path: str) -> None:
    """While we waited for the lock another program may have put a new file in its place."""
    mine = os.fstat(descriptor)
    try:
        now = os.lstat(path)
    except FileNotFoundError:
        raise TempFail(Reply(451, "4.2.0", "file was removed during delivery")) from None
    if (mine.st_dev, mine.st_ino) != (now.st_dev, now.st_ino):
        raise TempFail(Reply(451, "4.2.0", "file was replaced during delivery"))


def _append_regular(disk: Disk, descriptor: int, blocks: Iterable[bytes], limit: int) -> None:
    before = size = os.fstat(descriptor).st_size
    try:
        if size and _last(descriptor, size) not in (b"\n", b""):
            # Somebody was cut off in the midst of a line; the next message begins a new one.
            disk.write(descriptor, b"\n")
            size += 1
        for block in blocks:
            size += len(block)
            if limit and size > limit:
                raise _refused("error writing message: File too large", "5.2.2")
            disk.write(descriptor, block)
        disk.fsync(descriptor)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before)
        if isinstance(error, OSError):
            raise failure(error, f"error writing message: {error.strerror}") from error
        raise


def _last(descriptor: int, size: int) -> bytes:
    try:
        return os.pread(descriptor, 1, size - 1)
    except OSError:
        # Opened for writing only.
        return b""


def _sync_parent(disk: Disk, path: str) -> None:
    """A folder that may not be read cannot be synced: as with any program that creates a file."""
    with contextlib.suppress(PermissionError):
        disk.sync_directory(os.path.dirname(path))


def _lock(descriptor: int, locking: Locking) -> None:
    """Raises TempFail when somebody else keeps the lock."""
    for kind, lock in (("fcntl", fcntl.lockf), ("flock", fcntl.flock)):
        if kind not in locking.kinds:
            continue
        for attempt in range(locking.attempts):
            try:
                lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if attempt + 1 < locking.attempts:
                    time.sleep(locking.delay)
        else:
            raise TempFail(Reply(451, "4.2.0", "unable to lock for exclusive access"))


@contextlib.contextmanager
def _dotlock(path: str, locking: Locking) -> Iterator[None]:
    """Hold ``path.lock``. Raises TempFail, PermFail."""
    lock = f"{path}.lock"
    mine = _take_dotlock(lock, locking) if "dotlock" in locking.kinds else None
    try:
        yield
    finally:
        # Only our own: it may have been broken as stale while this process was stopped.
        with contextlib.suppress(OSError):
            if mine is not None and os.lstat(lock).st_ino == mine:
                os.unlink(lock)


def _take_dotlock(lock: str, locking: Locking) -> int | None:
    """The lock file's inode, None where none can be made and none need be."""
    for attempt in range(locking.attempts):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(lock, flags, 0o444)
        except FileExistsError:
            if not _break_stale(lock, locking.stale) and attempt + 1 < locking.attempts:
                time.sleep(locking.delay)
            continue
        except OSError as error:
            if locking.dotlock_may_fail:
                return None
            text = f"unable to create lock file {lock}: {error.strerror}"
            raise failure(error, text, "4.2.0") from error
        try:
            with contextlib.suppress(OSError):
                os.write(descriptor, str(os.getpid()).encode())
            return os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
    text = f"unable to create lock file {lock}: {os.strerror(errno.EEXIST)}"
    raise TempFail(Reply(451, "4.2.0", text))


def _break_stale(lock: str, age: float) -> bool:
    """Remove a lock that a crashed program left; whether it is gone."""
    try:
        if time.time() - os.lstat(lock).st_mtime > age:
            os.unlink(lock)
            return True
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
