"""COPY where a hard link cannot be made, and where the copy fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from resel_lda.mailbox import AppendData, MailboxError
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

MAILS = [b"From: a@b.c\r\nSubject: %d\r\n\r\nbody\r\n" % number for number in range(3)]


class _NoLinks(Disk):
    """Links into cur/ fail with `error` from the second on; those into tmp/ as well."""

    def __init__(self, error: int) -> None:
        self._error = error
        self._links = 0

    def link(self, source: str | Path, target: str | Path) -> None:  # type: ignore[override]
        if Path(target).parent.name in ("cur", "tmp"):
            self._links += 1
            if self._links > 1:
                raise OSError(self._error, os.strerror(self._error), str(target))
        super().link(source, target)


def _store(path: Path, disk: Disk) -> MaildirStore:
    settings = Settings.build(mail_location=f"maildir:{path}/Maildir", myhostname="mx.example.org")
    return MaildirStore(User("u", home=str(path)), settings, disk, MailLog(StreamSink(2)))


def _files(path: Path, folder: str, part: str = "cur") -> list[str]:
    return sorted(os.listdir(path / "Maildir" / folder / part))


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EMLINK, errno.EPERM])
async def test_copies_the_octets_where_links_cannot_be(tmp_path: Path, error: int) -> None:
    store = _store(tmp_path, _NoLinks(error))
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), ["\\Seen"]) for mail in MAILS])
    _, pairs = await inbox.copy(uids, "Sub")
    sub = await store.open("Sub")
    assert [new for _, new in pairs] == [info.uid for info in sub.messages()]
    assert [await sub.read(new) for _, new in pairs] == MAILS
    assert all(info.flags == {"\\Seen"} for info in sub.messages())
    assert len(_files(tmp_path, ".Sub")) == 3
    assert _files(tmp_path, ".Sub", "tmp") == []
    await store.close()


async def test_a_copy_that_fails_leaves_the_originals_and_nothing_else(tmp_path: Path) -> None:
    store = _store(tmp_path, _NoLinks(errno.ENOSPC))
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), []) for mail in MAILS])
    before = _files(tmp_path, "")
    for work in (inbox.copy, inbox.move):
        with pytest.raises(MailboxError, match="Not enough disk space"):
            await work(uids, "Sub")
    assert _files(tmp_path, "") == before
    assert _files(tmp_path, ".Sub") == _files(tmp_path, ".Sub", "tmp") == []
    assert [await inbox.read(uid) for uid in uids] == MAILS
    await store.close()


async def test_copies_what_another_program_renames_meanwhile(tmp_path: Path) -> None:
    class Renaming(Disk):
        def link(self, source: str | Path, target: str | Path) -> None:  # type: ignore[override]
            if Path(target).parent.name == "cur" and Path(source).exists() and not self.done:
                self.done = True
                os.rename(source, f"{source}F")
            super().link(source, target)

        done = False

    store = _store(tmp_path, Renaming())
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), []) for mail in MAILS])
    _, pairs = await inbox.copy(uids, "Sub")
    sub = await store.open("Sub")
    assert [await sub.read(new) for _, new in pairs] == MAILS
    assert len(_files(tmp_path, ".Sub")) == len(_files(tmp_path, "")) == 3
    await store.close()
