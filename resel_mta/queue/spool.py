"""Large bodies as files: written to ``incoming/`` as they arrive, moved to ``content/XX/`` before
their row is committed, unlinked only after the removal of the row is committed, moved to
``corrupt/`` when they cannot be trusted.

All methods of `Spool` block; the store calls them in its own threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path

from resel_mta.config import Settings
from resel_mta.content import Body, MemoryBody
from resel_mta.disk import Disk
from resel_mta.mail import Reply, TempFail
from resel_mta.queue.door import Swept

THRESHOLD = 128 * 1024
"""Bodies up to this many octets lie in the database row."""
BLOCK = 256 * 1024
"""How much a sink collects before it goes to the disk, and how much is read at once."""

OWN_SPACE = 32 * 1024 * 1024
"""Octets that new mail leaves free, whatever the settings say: without room for what its log of
changes holds, a full queue could not even be emptied."""

DISK_FULL = Reply(452, "4.3.1", "Insufficient system storage")
STORE_FAILED = Reply(451, "4.3.0", "Error: queue file write error")


def needed_space(settings: Settings) -> int:
    """Octets that must be free for new mail to be taken: queue_minfree, and at least one and a
    half messages, as in Postfix; and what the queue needs for itself."""
    message = settings.number("message_size_limit") * 3 // 2
    return max(settings.number("queue_minfree"), message) + OWN_SPACE


def disk_failure(error: OSError) -> TempFail:
    """The reply for an operation that failed: 452 if it is for space, else 451."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TempFail(DISK_FULL)
    return TempFail(STORE_FAILED)


class NotWhole(Exception):
    """A content file is missing, or not as long as recorded."""


class FileBody:
    """A body in a file of the spool, opened anew for each read: it may be moved in between."""

    __slots__ = ("_size", "path")
    in_memory = False

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            data = os.pread(fd, length, offset)
        finally:
            os.close(fd)
        if not data:
            raise OSError(errno.EIO, "shorter than recorded", self.path)
        return data


class Spool:
    """The folders of the queue directory. Every method raises OSError."""

    def __init__(self, root: str, disk: Disk, minfree: int = 0) -> None:
        self.root = Path(root)
        self.disk = disk
        self.minfree = minfree
        self._incoming = self.root / "incoming"
        self._content = self.root / "content"
        self._corrupt = self.root / "corrupt"
        self._serial = 0
        # Files of incoming/ that are being written, or wait for their message.
        self._in_use: set[str] = set()
        # What the start has removed.
        self.swept = Swept()
        self._checked = 0.0
        # Octets that one message may take, as of then.
        self._room = 0
        # Why new mail cannot be taken, as of then.
        self._short = ""

    def make(self) -> None:
        for folder in (self._incoming, self._content, self._corrupt):
            self.disk.make_directories(folder)

    def is_short(self) -> bool:
        """Whether less than minfree is free now."""
        return self._free() < self.minfree

    def _free(self) -> int:
        info = os.statvfs(self.root)
        return info.f_bavail * info.f_frsize

    def check_space(self, size: int = 0) -> None:
        """Raises TempFail(452) below minfree, or if a message of so many octets takes what new
        mail leaves free; asks the file system at most once a second."""
        now = time.monotonic()
        if self.minfree and now - self._checked > 1.0:
            try:
                free = self._free()
            except OSError as error:
                raise disk_failure(error) from error
            self._short = ""
            self._room = free - OWN_SPACE
            if free < self.minfree:
                self._short = (
                    f"not enough free space for new mail in {self.root}: {free} bytes < "
                    f"{self.minfree} bytes needed (queue_minfree, message_size_limit)"
                )
            self._checked = now
        if self._short:
            raise TempFail(DISK_FULL, self._short)
        if self.minfree and size > self._room:
            raise TempFail(DISK_FULL)

    def create(self) -> tuple[int, str]:
        """A new file in incoming/: descriptor and path."""
        self._serial += 1
        path = str(self._incoming / f"{os.getpid()}.{time.time_ns():x}.{self._serial}")
        self._in_use.add(path)
        try:
            return self.disk.create(path), path
        except OSError:
            self._in_use.discard(path)
            raise

    def content_path(self, name: str) -> Path:
        return self._content / name[-2:].rjust(2, "0") / name

    def keep(self, body: FileBody, name: str) -> None:
        """Sync a file and move it from incoming/ to where the row will find it."""
        target = self.content_path(name)
        fd = os.open(body.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.disk.fsync(fd)
        finally:
            self.disk.close(fd)
        self.disk.make_directories(target.parent)
        self.disk.rename(body.path, target)
        self._in_use.discard(body.path)
        body.path = str(target)
        self.disk.sync_directory(target.parent)

    def copy(self, body: Body) -> FileBody:
        """A body that is not a file of ours, as one."""
        fd, path = self.create()
        try:
            try:
                offset = 0
                while block := body.read(offset, BLOCK):
                    self.disk.write(fd, block)
                    offset += len(block)
            finally:
                self.disk.close(fd)
        except BaseException:
            self.remove(path)
            raise
        return FileBody(path, offset)

    def remove(self, path: str) -> None:
        """Unlink a file that no row mentions; what cannot be removed is swept at a later start."""
        self._in_use.discard(path)
        with contextlib.suppress(OSError):
            self.disk.unlink(path)

    def remove_content(self, names: Iterable[str]) -> None:
        for name in names:
            self.remove(str(self.content_path(name)))

    def open_content(self, name: str, size: int) -> FileBody:
        """The body of a row. Raises NotWhole, and OSError where that cannot be told now."""
        path = str(self.content_path(name))
        try:
            found = os.stat(path, follow_symlinks=False).st_size
        except FileNotFoundError as error:
            raise NotWhole(error.strerror) from error
        if found != size:
            raise NotWhole(f"{found} octets, not {size}")
        return FileBody(path, size)

    def set_aside(self, name: str, header: bytes) -> None:
        """Move what there is of a message's content to corrupt/."""
        self.disk.make_directories(self._corrupt)
        source = self.content_path(name)
        if source.exists():
            self.disk.rename(source, self._corrupt / name)
        if header and not (self._corrupt / f"{name}.header").exists():
            self.disk.write_file(self._corrupt / f"{name}.header", [header])
        self.disk.sync_directory(self._corrupt)

    def sweep(
        self, started: float, mentioned: Callable[[str], bool], keep: Callable[[], bool]
    ) -> int:
        """At start: remove files older than `started` that no row mentions. keep: whether rows may
        have been lost; then what was of a message goes to corrupt/. How many did."""
        kept = 0
        left = []
        for path in [*self._incoming.iterdir(), *self._content.glob("*/*")]:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime >= started or mentioned(path.name):
                    continue
                if path.parent != self._incoming and keep():
                    self.set_aside(path.name, b"")
                    kept += 1
                else:
                    left.append(path)
        self.swept = self.remove_left(left)
        return kept

    def may_be_left(self, age: float) -> tuple[list[Path], list[Path]]:
        """Files that a crash has left: of incoming/, and those of content/ that have been there for
        `age` seconds, of which the database knows more."""
        temporary = [path for path in self._incoming.iterdir() if str(path) not in self._in_use]
        before = time.time() - age
        old = []
        for path in self._content.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ctime < before:
                    old.append(path)
        return temporary, old

    def remove_left(self, paths: Iterable[Path]) -> Swept:
        """What could be removed of these."""
        files = octets = 0
        for path in paths:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                self.disk.unlink(path)
                files += 1
                octets += size
        return Swept(files, octets)


class SpoolSink:
    """A body as it arrives: in memory up to THRESHOLD, then in a file of incoming/."""

    def __init__(self, spool: Spool, executor: Executor) -> None:
        self._spool = spool
        self._executor = executor
        self._blocks: list[bytes] = []
        self._held = 0
        self._size = 0
        self._fd = -1
        self._path = ""

    async def write(self, block: bytes) -> None:
        self._blocks.append(block)
        self._held += len(block)
        self._size += len(block)
        if self._held > (BLOCK if self._path else THRESHOLD):
            await self._spill()

    async def _spill(self) -> None:
        blocks, self._blocks, self._held = self._blocks, [], 0
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, self._write_out, blocks)
        except OSError as error:
            raise disk_failure(error) from error

    def _write_out(self, blocks: list[bytes]) -> None:
        if not self._path:
            self._fd, self._path = self._spool.create()
        for block in blocks:
            self._spool.disk.write(self._fd, block)

    async def finish(self) -> Body:
        if not self._path:
            return MemoryBody(self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks))
        if self._blocks:
            await self._spill()
        fd, self._fd = self._fd, -1
        try:
            self._spool.disk.close(fd)
        except OSError as error:
            raise disk_failure(error) from error
        return FileBody(self._path, self._size)

    async def discard(self) -> None:
        self._blocks = []
        fd, self._fd = self._fd, -1
        path, self._path = self._path, ""
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._spool.disk.close(fd)
        if path:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, self._spool.remove, path)
