"""A queue that resel-queue cannot read: one line that says why, and the exit code."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import apsw
import pytest

from resel_mta.commands.queue import main


def configured(tmp_path: Path) -> list[str]:
    (tmp_path / "spool").mkdir()
    (tmp_path / "main.cf").write_text(
        f"role = relay\nqueue_directory = {tmp_path}/spool\ndata_directory = {tmp_path}/data\n"
        "relayhost = [127.0.0.1]\ninet_interfaces = 127.0.0.1\n"
    )
    return ["-c", str(tmp_path)]


def test_another_format_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = configured(tmp_path)
    database = apsw.Connection(str(tmp_path / "spool" / "queue.db"))
    database.pragma("user_version", 99)
    database.execute("CREATE TABLE other(id)")
    database.close()
    assert main(["-p", *where]) == 69
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be used: the queue has format 99" in error


def test_a_spool_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = configured(tmp_path)
    (tmp_path / "spool").rmdir()
    assert main(["-p", *where]) == 69
    assert f"{tmp_path}/spool does not exist yet" in capsys.readouterr().err


@pytest.mark.parametrize("before", [False, True])
def test_the_queue_is_private_whoever_opens_it_first(tmp_path: Path, before: bool) -> None:
    """A listing before the daemon's first start, with root's umask, makes the database."""
    where = configured(tmp_path)
    database = tmp_path / "spool" / "queue.db"
    if before:
        database.touch(0o644)
    mask = os.umask(0o022)
    try:
        assert main(["-p", *where]) == 0
    finally:
        os.umask(mask)
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert {each.name for each in database.parent.iterdir() if each.stat().st_mode & 0o077} == set()


@pytest.mark.skipif(os.getuid() != 0, reason="only root uses the queue as its owner")
def test_root_is_not_sent_to_root() -> None:
    # Not tmp_path: the owner must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="resel-queue-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        where = configured(Path(name))
        os.chown(f"{name}/spool", 65534, 65534)
        Path(name, "spool", "queue.lock").touch(0o600)
        done = subprocess.run(
            [sys.executable, "-m", "resel_mta.commands.queue", "-p", *where],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 77
    assert "queue.lock: Permission denied; it has to belong to " in done.stderr
    assert "ask as root" not in done.stderr
