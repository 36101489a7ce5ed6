"""A real file system without a single octet free."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resel_mta.queue.reserve import SIZE, Reserve

MOUNT = 'mount -t tmpfs -o size=24M,mode=0700 none "$1" && exec "$2" "$3" "$1"'


def test_a_full_disk_can_be_emptied(tmp_path: Path, need: Callable[[str], str]) -> None:
    script = Path(__file__).with_name("full_disk.py")
    words = [need("unshare"), "--user", "--map-root-user", "--mount", "--propagation", "private"]
    found = subprocess.run(
        [*words, "sh", "-c", MOUNT, "sh", str(tmp_path), sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare:" in found.stderr or "mount:" in found.stderr:
        pytest.skip(f"needs a file system of its own: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr


def test_the_reserve_is_taken_back(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path))
    assert not reserve.give_up()
    reserve.keep()
    file = tmp_path / "reserve"
    assert file.stat().st_size == SIZE <= file.stat().st_blocks * 512
    assert file.stat().st_mode & 0o777 == 0o600
    assert reserve.give_up()
    assert reserve.given_up
    assert file.stat().st_blocks == 0
    reserve.keep()
    assert not reserve.given_up
    assert file.stat().st_size == SIZE
    # That of the process before.
    assert Reserve(str(tmp_path)).give_up()
