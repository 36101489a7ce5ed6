"""offlineimap and getmail against the whole service, and offlineimap moving over from Dovecot."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imap_service import PASSWORD, imap_service

sys.path.append(str(Path(__file__).parent.parent / "admin"))
from dovecot_server import PASSWORD as THEIR_PASSWORD
from dovecot_server import DovecotServer

OFFLINEIMAPRC = """\
[general]
accounts = main
metadata = {root}/metadata
socktimeout = 20
[Account main]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = {root}/near
[Repository far]
type = IMAP
remotehost = 127.0.0.1
remoteport = {port}
remoteuser = lcarr
remotepass = {password}
ssl = no
starttls = no
auth_mechanisms = LOGIN
"""
GETMAILRC = """\
[retriever]
type = SimpleIMAPRetriever
server = 127.0.0.1
port = {port}
username = lcarr
password = {password}
mailboxes = ("INBOX", "Archives")
[destination]
type = MDA_external
path = /usr/bin/tee
arguments = ("-a", "{root}/got")
allow_root_commands = true
[options]
read_all = false
delete = false
"""
DOVECOT_LISTENER = """\
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


def run(words: list[str], home: Path) -> str:
    """What it said; it must end well."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HOME": str(home)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def offlineimap(root: Path, port: int, password: str = PASSWORD) -> str:
    rc = root / "offlineimaprc"
    rc.write_text(OFFLINEIMAPRC.format(root=root, port=port, password=password))
    return run(["offlineimap", "-c", str(rc), "-o", "-u", "basic"], root)


def make_maildir(path: Path) -> Path:
    for name in ("cur", "new", "tmp"):
        (path / name).mkdir(parents=True, exist_ok=True)
    return path


def put(maildir: Path, number: int, flags: str = "") -> None:
    text = f"From: ada@example.org\nMessage-ID: <{number}@x>\nSubject: {number}\n\nText {number}\n"
    (maildir / "cur" / f"{1700000000 + number}.M{number}P1.host:2,{flags}").write_text(text)


def found(maildir: Path) -> dict[str, str]:
    """Flags by the last line of a message."""
    return {
        one.read_text().splitlines()[-1]: one.name.partition(":2,")[2]
        for part in ("cur", "new")
        for one in (maildir / part).iterdir()
    }


def the_one(maildir: Path, text: str) -> Path:
    return next(
        one
        for part in ("cur", "new")
        for one in (maildir / part).iterdir()
        if text in one.read_text()
    )


def with_flags(path: Path, flags: str) -> None:
    path.rename(path.parent.parent / "cur" / f"{path.name.partition(':')[0]}:2,{flags}")


@pytest.mark.needs("offlineimap")
async def test_offlineimap_both_ways(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        far = make_maildir(running.maildir)
        for number in range(1, 7):
            put(far, number, "S" if number == 1 else "")
        put(make_maildir(far / ".Listes"), 9)
        await asyncio.to_thread(offlineimap, tmp_path, running.port)
        near = tmp_path / "near" / "INBOX"
        assert found(near) == {f"Text {n}": "S" if n == 1 else "" for n in range(1, 7)}
        assert found(tmp_path / "near" / "Listes") == {"Text 9": ""}
        # Flags, a removal and a new message on either side.
        with_flags(the_one(near, "Text 2"), "FS")
        the_one(near, "Text 3").unlink()
        put(near, 7, "S")
        with_flags(the_one(far, "Text 4"), "R")
        the_one(far, "Text 5").unlink()
        put(far, 8)
        await asyncio.to_thread(offlineimap, tmp_path, running.port)
        expected = {"Text 1": "S", "Text 2": "FS", "Text 4": "R", "Text 6": "", "Text 7": "S"}
        assert found(near) == expected | {"Text 8": ""}
        assert found(far) == expected | {"Text 8": ""}
        again = await asyncio.to_thread(offlineimap, tmp_path, running.port)
        for word in ("Copy message", "Adding flags", "Deleting"):
            assert word not in again


@pytest.fixture
def dovecot(need: Callable[[str], str]) -> Iterator[tuple[DovecotServer, int]]:
    need("dovecot")
    if os.geteuid() != 0:
        pytest.skip("Dovecot is started as root")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    root = Path(tempfile.mkdtemp(prefix="resel-offlineimap-"))
    root.chmod(0o755)
    server = DovecotServer(root, ["lcarr"], "imap", DOVECOT_LISTENER.format(port=port))
    try:
        with server:
            yield server, port
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.needs("offlineimap")
async def test_offlineimap_downloads_nothing_again_after_the_take_over(
    dovecot: tuple[DovecotServer, int], tmp_path: Path
) -> None:
    server, port = dovecot
    theirs = make_maildir(server.root / "mail" / "lcarr" / "Maildir")
    for number in range(1, 30):
        put(theirs, number, "S" if number % 2 else "FR")
    put(make_maildir(theirs / ".Listes"), 90)
    server.own()
    first = await asyncio.to_thread(offlineimap, tmp_path, port, THEIR_PASSWORD)
    assert first.count("Copy message") == 30
    near = tmp_path / "near" / "INBOX"
    before = sorted(path.name for path in (near / "cur").iterdir())
    async with imap_service(tmp_path) as running:
        shutil.copytree(theirs, running.maildir)
        second = await asyncio.to_thread(offlineimap, tmp_path, running.port)
        assert "Copy message" not in second
        assert sorted(path.name for path in (near / "cur").iterdir()) == before
        # And it does work on the same mailbox.
        put(running.maildir, 31)
        third = await asyncio.to_thread(offlineimap, tmp_path, running.port)
        assert third.count("Copy message") == 1


def getmail(root: Path, port: int) -> list[str]:
    """What this run got: the last lines of messages."""
    directory = root / "getmail"
    directory.mkdir(exist_ok=True)
    got = root / "got"
    got.write_bytes(b"")
    rc = directory / "getmailrc"
    rc.write_text(GETMAILRC.format(root=root, port=port, password=PASSWORD))
    run(["getmail", f"--getmaildir={directory}", f"--rcfile={rc}"], root)
    return sorted(line for line in got.read_text().splitlines() if line.startswith("Text "))


@pytest.mark.needs("getmail")
async def test_getmail_gets_each_message_once(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        far = make_maildir(running.maildir)
        put(far, 1)
        put(far, 2, "S")
        put(make_maildir(far / ".Archives"), 3)
        got = await asyncio.to_thread(getmail, tmp_path, running.port)
        assert got == ["Text 1", "Text 2", "Text 3"]
        put(far, 4)
        assert await asyncio.to_thread(getmail, tmp_path, running.port) == ["Text 4"]
