"""Lock files shared with Dovecot."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.dotlock import STALE_AFTER, LockFile, discard_left, dotlock
from resel_mta.disk import Disk, StrPath


def test_holds_and_names_its_owner(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    with dotlock(Disk(), path):
        assert (tmp_path / "f.lock").read_text() == f"{os.getpid()}:{socket.gethostname()}"
        with pytest.raises(MailboxError) as caught, dotlock(Disk(), path, timeout=0.05):
            pass
        assert caught.value.code == "INUSE"
    assert os.listdir(tmp_path) == []


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(20):
            with dotlock(Disk(), path):
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert os.listdir(tmp_path) == []


def test_a_dead_owner_is_broken_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    lock = tmp_path / "f.lock"
    lock.write_text(f"{int(done.stdout)}:{socket.gethostname()}")
    start = time.monotonic()
    with dotlock(Disk(), str(tmp_path / "f"), timeout=5):
        pass
    assert time.monotonic() - start < 1


def test_a_dead_owner_that_had_our_number_is_broken_at_once(tmp_path: Path) -> None:
    ours = f"{os.getpid()}:{socket.gethostname()}"
    (tmp_path / "f.lock").write_text(ours)
    left = tmp_path / f"f.lock.{socket.gethostname()}.{os.getpid()}.0"
    left.write_text(ours)
    kept = LockFile(Disk(), str(tmp_path / "f"))
    with dotlock(Disk(), str(tmp_path / "f"), timeout=5, kept=kept):
        discard_left(Disk(), str(tmp_path / "f"))
        assert (tmp_path / "f.lock").stat().st_nlink == 2
    assert not left.exists()
    kept.discard()
    assert os.listdir(tmp_path) == []


def test_a_lock_of_ours_is_not_broken_when_its_first_name_is_gone(tmp_path: Path) -> None:
    path, kept = str(tmp_path / "f"), LockFile(Disk(), str(tmp_path / "kept"))
    with dotlock(Disk(), path, kept=kept):
        (tmp_path / os.path.basename(kept.ready()[0])).unlink()
        with dotlock(Disk(), str(tmp_path / "g"), kept=kept):
            pass
        with pytest.raises(MailboxError), dotlock(Disk(), path, timeout=0.05):
            pass
        assert (tmp_path / "f.lock").exists()
    kept.discard()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["", "1:elsewhere.example"])
def test_other_locks_are_broken_when_stale(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "f.lock"
    lock.write_text(content)
    with pytest.raises(MailboxError), dotlock(Disk(), str(tmp_path / "f"), timeout=0.05):
        pass
    old = time.time() - STALE_AFTER - 1
    os.utime(lock, (old, old))
    with dotlock(Disk(), str(tmp_path / "f"), timeout=1):
        pass
    assert os.listdir(tmp_path) == []


def test_one_file_is_the_lock_of_many_at_once(tmp_path: Path) -> None:
    disk, kept = Disk(), LockFile(Disk(), str(tmp_path / "kept"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = str(tmp_path / "a" / "f"), str(tmp_path / "b" / "f")
    with dotlock(disk, first, kept=kept):
        with dotlock(disk, second, kept=kept):
            assert os.path.samefile(f"{first}.lock", f"{second}.lock")
            with pytest.raises(MailboxError), dotlock(disk, first, timeout=0.05, kept=kept):
                pass
        assert os.listdir(tmp_path / "b") == []
        assert os.path.exists(f"{first}.lock")
    kept.discard()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert os.listdir(tmp_path / "a") == []


class OtherFileSystem(Disk):
    """The lock file that is kept lies in another one."""

    def link(self, source: StrPath, target: StrPath) -> None:
        if os.path.basename(source).startswith("kept.lock."):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        super().link(source, target)


def test_a_lock_that_cannot_be_shared_has_a_file_of_its_own(tmp_path: Path) -> None:
    kept = LockFile(Disk(), str(tmp_path / "kept"))
    with dotlock(OtherFileSystem(), str(tmp_path / "f"), kept=kept):
        assert (tmp_path / "f.lock").stat().st_nlink == 1
    kept.discard()
    assert os.listdir(tmp_path) == []


def test_a_kept_file_that_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    kept = LockFile(Disk(), str(tmp_path / "kept"))
    with dotlock(Disk(), str(tmp_path / "f"), kept=kept):
        pass
    (left,) = tmp_path.iterdir()
    left.unlink()
    with dotlock(Disk(), str(tmp_path / "f"), kept=kept):
        assert (tmp_path / "f.lock").stat().st_nlink == 2
