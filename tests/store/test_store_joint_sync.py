"""Directory syncs shared by several deliveries."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from resel_lda.maildir.joint_sync import JointSync
from resel_mta.disk import Disk


class _SlowDisk(Disk):
    """The first sync waits until it is let go. names: what was there when each sync began."""

    def __init__(self, fail: int = -1) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.names: list[set[str]] = []
        self._fail = fail

    def sync_directory(self, path: str | Path) -> None:  # type: ignore[override]
        number = len(self.names)
        self.names.append({entry.name for entry in Path(path).iterdir()})
        if number == 0:
            self.entered.set()
            assert self.go.wait(20)
        if number == self._fail:
            raise OSError(errno.EIO, "the disk failed")
        super().sync_directory(path)


def _deliver(sync: JointSync, directory: Path, count: int, disk: _SlowDisk) -> list[object]:
    """One thread whose sync is held up, and `count` that come meanwhile: what each got."""
    results: list[object] = []
    waiting = threading.Semaphore(0)

    def work(number: int) -> None:
        (directory / f"m{number}").touch()
        waiting.release()
        try:
            sync.sync(str(directory))
        except OSError as error:
            results.append(error.errno)
        else:
            seen = [f"m{number}" in names for names in disk.names]
            results.append(any(seen))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count + 1)]
    threads[0].start()
    assert disk.entered.wait(20)
    for thread in threads[1:]:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=20)
    disk.go.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return results


def test_each_waits_for_a_sync_that_began_after_its_file_was_there(tmp_path: Path) -> None:
    disk = _SlowDisk()
    results = _deliver(JointSync(disk), tmp_path, 12, disk)
    assert results == [True] * 13
    assert len(disk.names) >= 2


def test_a_sync_is_shared(tmp_path: Path) -> None:
    """Fewer syncs than deliveries, whatever the threads' order."""
    total = 0
    for round_ in range(5):
        directory = tmp_path / str(round_)
        directory.mkdir()
        disk = _SlowDisk()
        _deliver(JointSync(disk), directory, 12, disk)
        total += len(disk.names)
    assert total < 5 * 13


@pytest.mark.parametrize("count", [1, 6])
def test_a_failure_is_everyones_who_waited_for_it(tmp_path: Path, count: int) -> None:
    disk = _SlowDisk(fail=0)
    sync = JointSync(disk)
    results = _deliver(sync, tmp_path, count, disk)
    assert results.count(errno.EIO) == 1
    assert results.count(True) == count
    sync.sync(str(tmp_path))
