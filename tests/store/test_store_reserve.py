"""The reserve of free space: what is in all users' bins goes before new mail is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from resel_lda.maildir import reserve
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink

SIZE = 1000
BLOCKS = 4


class Tight(Disk):
    """A file system in which each message that is removed frees a block."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def unlink(self, path: str | os.PathLike[str]) -> None:
        super().unlink(path)
        self.removed.append(os.path.basename(path))

    def statvfs(self, path: str) -> os.statvfs_result:
        real = list(os.statvfs_result(range(11)))  # type: ignore[arg-type]
        real[1], real[4] = 512, len(self.removed)
        return os.statvfs_result(real)  # type: ignore[arg-type]


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tight]:
    disk = Tight()
    with monkeypatch.context() as patch:
        patch.setattr("resel_lda.maildir.bin.os.statvfs", disk.statvfs)
        yield disk


def keep(root: Path, name: str, folder: str = "") -> None:
    """A message in the bin of the mailbox at root; each later one was expunged later."""
    cur = root / "resel-bin" / folder / "cur"
    cur.mkdir(parents=True, exist_ok=True)
    (cur / name).write_bytes(b"x" * SIZE)
    # ctime cannot be set, and its clock ticks in milliseconds.
    before = (cur / name).stat().st_ctime_ns
    while (cur / name).stat().st_ctime_ns == before:
        (cur / name).chmod(0o600)


def make_room(location: str, disk: Disk, blocks: int) -> str:
    settings = Settings.build(mail_location=location, expunge_minfree=str(512 * blocks))
    return reserve.make_room(settings, disk, MailLog(StreamSink(2)))


@pytest.mark.parametrize("location", ["%u", "%n", "%d/%n", "[a]/%n"])
def test_the_oldest_of_all_users_go_first(tmp_path: Path, tight: Tight, location: str) -> None:
    above = tmp_path / location.rpartition("/")[0].replace("%d", "resel.fr")
    keep(above / "ada", "1")
    keep(above / "lcarr", "2", ".Work")
    keep(above / "ada", "3", ".Old")
    keep(above / "lcarr", "4")
    # Not expunged: no business of ours.
    (above / "lcarr" / "cur").mkdir()
    (above / "lcarr" / "cur" / "0").write_bytes(b"x")
    said = make_room(f"maildir:{tmp_path}/{location}", tight, 2)
    assert tight.removed == ["1", "2"]
    assert said.startswith(f"2 expunged messages ({2 * SIZE} octets) are gone before")
    assert make_room(f"maildir:{tmp_path}/{location}", tight, 2) == ""
    make_room(f"maildir:{tmp_path}/{location}", tight, 99)
    assert tight.removed == ["1", "2", "3", "4"]
    assert (above / "lcarr" / "cur" / "0").exists()


def test_layout_fs(tmp_path: Path, tight: Tight) -> None:
    keep(tmp_path / "ada", "1")
    (tmp_path / "ada" / "resel-bin").rename(tmp_path / "ada" / ".resel-bin")
    make_room(f"maildir:{tmp_path}/%u:LAYOUT=fs", tight, 9)
    assert tight.removed == ["1"]


@pytest.mark.parametrize("location", ["~/Maildir", "%h/Maildir", "", "mbox:/x/%u"])
def test_mailboxes_in_homes_are_left_alone(tmp_path: Path, tight: Tight, location: str) -> None:
    keep(tmp_path / "Maildir", "1")
    where = f"maildir:{location}" if location and ":" not in location else location
    assert make_room(where, tight, 9) == ""


async def test_it_goes_on_by_itself(
    tmp_path: Path, tight: Tight, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path / "ada", "1")
    monkeypatch.setattr(reserve, "_EVERY", 0.001)
    settings = Settings.build(mail_location=f"maildir:{tmp_path}/%u", expunge_minfree="512")
    told = asyncio.Event()

    class Log(MailLog):
        def warning(self, service: str, text: str, *rest: object) -> None:
            assert text.startswith("1 expunged messages (1000 octets) are gone")
            told.set()

    # The first time there are no settings yet.
    answers = iter([None])
    monkeypatch.setattr(reserve, "Disk", lambda: tight)
    task = asyncio.create_task(
        reserve.keep_reserve(lambda: next(answers, settings), Log(StreamSink(2)))
    )
    await asyncio.wait_for(told.wait(), 20)
    task.cancel()
    assert not (tmp_path / "ada" / "resel-bin" / "cur" / "1").exists()
