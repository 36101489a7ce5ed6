"""Too little room for new mail; and a real file system without a single octet free."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from queue_fakes import make_message

from resel_mta.mail import TempFail
from resel_mta.queue.reserve import SIZE, Reserve
from resel_mta.queue.spool import DISK_FULL, OWN_SPACE
from resel_mta.queue.sqlite import SQLiteStore

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


async def test_below_minfree_new_mail_is_refused(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path, minfree=1 << 60)
    with pytest.raises(TempFail) as caught:
        store.sink()
    with pytest.raises(TempFail):
        store.check_space(0)
    assert caught.value.reply.code == 452
    with pytest.raises(TempFail) as caught:
        await store.enter(make_message(store))
    assert caught.value.reply.code == 452
    assert await store.delete() == []
    await store.close()


async def test_a_message_that_would_take_what_is_left_is_refused(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path, minfree=1)
    free = shutil.disk_usage(tmp_path).free
    store.check_space(0)
    store.check_space(free // 4)
    with pytest.raises(TempFail) as caught:
        store.check_space(free + OWN_SPACE)
    assert caught.value.reply == DISK_FULL
    await store.close()
