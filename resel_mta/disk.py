"""Every change to spool and Maildir files goes through a `Disk`.

The point is the fault seam: a test hands in a subclass that counts operations, fails the k-th,
or forgets what was never synced, and so proves what a kill cannot (the page cache survives
kill -9). Reading needs no seam and is done with `os` directly.

All methods block; the event loop calls them in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

StrPath = str | os.PathLike[str]


class Disk:
    """The real disk. Every method raises OSError."""

    def create(self, path: StrPath, mode: int = 0o600) -> int:
        """Open a new file for writing; its descriptor. FileExistsError if there is one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, mode)

    def create_unnamed(self, directory: StrPath, mode: int = 0o600) -> int:
        """A new file in the file system of a directory, to be given a name by `link_unnamed`; without
        that it is gone when it is closed. Read and write. Where there is no such thing: EOPNOTSUPP,
        EISDIR or EINVAL."""
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, mode)

    def link_unnamed(self, fd: int, target: StrPath) -> None:
        """Fails where /proc is not there, beside the usual."""
        # With a directory's descriptor, here unused, Python takes linkat(2) and follows the link.
        os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd, follow_symlinks=True)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Write all of `data`; a short write (a nearly full disk) is continued until it fails."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: StrPath, target: StrPath) -> None:
        os.rename(source, target)

    def link(self, source: StrPath, target: StrPath) -> None:
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: StrPath) -> None:
        os.unlink(path)

    def mkdir(self, path: StrPath, mode: int = 0o700) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: StrPath) -> None:
        os.rmdir(path)

    def utime(self, path: StrPath, seconds: float) -> None:
        os.utime(path, (seconds, seconds))

    def sync_directory(self, path: StrPath) -> None:
        """Make the names in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def write_file(self, path: StrPath, blocks: Iterable[bytes], mode: int = 0o600) -> None:
        """A new file with these blocks, synced (its name is not: see `sync_directory`).

        On failure nothing is left behind.
        """
        fd = self.create(path, mode)
        try:
            try:
                for block in blocks:
                    self.write(fd, block)
                self.fsync(fd)
            finally:
                self.close(fd)
        except BaseException:
            self.unlink(path)
            raise

    def replace_file(self, path: StrPath, blocks: Iterable[bytes], mode: int = 0o600) -> None:
        """Replace a file's content atomically and durably: new file, sync, rename, sync directory."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
        self.write_file(temporary, blocks, mode)
        try:
            self.rename(temporary, target)
        except BaseException:
            self.unlink(temporary)
            raise
        self.sync_directory(target.parent)

    def make_directories(self, path: StrPath, mode: int = 0o700) -> None:
        """mkdir -p, each new directory's parent synced."""
        target = Path(path)
        missing: list[Path] = []
        while not target.is_dir():
            missing.append(target)
            target = target.parent
        for directory in reversed(missing):
            try:
                self.mkdir(directory, mode)
            except FileExistsError:
                continue
            self.sync_directory(directory.parent)
