"""Races with other programs: within one tick of the clock, and with kill -9 on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "mime"))
from dovecot_imap import IMAP, DovecotImap, give, reachable_mailbox

from resel_lda.maildir.files import MaildirFiles
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.store import MaildirStore
from resel_lda.maildir.watch import Watcher
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

# The long form is for a machine that has the time: 10,000.
ROUNDS = int(os.environ.get("RESEL_RACE_ROUNDS", "400"))


class Unsynced(Disk):
    """Races are about what is seen, not about power cuts; this one is fast."""

    def fsync(self, fd: int) -> None: ...

    def sync_directory(self, path: str | os.PathLike[str]) -> None: ...


def open_store(root: Path, disk: Disk | None = None) -> MaildirStore:
    settings = Settings.build("server", mail_location=f"maildir:{root}/Maildir")
    user = User("tester", home=str(root))
    return MaildirStore(user, settings, disk or Disk(), MailLog(StreamSink(2)))


def deliver(maildir: Path, number: int) -> str:
    name = f"{1700000000 + number}.M{number}P1.other"
    (maildir / "tmp" / name).write_bytes(b"Subject: %d\n\nx\n" % number)
    os.rename(maildir / "tmp" / name, maildir / "new" / name)
    return name


@pytest.mark.parametrize("watched", [True, False], ids=["inotify", "stamps"])
async def test_deliver_and_rename_within_one_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """Each change comes right after a look, as like as not within the clock's tick of it."""
    if not watched:
        monkeypatch.setattr(Watcher, "add", lambda *_: None)
        monkeypatch.setattr(MaildirFiles, "stamps", coarse_stamps)
    store = open_store(tmp_path, Unsynced())
    folder = await store.open_folder("INBOX")
    maildir = tmp_path / "Maildir"
    for number in range(1, ROUNDS + 1):
        name = deliver(maildir, number)
        await settle(folder, watched, lambda number=number: folder.get(number) is not None)
        for before, after, flag in (("", "S", "\\Seen"), ("S", "FS", "\\Flagged")):
            os.rename(maildir / "cur" / f"{name}:2,{before}", maildir / "cur" / f"{name}:2,{after}")
            await settle(folder, watched, lambda n=number, flag=flag: flag in info_flags(folder, n))
        if number > 20:
            os.unlink(maildir / "cur" / f"{1700000000 + number - 20}.M{number - 20}P1.other:2,FS")
    await settle(folder, watched, lambda: len(folder.messages()) == min(ROUNDS, 20))
    assert folder.uidnext == ROUNDS + 1
    await store.close()


def coarse_stamps(files: MaildirFiles) -> tuple[int, int]:
    """As on a file system whose clock ticks every 10 ms."""
    tick = 10_000_000
    new, cur = os.stat(files.new).st_mtime_ns, os.stat(files.cur).st_mtime_ns
    return new // tick * tick, cur // tick * tick


def info_flags(folder: MaildirFolder, uid: int) -> frozenset[str]:
    info = folder.get(uid)
    return info.flags if info is not None else frozenset()


async def settle(folder: MaildirFolder, watched: bool, done: object) -> None:
    """Without inotify one look must see it; with it, when the kernel has told."""
    assert callable(done)
    await folder.refresh()
    if watched:
        async with asyncio.timeout(5):
            while not done():
                await asyncio.sleep(0.001)
                await folder.refresh()
    assert done()


async def test_another_program_all_the_time(tmp_path: Path) -> None:
    """A thread delivers, renames and deletes as fast as it can while we look."""
    store = open_store(tmp_path, Unsynced())
    folder = await store.open_folder("INBOX")
    maildir = tmp_path / "Maildir"
    rng = random.Random(3)
    ended = threading.Event()

    def other() -> None:
        for number in range(ROUNDS):
            deliver(maildir, number)
            names = [entry.name for entry in os.scandir(maildir / "cur")]
            for name in rng.sample(names, min(3, len(names))):
                path = maildir / "cur" / name
                with contextlib.suppress(FileNotFoundError):
                    if rng.random() < 0.2:
                        path.unlink()
                    else:
                        base = name.partition(":")[0]
                        os.rename(path, path.with_name(f"{base}:2,{rng.choice(('', 'S', 'FS'))}"))
        ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    seen: dict[int, str] = {}
    while not ended.is_set():
        await folder.refresh()
        for uid, base in list(folder.index.bases.items()):
            assert seen.setdefault(uid, base) == base
        await asyncio.sleep(0.001)
    thread.join()
    async with asyncio.timeout(10):
        while True:
            await folder.refresh()
            on_disk = {entry.name for entry in os.scandir(maildir / "cur")}
            shown = {folder.index.name(uid) for uid in folder.uids()}
            if on_disk == shown and not os.listdir(maildir / "new"):
                break
            await asyncio.sleep(0.01)
    assert len(set(seen.values())) == len(seen)
    await store.close()


@pytest.fixture
def root() -> Iterator[Path]:
    with reachable_mailbox() as path:
        yield path


@pytest.mark.needs(str(IMAP))
def test_both_killed(root: Path) -> None:
    """Dovecot and a process of ours change one mailbox, and both are killed, again and again:
    what either has said is there, under the same UID for both, and nobody waits for a lock."""
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    owner = pwd.getpwnam(user).pw_uid
    kept: dict[str, int] = {}
    gone: set[int] = set()
    give(root, user)
    for number in range(4):
        dovecot = DovecotImap(root)
        ours = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("race_worker.py")),
             str(root), str(owner), str(number)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        killer = threading.Timer(1.2 + 0.13 * number, kill_both, (dovecot, ours))
        killer.start()
        dovecot_works(dovecot, number, kept, gone)
        assert ours.stdout is not None
        for line in ours.stdout.read().decode().splitlines():
            words = line.split()
            if words[0] == "append":
                kept[words[1]] = int(words[2])
            elif words[0] == "expunge":
                gone.add(int(words[1]))
        killer.join()
        ours.stdout.close()
        ours.wait(10)
        dovecot.__exit__()
        forget_empty_lock(root)
        check(root, user, kept, gone)


def kill_both(dovecot: DovecotImap, ours: subprocess.Popen[bytes]) -> None:
    os.kill(dovecot.pid, signal.SIGKILL)
    ours.kill()


def forget_empty_lock(root: Path) -> None:
    """Dovecot makes its lock first and writes its pid into it then. Killed in between it leaves one
    that says nothing of its owner, and everybody, itself too, waits two minutes for it. As if they
    had gone by."""
    lock = root / "Maildir" / "dovecot-uidlist.lock"
    with contextlib.suppress(FileNotFoundError):
        if not lock.stat().st_size:
            assert lock.stat().st_mode & 0o044, "ours, which appears with its content"
            lock.unlink()


def dovecot_works(session: DovecotImap, number: int, kept: dict[str, int], gone: set[int]) -> None:
    """Until it is killed."""
    with contextlib.suppress(RuntimeError, OSError):
        session.command("select inbox")
        for count in range(1, 10_000):
            mark = f"dovecot-{number}-{count}"
            mail = f"Subject: {mark}\r\n\r\nbody\r\n"
            answer = session.command(f"append inbox {{{len(mail)}+}}\r\n{mail}")[-1]
            found = re.search(rb"APPENDUID \d+ (\d+)", answer)
            if found is None:
                continue
            kept[mark] = int(found[1])
            session.command(f"uid store {found[1].decode()} +flags (\\Seen Work)")


def check(root: Path, user: str, kept: dict[str, int], gone: set[int]) -> None:
    began = time.monotonic()
    ours = asyncio.run(our_view(root))
    assert time.monotonic() - began < 60, "a lock delayed us"
    give(root, user)
    began = time.monotonic()
    with DovecotImap(root) as session:
        theirs = dovecot_view(session)
    assert time.monotonic() - began < 60, "a lock delayed Dovecot"
    assert ours == theirs
    missing_now = {mark: uid for mark, uid in kept.items() if uid not in ours and uid not in gone}
    # What was being expunged when the process died may be gone without having been said; it has no
    # other UID then.
    assert len(missing_now) <= 1, missing_now
    assert not missing_now.keys() & set(ours.values()), missing_now
    gone.update(missing_now.values())
    wrong = {mark: uid for mark, uid in kept.items() if ours.get(uid, mark) != mark}
    assert not wrong
    assert len(set(ours.values())) == len(ours), "a message is there twice"


async def our_view(root: Path) -> dict[int, str]:
    store = open_store(root)
    folder = await store.open_folder("INBOX")
    uids = folder.uids()
    headers = await folder.header_fields(uids)
    await store.close()
    return {uid: _mark(headers[uid]) for uid in uids}


def dovecot_view(session: DovecotImap) -> dict[int, str]:
    session.command("select inbox")
    found = {}
    for line in session.command("uid fetch 1:* (uid body.peek[header.fields (subject)])"):
        number = re.search(rb"UID (\d+)", line)
        if number is not None and b"FETCH" in line:
            found[int(number[1])] = _mark(line.partition(b"\r\n")[2])
    return found


def _mark(header: bytes) -> str:
    found = re.search(rb"Subject: (\S+)", header)
    return found[1].decode() if found else ""


@pytest.mark.parametrize("aside", [False, True], ids=["removed", "moved"])
async def test_a_backup_is_put_back_while_a_folder_is_open(tmp_path: Path, aside: bool) -> None:
    """The watched directories are others then; what is in those with their names is shown, and no
    UID is given twice."""
    store = open_store(tmp_path, Unsynced())
    maildir = tmp_path / "Maildir"
    folder = await store.open_folder("INBOX")
    for number in range(3):
        deliver(maildir, number)
    async with asyncio.timeout(5):
        while len(folder.messages()) < 3:
            await folder.refresh()
            await asyncio.sleep(0.001)
    shutil.copytree(maildir, tmp_path / "backup")
    await folder.expunge([2, 3], keep=False)
    if aside:
        os.rename(maildir, tmp_path / "aside")
    else:
        shutil.rmtree(maildir)
    shutil.copytree(tmp_path / "backup", maildir)
    folder._verified = 0.0
    again = await store.open_folder("INBOX")
    assert again is folder
    assert folder.uids() == [1, 4, 5]
    deliver(maildir, 7)
    async with asyncio.timeout(5):
        while folder.get(6) is None:
            await folder.refresh()
            await asyncio.sleep(0.001)
    await store.close()
