"""Without root, LMTP's mail is written by the network process: that never touches what belongs to the
worker which owns the user."""

from __future__ import annotations

import os
from pathlib import Path

from resel_lda.deposit import ThreadDepositor
from resel_lda.job import Job
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.content import Content, Header, MemoryBody
from resel_mta.disk import Disk
from resel_mta.mail import Delivered
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

# Of the worker alone, by the names they begin with (SQLite has files beside them).
OWNED = ("state", "cache", "dovecot-uidlist", "dovecot-keywords")


def owned(maildir: Path) -> dict[str, tuple[int, int, int]]:
    """Which file it is, its size and its time."""
    found = {}
    for entry in os.scandir(maildir):
        if entry.name.startswith(OWNED):
            stat = entry.stat()
            found[entry.name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


async def test_lmtp_writes_nothing_that_is_the_workers(tmp_path: Path) -> None:
    settings = Settings.build(
        "server", mail_location=f"maildir:{tmp_path}/%u", quota_storage_size="1M"
    )
    user = User("lcarr", home=str(tmp_path))
    content = Content(Header(b"Subject: hi\r\n"), MemoryBody(b"body\r\n"))
    job = Job(user, "lcarr@resel.fr", "lcarr@resel.fr", "a@example.org", "4D2", 100, "lmtp")
    depositor = ThreadDepositor(settings, lambda *_: None, Disk())
    maildir = tmp_path / "lcarr"
    # A mailbox that no worker has had yet.
    assert [type(one) for one in await depositor.deposit(content, [job])] == [Delivered]
    assert owned(maildir) == {}
    store = MaildirStore(user, settings, Disk(), MailLog(StreamSink(2)))
    folder = await store.open("INBOX")
    folder.release()
    await store.close()
    before = owned(maildir)
    assert {"state", "dovecot-uidlist"} <= before.keys()
    for _ in range(5):
        assert [type(one) for one in await depositor.deposit(content, [job])] == [Delivered]
    assert owned(maildir) == before
    await depositor.close()
    # The owner finds it all, and has counted it as what it is.
    store = MaildirStore(user, settings, Disk(), MailLog(StreamSink(2)))
    folder = await store.open("INBOX")
    assert folder.uids() == [1, 2, 3, 4, 5, 6]
    quota = await store.quota()
    assert quota is not None
    assert quota.messages == 6
    await store.close()


async def test_lmtp_waits_for_nobody_who_has_the_mailbox(tmp_path: Path) -> None:
    settings = Settings.build("server", mail_location=f"maildir:{tmp_path}/%u")
    user = User("lcarr", home=str(tmp_path))
    store = MaildirStore(user, settings, Disk(), MailLog(StreamSink(2)))
    folder = await store.open("INBOX")
    depositor = ThreadDepositor(settings, lambda *_: None, Disk())
    content = Content(Header(b"Subject: hi\r\n"), MemoryBody(b"body\r\n"))
    job = Job(user, "lcarr@resel.fr", "lcarr@resel.fr", "a@example.org", "4D2", 100, "lmtp")
    assert [type(one) for one in await depositor.deposit(content, [job])] == [Delivered]
    await depositor.close()
    await folder.refresh()
    assert folder.uids() == [1]
    folder.release()
    await store.close()
