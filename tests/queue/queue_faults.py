"""The fault seam: a disk that stops at the k-th operation and forgets what was never synced.

It covers `Disk` and, by a VFS under SQLite, every write and sync of the database and its WAL.
`image` writes what a power cut would leave into another directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from resel_mta.disk import Disk, StrPath


class PowerCut(OSError):
    """Nothing works any more."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "power cut")


class Plan:
    """Counts operations that change the disk; from number `stop_at` on they fail.

    no_fsync, no_directory_sync, no_database_sync: which syncs do nothing.
    fail_at: operations that fail once, with this errno.
    """

    def __init__(self, root: Path, stop_at: int = 0) -> None:
        self.root = root
        self.stop_at = stop_at
        self.count = 0
        self.no_fsync = False
        self.no_directory_sync = False
        self.no_database_sync = False
        self.database_error: type[apsw.Error] | None = None
        self._names: dict[str, int] = {}
        self._synced: dict[int, bytes] = {}
        self._database: dict[str, bytes] = {}

    def step(self) -> None:
        self.count += 1
        if self.stop_at and self.count >= self.stop_at:
            raise PowerCut

    def file_synced(self, fd: int) -> None:
        """The content of an open file is on the disk."""
        path = f"/proc/self/fd/{fd}"
        self._synced[os.fstat(fd).st_ino] = Path(path).read_bytes()

    def directory_synced(self, directory: str) -> None:
        """The names in a directory are on the disk."""
        for name in [name for name in self._names if os.path.dirname(name) == directory]:
            del self._names[name]
        for entry in os.scandir(directory):
            if entry.is_file() and not entry.name.startswith("queue."):
                self._names[entry.path] = entry.inode()

    def database_synced(self, path: str) -> None:
        self._database[path] = Path(path).read_bytes()

    def database_gone(self, path: str) -> None:
        self._database.pop(path, None)

    def image(self, target: Path) -> None:
        """What is left after the power came back."""
        for path, inode in self._names.items():
            copy = target / Path(path).relative_to(self.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self._synced.get(inode, b""))
        target.mkdir(parents=True, exist_ok=True)
        for path, data in self._database.items():
            (target / Path(path).name).write_bytes(data)


class FaultDisk(Disk):
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def create(self, path: StrPath, mode: int = 0o600) -> int:
        self._plan.step()
        return super().create(path, mode)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        self._plan.step()
        super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._plan.step()
        if not self._plan.no_fsync:
            self._plan.file_synced(fd)

    def rename(self, source: StrPath, target: StrPath) -> None:
        self._plan.step()
        super().rename(source, target)

    def unlink(self, path: StrPath) -> None:
        self._plan.step()
        super().unlink(path)

    def mkdir(self, path: StrPath, mode: int = 0o700) -> None:
        self._plan.step()
        super().mkdir(path, mode)

    def sync_directory(self, path: StrPath) -> None:
        self._plan.step()
        if not self._plan.no_directory_sync:
            self._plan.directory_synced(os.fspath(path))


class _FaultFile(apsw.VFSFile):
    def __init__(self, plan: Plan, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._plan = plan
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: Any, offset: int) -> None:
        self._plan.step()
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._plan.step()
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._plan.step()
        if self._plan.database_error is not None:
            raise self._plan.database_error("made to fail")
        super().xSync(flags)
        if not self._plan.no_database_sync:
            self._plan.database_synced(self._path)


class FaultVFS(apsw.VFS):
    def __init__(self, name: str, plan: Plan) -> None:
        super().__init__(name, "")
        self._plan = plan

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _FaultFile(self._plan, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._plan.step()
        super().xDelete(filename, syncdir)
        self._plan.database_gone(filename)


@contextmanager
def fault_vfs(plan: Plan) -> Iterator[str]:
    """The name of a VFS that follows `plan`."""
    name = f"fault-{id(plan):x}"
    vfs = FaultVFS(name, plan)
    try:
        yield name
    finally:
        vfs.unregister()
