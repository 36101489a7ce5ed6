"""Mailboxes and disks that are full: what each recipient's reply says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from resel_lda.deposit import ThreadDepositor
from resel_lda.local import LocalTransport
from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.disk import Disk
from resel_mta.mail import BodySink
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.smtpd import LmtpService
from resel_mta.users import User
from resel_mta.users.penalties import Penalties

MAIL = b"Subject: by LMTP\r\n\r\n" + b"line\r\n" * 100


class Members:
    """Each has 1000 octets, but roomy as much as there is."""

    def __init__(self) -> None:
        self.penalties = Penalties(0.0)

    def mechanisms(self) -> tuple[str, ...]:
        return ()

    async def find(self, name: str) -> User | None:
        if name not in ("tight", "roomy", "other"):
            return None
        return User(name, quota_storage_size=0 if name == "roomy" else 1000)

    async def authenticate(self, name: str, password: bytes) -> User | None:
        return None


class Ids:
    """An intake for small mail."""

    def new_id(self) -> str:
        return "QID"

    def sink(self) -> BodySink:
        raise AssertionError("small mail stays in memory")

    def check_space(self, size: int) -> None:
        """Nothing of it goes into the queue."""


class FullDisk(Disk):
    """Of one user: nothing can be written there any more."""

    def __init__(self, user: str, number: int) -> None:
        self._user = user
        self._number = number

    def create_unnamed(self, directory: str | Path, mode: int = 0o600) -> int:
        if f"/{self._user}/" in str(directory):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return super().create_unnamed(directory, mode)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        if f"/{self._user}/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(self._number, os.strerror(self._number))
        super().write(fd, data)


@contextlib.asynccontextmanager
async def serving(path: Path, disk: Disk, more: Mapping[str, str]) -> AsyncIterator[int]:
    """The port of an LMTP server."""
    # Nobody is told of a full disk by mail, which would need a queue.
    base = {"myhostname": "mx.example.org", "mydestination": "example.org", "notify_classes": ""}
    values = {**base, **more}
    settings = Settings.build("server", mail_location=f"maildir:{path}/%u", **values)
    log, users = MailLog(StreamSink(2)), Members()
    depositor = ThreadDepositor(settings, log.warning, disk)
    mailboxes = LocalTransport(settings, users, log, depositor, name="lmtp")

    async def discard(content: Content) -> None:
        """It is in memory."""

    service = LmtpService(settings, Ids(), mailboxes, discard, users, log)
    server = await asyncio.get_running_loop().create_server(service.factory, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await service.stop(5.0)
        await depositor.close()


async def answers(port: int, *recipients: str) -> list[str]:
    """To MAIL's content, one for each recipient."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def reply() -> str:
        while True:
            line = (await asyncio.wait_for(reader.readline(), 20)).decode().rstrip()
            if line[3:4] != "-":
                return line

    assert (await reply()).startswith("220")
    for command in (
        "LHLO me",
        "MAIL FROM:<a@example.org>",
        *(f"RCPT TO:<{one}>" for one in recipients),
    ):
        writer.write(command.encode() + b"\r\n")
        assert (await reply()).startswith("250"), command
    writer.write(b"DATA\r\n")
    assert (await reply()).startswith("354")
    writer.write(MAIL + b".\r\n")
    found = [await reply() for _ in recipients]
    writer.write(b"NOOP\r\n")
    assert (await reply()).startswith("250")
    writer.close()
    await writer.wait_closed()
    return found


def messages(path: Path, user: str) -> int:
    return len(os.listdir(path / user / "new"))


async def test_one_of_several_mailboxes_is_over_quota(tmp_path: Path) -> None:
    async with serving(tmp_path, Disk(), {}) as port:
        assert (await answers(port, "tight"))[0].startswith("250 2.0.0 <tight@")
        roomy, tight, other = await answers(port, "roomy", "tight", "other")
    assert roomy.startswith("250 2.0.0 <roomy@")
    assert tight.endswith("> Quota exceeded (mailbox for user is full)")
    assert tight.startswith("552 5.2.2 <tight@")
    assert other.startswith("250 2.0.0 <other@")
    assert [messages(tmp_path, user) for user in ("roomy", "tight", "other")] == [1, 1, 1]


async def test_a_mailbox_over_quota_can_be_tried_again(tmp_path: Path) -> None:
    async with serving(tmp_path, Disk(), {"quota_full_tempfail": "yes"}) as port:
        await answers(port, "tight")
        tight, other = await answers(port, "tight", "other")
    assert tight.startswith("452 4.2.2 <tight@")
    assert tight.endswith("> Quota exceeded (mailbox for user is full)")
    assert other.startswith("250 ")
    assert messages(tmp_path, "tight") == 1


async def test_the_disk_of_one_mailbox_is_full(tmp_path: Path) -> None:
    for number, status in ((errno.ENOSPC, "452 4.3.1"), (errno.EDQUOT, "452 4.2.2")):
        disk = FullDisk("roomy", number)
        async with serving(tmp_path / status[4:], disk, {}) as port:
            roomy, other = await answers(port, "roomy", "other")
        assert roomy.startswith(f"{status} <roomy@")
        assert other.startswith("250 2.0.0 <other@")
        found = tmp_path / status[4:] / "roomy"
        assert [os.listdir(found / part) for part in ("new", "cur", "tmp")] == [[], [], []]
