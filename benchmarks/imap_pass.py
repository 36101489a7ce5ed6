"""One server measured once, on fresh mailboxes: a method for each group of rows."""

from __future__ import annotations

import contextlib
import os
import poplib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from benchmarks import imap_crowd
from benchmarks.imap_client import Client
from benchmarks.imap_lmtp import LmtpClient, in_threads
from benchmarks.imap_mail import NEEDLE, Corpus, message
from benchmarks.imap_rows import Times, exists, expect, fetched, literals, numbers
from benchmarks.imap_servers import HOST, PASSWORD, MailServer
from benchmarks.load import BenchmarkError

FIELDS = b"BODY.PEEK[HEADER.FIELDS (FROM TO CC SUBJECT DATE MESSAGE-ID CONTENT-TYPE)]"
LOOKS: Mapping[str, bytes] = {
    "ENVELOPE": b"FETCH 1:* (UID ENVELOPE)",
    "BODYSTRUCTURE": b"FETCH 1:* (UID BODYSTRUCTURE)",
    "header fields": b"FETCH 1:* (UID %b)" % FIELDS,
    "SEARCH SUBJECT": b"SEARCH SUBJECT %b" % NEEDLE.encode(),
    "SEARCH BODY": b"SEARCH BODY cordialemenx",
    "SORT": b"SORT (SUBJECT REVERSE DATE) UTF-8 ALL",
    "THREAD": b"THREAD REFERENCES UTF-8 ALL",
}
LMTP = {
    "LMTP 200 mails, 1 connection": (200, 1),
    "LMTP 400 mails, 10 connections": (400, 10),
}
"""(mails, connections)"""
PATIENCE = 20.0
"""Seconds in which mail that was taken has to be shown."""
LARGE = 20_000
"""Messages from which on only the rows that `Pass.large` names are measured."""
USERS = 50
"""Mailboxes that a pass, or its crowd, takes at most."""
_FOLDERS = 50
_STATUS = b"(MESSAGES UNSEEN UIDNEXT RECENT)"


def mail_of(octets: int) -> bytes:
    """A message for APPEND and LMTP."""
    return message(random.Random(1), 1, octets).replace(b"\n", b"\r\n")


class Pass:
    """users: names that no pass has had yet."""

    def __init__(
        self, server: MailServer, times: Times, source: Corpus, users: Iterator[str]
    ) -> None:
        self.server = server
        self.times = times
        self._source = source
        self._users = users
        self._count = source.count
        self._user = ""

    def run(self) -> None:
        """All rows but those of `crowd`. Raises BenchmarkError."""
        for name, command in LOOKS.items():
            large = self._count < LARGE or name in (
                "ENVELOPE", "SEARCH SUBJECT", "SORT", "THREAD"
            )  # fmt: skip
            if large and self.times.wants((f"{name} cold", f"{name} warm")):
                self._look(name, command)
        for rows, method, is_large in self._groups():
            if (self._count < LARGE or is_large) and self.times.wants(rows):
                method()

    def _groups(self) -> list[tuple[Sequence[str], Callable[[], None], bool]]:
        """(rows, what measures them, whether it is done with many thousands of messages too)"""
        return [
            (
                ("SELECT cold", "SELECT warm", "FETCH FLAGS", "FETCH BODY[] all",
                 "FETCH one BODY[] x400", "SEARCH UNSEEN FLAGGED"),
                self._session, True,
            ),
            (("STORE 1:* +FLAGS", "STORE 1:* again"), self._store, True),
            (("STORE one x200",), self._store_one, False),
            (("connect LOGIN LOGOUT x10",), self._log_in, False),
            (("SELECT after a file dropped x5", "IDLE: file dropped to EXISTS"),
             self._arrivals, False),
            (("SELECT after a delivery", "deliver one + NOOP", "IDLE: LMTP to EXISTS"),
             self._deliveries, True),
            (tuple(LMTP), self._bulk, False),
            (("POP3 RETR all",), self._pop3, False),
            (("APPEND x100", "COPY 1:*", "MOVE 1:*", "EXPUNGE all"), self._changes, False),
            (("STATUS 50 folders cold", "STATUS 50 folders warm", "STATUS 50 folders, 1 new each"),
             self._folders, False),
        ]  # fmt: skip

    # Mailboxes.

    @contextlib.contextmanager
    def fresh(self, select: bool = True) -> Iterator[Client]:
        """A session on a mailbox that the server has not seen before."""
        self._user = self._mailbox()
        client = Client(self.server.port)
        client.login(self._user, PASSWORD)
        if select:
            expect(exists(client.command(b"SELECT INBOX")), self._count)
        yield client
        client.close()

    def _mailbox(self) -> str:
        """Whose it is."""
        user = next(self._users)
        self._folder(user, "", [entry.name for entry in os.scandir(self._source.cur)])
        return user

    def _folder(self, user: str, name: str, files: Sequence[str]) -> None:
        server = self.server
        target = server.mail / user / name
        target.mkdir()
        server.give(target)
        for part in ("cur", "new", "tmp"):
            (target / part).mkdir(mode=0o700)
            server.give(target / part)
        if name:
            (target / "maildirfolder").touch()
        for file in files:
            os.link(self._source.cur / file, target / "cur" / file)
        # What the disk has to do for it is not to be in the first measurement.
        directory = os.open(target / "cur", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)

    def _measure(self, name: str, client: Client, command: bytes) -> bytes:
        with self.times.row(name):
            return client.command(command)

    # Rows.

    def _look(self, name: str, command: bytes) -> None:
        with self.fresh() as client:
            if name in ("SORT", "THREAD") and b"SORT" not in client.command(b"CAPABILITY"):
                return
            cold = self._measure(f"{name} cold", client, command)
            self._check(name, cold)
            # Dovecot decides what to cache at the second look.
            self._check(name, client.command(command))
            self._check(name, self._measure(f"{name} warm", client, command))
            if name == "SEARCH BODY":
                # What finds nothing must be able to find.
                expect(len(numbers(client.command(b"SEARCH BODY cordialement"))), self._count)

    def _check(self, name: str, answer: bytes) -> None:
        if name in ("ENVELOPE", "BODYSTRUCTURE"):
            expect(fetched(answer, name.encode() + b" ("), self._count)
        elif name == "header fields":
            expect(literals(answer)[0], self._count)
        elif name == "SEARCH BODY":
            expect(len(numbers(answer)), 0)
        elif name == "SEARCH SUBJECT":
            if numbers(answer) != list(self._source.found):
                raise BenchmarkError("SEARCH SUBJECT found others than there are")
        elif sorted(numbers(answer)) != list(range(1, self._count + 1)):
            raise BenchmarkError(f"{name} does not name each message once")

    def _session(self) -> None:
        count, many = self._count, self._count >= LARGE
        with self.fresh(select=False) as client:
            for row in ("SELECT cold", "SELECT warm"):
                expect(exists(self._measure(row, client, b"SELECT INBOX")), count)
            answer = self._measure("FETCH FLAGS", client, b"FETCH 1:* (FLAGS)")
            expect(fetched(answer, b"FLAGS ("), count)
            answer = self._measure("SEARCH UNSEEN FLAGGED", client, b"SEARCH UNSEEN FLAGGED")
            expect(len(numbers(answer)), 0)
            if many or not self.times.wants(("FETCH BODY[] all", "FETCH one BODY[] x400")):
                return
            answer = self._measure("FETCH BODY[] all", client, b"FETCH 1:* (BODY.PEEK[])")
            if literals(answer) != (count, self._source.octets):
                raise BenchmarkError("FETCH BODY[] did not tell all of all messages")
            chosen = range(1, count + 1, max(1, count // 400))
            with self.times.row("FETCH one BODY[] x400"):
                told = [literals(client.command(b"FETCH %d (BODY.PEEK[])" % n))[0] for n in chosen]
            expect(sum(told), len(chosen))

    def _log_in(self) -> None:
        user = self._mailbox()
        with self.times.row("connect LOGIN LOGOUT x10"):
            for _ in range(10):
                other = Client(self.server.port)
                other.login(user, PASSWORD)
                other.close()

    def _arrivals(self) -> None:
        """Files that another program drops into new/."""
        with self.fresh() as client:
            maildir = self.server.mail / self._user
            with self.times.row("SELECT after a file dropped x5"):
                for number in range(5):
                    self._drop(maildir, number)
                    _until_shown(client, b"SELECT INBOX", self._count + number + 1)
            client.idle()
            for number in range(5, 10):
                with self.times.row("IDLE: file dropped to EXISTS"):
                    self._drop(maildir, number)
                    client.await_exists(self._count + number + 1)
                # Both settle, so that one arrival does not hide in another.
                time.sleep(0.3)
            client.done()

    def _drop(self, maildir: os.PathLike[str], number: int) -> None:
        name = f"{1_800_000_000 + number}.M{number}P2.bench"
        path = self.server.mail / maildir / "tmp" / name
        path.write_bytes(message(random.Random(number), 1, 2000))
        self.server.give(path)
        path.rename(self.server.mail / maildir / "new" / name)

    def _deliveries(self) -> None:
        """What comes by LMTP while the mailbox is open."""
        mail, there = mail_of(6000), self._count
        with self.fresh() as client, contextlib.closing(LmtpClient(self.server.lmtp)) as lmtp:
            address = f"{self._user}@{HOST}"
            for _ in range(5):
                lmtp.deliver(address, mail)
                there += 1
                with self.times.row("SELECT after a delivery"):
                    _until_shown(client, b"SELECT INBOX", there)
            for _ in range(5):
                there += 1
                with self.times.row("deliver one + NOOP"):
                    lmtp.deliver(address, mail)
                    _until_shown(client, b"NOOP", there)
            client.idle()
            for _ in range(5):
                there += 1
                with self.times.row("IDLE: LMTP to EXISTS"):
                    lmtp.deliver(address, mail)
                    client.await_exists(there)
                time.sleep(0.3)
            client.done()

    def _bulk(self) -> None:
        """Deliveries to an open mailbox, as fast as they are taken."""
        mail, there = mail_of(6000), self._count
        with self.fresh() as client:
            address = f"{self._user}@{HOST}"
            for row, (count, connections) in LMTP.items():
                clients = [LmtpClient(self.server.lmtp) for _ in range(connections)]
                works = [partial(lmtp.deliver, address, mail) for lmtp in clients]
                with self.times.row(row):
                    in_threads(count, works)
                for lmtp in clients:
                    lmtp.close()
                there += count
                _until_shown(client, b"SELECT INBOX", there)

    def _pop3(self) -> None:
        with self.fresh(select=False):
            pop3 = poplib.POP3("127.0.0.1", self.server.pop3, timeout=60)
            pop3.user(self._user)
            pop3.pass_(PASSWORD)
            octets = 0
            with self.times.row("POP3 RETR all"):
                for number in range(1, pop3.stat()[0] + 1):
                    octets += pop3.retr(number)[2]
            pop3.quit()
            if octets != self._source.octets:
                raise BenchmarkError("RETR did not tell all of all messages")

    def _store(self) -> None:
        with self.fresh() as client:
            command = b"STORE 1:* +FLAGS.SILENT (\\Flagged)"
            self._measure("STORE 1:* +FLAGS", client, command)
            self._measure("STORE 1:* again", client, command)
            expect(len(numbers(client.command(b"SEARCH FLAGGED"))), self._count)

    def _store_one(self) -> None:
        with self.fresh() as client:
            last = min(200, self._count)
            with self.times.row("STORE one x200"):
                for number in range(1, last + 1):
                    client.command(b"STORE %d +FLAGS (\\Draft)" % number)
            expect(len(numbers(client.command(b"SEARCH DRAFT"))), last)

    def _changes(self) -> None:
        with self.fresh() as client:
            mail, count = mail_of(6000), self._count
            client.command(b"CREATE Copies")
            client.command(b"CREATE Moved")
            with self.times.row("APPEND x100"):
                for _ in range(100):
                    client.append(b"Copies", mail)
            self._measure("COPY 1:*", client, b"COPY 1:* Copies")
            answer = self._measure("MOVE 1:*", client, b"MOVE 1:* Moved")
            expect(answer.count(b" EXPUNGE\r\n"), count)
            expect(exists(client.command(b"SELECT Moved")), count)
            expect(exists(client.command(b"SELECT Copies")), count + 100)
            client.command(b"STORE 1:* +FLAGS.SILENT (\\Deleted)")
            answer = self._measure("EXPUNGE all", client, b"EXPUNGE")
            expect(answer.count(b" EXPUNGE\r\n"), count + 100)

    def _folders(self) -> None:
        """As many messages in each of them as make up the mailbox."""
        mail = mail_of(600)
        files = [entry.name for entry in os.scandir(self._source.cur)]
        each = max(1, len(files) // _FOLDERS)
        with self.fresh(select=False) as client:
            for number in range(_FOLDERS):
                start = number * each % len(files)
                self._folder(self._user, f".F{number}", files[start : start + each])
            self._status("STATUS 50 folders cold", client, each)
            self._status("STATUS 50 folders warm", client, each)
            for number in range(_FOLDERS):
                client.append(b"F%d" % number, mail)
            self._status("STATUS 50 folders, 1 new each", client, each + 1)

    def _status(self, row: str, client: Client, each: int) -> None:
        with self.times.row(row):
            answers = [
                client.command(b"STATUS F%d %b" % (number, _STATUS)) for number in range(_FOLDERS)
            ]
        expect(sum(b"(MESSAGES %d " % each in answer for answer in answers), _FOLDERS)

    def crowd(self) -> None:
        """For a server that has done nothing else yet, which would be in its memory. Raises
        BenchmarkError."""
        users = [self._mailbox() for _ in range(imap_crowd.CLIENTS)]
        imap_crowd.measure(self.server, self.times, users, self._count)


def _until_shown(client: Client, command: bytes, wanted: int) -> None:
    """Ask until all mail is shown: Dovecot looks at a folder later than it might, now and then. Raises
    BenchmarkError after some seconds."""
    until = time.monotonic() + PATIENCE
    while (shown := exists(client.command(command))) != wanted:
        if time.monotonic() > until:
            expect(shown, wanted)
