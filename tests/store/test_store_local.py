"""Local delivery into Maildir."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from resel_lda.deposit import ThreadDepositor
from resel_lda.local import LocalTransport
from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.disk import Disk
from resel_mta.mail import (
    Bounced,
    Deferred,
    Delivered,
    Envelope,
    Message,
    Outcome,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.users import User

MAIL = b"Subject: x\r\n\r\nhello\r\n.dot\r\n"
ROUTE = Route("local", "")


class FakeUsers:
    def __init__(self, *names: str, home: Path) -> None:
        self._names = names
        self._home = home

    async def find(self, name: str) -> User | None:
        if name.startswith("slow"):
            raise TempFail(Reply(451, "4.3.0", "directory is down"))
        return User(name, home=str(self._home / name)) if name in self._names else None


class Sink:
    def write(self, lines: list[str]) -> None: ...

    def reopen(self) -> None: ...


class Recorder(Disk):
    """Notes the order of what must be ordered, and fails where told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: tuple[str, int] | None = None
        self.fail_unnamed = 0

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.fail and self.fail[0] == call:
            raise OSError(self.fail[1], os.strerror(self.fail[1]), "x")

    def write(self, fd: int, data) -> None:
        self._note("write")
        super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._note("fsync")
        super().fsync(fd)

    def rename(self, source, target) -> None:
        self._note("rename")
        super().rename(source, target)

    def create_unnamed(self, directory, mode=0o600) -> int:
        if self.fail_unnamed:
            raise OSError(self.fail_unnamed, os.strerror(self.fail_unnamed))
        return super().create_unnamed(directory, mode)

    def link_unnamed(self, fd, target) -> None:
        self._note("link")
        super().link_unnamed(fd, target)

    def sync_directory(self, path) -> None:
        self._note("sync_directory")
        super().sync_directory(path)


def transport(path: Path, *names: str, disk: Disk | None = None, **settings: str) -> LocalTransport:
    values = {"myhostname": "mx.example.org", "mail_location": f"maildir:{path}/%u"}
    built = Settings.build(**(values | settings))
    log = MailLog(Sink())
    depositor = ThreadDepositor(built, log.warning, disk or Disk())
    return LocalTransport(built, FakeUsers(*names, home=path), log, depositor)


async def deliver(local: LocalTransport, *addresses: str, data: bytes = MAIL) -> list[Outcome]:
    recipients = [Recipient(address) for address in addresses]
    message = Message(
        "Q1", 0.0, Envelope("s@example.org", recipients), len(data), recipients,
        Content.from_bytes(data),
    )  # fmt: skip
    outcomes = await local.deliver(message, recipients, ROUTE)
    assert set(outcomes) == set(recipients)
    return [outcomes[one] for one in recipients]


def only(path: Path) -> bytes:
    names = os.listdir(path / "new")
    assert len(names) == 1
    return (path / "new" / names[0]).read_bytes()


async def test_delivers_with_postfix_fields_and_lf(tmp_path: Path) -> None:
    local = transport(tmp_path, "lcarr", recipient_delimiter="+")
    [outcome] = await deliver(local, "LCarr+list@resel.fr")
    assert isinstance(outcome, Delivered)
    assert outcome.relay == "local"
    assert only(tmp_path / "lcarr") == (
        b"Return-Path: <s@example.org>\nX-Original-To: LCarr+list@resel.fr\n"
        b"Delivered-To: LCarr+list@resel.fr\nSubject: x\n\nhello\n.dot\n"
    )
    assert os.stat(tmp_path / "lcarr" / "new").st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path / "lcarr" / "tmp") == []
    await local.close()


async def test_order_of_the_syncs(tmp_path: Path) -> None:
    disk = Recorder()
    local = transport(tmp_path, "lcarr", disk=disk)
    await deliver(local, "lcarr@resel.fr")
    disk.calls.clear()
    await deliver(local, "lcarr@resel.fr")
    assert disk.calls == ["write", "fsync", "link", "sync_directory", "fsync"]
    disk.calls.clear()
    disk.fail_unnamed = errno.EOPNOTSUPP
    await deliver(local, "lcarr@resel.fr")
    assert disk.calls == ["write", "fsync", "rename", "sync_directory", "fsync"]
    await local.close()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EXDEV])
async def test_a_file_that_cannot_be_given_a_name_is_written_again(
    tmp_path: Path, number: int
) -> None:
    disk = Recorder()
    disk.fail = ("link", number)
    local = transport(tmp_path, "lcarr", disk=disk)
    await deliver(local, "lcarr@resel.fr")
    disk.calls.clear()
    [outcome] = await deliver(local, "lcarr@resel.fr")
    assert isinstance(outcome, Delivered)
    assert disk.calls == [
        "write", "fsync", "link", "write", "fsync", "rename", "sync_directory", "fsync",
    ]  # fmt: skip
    maildir = tmp_path / "lcarr"
    first, second = ((maildir / "new" / name) for name in os.listdir(maildir / "new"))
    assert first.read_bytes() == second.read_bytes()
    for path in (first, second):
        size = path.stat().st_size
        lines = path.read_bytes().count(b"\n")
        assert path.name.endswith(f",S={size},W={size + lines}")
    assert os.listdir(maildir / "tmp") == []
    await local.close()


async def test_outcomes(tmp_path: Path) -> None:
    local = transport(tmp_path, "lcarr", "joe@virtual.org")
    unknown, slow, good, virtual = await deliver(
        local, "Nobody@resel.fr", "slow@resel.fr", "lcarr@resel.fr", "joe@virtual.org"
    )
    assert isinstance(unknown, Bounced)
    assert str(unknown.reply) == '550 5.1.1 unknown user: "nobody"'
    assert isinstance(slow, Deferred)
    assert isinstance(good, Delivered)
    assert isinstance(virtual, Delivered)
    assert len(os.listdir(tmp_path / "joe@virtual.org" / "new")) == 1
    await local.close()


async def test_loop_is_bounced(tmp_path: Path) -> None:
    local = transport(tmp_path, "lcarr")
    [outcome] = await deliver(
        local, "lcarr@resel.fr", data=b"delivered-to: LCARR@resel.fr\r\n\r\nx\r\n"
    )
    assert isinstance(outcome, Bounced)
    assert str(outcome.reply) == "554 5.4.6 mail forwarding loop for lcarr@resel.fr"
    assert not (tmp_path / "lcarr").exists()
    await local.close()


@pytest.mark.parametrize(
    ("call", "number", "enhanced", "words"),
    [
        ("write", errno.ENOSPC, "4.3.1", "disk full"),
        ("link", errno.EDQUOT, "4.2.2", "quota"),
        ("fsync", errno.EIO, "4.2.0", "Input/output error"),
        ("rename", errno.EDQUOT, "4.2.2", "quota"),
        ("sync_directory", errno.EACCES, "4.2.0", "Permission denied"),
    ],
)
async def test_disk_errors_defer_and_leave_nothing(
    tmp_path: Path, call: str, number: int, enhanced: str, words: str
) -> None:
    disk = Recorder()
    local = transport(tmp_path, "lcarr", disk=disk)
    await deliver(local, "lcarr@resel.fr")
    disk.fail = (call, number)
    if call == "rename":
        disk.fail_unnamed = errno.EOPNOTSUPP
    [outcome] = await deliver(local, "lcarr@resel.fr")
    assert isinstance(outcome, Deferred)
    assert outcome.reply.enhanced == enhanced
    assert words in outcome.reply.text
    assert os.listdir(tmp_path / "lcarr" / "tmp") == []
    await local.close()


async def test_mbox_in_the_spool_and_other_places(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    values = {"mail_location": "", "mail_spool_directory": str(spool)}
    local = transport(tmp_path, "lcarr", **values)
    [outcome] = await deliver(local, "lcarr@resel.fr")
    assert isinstance(outcome, Deferred)
    assert outcome.reply.text.startswith(f"cannot update mailbox {spool}/lcarr for user lcarr. ")
    spool.mkdir()
    [outcome] = await deliver(local, "lcarr@resel.fr")
    assert outcome.reply.text == "delivered to mailbox"
    assert (spool / "lcarr").read_bytes().startswith(b"From ")
    local = transport(tmp_path, "lcarr", **values, mailbox_size_limit="10")
    [outcome] = await deliver(local, "lcarr@resel.fr")
    assert isinstance(outcome, Bounced)
    assert outcome.reply.enhanced == "5.2.2"
    local = transport(tmp_path, "lcarr", mail_location="", mail_spool_directory=f"{spool}/md/")
    [outcome] = await deliver(local, "lcarr@resel.fr")
    assert [path.name for path in (spool / "md").iterdir()] == ["lcarr"]
    local = transport(tmp_path, "lcarr", home_mailbox="Maildir/", mail_location="")
    [outcome] = await deliver(local, "lcarr@resel.fr")
    assert isinstance(outcome, Delivered)
    assert (tmp_path / "lcarr" / "Maildir" / "new").is_dir()
    [outcome] = await deliver(local, "../../etc/passwd@resel.fr")
    assert isinstance(outcome, Bounced)
    await local.close()


async def test_maildirsize_is_kept(tmp_path: Path) -> None:
    local = transport(tmp_path, "lcarr")
    await deliver(local, "lcarr@resel.fr")
    size = tmp_path / "lcarr" / "maildirsize"
    size.write_text("1000000S\n100 1\n")
    await deliver(local, "lcarr@resel.fr")
    assert size.read_text().splitlines()[2].endswith(" 1")
    await local.close()


async def test_names_never_repeat(tmp_path: Path) -> None:
    local = transport(tmp_path, "lcarr")
    for _ in range(3):
        await deliver(local, *["lcarr@resel.fr"] * 20)
    assert len(os.listdir(tmp_path / "lcarr" / "new")) == 60
    await local.close()
