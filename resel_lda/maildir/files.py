"""The blocking side of Maildir directories: create, list, write, take in, find again.

Rule 1 of delivery: write in tmp or without a name, fsync, rename or link, fsync the directory it is
now in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from resel_lda.maildir.names import (
    IN_NEW,
    NameMaker,
    base_of,
    ending_of,
    endings_of,
    in_arrival_order,
)
from resel_mta.disk import Disk

# maildir(5): what lies in tmp longer than this was left by a crash.
_TMP_MAX_AGE = 36 * 3600
_BLOCK = 1 << 20
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
# Most messages are smaller.
_SMALL = 1 << 14

# (device, inode) of new/ and of cur/.
Identity = tuple[tuple[int, int], ...]


def create_maildir(disk: Disk, directory: str, subfolder: bool = False) -> None:
    """cur, new and tmp with mode 0700, synced. A Maildir++ subfolder gets `maildirfolder`."""
    path = Path(directory)
    disk.make_directories(path)
    made = False
    for name in ("tmp", "new", "cur"):
        with contextlib.suppress(FileExistsError):
            disk.mkdir(path / name)
            made = True
    if subfolder:
        with contextlib.suppress(FileExistsError):
            disk.close(disk.create(path / "maildirfolder"))
            made = True
    if made:
        disk.sync_directory(path)


class CrlfCounter:
    """Turns line ends into LF and counts what the message has with CR LF, block by block."""

    def __init__(self) -> None:
        self.wire_size = 0
        self._held = b""

    def convert(self, block: bytes) -> bytes:
        if self._held:
            block = self._held + block
            self._held = b""
        if block.endswith(b"\r"):
            block, self._held = block[:-1], b"\r"
        block = block.replace(b"\r\n", b"\n")
        self.wire_size += len(block) + block.count(b"\n")
        return block

    def finish(self) -> bytes:
        """A CR that nothing followed."""
        held, self._held = self._held, b""
        self.wire_size += len(held)
        return held


def with_crlf(data: bytes) -> bytes:
    """A stored message with CR LF line ends, whatever they were."""
    # One octet is found much faster than two, and most files have no CR.
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    return data.replace(b"\n", b"\r\n")


class TemporaryFile:
    """A message being written in tmp/, with LF line ends. Methods block and raise OSError."""

    def __init__(self, disk: Disk, directory: str, maker: NameMaker) -> None:
        self._disk = disk
        self._maker = maker
        self._name = maker.temporary()
        self._counter = CrlfCounter()
        self.path = os.path.join(directory, self._name)
        self._fd = disk.create(self.path)

    def write(self, block: bytes) -> None:
        self._disk.write(self._fd, self._counter.convert(block))

    def finish(self, date: float | None = None) -> str:
        """Sync and close; the base that the message is to have."""
        rest = self._counter.finish()
        if rest:
            self._disk.write(self._fd, rest)
        if date is not None:
            self._disk.utime(self.path, date)
        self._disk.fsync(self._fd)
        stat = os.fstat(self._fd)
        fd, self._fd = self._fd, -1
        self._disk.close(fd)
        return self._maker.final(self._name, stat, self._counter.wire_size)

    def discard(self) -> None:
        """Close and remove it."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(self.path)


class MaildirFiles:
    """One Maildir's directories."""

    def __init__(self, disk: Disk, directory: str, maker: NameMaker) -> None:
        self.disk = disk
        self.directory = directory
        self.new = os.path.join(directory, "new")
        self.cur = os.path.join(directory, "cur")
        self.tmp = os.path.join(directory, "tmp")
        self._maker = maker

    def stamps(self) -> tuple[int, int]:
        """Modification times of new/ and cur/ in ns. Raises OSError."""
        return os.stat(self.new).st_mtime_ns, os.stat(self.cur).st_mtime_ns

    def identity(self) -> Identity | None:
        """Which directories new/ and cur/ are; None if they are not there."""
        try:
            found = [os.stat(path) for path in (self.new, self.cur)]
        except OSError:
            return None
        return tuple((one.st_dev, one.st_ino) for one in found)

    def temporary(self) -> TemporaryFile:
        """A new file in tmp/. Raises OSError."""
        return TemporaryFile(self.disk, self.tmp, self._maker)

    def write_temporary(
        self, blocks: Iterable[bytes], date: float | None = None
    ) -> tuple[str, str]:
        """A synced file in tmp/ with LF line ends; (its path, the base it is to have)."""
        file = self.temporary()
        try:
            for block in blocks:
                file.write(block)
            return file.path, file.finish(date)
        except BaseException:
            file.discard()
            raise

    def name_copy(self, source: str, wire_size: int | None) -> tuple[str, float]:
        """The base that a link to this file is to have, and its time stamp. Raises OSError."""
        status = os.stat(source)
        return self._maker.final(self._maker.temporary(), status, wire_size), status.st_mtime

    def link_temporary(self, source: str, wire_size: int | None) -> tuple[str, str]:
        """As `write_temporary`, of an existing file, without copying it. Raises OSError (EXDEV,
        EMLINK: copy instead)."""
        name = self._maker.temporary()
        path = os.path.join(self.tmp, name)
        self.disk.link(source, path)
        return path, self._maker.final(name, os.stat(path), wire_size)

    def deliver(self, blocks: Iterable[bytes], sync: Callable[[str], None] | None = None) -> str:
        """Deliver into new/; the base. Durable when it returns. sync: makes the names of a
        directory durable. Raises OSError."""
        try:
            fd = self.disk.create_unnamed(self.new)
        except OSError:
            # Not in this file system, or not at all, which tmp/ will say.
            base = self._deliver_by_tmp(blocks)
        else:
            try:
                base = self._deliver_unnamed(fd, blocks)
            finally:
                self.disk.close(fd)
        (sync or self.disk.sync_directory)(self.new)
        return base

    def _deliver_unnamed(self, fd: int, blocks: Iterable[bytes]) -> str:
        """One directory changes instead of two, and a crash leaves nothing behind."""
        name, counter = self._maker.temporary(), CrlfCounter()
        for block in blocks:
            self.disk.write(fd, counter.convert(block))
        rest = counter.finish()
        if rest:
            self.disk.write(fd, rest)
        self.disk.fsync(fd)
        base = self._maker.final(name, os.fstat(fd), counter.wire_size)
        try:
            self.disk.link_unnamed(fd, f"{self.new}/{base}")
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            return self._deliver_by_tmp(_blocks_of(fd))
        return base

    def _deliver_by_tmp(self, blocks: Iterable[bytes]) -> str:
        temporary, base = self.write_temporary(blocks)
        try:
            self.disk.rename(temporary, os.path.join(self.new, base))
        except BaseException:
            self.disk.unlink(temporary)
            raise
        return base

    def take_new(self, names: Iterable[str]) -> tuple[dict[str, str], bool]:
        """Move files from new/ to cur/: base -> name in cur, and whether all went. One that cannot
        be moved (read-only mailbox) stays and is named "../new/NAME"."""
        moved: dict[str, str] = {}
        clean = True
        for name in names:
            if name.startswith("."):
                continue
            target = name if ":2," in name else f"{name}:2,"
            try:
                self.disk.rename(os.path.join(self.new, name), os.path.join(self.cur, target))
            except FileNotFoundError:
                continue
            except OSError:
                clean = False
                moved[base_of(name)] = IN_NEW + name
                continue
            moved[base_of(name)] = target
        return moved, clean

    def list_cur(self) -> dict[str, str]:
        """base -> name. Of two names that a rename during the listing showed, the later one."""
        return {name.partition(":")[0]: name for name in self._names()}

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self.cur) if name[0] != "."]

    def scan(self) -> tuple[dict[str, str], set[str]]:
        """Take in new/ and list cur/: (base -> name, bases that came from new/)."""
        moved, clean = self.take_new(in_arrival_order(os.listdir(self.new)))
        found = self.list_cur()
        if not clean:
            for base, name in moved.items():
                found.setdefault(base, name)
        return found, set(moved)

    def scan_endings(self) -> dict[str, str]:
        """As `scan`: base -> ending, in arrival order. For many names this is quicker."""
        moved, clean = self.take_new(in_arrival_order(os.listdir(self.new)))
        # Sorted by the whole names, they mostly are by what is before the ":" too.
        found = endings_of(sorted(self._names()))
        if not clean:
            for base, name in moved.items():
                found.setdefault(base, ending_of(name, base))
        bases = list(found)
        ordered = in_arrival_order(bases)
        return found if ordered == bases else {base: found[base] for base in ordered}

    def dates(self, name: str) -> tuple[float, int] | None:
        """(internal date, save date) of a file in cur/; None if there is none of this name."""
        try:
            status = os.stat(self.path(name))
        except FileNotFoundError:
            return None
        return status.st_mtime, int(status.st_ctime)

    def path(self, name: str) -> str:
        return f"{self.cur}/{name}"

    def open_message(self, base: str, name: str) -> tuple[int, str] | None:
        """A descriptor and the name it has now; None if it is gone. Another program may have
        changed its flags, which renames it, more than once while we look."""
        for _ in range(4):
            with contextlib.suppress(FileNotFoundError):
                return os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC), name
            found = self.list_cur().get(base)
            if found is None:
                if base not in {base_of(other) for other in os.listdir(self.new)}:
                    return None
                self.take_new([other for other in os.listdir(self.new) if base_of(other) == base])
            else:
                name = found
        return None

    def clean_tmp(self) -> None:
        """Remove what crashes left in tmp/, after the 36 hours of maildir(5)."""
        limit = time.time() - _TMP_MAX_AGE
        for entry in os.scandir(self.tmp):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < limit:
                    self.disk.unlink(entry.path)


def _blocks_of(fd: int) -> Iterator[bytes]:
    position = 0
    while block := os.pread(fd, _BLOCK, position):
        yield block
        position += len(block)


def read_all(fd: int) -> bytes:
    """Everything from a descriptor, which is closed."""
    try:
        data = os.read(fd, _SMALL)
        # Only at its end a file gives less than is asked for.
        if len(data) < _SMALL:
            return data
        blocks = [data, os.read(fd, max(os.fstat(fd).st_size - _SMALL, 0) + 1)]
        while block := os.read(fd, _BLOCK):
            blocks.append(block)
        return b"".join(blocks)
    finally:
        os.close(fd)
