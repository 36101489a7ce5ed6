"""Lock files shared with Dovecot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.dotlock import STALE_AFTER, dotlock
from resel_mta.disk import Disk


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
