"""The same Maildir served by a real Dovecot and by us, for comparing answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from imap_dialog import Client, session_on

sys.path.append(str(Path(__file__).parent.parent / "mime"))
from dovecot_imap import IMAP, DovecotImap

from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

__all__ = ["IMAP", "Pair", "pair"]


class Pair:
    """One session on each."""

    def __init__(self, dovecot: DovecotImap, client: Client, store: MaildirStore) -> None:
        self.dovecot = dovecot
        self.client = client
        self.store = store

    async def both(self, command: str) -> tuple[list[bytes], list[bytes]]:
        """(Dovecot's untagged answers, ours)."""
        theirs = await asyncio.to_thread(self.dovecot.command, command)
        ours = await self.client.command(command)
        return [line.rstrip(b"\r\n") for line in theirs[:-1]], [
            line.encode("latin-1") for line in ours[:-1]
        ]


@contextlib.asynccontextmanager
async def pair(mails: Sequence[bytes], flags: Sequence[str] = ()) -> AsyncIterator[Pair]:
    """Both have INBOX selected. mails: as they lie on disk, a minute apart; flags: letters."""
    # Not tmp_path: the user nobody must be able to reach it.
    root = Path(tempfile.mkdtemp(prefix="resel-pair-"))
    try:
        os.chmod(root, 0o755)
        for name in ("theirs/Maildir", "ours"):
            for part in ("cur", "new", "tmp"):
                (root / name / part).mkdir(parents=True)
            for number, mail in enumerate(mails):
                letters = flags[number % len(flags)] if flags else ""
                moment = 1700000000 + 60 * number
                path = root / name / "cur" / f"{moment}.M{number}P1.h:2,{letters}"
                path.write_bytes(mail)
                os.utime(path, (moment, moment))
        settings = Settings.build("server", mail_location=f"maildir:{root}/ours")
        store = MaildirStore(
            User("tester", home=str(root)), settings, Disk(), MailLog(StreamSink(2))
        )
        with DovecotImap(root / "theirs") as dovecot:
            async with session_on(store) as client:
                found = Pair(dovecot, client, store)
                await found.both("SELECT INBOX")
                yield found
        await store.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
