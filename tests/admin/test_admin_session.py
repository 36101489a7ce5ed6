"""The worker's side of an administrator's command, on a socket."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

from resel_lda.admin.session import AdminSession
from resel_lda.imap.stream import Stream
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User


async def test_an_answer_is_read_though_the_message_was_not(tmp_path: Path) -> None:
    """A mailbox that is not there is known before the message is read, which is still being
    sent then."""
    settings = Settings.build("server", mail_location=f"maildir:{tmp_path}/%u")
    store = MaildirStore(User("u"), settings, Disk(), MailLog(StreamSink(2)))
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    stream = Stream()
    await loop.create_unix_connection(lambda: stream, sock=theirs)
    message = b"x" * 10_000_000
    request = {
        "command": "save",
        "args": {"mailbox": "Nosuch"},
        "octets": len(message),
    }

    def ask() -> bytes:
        with ours:
            ours.sendall(json.dumps(request).encode() + b"\n" + message)
            with ours.makefile("rb") as answers:
                return answers.readline()

    asking = asyncio.create_task(asyncio.to_thread(ask))
    session = AdminSession(stream, User("u"), store, settings, print)
    assert await session.run() == "Command save"
    stream.close()
    assert json.loads(await asking) == {
        "problem": "Failed to open mailbox Nosuch: Mailbox doesn't exist: Nosuch",
        "exit": 68,
    }
    await store.close()


async def test_the_log_says_that_the_asker_took_no_answer(tmp_path: Path) -> None:
    settings = Settings.build("server", mail_location=f"maildir:{tmp_path}/%u")
    store = MaildirStore(User("u"), settings, Disk(), MailLog(StreamSink(2)))
    new = tmp_path / "u" / "new"
    new.mkdir(parents=True)
    (new / "1.a.host").write_bytes(b"Subject: large\n\n" + b"line\n" * 400_000)
    ours, theirs = socket.socketpair()
    stream = Stream(stall_limit=0.05)
    await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=theirs)
    request = {"command": "fetch", "args": {"fields": ["text"], "query": ["mailbox", "INBOX"]}}
    with ours:
        ours.sendall(json.dumps(request).encode() + b"\n")
        session = AdminSession(stream, User("u"), store, settings, print)
        async with asyncio.timeout(20):
            assert await session.run() == "Client does not take what is sent to it"
    await store.close()
