"""What a first look at a folder writes, and what it leaves when that fails."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from resel_lda.maildir.store import MaildirStore
from resel_lda.maildir.uidlist import Uidlist, read_uidlist, write_uidlist
from resel_mta.config import Settings
from resel_mta.disk import Disk, StrPath
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User


class Noting(Disk):
    """Notes what was done by the names concerned. fails: the sync, by its number, that fails."""

    def __init__(self, fails: int = 0) -> None:
        self.done: list[str] = []
        self._fails = fails
        self._syncs = 0

    def create(self, path: StrPath, mode: int = 0o600) -> int:
        self.done.append(f"create {os.path.basename(path)}")
        return super().create(path, mode)

    def mkdir(self, path: StrPath, mode: int = 0o700) -> None:
        self.done.append(f"mkdir {os.path.basename(path)}")
        super().mkdir(path, mode)

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
    assert disk.done[1:] == expected
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


def open_store(root: Path, disk: Disk) -> MaildirStore:
    settings = Settings.build("server", mail_location=f"maildir:{root}/Maildir")
    return MaildirStore(User("u", home=str(root)), settings, disk, MailLog(StreamSink(2)))


async def test_first_looks_at_folders_share_one_lock_file(tmp_path: Path) -> None:
    disk = Noting()
    store = open_store(tmp_path, disk)
    for name in ("INBOX", "a", "b"):
        if name != "INBOX":
            await store.create(name)
        disk.done.clear()
        assert (await store.status(name)).uidnext == 1
        made = [step for step in disk.done if step.startswith("create .dovecot-uidlist.")]
        assert len(made) == 1
        locks = [step for step in disk.done if ".lock." in step]
        assert len(locks) == (name == "INBOX")
        if name != "INBOX":
            assert not [step for step in disk.done if step.startswith("mkdir")]
    await store.close()
    left = [str(path) for path in tmp_path.rglob("*.lock*")]
    assert left == []


@pytest.fixture
def dead_pid() -> int:
    program = [sys.executable, "-c", "import os; print(os.getpid())"]
    return int(subprocess.run(program, capture_output=True, check=True).stdout)


async def test_the_lock_file_of_a_killed_process_goes(tmp_path: Path, dead_pid: int) -> None:
    store = open_store(tmp_path, Disk())
    await store.folders()
    await store.close()
    host = socket.gethostname()
    left = tmp_path / "Maildir" / f"dovecot-uidlist.lock.{host}.{dead_pid}.0a0b0c0d"
    left.write_text(f"{dead_pid}:{host}")
    store = open_store(tmp_path, Disk())
    await store.folders()
    assert not left.exists()
    await store.close()


async def test_what_other_programs_left_out_of_a_folder_is_made(tmp_path: Path) -> None:
    store = open_store(tmp_path, Disk())
    await store.create("a")
    folder = tmp_path / "Maildir" / ".a"
    for missing in ("new", "tmp"):
        (folder / missing).rmdir()
        assert (await store.status("a")).messages == 0
        assert (folder / missing).is_dir()
        await store.close()
        store = open_store(tmp_path, Disk())
    await store.close()
