"""Quotas by `maildirsize` of Maildir++: a limit, and the sum of all changes since it was counted.

    1048576S
    <octets> <messages>
    …

The file is made when there is a limit, and kept in step where another program has made one. It
is an estimate: it is counted again when it has grown, or when it says that the limit is passed
and is older than a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator

from resel_lda.mailbox import MailboxError, QuotaInfo
from resel_lda.maildir.layout import Layout
from resel_lda.maildir.names import base_of, size_in_name
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.users import User

# As Dovecot's documentation names it in its examples, and scripts expect it.
NAME = "User quota"
FILE_NAME = "maildirsize"
_MAX_FILE = 5120
_TRUST_SECONDS = 15 * 60


def limit_of(user: User, settings: Settings) -> int:
    """Octets; 0 is unlimited."""
    own = user.quota_storage_size
    return settings.number("quota_storage_size") if own is None else own


def usage(layout: Layout) -> tuple[int, int]:
    """(octets, messages) of all folders, counted. Blocks."""
    octets = count = 0
    names = ["INBOX", *(name for name, selectable in layout.names().items() if selectable)]
    for name in names:
        for size in _sizes(layout.directory(name)):
            octets += size
            count += 1
    return octets, count


def _sizes(directory: str) -> Iterator[int]:
    for name in ("new", "cur"):
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(os.path.join(directory, name)):
                if entry.name.startswith("."):
                    continue
                size = size_in_name(base_of(entry.name), "S")
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat().st_size if size is None else size


class Quota:
    """One user's. limit: octets, 0 for none. Methods block."""

    def __init__(self, disk: Disk, layout: Layout, limit: int) -> None:
        self._disk = disk
        self._layout = layout
        self._path = os.path.join(layout.location.root, FILE_NAME)
        self.limit = limit

    def info(self) -> QuotaInfo:
        octets, messages = self._used()
        return QuotaInfo(NAME, octets, self.limit, messages)

    def check(self, octets: int) -> None:
        """Raises MailboxError("OVERQUOTA") if that many more do not fit."""
        if self.limit and self._used()[0] + octets > self.limit:
            raise MailboxError("Quota exceeded (mailbox for user is full)", "OVERQUOTA")

    def _used(self) -> tuple[int, int]:
        if not self.limit:
            return usage(self._layout)
        found = self._read()
        if found is None:
            found = usage(self._layout)
            line = f"{self.limit}S\n{found[0]} {found[1]}\n".encode()
            with contextlib.suppress(OSError):
                self._disk.replace_file(self._path, [line])
        return found

    def _read(self) -> tuple[int, int] | None:
        """What the file says; None if it has to be counted again."""
        try:
            with open(self._path, "rb") as file:
                stat = os.fstat(file.fileno())
                lines = file.read(_MAX_FILE + 1).split(b"\n")
        except OSError:
            return None
        if stat.st_size > _MAX_FILE or lines[0].strip() != b"%dS" % self.limit:
            return None
        octets = messages = 0
        try:
            for line in lines[1:]:
                if line.strip():
                    size, count = line.split()
                    octets += int(size)
                    messages += int(count)
        except ValueError:
            return None
        stale = time.time() - stat.st_mtime > _TRUST_SECONDS
        if octets < 0 or messages < 0 or (octets > self.limit and stale):
            return None
        return octets, messages

    def recount(self) -> None:
        """Count again when it is next asked: a folder went with all its messages."""
        with contextlib.suppress(OSError):
            self._disk.unlink(self._path)

    def changed(self, names: Iterable[str], count: int) -> None:
        """Messages came (count 1) or went (-1). Nothing happens if there is no file yet, or if it
        cannot be written."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        octets = messages = 0
        for name in names:
            size = size_in_name(base_of(name), "S")
            if size is not None:
                octets += size
                messages += 1
        try:
            if messages:
                self._disk.write(fd, b"%d %d\n" % (octets * count, messages * count))
        except OSError:
            return
        finally:
            self._disk.close(fd)
