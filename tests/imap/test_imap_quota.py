"""QUOTA (RFC 9208), and `maildirsize` kept in step by all that comes and goes."""

from __future__ import annotations

import os
from pathlib import Path

from imap_dialog import session_on
from imap_fake import FakeStore
from test_imap_dialog import PLAIN, fill

from resel_lda.maildir.layout import Layout, MailLocation
from resel_lda.maildir.quota import Quota
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User


def store_with(path: Path, limit: str, own: int | None = None) -> MaildirStore:
    settings = Settings.build(
        "server", mail_location=f"maildir:{path}/mail", quota_storage_size=limit
    )
    user = User("lcarr", home=str(path), quota_storage_size=own)
    return MaildirStore(user, settings, Disk(), MailLog(StreamSink(2)))


def total(path: Path) -> tuple[str, int, int]:
    """(definition, octets, messages) of maildirsize."""
    lines = (path / "mail" / "maildirsize").read_text().splitlines()
    pairs = [line.split() for line in lines[1:]]
    return lines[0], sum(int(a) for a, _ in pairs), sum(int(b) for _, b in pairs)


async def test_dialog(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        capabilities = (await client.command("CAPABILITY"))[0].split()
        assert {"QUOTA", "QUOTA=RES-STORAGE"} <= set(capabilities)
        await client.script("""
            C: a GETQUOTAROOT inbox
            S: * QUOTAROOT INBOX "User quota"
            S: * QUOTA "User quota" (STORAGE 10 512)
            S: a OK Getquotaroot completed.
            C: b GETQUOTA "User quota"
            S: * QUOTA "User quota" (STORAGE 10 512)
            S: b OK Getquota completed.
            C: c GETQUOTA ""
            S: c NO [NONEXISTENT] Quota root doesn't exist.
            C: d SETQUOTA "User quota" (STORAGE 1)
            S: d NO [NOPERM] Permission denied.
            C: e GETQUOTAROOT Nowhere
            S: e NO [NONEXISTENT] ...
        """)


async def test_no_limit(tmp_path: Path) -> None:
    store = store_with(tmp_path, "0")
    async with session_on(store) as client:
        await client.script("""
            C: a GETQUOTAROOT INBOX
            S: * QUOTAROOT INBOX
            S: a OK Getquotaroot completed.
        """)
    assert not (tmp_path / "mail" / "maildirsize").exists()
    await store.close()


async def test_counted_and_enforced(tmp_path: Path) -> None:
    store = store_with(tmp_path, "1G", own=4096)
    await store.create("Trash")
    await fill(store, *[PLAIN] * 3)
    size = PLAIN.replace(b"\r", b"").__len__()
    assert total(tmp_path) == ("4096S", 3 * size, 3)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        lines = await client.command("GETQUOTAROOT INBOX")
        assert lines[1] == '* QUOTA "User quota" (STORAGE 1 4)'
        await client.command("COPY 1 Trash")
        assert total(tmp_path) == ("4096S", 4 * size, 4)
        await client.command("MOVE 1 Trash")
        assert total(tmp_path) == ("4096S", 4 * size, 4)
        await client.command("STORE 1 +FLAGS (\\Deleted)")
        assert (await client.command("STATUS INBOX (DELETED DELETED-STORAGE)"))[0] == (
            f"* STATUS INBOX (DELETED 1 DELETED-STORAGE {len(PLAIN)})"
        )
        await client.command("EXPUNGE")
        assert total(tmp_path) == ("4096S", 3 * size, 3)
        big = "x" * 4000
        client.send(f"x APPEND INBOX {{{len(big)}+}}\r\n{big}\r\n".encode())
        assert (await client.line()) == "x NO [OVERQUOTA] Quota exceeded (mailbox for user is full)"
        for _ in range(40):
            lines = await client.command("UID COPY 3 Trash")
            if lines[-1].startswith("x NO"):
                break
        assert lines[-1] == "x NO [OVERQUOTA] Quota exceeded (mailbox for user is full)"
        # What is too much already can still be moved to the bin.
        assert (await client.command("UID MOVE 3 Trash"))[-1] == "x OK Move completed."
    assert not list((tmp_path / "mail" / "tmp").iterdir())
    await store.close()


def test_counted_again_when_it_cannot_be_right(tmp_path: Path) -> None:
    for part in ("cur", "new", "tmp"):
        (tmp_path / part).mkdir()
    (tmp_path / "cur" / "1.a,S=100:2,").write_bytes(b"x" * 100)
    (tmp_path / "new" / "2.a").write_bytes(b"x" * 50)
    root = str(tmp_path)
    layout = Layout(MailLocation(root, root, root, root))
    size = tmp_path / "maildirsize"
    quota = Quota(Disk(), layout, 1000)
    for content in (
        "500S\n1 1\n",  # another limit
        "1000S\nrubbish\n",
        "1000S\n10 1\n-20 -1\n",
        "1000S\n" + "0 0\n" * 2000,
    ):
        size.write_text(content)
        assert (quota.info().octets, quota.info().messages) == (150, 2), content
        assert size.read_text() == "1000S\n150 2\n"
    size.write_text("1000S\n5000 3\n")
    assert quota.info().octets == 5000
    os.utime(size, (1, 1))
    assert quota.info().octets == 150


async def test_a_folder_goes_with_what_it_took(tmp_path: Path) -> None:
    """Also where the process died before it had removed all of it."""
    store = store_with(tmp_path, "4096")
    await store.create("Lists")
    await fill(store, PLAIN)
    await fill(store, *[PLAIN] * 3, folder="Lists")
    size = len(PLAIN.replace(b"\r", b""))
    async with session_on(store) as client:
        assert (await client.command("GETQUOTAROOT INBOX"))[1].startswith("* QUOTA ")
        assert total(tmp_path) == ("4096S", 4 * size, 4)
        assert (await client.command("DELETE Lists"))[-1].startswith("x OK")
        quota = await store.quota()
        assert quota is not None
        assert (quota.octets, quota.messages) == (size, 1)
        assert total(tmp_path) == ("4096S", size, 1)
    await store.close()
    mail = tmp_path / "mail"
    (mail / "maildirsize").write_text(f"4096S\n{4 * size} 4\n")
    for part in ("cur", "new", "tmp"):
        (mail / "resel-removed.0123" / part).mkdir(parents=True)
    store = store_with(tmp_path, "4096")
    quota = await store.quota()
    assert quota is not None
    assert (quota.octets, quota.messages) == (size, 1)
    await store.close()
