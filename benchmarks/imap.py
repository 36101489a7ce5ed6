"""IMAP beside Dovecot: the same mailbox, the same commands, in turns; medians in milliseconds.

"cold": a mailbox that the server has not seen before, so that it has no index of it. "warm": the
same command again.
"""

from __future__ import annotations

import contextlib
import os
import poplib
import random
import re
import smtplib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.imap_client import Client
from benchmarks.imap_servers import (
    HOST,
    PASSWORD,
    DovecotServer,
    MailServer,
    ReselMailServer,
    available,
)
from benchmarks.load import BenchmarkError

FIELDS = b"BODY.PEEK[HEADER.FIELDS (FROM TO CC SUBJECT DATE MESSAGE-ID CONTENT-TYPE)]"
_TEXT = (
    "le la les un une des serveur courriel association membre budget facture switch fibre"
    " bonjour merci cordialement planning salle projet code revue version release"
)


@dataclass
class Times:
    """Milliseconds by row, of one server."""

    rows: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.rows.setdefault(name, []).append((time.perf_counter() - started) * 1000)


def corpus(directory: Path, count: int, octets: int) -> None:
    """A Maildir of mail-like messages, in threads, some multipart."""
    rng = random.Random(5)
    for part in ("cur", "new", "tmp"):
        (directory / part).mkdir(parents=True)
    started = 1_700_000_000
    for number in range(count):
        mail = message(rng, number, octets)
        name = f"{started + number * 60}.M{number}P1.bench,S={len(mail)}:2,"
        path = directory / "cur" / (name + rng.choice(("", "S", "S", "RS")))
        path.write_bytes(mail)
        os.utime(path, (started + number * 60, started + number * 60))


def message(rng: random.Random, number: int, octets: int) -> bytes:
    words = _TEXT.split()
    parent = rng.randrange(number) if number and rng.random() < 0.6 else number
    subject = f"{'Re: ' if parent != number else ''}[liste] {rng.choice(words)} {parent % 97}"
    when = time.strftime("%a, %d %b %Y %H:%M:%S +0100", time.gmtime(1_700_000_000 + number * 60))
    lines = [
        "Return-Path: <liste-bounces@example.org>",
        f"Received: from mx{number % 7}.example.org (mx.example.org [192.0.2.{number % 250}])",
        f"\tby toad.example.org (Postfix) with ESMTPS id {number:010X}; {when}",
        f"Date: {when}",
        f"From: Membre {number % 211} <membre{number % 211}@example.org>",
        "To: Liste <liste@example.org>",
        f"Cc: a{number % 13}@example.org, b{number % 17}@example.org",
        f"Subject: {subject}",
        f"Message-ID: <{number}.bench@example.org>",
        "MIME-Version: 1.0",
    ]
    if parent != number:
        lines += [f"In-Reply-To: <{parent}.bench@example.org>",
                  f"References: <{parent}.bench@example.org>"]  # fmt: skip
    text: list[str] = []
    size = 0
    while size < octets - 900:
        line = " ".join(rng.choices(words, k=10))
        text.append(line)
        size += len(line) + 1
    body = "\n".join(text)
    if number % 3:
        lines += ["Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"]
        return ("\n".join(lines) + "\n\n" + body + "\n").encode()
    half = len(body) // 2
    lines.append('Content-Type: multipart/alternative; boundary="=_b"')
    parts = "".join(
        f"--=_b\nContent-Type: text/{kind}; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{part}\n"
        for kind, part in (("plain", body[:half]), ("html", f"<p>{body[half:]}</p>"))
    )
    return ("\n".join(lines) + "\n\n" + parts + "--=_b--\n").encode()


class Pass:
    """One server measured once, on fresh mailboxes."""

    def __init__(
        self, server: MailServer, times: Times, source: Path, users: Iterator[str], count: int
    ) -> None:
        self.server = server
        self.times = times
        self._source = source
        self._users = users
        self._count = count
        self._user = ""

    @contextlib.contextmanager
    def fresh(self, select: bool = True) -> Iterator[Client]:
        """A session on a mailbox that the server has not seen before."""
        user = self._user = next(self._users)
        self._populate(self.server.mail / user)
        client = Client(self.server.port)
        client.login(user, PASSWORD)
        if select:
            client.command(b"SELECT INBOX")
        yield client
        client.close()

    def _populate(self, target: Path) -> None:
        server = self.server
        target.mkdir()
        server.give(target)
        for part in ("cur", "new", "tmp"):
            (target / part).mkdir(mode=0o700)
            server.give(target / part)
        for entry in os.scandir(self._source / "cur"):
            os.link(entry.path, target / "cur" / entry.name)

    def _measure(self, name: str, client: Client, command: bytes, repeats: int = 1) -> bytes:
        with self.times.row(name):
            for _ in range(repeats):
                answer = client.command(command)
        return answer

    def run(self) -> None:
        self._sessions()
        for name, command in (
            ("ENVELOPE", b"FETCH 1:* (UID ENVELOPE)"),
            ("BODYSTRUCTURE", b"FETCH 1:* (UID BODYSTRUCTURE)"),
            ("header fields", b"FETCH 1:* (UID %b)" % FIELDS),
            ("SEARCH SUBJECT", b"SEARCH SUBJECT facture"),
            ("SEARCH BODY", b"SEARCH BODY cordialemenx"),
            ("SORT", b"SORT (SUBJECT REVERSE DATE) UTF-8 ALL"),
            ("THREAD", b"THREAD REFERENCES UTF-8 ALL"),
        ):
            with self.fresh() as client:
                if command[:4] in (b"SORT", b"THRE") and b"SORT" not in client.command(
                    b"CAPABILITY"
                ):
                    continue
                self._measure(f"{name} cold", client, command)
                # Dovecot decides what to cache at the second look.
                client.command(command)
                self._measure(f"{name} warm", client, command)
        self._arrivals()
        self._deliveries()
        self._pop3()
        self._changes()
        self._folders()

    def _sessions(self) -> None:
        with self.fresh(select=False) as client:
            self._measure("SELECT cold", client, b"SELECT INBOX")
            self._measure("SELECT warm", client, b"SELECT INBOX")
            self._measure("FETCH FLAGS", client, b"FETCH 1:* (FLAGS)")
            self._measure("FETCH BODY[] all", client, b"FETCH 1:* (BODY.PEEK[])")
            with self.times.row("FETCH one BODY[] x400"):
                for number in range(1, self._count, max(1, self._count // 400)):
                    client.command(b"FETCH %d (BODY.PEEK[])" % number)
            self._measure("SEARCH UNSEEN FLAGGED", client, b"SEARCH UNSEEN FLAGGED")
        with self.times.row("connect LOGIN LOGOUT x10"):
            for _ in range(10):
                other = Client(self.server.port)
                other.login("u0", PASSWORD)
                other.close()

    def _arrivals(self) -> None:
        """Files that another program drops into new/."""
        with self.fresh() as client:
            maildir = self.server.mail / self._user
            with self.times.row("SELECT after a file dropped x5"):
                for number in range(5):
                    self._drop(maildir, number)
                    client.command(b"SELECT INBOX")
            client.idle()
            for number in range(5, 10):
                with self.times.row("IDLE: file dropped to EXISTS"):
                    self._drop(maildir, number)
                    client.await_exists()
                # Both settle, so that one arrival does not hide in another.
                time.sleep(0.3)
            client.done()

    def _deliveries(self) -> None:
        """What comes by LMTP, on one connection kept open."""
        with self.fresh() as client, smtplib.LMTP("127.0.0.1", self.server.lmtp) as lmtp:
            mail = message(random.Random(1), 1, 6000).replace(b"\n", b"\r\n")
            address = f"{self._user}@{HOST}"

            def deliver() -> None:
                lmtp.sendmail("liste@example.org", [address], mail)

            there = exists(client.command(b"SELECT INBOX"))
            for number in range(1, 6):
                deliver()
                with self.times.row("SELECT after a delivery"):
                    answer = client.command(b"SELECT INBOX")
                expect(exists(answer), there + number)
            for number in range(6, 11):
                with self.times.row("deliver one + NOOP"):
                    deliver()
                    answer = client.command(b"NOOP")
                expect(exists(answer), there + number)
            client.idle()
            for _ in range(5):
                with self.times.row("IDLE: LMTP to EXISTS"):
                    deliver()
                    client.await_exists()
                # Both settle, so that one arrival does not hide in another.
                time.sleep(0.3)
            client.done()
            with self.times.row("LMTP 200 mails, 1 connection"):
                for _ in range(200):
                    deliver()

    def _pop3(self) -> None:
        with self.fresh(select=False):
            pop3 = poplib.POP3("127.0.0.1", self.server.pop3, timeout=60)
            pop3.user(self._user)
            pop3.pass_(PASSWORD)
            with self.times.row("POP3 RETR all"):
                for number in range(1, pop3.stat()[0] + 1):
                    pop3.retr(number)
            pop3.quit()

    def _drop(self, maildir: Path, number: int) -> None:
        path = maildir / "tmp" / f"{1_800_000_000 + number}.M{number}P2.bench"
        path.write_bytes(message(random.Random(number), 1, 2000))
        self.server.give(path)
        path.rename(maildir / "new" / path.name)

    def _changes(self) -> None:
        with self.fresh() as client:
            self._measure("STORE 1:* +FLAGS", client, b"STORE 1:* +FLAGS.SILENT (\\Flagged)")
            with self.times.row("STORE one x200"):
                for number in range(1, 201):
                    client.command(b"STORE %d +FLAGS (\\Draft)" % number)
            mail = message(random.Random(1), 1, 6000).replace(b"\n", b"\r\n")
            client.command(b"CREATE Copies")
            client.command(b"CREATE Moved")
            with self.times.row("APPEND x100"):
                for _ in range(100):
                    client.append(b"Copies", mail)
            self._measure("COPY 1:*", client, b"COPY 1:* Copies")
            self._measure("MOVE 1:*", client, b"MOVE 1:* Moved")
            client.command(b"SELECT Copies")
            client.command(b"STORE 1:* +FLAGS.SILENT (\\Deleted)")
            self._measure("EXPUNGE all", client, b"EXPUNGE")

    def _folders(self) -> None:
        with self.fresh(select=False) as client:
            mail = message(random.Random(1), 1, 600).replace(b"\n", b"\r\n")
            for number in range(50):
                client.command(b"CREATE F%d" % number)
                client.append(b"F%d" % number, mail)
            with self.times.row("STATUS 50 folders warm"):
                for number in range(50):
                    client.command(b"STATUS F%d (MESSAGES UNSEEN UIDNEXT RECENT)" % number)
            for number in range(50):
                client.append(b"F%d" % number, mail)
            with self.times.row("STATUS 50 folders, 1 new"):
                for number in range(50):
                    client.command(b"STATUS F%d (MESSAGES UNSEEN UIDNEXT RECENT)" % number)


def exists(answer: bytes) -> int:
    """The messages that the last EXISTS of an answer tells of; 0 if it has none."""
    found = re.findall(rb"^\* (\d+) EXISTS\r$", answer, re.MULTILINE)
    return int(found[-1]) if found else 0


def expect(found: int, wanted: int) -> None:
    """A server that shows mail late must not look fast. Raises BenchmarkError."""
    if found != wanted:
        raise BenchmarkError(f"{found} messages shown, {wanted} are there")


@dataclass(frozen=True)
class Outcome:
    """Milliseconds by server and row."""

    times: dict[str, Times]

    def table(self) -> str:
        names = list(self.times)
        lines = [f"{'ms, medians':<28}" + "".join(f"{name:>12}" for name in names)]
        rows = {row: None for times in self.times.values() for row in times.rows}
        for row in rows:
            found = [self.median(name, row) for name in names]
            line = f"{row:<28}" + "".join(
                "          --" if v is None else f"{v:>12.2f}" for v in found
            )
            if len(found) == 2 and found[0] and found[1]:
                line += f"{found[0] / found[1]:>8.2f}×"
            lines.append(line)
        return "\n".join(lines)

    def median(self, server: str, row: str) -> float | None:
        values = self.times[server].rows.get(row)
        return statistics.median(values) if values else None

    def as_json(self) -> dict[str, dict[str, list[float]]]:
        return {name: times.rows for name, times in self.times.items()}


def measure(
    directory: Path,
    passes: int,
    count: int,
    octets: int,
    without: Sequence[str],
    tell: Callable[[str], None],
) -> Outcome:
    """Raises BenchmarkError."""
    corpus(directory / "corpus", count, octets)
    kinds: list[type[MailServer]] = []
    reason = available()
    if reason:
        tell(f"Dovecot is not measured: {reason}.")
    elif "dovecot" not in without:
        kinds.append(DovecotServer)
    if "resel-mta" not in without:
        kinds.append(ReselMailServer)
    times: dict[str, Times] = {}
    with contextlib.ExitStack() as stack:
        rivals: list[tuple[MailServer, Iterator[str]]] = []
        for kind in kinds:
            server = kind(directory / kind.__name__, 15 * passes)
            stack.callback(server.stop)
            rivals.append((server, iter([f"u{n}" for n in range(15 * passes)])))
            times[server.name] = Times()
            for entry in os.scandir(directory / "corpus" / "cur"):
                server.give(Path(entry.path))
        for number in range(passes):
            for server, users in rivals if number % 2 == 0 else list(reversed(rivals)):
                Pass(server, times[server.name], directory / "corpus", users, count).run()
                tell(f"pass {number + 1}: {server.name}")
    if not times:
        raise BenchmarkError("nothing to measure")
    return Outcome(times)
