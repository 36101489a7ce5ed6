"""mbsync, mutt and aioimaplib against the whole service, where they are installed."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from pathlib import Path

import aioimaplib
import pytest
from imap_service import PASSWORD, imap_service

MESSAGE = (
    b"From: Ada <ada@example.org>\r\nTo: lcarr@resel.fr\r\nSubject: Number %d\r\n"
    b"Date: Mon, 7 Feb 1994 21:52:25 +0100\r\nMessage-ID: <%d@example.org>\r\n\r\nText %d\r\n"
)


def deliver(maildir: Path, *messages: bytes) -> None:
    """As another program would: into new/."""
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True, exist_ok=True)
    for number, message in enumerate(messages, 1):
        (maildir / "new" / f"17000000{number:02d}.M{number}P1.host").write_bytes(message)


def messages(count: int) -> list[bytes]:
    return [MESSAGE % (number, number, number) for number in range(1, count + 1)]


MBSYNCRC = """\
IMAPStore far
Host 127.0.0.1
Port {port}
User lcarr
Pass "{password}"
SSLType None
AuthMechs LOGIN

MaildirStore near
Path {root}/near/
Inbox {root}/near/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
"""


@pytest.mark.needs("mbsync")
async def test_mbsync_both_ways(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        deliver(running.maildir, *messages(5))
        (tmp_path / "near").mkdir()
        rc = tmp_path / "mbsyncrc"
        rc.write_text(MBSYNCRC.format(port=running.port, password=PASSWORD, root=tmp_path))

        async def sync() -> str:
            done = await asyncio.to_thread(
                subprocess.run,
                ["mbsync", "-c", str(rc), "-V", "all"],
                capture_output=True,
                text=True,
                timeout=20,
                env={**os.environ, "HOME": str(tmp_path)},
            )
            assert done.returncode == 0, done.stderr + done.stdout
            return done.stderr + done.stdout

        await sync()
        near = tmp_path / "near" / "INBOX"
        got = sorted((near / "new").iterdir()) + sorted((near / "cur").iterdir())
        assert len(got) == 5
        bodies = {one.read_bytes().replace(b"\r\n", b"\n").rpartition(b"\n\n")[2] for one in got}
        assert bodies == {b"Text %d\n" % number for number in range(1, 6)}
        # One is read here, one deleted here, one new here, one comes in there.
        first, second = got[0], got[1]
        first.rename(near / "cur" / (first.name.partition(":")[0] + ":2,S"))
        second.rename(near / "cur" / (second.name.partition(":")[0] + ":2,T"))
        (near / "cur" / "1800000000.x.y:2,F").write_bytes(b"Subject: from here\n\nUp\n")
        (running.maildir / "new" / "1900000000.M1P1.host").write_bytes(messages(1)[0])
        await sync()
        there = list((running.maildir / "cur").iterdir())
        there += list((running.maildir / "new").iterdir())
        assert len(there) == 6
        assert any("from here" in one.read_text() for one in there)
        assert sum(one.name.endswith(":2,S") for one in there) == 1
        assert sum(one.name.endswith(":2,F") for one in there) == 1
        here = list((near / "new").iterdir()) + list((near / "cur").iterdir())
        assert len(here) == 6
        # Nothing is left to do.
        before = sorted(one.name for one in here)
        await sync()
        here = list((near / "new").iterdir()) + list((near / "cur").iterdir())
        assert sorted(one.name for one in here) == before


def run_in_terminal(command: list[str], home: Path) -> str:
    """Run under a pty (mutt insists on a terminal); what it showed."""
    master, slave = pty.openpty()
    environment = {
        **os.environ,
        "TERM": "xterm",
        "HOME": str(home),
        "LINES": "40",
        "COLUMNS": "120",
    }
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    shown = b""
    try:
        while True:
            try:
                block = os.read(master, 4096)
            except OSError:
                break
            if not block:
                break
            shown += block
        process.wait(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
    assert process.returncode == 0, shown.decode("latin-1")
    return shown.decode("latin-1")


@pytest.mark.needs("mutt")
async def test_mutt_reads_saves_and_deletes(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        deliver(running.maildir, *messages(3))
        rc = tmp_path / "muttrc"
        rc.write_text(
            f'set imap_user=lcarr\nset imap_pass="{PASSWORD}"\nset ssl_starttls=no\n'
            "set ssl_force_tls=no\nset confirmcreate=no\nset delete=yes\nset quit=yes\n"
            "set wait_key=no\nset mark_old=no\nset sort=mailbox-order\nset timeout=1\n"
            f"set folder=imap://127.0.0.1:{running.port}/\n"
            f'set pipe_decode=yes\nset header_cache=""\nset message_cachedir=""\n'
            f'push "<first-entry><pipe-message>cat > {tmp_path}/piped<enter>'
            f"<next-entry><save-message><kill-line>=Archives<enter>"
            f'<last-entry><flag-message><sync-mailbox><exit>"\n'
        )
        url = f"imap://127.0.0.1:{running.port}/INBOX"
        await asyncio.to_thread(
            run_in_terminal, ["timeout", "20", "mutt", "-n", "-F", str(rc), "-f", url], tmp_path
        )
        assert "Text 1" in (tmp_path / "piped").read_text()
        inbox = list((running.maildir / "cur").iterdir())
        assert len(inbox) == 2
        assert any("F" in one.name.partition(":2,")[2] for one in inbox)
        saved = [
            one
            for folder in ("cur", "new")
            for one in (running.maildir / ".Archives" / folder).iterdir()
        ]
        assert len(saved) == 1
        assert b"Text 2" in saved[0].read_bytes()


async def test_aioimaplib_idle_sees_a_delivery(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        deliver(running.maildir, *messages(1))
        client = aioimaplib.IMAP4("127.0.0.1", running.port, timeout=5)
        await client.wait_hello_from_server()
        assert (await client.login("lcarr", PASSWORD)).result == "OK"
        assert (await client.select()).result == "OK"
        idle = await client.idle_start(timeout=10)
        (running.maildir / "tmp" / "1900000000.M1P1.host").write_bytes(messages(2)[1])
        os.rename(
            running.maildir / "tmp" / "1900000000.M1P1.host",
            running.maildir / "new" / "1900000000.M1P1.host",
        )
        async with asyncio.timeout(5):
            while b"2 EXISTS" not in (await client.wait_server_push()):
                """RECENT and the like come as well."""
        client.idle_done()
        await asyncio.wait_for(idle, 5)
        response = await client.uid("fetch", "2", "(UID FLAGS BODY.PEEK[TEXT])")
        assert response.result == "OK"
        assert b"Text 2\r\n" in response.lines
        await client.logout()
