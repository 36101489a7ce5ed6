"""The drop folder: what waits in it is taken once, and what is no letter harms nobody."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

import pytest
from sendmail_helpers import NOBODY, Office

from resel_mta.disk import Disk
from resel_mta.mail import PermFail, Reply, TempFail
from resel_mta.pickup import drop, reader
from resel_mta.pickup.drop import Full, Unfit, leave, open_letter

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


async def test_sendmail_drop_while_the_daemon_is_down(closed: Office) -> None:
    done = await closed.run("-v", "root", "nosuch")
    assert done.returncode == 0
    assert re.search(r"no daemon .*: the message waits as ", done.stdout)
    (path,) = closed.drop.iterdir()
    assert path.stat().st_mode & 0o7777 == 0o600
    assert await closed.reader().look() == 1
    (taken,) = closed.intake.taken
    # Nobody can be told any more: it bounces.
    assert taken.recipients == ["root", "nosuch"]
    assert taken.origin.uid == os.getuid()
    assert not list(closed.drop.iterdir())


async def test_sendmail_drop_works_with_any_umask(closed: Office) -> None:
    before = os.umask(0o777)
    try:
        done = closed.run_blocking(["root"])
    finally:
        os.umask(before)
    assert (done.returncode, done.stderr) == (0, "")
    assert await closed.reader().look() == 1


@needs_root
async def test_sendmail_drop_of_an_ordinary_user(closed: Office) -> None:
    assert (await closed.run("-f", "root", "root", uid=NOBODY)).returncode == 0
    assert await closed.reader().look() == 1
    assert closed.intake.taken[0].origin.uid == NOBODY
    assert b"from userid 65534)" in closed.intake.taken[0].origin.received


@needs_root
async def test_sendmail_drop_names_the_owner_whatever_the_file_says(closed: Office) -> None:
    path = closed.put_letter(sender="root")
    os.chown(path, NOBODY, NOBODY)
    await closed.reader().look()
    assert closed.intake.taken[0].origin.uid == NOBODY


def make_symlink(office: Office, path: Path) -> None:
    secret = office.directory / "secret"
    secret.write_bytes(office.letter().encode() + b"x" * 18)
    path.symlink_to(secret)


def make_hard_link(office: Office, path: Path) -> None:
    secret = office.directory / "secret"
    letter = office.letter()
    secret.write_bytes(letter.encode() + b"x" * letter.size)
    os.link(secret, path)


def make_socket(office: Office, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_huge(office: Office, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def make_huge_letter(office: Office, path: Path) -> None:
    size = 1 << 40
    with path.open("wb") as file:
        line = office.letter(size=size).encode()
        file.write(line)
        file.truncate(len(line) + size)


TRAPS = {
    "symbolic link": make_symlink,
    "hard link": make_hard_link,
    "fifo": lambda office, path: os.mkfifo(path),
    "socket": make_socket,
    "folder": lambda office, path: path.mkdir(),
    "dangling link": lambda office, path: path.symlink_to("/nonexistent"),
    "huge hole": make_huge,
    "huge letter": make_huge_letter,
    "empty": lambda office, path: path.write_bytes(b""),
    "garbage": lambda office, path: path.write_bytes(b"\x00\xff\n" * 99),
    "one long line": lambda office, path: path.write_bytes(b"x" * 2_000_000),
    "cut short": lambda office, path: path.write_bytes(office.letter().encode() + b"x"),
    "too long": lambda office, path: path.write_bytes(office.letter().encode() + b"x" * 99),
    "bare CR": lambda office, path: path.write_bytes(
        office.letter(b"a: b\r\n\r\n\rx\r\n").encode() + b"a: b\r\n\r\n\rx\r\n"
    ),
    "bad address": lambda office, path: path.write_bytes(
        office.letter(b"", recipients=("a@@b",)).encode()
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
async def test_sendmail_drop_traps_are_set_aside(closed: Office, trap: str) -> None:
    path = closed.drop / ("0" * 32)
    TRAPS[trap](closed, path)
    good = closed.put_letter()
    looking = closed.reader()
    async with asyncio.timeout(10):
        # What is huge uses up its user's share of one look.
        assert await looking.look() + await looking.look() == 1
    assert not good.exists()
    assert len(closed.intake.taken) == 1
    assert not list(closed.drop.iterdir())
    (kept,) = closed.aside.iterdir()
    assert kept.name.startswith("0" * 32)
    assert closed.aside.stat().st_mode & 0o777 == 0o700
    (warning,) = closed.warnings()
    assert f"{path} of uid {os.getuid()}: " in warning
    assert str(kept) in warning


async def test_sendmail_drop_other_names_are_set_aside(closed: Office) -> None:
    for name in ("core", "A" * 32, "f" * 33, "é"):
        closed.put(name, b"x")
    await closed.reader().look()
    assert not list(closed.drop.iterdir())
    assert len(list(closed.aside.iterdir())) == 4


async def test_sendmail_drop_skips_what_is_not_finished(closed: Office) -> None:
    fresh = closed.put("." + "a" * 32, b"half a let")
    dead = closed.put("." + "b" * 32, b"half a let")
    os.utime(dead, (1, 1))
    await closed.reader().look()
    assert list(closed.drop.iterdir()) == [fresh]
    assert [path.name[:5] for path in closed.aside.iterdir()] == ["bbbbb"]


def test_sendmail_drop_open_follows_no_path(closed: Office) -> None:
    folder = os.open(closed.drop, os.O_RDONLY)
    try:
        for name in ("../main.cf", "/etc/passwd", "..", ".", ""):
            with pytest.raises(Unfit):
                open_letter(folder, name)
    finally:
        os.close(folder)


async def test_sendmail_drop_a_file_that_vanishes(closed: Office) -> None:
    path = closed.put_letter()
    looking = closed.reader()
    entries = looking._scan()
    path.unlink()
    for entry in entries:
        assert not await looking._handle(entry)
    assert closed.warnings() == []


async def test_sendmail_drop_temporary_failures_wait(
    closed: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = closed.put_letter()
    full = TempFail(Reply(452, "4.3.1", "Insufficient system storage"))
    closed.intake.failures = [full, RuntimeError("a bug")]
    looking = closed.reader()
    assert await looking.look() == 0
    assert await looking.look() == 0
    assert len(closed.warnings()) == 1
    assert closed.intake.failures != []
    looking._pauses[path.name].until = 0
    assert await looking.look() == 0
    assert "a bug" in closed.warnings()[1]
    assert looking._pauses[path.name].length == 2 * reader.FIRST_PAUSE
    assert path.exists()
    looking._pauses[path.name].until = 0
    assert await looking.look() == 1
    assert not path.exists()


async def test_sendmail_drop_what_is_refused_for_good_is_kept(closed: Office) -> None:
    closed.put_letter()
    closed.intake.failures = [PermFail(Reply(554, "5.7.1", "no"))]
    assert await closed.reader().look() == 0
    assert len(list(closed.aside.iterdir())) == 1


async def test_sendmail_drop_what_cannot_be_read_stays_and_is_told_once(closed: Office) -> None:
    path = closed.put_letter()

    async def refuse(name: str) -> int:
        raise PermissionError(13, "Permission denied")

    looking = closed.reader(refuse)
    for _ in range(3):
        assert await looking.look() == 0
    assert path.exists()
    assert len(closed.warnings()) == 1


async def test_sendmail_drop_a_crash_after_the_commit_duplicates_nothing(closed: Office) -> None:
    path = closed.put_letter()
    data = path.read_bytes()
    assert await closed.reader().look() == 1
    path.write_bytes(data)
    assert await closed.reader().look() == 0
    assert not path.exists()
    assert len(closed.intake.taken) == 1
    assert "was taken before" in closed.sink.lines[-1]


async def test_sendmail_drop_a_daemon_that_dies_before_it_answers(office: Office) -> None:
    """The client cannot know whether it was taken: it keeps the letter, and the token tells."""
    office.intake.gate = asyncio.Event()
    running = asyncio.create_task(office.run("root"))
    await office.intake.entered.wait()
    await office.server.stop(0.01)
    assert (await running).returncode == 0
    (path,) = office.drop.iterdir()
    office.intake.gate = None
    assert await office.reader().look() == 1
    assert len(office.intake.taken) == 1
    assert not path.exists()


@needs_root
async def test_sendmail_drop_one_user_does_not_keep_others_waiting(
    closed: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MOST_LETTERS", 5)
    for number in range(12):
        os.utime(closed.put_letter(), (number, number))
    other = closed.put_letter()
    os.chown(other, NOBODY, NOBODY)
    looking = closed.reader()
    assert await looking.look() == 6
    assert NOBODY in [taken.origin.uid for taken in closed.intake.taken]
    assert [await looking.look() for _ in range(3)] == [5, 2, 0]


async def test_sendmail_drop_has_a_limit_for_each_user(
    closed: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "MOST_LETTERS", 2)
    letter = closed.letter()
    leave(closed.drop, letter, [b"x" * letter.size], Disk())
    closed.put_letter()
    with pytest.raises(Full):
        leave(closed.drop, closed.letter(), [b""], Disk())
    monkeypatch.setattr(drop, "MOST_LETTERS", 1000)
    monkeypatch.setattr(drop, "MOST_OCTETS", 100)
    with pytest.raises(Full):
        leave(closed.drop, closed.letter(), [b""], Disk())
    assert len(list(closed.drop.iterdir())) == 2


class FailingDisk(Disk):
    """Fails at the k-th operation, and remembers all of them."""

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.done: list[str] = []

    def _step(self, name: str) -> None:
        self.done.append(name)
        if len(self.done) == self.failing:
            raise OSError(28, "No space left on device")

    def create(self, path: object, mode: int = 0o600) -> int:
        self._step("create")
        return super().create(path, mode)  # type: ignore[arg-type]

    def write(self, fd: int, data: bytes | memoryview) -> None:
        self._step("write")
        super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._step("fsync")
        super().fsync(fd)

    def rename(self, source: object, target: object) -> None:
        self._step("rename")
        super().rename(source, target)  # type: ignore[arg-type]


def test_sendmail_drop_is_safe_before_the_command_ends(closed: Office) -> None:
    disk = FailingDisk(0)
    leave(closed.drop, closed.letter(), [b"x" * 18], disk)
    # The file before its name, the name before exit 0.
    assert disk.done == ["create", "write", "write", "fsync", "rename", "fsync"]
    (path,) = closed.drop.iterdir()
    path.unlink()
    for failing in range(1, 6):
        with pytest.raises(OSError, match="space"):
            leave(closed.drop, closed.letter(), [b"x" * 18], FailingDisk(failing))
        assert not list(closed.drop.iterdir()), f"operation {failing}"


async def test_sendmail_drop_without_any_folder(closed: Office) -> None:
    closed.drop.rmdir()
    done = await closed.run("root")
    assert done.returncode == 75
    assert len(done.stderr.splitlines()) == 1
    assert str(closed.drop) in done.stderr


async def test_sendmail_drop_is_read_while_the_daemon_runs(closed: Office) -> None:
    looking = closed.reader()
    looking._interval = 0.01
    running = asyncio.create_task(looking.run())
    await asyncio.sleep(0)
    closed.put_letter()
    async with asyncio.timeout(5):
        await closed.intake.entered.wait()
        looking.begin_stop()
        await running
    assert len(closed.intake.taken) == 1
