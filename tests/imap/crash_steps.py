"""Kills a session before each of its disk operations in turn, and says what is there afterwards.

    crash_steps.py ROOT SCENARIO

One line of JSON on standard output for each kill, the last for the time when nothing was killed.
A process that has loaded everything and started no thread forks one child for each step, so a step
takes milliseconds; what dies is a real process, by SIGKILL, with its locks and its SQLite files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from imap_dialog import Client, session_on

from resel_lda.imap.stream import Stream
from resel_lda.mailbox import AppendData
from resel_lda.maildir.store import MaildirStore
from resel_lda.pop3.drop import DropLock
from resel_lda.pop3.session import Pop3Session
from resel_lda.pop3.uidl import DEFAULT, parse_format
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.users import User

# Kills at a moment of their own, for what goes past `Disk`: SQLite.
_AT_RANDOM = 6
# The descriptor on which a child says that it has begun.
BEGUN = 100
_MOST_STEPS = 400


def mail(mark: str) -> bytes:
    return b"Subject: %b\r\n\r\n" % mark.encode() + b"%b line\r\n" % mark.encode() * 400


class Silent:
    def write(self, lines: list[str]) -> None: ...

    def reopen(self) -> None: ...


class Deadly(Disk):
    """SIGKILL before the k-th operation, in the midst of it where that is a write."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _step(self) -> bool:
        """Whether this is the one."""
        self.left -= 1
        return self.left == 0

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        if self._step():
            super().write(fd, memoryview(data)[: len(data) // 2])
            self._die()
        super().write(fd, data)


def _deadly(name: str) -> Callable[..., object]:
    real = getattr(Disk, name)

    def method(self: Deadly, *arguments: object) -> object:
        if self._step():
            self._die()
        return real(self, *arguments)

    return method


for _name in ("create", "fsync", "rename", "link", "unlink", "mkdir", "utime", "sync_directory"):
    setattr(Deadly, _name, _deadly(_name))


def open_store(root: Path, disk: Disk) -> MaildirStore:
    settings = Settings.build("server", mail_location=f"maildir:{root}/Maildir")
    return MaildirStore(User("lcarr", home=str(root)), settings, disk, MailLog(Silent()))


# What is done, until it is killed or over.


async def _imap(root: Path, disk: Disk, talk: Callable[[Client], Awaitable[None]]) -> None:
    store = open_store(root, disk)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await talk(client)
    await store.close()


def begun() -> None:
    """Those who kill at a moment of their own count from here."""
    with contextlib.suppress(OSError):
        os.write(BEGUN, b".")


async def _say(client: Client, start: str, *literals: bytes) -> None:
    begun()
    line = start.encode()
    for literal in literals:
        line = line.replace(b"$", b"{%d+}\r\n%b" % (len(literal), literal), 1)
    client.send(b"a " + line + b"\r\n")
    while not (answer := await client.line()).startswith("a "):
        assert answer
    assert answer.startswith("a OK"), answer


async def replace(root: Path, disk: Disk) -> None:
    await _imap(root, disk, lambda client: _say(client, "UID REPLACE 1 INBOX $", mail("new")))


async def replace_catenate(root: Path, disk: Disk) -> None:
    command = 'UID REPLACE 1 INBOX CATENATE (TEXT $ URL "/INBOX/;UID=2/;SECTION=TEXT")'
    await _imap(root, disk, lambda client: _say(client, command, b"Subject: new\r\n\r\n"))


async def catenate(root: Path, disk: Disk) -> None:
    command = 'APPEND INBOX CATENATE (TEXT $ URL "/INBOX/;UID=2/;SECTION=TEXT")'
    await _imap(root, disk, lambda client: _say(client, command, b"Subject: new\r\n\r\n"))


async def metadata(root: Path, disk: Disk) -> None:
    async def talk(client: Client) -> None:
        for number in range(1_000_000):
            command = f'SETMETADATA INBOX (/private/a "{number}" /private/b "{number}")'
            if number:
                await _say(client, command)
            else:
                await client.command(command)

    await _imap(root, disk, talk)


async def subscribe(root: Path, disk: Disk) -> None:
    async def talk(client: Client) -> None:
        await _say(client, "SUBSCRIBE new")
        await _say(client, "UNSUBSCRIBE old")

    await _imap(root, disk, talk)


async def pop3(root: Path, disk: Disk) -> None:
    """RETR 2, DELE 1, and QUIT, which removes."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    stream = Stream()
    await asyncio.get_running_loop().connect_accepted_socket(lambda: stream, theirs)
    store = open_store(root, disk)
    namer = parse_format(DEFAULT)
    running = Pop3Session(stream, store, "s", DropLock(), namer, lambda line: None)
    task = asyncio.create_task(running.run())
    reader, writer = await asyncio.open_connection(sock=ours)
    begun()
    writer.write(b"RETR 2\r\nDELE 1\r\nQUIT\r\n")
    assert b"+OK Logging out, messages deleted." in await reader.read()
    writer.close()
    await task
    await store.close()


SCENARIOS = {
    one.__name__: one for one in (replace, replace_catenate, catenate, metadata, subscribe, pop3)
}


# Before and after.


async def prepare(root: Path) -> None:
    store = open_store(root, Disk())
    box = await store.open("INBOX")
    await box.append([AppendData([mail(mark)], len(mail(mark))) for mark in ("old", "other")])
    box.release()
    await store.subscribe("old")
    await store.close()


async def look(root: Path) -> dict[str, object]:
    """What another process finds, and what the next message's UID is."""
    began = time.monotonic()
    store = open_store(root, Disk())
    box = await store.open("INBOX")
    found = {uid: (await box.read(uid)).decode() for uid in box.uids()}
    seen = [uid for uid in box.uids() if "\\Seen" in box.get(uid).flags]  # type: ignore[union-attr]
    entries = {name: value.decode() for name, value in (await store.metadata("INBOX")).items()}
    subscribed = [info.name for info in await store.folders() if info.subscribed]
    await store.subscribe("more")
    (uid,) = await box.append([AppendData([mail("later")], len(mail("later")))])
    again = open_store(root, Disk())
    validity = box.uidvalidity
    box.release()
    await store.close()
    box = await again.open("INBOX")
    later = {uid: (await box.read(uid)).decode() for uid in box.uids()}
    same = box.uidvalidity == validity
    box.release()
    await again.close()
    return {
        "messages": found,
        "seen": seen,
        "entries": entries,
        "subscribed": subscribed,
        "next": uid,
        "later": later,
        "same_validity": same,
        "seconds": time.monotonic() - began,
        "left": sorted(name for name in os.listdir(root / "Maildir") if name.endswith(".lock")),
        "tmp": os.listdir(root / "Maildir" / "tmp"),
    }


def in_child(work: Callable[[], object], kill_after: float = 0.0) -> tuple[bool, object]:
    """(whether it was killed, its result)."""
    reading, writing = os.pipe()
    begun_reading, begun_writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        os.dup2(begun_writing, BEGUN)
        os.set_blocking(BEGUN, False)
        status = 1
        with contextlib.suppress(BaseException):
            os.write(writing, json.dumps(work()).encode())
            status = 0
        os._exit(status)
    os.close(writing)
    os.close(begun_writing)
    if kill_after:
        os.read(begun_reading, 1)
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    os.close(begun_reading)
    with os.fdopen(reading, "rb") as result:
        said = result.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True, None
    if status:
        raise SystemExit("a step failed")
    return False, json.loads(said)


def main() -> None:
    root, name = Path(sys.argv[1]), sys.argv[2]
    work = SCENARIOS[name]
    fresh = root / "fresh"
    in_child(lambda: asyncio.run(prepare(fresh)))
    rng = random.Random(name)
    kills = [0.0] * _MOST_STEPS if name != "metadata" else []
    kills += [rng.uniform(0.0001, 0.05) for _ in range(_AT_RANDOM)]
    step = 0
    over = False
    for kill_after in kills:
        step += 1
        if over and not kill_after:
            continue
        place = root / "now"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(fresh, place)
        disk: Disk = Disk() if kill_after else Deadly(step)

        def attempt(place: Path = place, disk: Disk = disk) -> None:
            asyncio.run(work(place, disk))

        killed, _ = in_child(attempt, kill_after)
        over = over or not (killed or kill_after)
        _, found = in_child(lambda place=place: asyncio.run(look(place)))  # type: ignore[misc]
        print(json.dumps({"step": step, "killed": killed, "found": found}), flush=True)


if __name__ == "__main__":
    main()
