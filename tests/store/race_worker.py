"""A process of ours for the kill -9 tests: changes a Maildir and says what it did.

    race_worker.py ROOT UID NUMBER

Lines on standard output, each after the operation is durable: "append MARK UID", "flag UID",
"expunge UID". Everything is imported before it becomes UID.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from resel_lda.mailbox import AppendData, MailboxError
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.users import User


class Silent:
    def write(self, lines: list[str]) -> None: ...

    def reopen(self) -> None: ...


async def work(root: str, number: str) -> None:
    rng = random.Random(number)
    settings = Settings.build("server", mail_location=f"maildir:{root}/Maildir")
    store = MaildirStore(User("tester", home=root), settings, Disk(), MailLog(Silent()))
    folder = await store.open("INBOX")
    count = 0
    while True:
        count += 1
        mark = f"ours-{number}-{count}"
        mail = f"Subject: {mark}\r\n\r\nbody\r\n".encode()
        uid = (await folder.append([AppendData([mail], len(mail))]))[0]
        print("append", mark, uid, flush=True)
        some = rng.choice(folder.uids())
        try:
            if (await folder.store([some], [rng.choice(("\\Seen", "Work"))], "add")).done:
                print("flag", some, flush=True)
            if count % 5 == 0:
                gone = await folder.expunge([rng.choice(folder.uids())])
                if gone:
                    print("expunge", gone[0], flush=True)
        except MailboxError as error:
            if error.code not in ("EXPUNGEISSUED", "INUSE"):
                raise


def main() -> None:
    root, uid, number = sys.argv[1:]
    if int(uid) != os.getuid():
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    asyncio.run(work(root, number))


if __name__ == "__main__":
    main()
