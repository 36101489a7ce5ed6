"""Where expunged messages stay for a while: a Maildir store of its own inside the user's.

It lies in ``resel-bin``, or ``.resel-bin`` with LAYOUT=fs: names that neither Dovecot nor we take
for a folder's. Each folder has one of the same name there, so that what an administrator can do to mail (search, fetch) works on the bin as well.
A file keeps its flags; the last change of its inode is when it was expunged. Everything blocks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.files import create_maildir
from resel_lda.maildir.keywords import Keywords
from resel_lda.maildir.layout import Layout, MailLocation
from resel_lda.maildir.names import base_of, info_of, size_in_name, with_info
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

_NAME = "resel-bin"
# Seconds between two looks for what has been kept long enough.
_SWEEP_EVERY = 3600.0


def bin_root(location: MailLocation) -> str:
    """The bin's directory."""
    return os.path.join(location.root, f".{_NAME}" if location.fs else _NAME)


def bin_location(location: MailLocation) -> str:
    """The bin's `mail_location`."""
    return f"maildir:{bin_root(location)}{':LAYOUT=fs' if location.fs else ''}"


class Bin:
    """keep: seconds; 0: what is expunged is gone. reserve: octets of free space below which the
    oldest go first, and nothing is kept."""

    def __init__(self, disk: Disk, layout: Layout, settings: Settings, log: MailLog) -> None:
        inside = bin_root(layout.location)
        self.keep: float = settings.seconds("expunge_keep_time")
        # The bin's own store keeps nothing.
        if os.path.basename(layout.location.root) == os.path.basename(inside):
            self.keep = 0.0
        self._reserve = settings.number("expunge_minfree")
        self._disk = disk
        self._log = log
        self.root = inside
        self._layout = Layout(MailLocation(inside, inside, inside, inside, layout.location.fs))
        self._swept = 0.0

    def folder(self, name: str) -> BinFolder | None:
        """Where messages of a folder go; None when nothing is kept."""
        return BinFolder(self, name) if self.keep else None

    def directory(self, name: str) -> str:
        """The folder's Maildir in the bin, made if it is not there."""
        directory = self._layout.directory(name)
        if not os.path.isdir(os.path.join(directory, "cur")):
            create_maildir(self._disk, directory, name != "INBOX" and not self._layout.location.fs)
        return directory

    def keywords(self, directory: str) -> Keywords:
        return Keywords(self._disk, directory)

    def move(self, path: str, target: str) -> None:
        self._disk.rename(path, target)

    def sync(self, directory: str) -> None:
        self._disk.sync_directory(os.path.join(directory, "cur"))

    def has_room(self) -> bool:
        """Whether messages may be kept now; makes room at the cost of the oldest."""
        now = time.time()
        if now - self._swept > _SWEEP_EVERY:
            self.sweep()
        if self.is_free():
            return True
        for _, path, _ in sorted(self.messages()):
            self.remove(path)
            if self.is_free():
                return True
        return self.is_free()

    def is_free(self) -> bool:
        """Whether the reserve is there."""
        if not self._reserve:
            return True
        space = os.statvfs(os.path.dirname(self.root))
        return space.f_bavail * space.f_frsize >= self._reserve

    def messages(self) -> Iterator[tuple[float, str, int]]:
        """(when it was expunged, path, octets) of each."""
        for directory in self._directories():
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(os.path.join(directory, "cur")):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_ctime, entry.path, status.st_size

    def _directories(self) -> list[str]:
        if not os.path.isdir(self.root):
            return []
        return [self.root, *(self._layout.directory(name) for name in self._layout.names())]

    def sweep(self) -> None:
        """Remove what has been kept long enough."""
        self._swept = time.time()
        limit = self._swept - self.keep
        for when, path, _ in list(self.messages()):
            if when < limit:
                self.remove(path)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(path)

    def empty(self) -> tuple[int, int]:
        """Remove everything: (messages, octets)."""
        count = octets = 0
        for _, path, size in list(self.messages()):
            self.remove(path)
            count += 1
            octets += size
        return count, octets

    def keep_folder(self, name: str, directory: str, control: str) -> None:
        """The messages of a folder that is about to be removed."""
        kept = self.folder(name)
        if kept is None or not kept.begin():
            return
        keywords = Keywords(self._disk, control)
        keywords.refresh()
        for part in ("cur", "new"):
            with contextlib.suppress(FileNotFoundError):
                for entry in os.listdir(os.path.join(directory, part)):
                    with contextlib.suppress(FileNotFoundError):
                        path = os.path.join(directory, part, entry)
                        kept.put(path, keywords.flags(info_of(entry)))
        kept.sync()

    def failed(self, error: Exception) -> None:
        """A message could not be kept. Its expunge goes on: it may be what makes room."""
        self._log.warning("imap", f"{self.root}: an expunged message is not kept: {error}")

    def contents(self, name: str) -> tuple[int, int]:
        """(messages, octets) of a folder that are kept."""
        cur = Path(self._layout.directory(name)) / "cur"
        count = octets = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(cur):
                size = size_in_name(base_of(entry.name), "S")
                with contextlib.suppress(FileNotFoundError):
                    octets += entry.stat().st_size if size is None else size
                    count += 1
        return count, octets


class BinFolder:
    """One folder's place in the bin. Used under the folder's lock."""

    def __init__(self, bin_: Bin, name: str) -> None:
        self._bin = bin_
        self._name = name
        self._directory = ""
        self._keywords: Keywords | None = None
        # Many messages have few different sets of flags.
        self._letters: dict[frozenset[str], str] = {}

    def begin(self) -> bool:
        """Before some messages are put: False if nothing can be kept."""
        try:
            if not self._bin.has_room():
                return False
            self._directory = self._bin.directory(self._name)
            self._keywords = self._keywords or self._bin.keywords(self._directory)
            self._keywords.refresh()
        except OSError as error:
            self._bin.failed(error)
            return False
        self._letters.clear()
        return True

    def place(self, tail: str, flags: frozenset[str]) -> tuple[str, str] | None:
        """What stands before and after a message's base in the path that it gets here. tail: what
        follows the base in its name now. None if it cannot be kept."""
        try:
            name = with_info(f"-{tail}", self._letters_of(flags))
        except (OSError, MailboxError) as error:
            self._bin.failed(error)
            return None
        return os.path.join(self._directory, "cur", ""), name[1:]

    def _letters_of(self, flags: frozenset[str]) -> str:
        assert self._keywords is not None, "put before begin"
        letters = self._letters.get(flags)
        if letters is None:
            letters = self._letters[flags] = self._keywords.letters(sorted(flags))
        return letters

    def put(self, path: str, flags: frozenset[str]) -> bool:
        """Move a message's file; False if that cannot be. Raises FileNotFoundError where it is not
        there any more."""
        try:
            name = with_info(os.path.basename(path), self._letters_of(flags))
            self._bin.move(path, os.path.join(self._directory, "cur", name))
        except FileNotFoundError:
            if os.path.lexists(path):
                return False
            raise
        except (OSError, MailboxError) as error:
            self._bin.failed(error)
            return False
        return True

    def sync(self) -> None:
        """What was put survives a power cut."""
        try:
            self._bin.sync(self._directory)
        except OSError as error:
            self._bin.failed(error)
