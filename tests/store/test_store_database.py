"""What is left of `state` after a power cut: of each file, what it was at its last sync."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from test_store_mailbox import drop, make_store

from resel_lda.maildir.state import StateFile
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink


class _File(apsw.VFSFile):
    def __init__(self, images: dict[str, bytes], name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._images = images
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._images[self._path] = Path(self._path).read_bytes()


class _Recording(apsw.VFS):
    """Keeps files as they were at their last sync."""

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        super().__init__("recording", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self.images, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.images.pop(filename, None)


class _Names(Disk):
    """Notes the directories whose names are durable."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync_directory(self, path: Any) -> None:
        super().sync_directory(path)
        self.synced.append(str(path))


@pytest.fixture
def disk_images() -> Iterator[dict[str, bytes]]:
    vfs = _Recording()
    try:
        yield vfs.images
    finally:
        vfs.unregister()


def after_power_cut(images: dict[str, bytes], directory: Path) -> StateFile:
    directory.mkdir()
    for path, octets in images.items():
        (directory / Path(path).name).write_bytes(octets)
    return StateFile(str(directory / "state"), Disk(), MailLog(StreamSink(2)))


def test_a_new_file_holds_what_was_promised(tmp_path: Path, disk_images: dict[str, bytes]) -> None:
    disk = _Names()
    state = StateFile(str(tmp_path / "state"), disk, MailLog(StreamSink(2)))
    assert state.load("g", 7, 1).is_new
    # Nothing has been promised, and nobody has waited for the disk.
    assert disk_images == {}
    assert disk.synced == []
    state.set_special_use("Sent", "\\Sent")
    assert disk.synced == [str(tmp_path)]
    first = after_power_cut(disk_images, tmp_path / "first")
    assert first.special_uses() == {"Sent": "\\Sent"}
    assert not first.load("g", 7, 1).is_new
    first.database.close()
    floor = state.load("g", 7, 1).floor + 5000
    state.reserve(1, floor)
    second = after_power_cut(disk_images, tmp_path / "second")
    assert second.load("g", 7, 1).floor == floor
    assert second.special_uses() == {"Sent": "\\Sent"}
    second.database.close()
    state.database.close()


async def test_a_folder_seen_for_the_first_time_waits_for_its_uids_only(
    tmp_path: Path, disk_images: dict[str, bytes]
) -> None:
    disk = _Names()
    store = make_store(tmp_path, disk=disk)
    await store.folders()
    for number in range(3):
        drop(tmp_path, f"{1700000000 + number}.M1P1.other", b"Subject: x\n\nbody\n")
    disk.synced.clear()
    folder = await store.open_folder("INBOX")
    assert folder.uids() == [1, 2, 3]
    # The rename of `dovecot-uidlist`.
    assert disk.synced == [str(tmp_path / "Maildir")]
    assert disk_images == {}
    await store.close()
    # What was found is in `state` all the same.
    again = after_power_cut(disk_images, tmp_path / "again")
    guid = folder.index.uidlist.guid
    assert sorted(again.load(guid, folder.uidvalidity, 4).rows) == [1, 2, 3]
    again.database.close()
