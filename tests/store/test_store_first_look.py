"""What a first look at a folder writes, and what it leaves when that fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from resel_lda.maildir.uidlist import Uidlist, read_uidlist, write_uidlist
from resel_mta.disk import Disk, StrPath


class Noting(Disk):
    """Notes what was done by the names concerned. fails: the sync, by its number, that fails."""

    def __init__(self, fails: int = 0) -> None:
        self.done: list[str] = []
        self._fails = fails
        self._syncs = 0

    def write(self, fd: int, data: bytes | memoryview) -> None:
        self.done.append("write")
        super().write(fd, data)

    def rename(self, source: StrPath, target: StrPath) -> None:
        self.done.append(f"rename {os.path.basename(target)}")
        super().rename(source, target)

    def fsync(self, fd: int) -> None:
        self._syncs += 1
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        self.done.append(f"sync {name}")
        if self._syncs == self._fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(fd)


def first_list() -> Uidlist:
    return Uidlist(uidvalidity=7, next_uid=3, guid="a" * 32, entries={"one": 1, "two": 2})


def test_a_first_list_and_its_name_are_synced_together(tmp_path: Path) -> None:
    disk, path = Noting(), tmp_path / "dovecot-uidlist"
    write_uidlist(disk, str(path), first_list())
    expected = ["write", "rename dovecot-uidlist", "sync dovecot-uidlist", f"sync {tmp_path.name}"]
    assert disk.done == expected
    found = read_uidlist(str(path))
    assert (found.uidvalidity, found.next_uid, found.damaged) == (7, 3, False)
    assert found.entries == {"one": 1, "two": 2}


def test_a_list_that_others_may_have_read_is_replaced_by_a_synced_one(tmp_path: Path) -> None:
    path = tmp_path / "dovecot-uidlist"
    # Ruined, or made by another program meanwhile: in neither case there was a list to go on with.
    path.write_text("")
    disk = Noting()
    write_uidlist(disk, str(path), first_list())
    assert [step.partition(" ")[0] for step in disk.done[-3:]] == ["sync", "rename", "sync"]


@pytest.mark.parametrize("fails", [1, 2], ids=["file", "directory"])
def test_a_first_list_that_cannot_be_synced_is_gone_again(tmp_path: Path, fails: int) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_uidlist(Noting(fails), str(tmp_path / "dovecot-uidlist"), first_list())
    assert os.listdir(tmp_path) == []
