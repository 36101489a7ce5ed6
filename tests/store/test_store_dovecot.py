"""A Dovecot store taken over in place, and given back."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "mime"))
from dovecot_imap import IMAP, DovecotImap, give

from resel_lda.mailbox import AppendData
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.users import User

pytestmark = pytest.mark.needs(str(IMAP))

MAIL = b"From: a@b.c\r\nSubject: %d\r\n\r\nbody\r\n"
Seen = dict[int, tuple[frozenset[str], bytes]]


class Sink:
    def __init__(self) -> None:
        self.text = ""

    def write(self, lines: list[str]) -> None:
        self.text += "".join(lines)

    def reopen(self) -> None: ...


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: the user nobody must be able to reach it.
    path = Path(tempfile.mkdtemp(prefix="resel-store-"))
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def our_store(root: Path, options: str = "") -> MaildirStore:
    settings = Settings.build(
        myhostname="mx.example.org", mail_location=f"maildir:{root}/Maildir{options}"
    )
    return MaildirStore(User("tester", home=str(root)), settings, Disk(), MailLog(Sink()))


def dovecot_append(session: DovecotImap, folder: str, mail: bytes, flags: str = "") -> None:
    literal = b"append %s (%s) {%d+}\r\n%s" % (folder.encode(), flags.encode(), len(mail), mail)
    assert b"OK" in session.command(literal)[-1]


def dovecot_view(session: DovecotImap, folder: str) -> tuple[int, int, Seen]:
    """(UIDVALIDITY, UIDNEXT, uid -> (flags, message))."""
    lines = session.command(f"select {folder}")
    assert b"OK" in lines[-1], lines
    text = b"".join(lines)
    validity = int(re.search(rb"UIDVALIDITY (\d+)", text)[1])
    uidnext = int(re.search(rb"UIDNEXT (\d+)", text)[1])
    found: Seen = {}
    for line in session.command("uid fetch 1:* (uid flags body.peek[])"):
        match = re.search(rb"UID (\d+) FLAGS \(([^)]*)\) BODY\[\] \{\d+\}\r\n", line)
        if match:
            flags = frozenset(match[2].decode().split()) - {"\\Recent"}
            found[int(match[1])] = (flags, line[match.end() : -3])
    return validity, uidnext, found


async def our_view(folder: MaildirFolder) -> tuple[int, int, Seen]:
    found = {info.uid: (info.flags, await folder.read(info.uid)) for info in folder.messages()}
    return folder.uidvalidity, folder.uidnext, found


@pytest.mark.parametrize(
    ("options", "subfolder", "ours"),
    [("", "Sub.Deep", "Sub/Deep"), (":LAYOUT=fs", "Sub/Deep", "Sub/Deep"),
     (":CONTROL={root}/control:INDEX={root}/index", "Sub.Deep", "Sub/Deep")],
    ids=["maildir++", "fs", "control"],
)  # fmt: skip
async def test_taken_over_and_given_back(
    root: Path, options: str, subfolder: str, ours: str
) -> None:
    options = options.format(root=root)
    with DovecotImap(root, options) as dovecot:
        for folder in ("inbox", subfolder):
            if folder != "inbox":
                assert b"OK" in dovecot.command(f"create {folder}")[-1]
                dovecot.command(f"subscribe {folder}")
            dovecot_append(dovecot, folder, MAIL % 1, "\\Seen")
            dovecot_append(dovecot, folder, MAIL % 2, "$Forwarded Work")
            dovecot_append(dovecot, folder, MAIL % 3, "\\Flagged Second")
            dovecot_append(dovecot, folder, MAIL % 4, "\\Deleted")
            dovecot.command(f"select {folder}")
            dovecot.command("expunge")
        dovecot.command('create "&AMk-t&AOk-"')
        before = {f: dovecot_view(dovecot, f) for f in ("inbox", subfolder)}
    store = our_store(root, options)
    after = {}
    for theirs, name in (("inbox", "INBOX"), (subfolder, ours)):
        folder = await store.open_folder(name)
        assert await our_view(folder) == before[theirs]
        await folder.append([AppendData([MAIL % 5], 0, ("\\Answered", "Ours", "work"))])
        await folder.store([1], ["\\Seen", "New"], "set")
        await folder.store([2], ["$Forwarded"], "remove")
        await folder.expunge([3])
        after[theirs] = await our_view(folder)
        assert after[theirs][1] == before[theirs][1] + 1
        folder.release()
    folders = {info.name: info for info in await store.folders()}
    assert ours in folders
    assert "Été" in folders
    assert folders[ours].subscribed
    await store.subscribe("Été")
    await store.create("New/Ours")
    await store.close()
    with DovecotImap(root, options) as dovecot:
        assert {f: dovecot_view(dovecot, f) for f in ("inbox", subfolder)} == after
        listed = b"".join(dovecot.command('list "" "*"'))
        assert b"&AMk-t&AOk-" in listed
        assert b"New" in listed
        assert b"&AMk-t&AOk-" in b"".join(dovecot.command('lsub "" "*"'))
        dovecot_append(dovecot, "inbox", MAIL % 6)
        back = dovecot_view(dovecot, "inbox")
        assert back[0] == before["inbox"][0]
        assert b"OK" in dovecot.command("logout")[-1]
    store = our_store(root, options)
    assert await our_view(await store.open_folder("INBOX")) == back
    await store.close()


async def test_both_at_once_never_differ(root: Path) -> None:
    """Dovecot and we deliver, flag and expunge in turns on the same open folder."""
    with DovecotImap(root) as dovecot:
        user = dovecot.user
        dovecot_append(dovecot, "inbox", MAIL % 0)
        dovecot.command("select inbox")
        store = our_store(root)
        folder = await store.open_folder("INBOX")
        for number in range(1, 25):
            if number % 3 == 0:
                name = f"{1700000000 + number}.M{number}P1.other"
                (root / "Maildir" / "new" / name).write_bytes(MAIL.replace(b"\r", b"") % number)
            elif number % 3 == 1:
                await folder.append([AppendData([MAIL % number], 0)])
            else:
                dovecot_append(dovecot, "inbox", MAIL % number)
            give(root / "Maildir", user)
            if number % 4 == 0:
                dovecot.command(f"uid store {number // 2} +flags (\\Seen Kw{number % 8})")
            elif number % 4 == 2:
                await folder.store([number // 2], ["\\Flagged"], "add")
            if number % 7 == 0:
                await folder.expunge([number // 2 + 1])
        give(root / "Maildir", user)
        for _ in range(100):
            await folder.refresh()
            dovecot.command("noop")
            if await our_view(folder) == dovecot_view(dovecot, "inbox"):
                break
            await asyncio.sleep(0.02)
        view = await our_view(folder)
        assert view == dovecot_view(dovecot, "inbox")
        bodies = [int(re.search(rb"Subject: (\d+)", body)[1]) for _, body in view[2].values()]
        assert len(set(bodies)) == len(bodies)
        assert len(bodies) == 25 - 3
        await store.close()


async def test_a_client_with_dovecots_modseq_resynchronises(root: Path) -> None:
    """Whatever a client was told by Dovecot, nothing that changed since is kept from it."""
    with DovecotImap(root) as dovecot:
        for number in range(6):
            dovecot_append(dovecot, "inbox", MAIL % number)
        dovecot.command("select inbox (condstore)")
        dovecot.command("store 2 +flags (\\deleted)")
        dovecot.command("expunge")
        text = b"".join(dovecot.command("status inbox (highestmodseq)"))
        known = int(re.search(rb"HIGHESTMODSEQ (\d+)", text)[1])
        dovecot.command("uid store 4 +flags (\\flagged)")
        dovecot.command("uid store 5 +flags (\\deleted)")
        dovecot.command("expunge")
    store = our_store(root)
    folder = await store.open_folder("INBOX")
    assert folder.highestmodseq > known
    assert folder.vanished_since(known) == [(2, 2), (5, 5)]
    assert {info.uid for info in folder.changed_since(known)} == {1, 3, 4, 6}
    assert folder.get(4).flags == {"\\Flagged"}
    ours = folder.highestmodseq
    await store.close()
    # Dovecot has it for a while: what it does is news to those who were with us.
    with DovecotImap(root) as dovecot:
        dovecot.command("select inbox")
        dovecot.command("uid store 1 +flags (\\answered)")
        dovecot.command("uid store 6 +flags (\\deleted)")
        dovecot.command("expunge")
        dovecot_append(dovecot, "inbox", MAIL % 7)
    store = our_store(root)
    folder = await store.open_folder("INBOX")
    assert {info.uid for info in folder.changed_since(ours)} == {1, 7}
    assert folder.vanished_since(ours) == [(6, 6)]
    await store.close()


async def test_dovecot_counts_on_from_our_modseq_when_it_is_told(
    root: Path, need: Callable[[str], str]
) -> None:
    """As the guide has it, for those who go back."""
    doveadm = need("doveadm")
    with DovecotImap(root) as dovecot:
        for number in range(3):
            dovecot_append(dovecot, "inbox", MAIL % number)
    store = our_store(root)
    folder = await store.open_folder("INBOX")
    await folder.store([1], ["\\Flagged"], "add")
    ours = folder.highestmodseq
    await store.close()
    with DovecotImap(root) as dovecot:
        account = pwd.getpwnam(dovecot.user)
        as_other = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        command = [doveadm, "-c", str(root / "dovecot.conf"), "mailbox", "update"]
        await asyncio.to_thread(
            subprocess.run,
            [*command, "--min-highest-modseq", str(ours), "INBOX"],
            env={"USER": "tester", "HOME": str(root), "PATH": os.environ["PATH"]},
            cwd=root,
            timeout=60,
            check=True,
            **(as_other if os.geteuid() == 0 else {}),
        )
        dovecot.command("enable qresync")
        lines = dovecot.command("select inbox")
        validity = re.search(rb"UIDVALIDITY (\d+)", b"".join(lines))[1].decode()
        dovecot.command("uid store 2 +flags (\\seen)")
        dovecot.command("close")
        lines = dovecot.command(f"select inbox (qresync ({validity} {ours}))")
        told = [line for line in lines if b" FETCH (UID " in line]
        assert any(b"(UID 2 FLAGS (\\Seen)" in line for line in told)
