"""The drop folder: where letters wait while no daemon takes them.

Anybody may put a file there (mode 1777), nobody but its owner and the daemon may take it away. A
file is a letter once it has its name; while it is being written its name begins with a dot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from resel_mta.disk import Disk
from resel_mta.pickup.letter import Letter

#: A user with so many letters there is asked to wait for the daemon.
MOST_LETTERS = 1000
MOST_OCTETS = 1024 * 1024 * 1024


class Full(Exception):
    """The user has too much in the drop folder."""


class Unfit(Exception):
    """Not a file that a letter could be in; str() says what it is."""


def drop_directory(queue_directory: str) -> Path:
    return Path(queue_directory) / "drop"


def submit_path(queue_directory: str) -> Path:
    """The socket that takes letters."""
    return Path(queue_directory) / "public" / "submit"


def smtp_path(queue_directory: str) -> Path:
    """The socket that speaks SMTP with programs of this machine."""
    return Path(queue_directory) / "public" / "smtp"


def leave(directory: Path, letter: Letter, blocks: Iterable[bytes], disk: Disk) -> Path:
    """Put a letter into the drop folder; it is safe there when this returns.

    Raises Full, OSError; nothing is left behind then.
    """
    _check_share(directory)
    unfinished = directory / f".{letter.token}"
    target = directory / letter.token
    fd = disk.create(unfinished, 0o600)
    try:
        try:
            # A umask may have taken even the owner's rights.
            os.fchmod(fd, 0o600)
            disk.write(fd, letter.encode())
            for block in blocks:
                disk.write(fd, block)
            disk.fsync(fd)
        finally:
            disk.close(fd)
        disk.rename(unfinished, target)
    except BaseException:
        disk.unlink(unfinished)
        raise
    disk.sync_directory(directory)
    return target


def _check_share(directory: Path) -> None:
    uid = os.geteuid()
    letters = octets = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if found.st_uid == uid:
                letters += 1
                octets += found.st_size
    if letters >= MOST_LETTERS or octets >= MOST_OCTETS:
        raise Full(f"{letters} messages of {octets} octets wait in {directory} already")


def open_letter(directory: int, name: str) -> int:
    """A descriptor for reading a file of the drop folder, whose descriptor is `directory`.

    Safe against what a hostile user can put there: a name that leads elsewhere, a pipe that never
    opens, a lease that makes an open wait, a second link to a file that is not theirs. Raises
    Unfit, OSError (ELOOP for a symbolic link, EAGAIN for a lease).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if "/" in name or name in ("", ".", ".."):
        raise Unfit("not the name of a file")
    fd = os.open(name, flags, dir_fd=directory)
    try:
        check_letter(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_letter(status: os.stat_result) -> None:
    """Raises Unfit unless it is a plain file that has no other name."""
    if not stat.S_ISREG(status.st_mode):
        raise Unfit("not a regular file")
    if status.st_nlink != 1:
        raise Unfit(f"a file with {status.st_nlink} names")
