"""A relay that is killed under load: its clients, its next hop, and the account of both.

The next hop is a bad one: it answers 4xx, drops the connection in the middle of DATA or after its
end, and stalls. It notes what it took, so that what clients were told can be compared with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo.launcher import Launcher

SIZES = (300, 300, 5_000, 5_000, 60_000, 300_000)
"""Octets of bodies: in the database, and in files of their own."""
SETTINGS = """\
role = relay
myhostname = relay.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_listen = 127.0.0.1:{port}
relayhost = [127.0.0.1]:{next_hop}
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
alias_maps =
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
smtp_data_xfer_timeout = 3s
smtp_data_done_timeout = 3s
smtp_rcpt_timeout = 3s
smtpd_client_connection_rate_limit = 0
"""


def body_of(number: int) -> bytes:
    """What mail number `number` says; every octet is determined."""
    chance = random.Random(number)
    size = chance.choice(SIZES)
    words = b" ".join(b"%x" % chance.getrandbits(64) for _ in range(size // 17))
    lines = [b"." + words[at : at + 70] for at in range(0, len(words), 70)]
    return b"\r\n".join([*lines, b"end of %d" % number, b""])


@dataclass
class Account:
    """acknowledged: (mail, recipient) that a client got a 250 for. arrived: when the next hop
    answered 250 for them. doubtful: when it dropped the connection after the whole mail.
    corrupt: what arrived otherwise than it was sent."""

    acknowledged: set[tuple[int, str]] = field(default_factory=set)
    arrived: dict[tuple[int, str], list[float]] = field(
        default_factory=lambda: defaultdict(list[float])
    )
    doubtful: dict[tuple[int, str], list[float]] = field(
        default_factory=lambda: defaultdict(list[float])
    )
    corrupt: list[int] = field(default_factory=list)

    def lost(self) -> list[tuple[int, str]]:
        return sorted(key for key in self.acknowledged if not self.arrived.get(key))

    def duplicates(self) -> int:
        return sum(len(times) - 1 for times in self.arrived.values())


def back_after_removal(log: str) -> list[str]:
    """Queue ids that the log mentions again after it said that they were removed, which it says
    when that is on the disk."""
    removed: set[str] = set()
    back: set[str] = set()
    for line in log.splitlines():
        queue_id, _, text = line.partition("]: ")[2].partition(": ")
        if text == "removed":
            removed.add(queue_id)
        elif queue_id in removed:
            back.add(queue_id)
    return sorted(back)


class BadNextHop:
    """An SMTP server in a thread of its own."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._chance = random.Random(4)
        self.kind = False
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._session, "127.0.0.1", 0, limit=1 << 20)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                self._loop.run_until_complete(task)
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._server.close()
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()

    def _fails(self, probability: float) -> bool:
        return not self.kind and self._chance.random() < probability

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                writer.write(b"220 bad.example.net ESMTP\r\n")
                await self._converse(reader, writer)
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        begun = False
        while line := await reader.readline():
            verb = line[:4].upper()
            answer = b"250 2.0.0 ok"
            if verb == b"EHLO":
                answer = b"250-bad.example.net\r\n250-PIPELINING\r\n250 8BITMIME"
            elif verb == b"MAIL":
                recipients = []
                begun = not self._fails(0.03)
                if not begun:
                    answer = b"450 4.3.2 not now"
            elif verb == b"RCPT":
                if not begun:
                    answer = b"503 5.5.1 MAIL first"
                elif self._fails(0.05):
                    answer = b"451 4.3.0 not him"
                else:
                    recipients.append(line.partition(b"<")[2].partition(b">")[0].decode())
            elif verb == b"DATA":
                if not recipients:
                    answer = b"503 5.5.1 nobody"
                else:
                    writer.write(b"354 go\r\n")
                    if not await self._data(reader, writer, recipients):
                        return
                    continue
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            writer.write(answer + b"\r\n")

    async def _data(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recipients: list[str]
    ) -> bool:
        """Whether the session goes on."""
        if self._fails(0.03):
            await reader.readline()
            return False
        if self._fails(0.01):
            await asyncio.sleep(4)
            return False
        lines = []
        while (line := await reader.readline()) != b".\r\n":
            if not line.endswith(b"\r\n"):
                return False
            lines.append(line[1:] if line.startswith(b".") else line)
        header, _, body = b"".join(lines).partition(b"\r\n\r\n")
        number = int(header.partition(b"X-Number: ")[2].partition(b"\r\n")[0])
        if body != body_of(number):
            self._account.corrupt.append(number)
        now = time.monotonic()
        if self._fails(0.05):
            writer.write(b"452 4.3.1 full\r\n")
            return True
        if self._fails(0.02):
            for recipient in recipients:
                self._account.doubtful[number, recipient].append(now)
            return False
        for recipient in recipients:
            self._account.arrived[number, recipient].append(now)
        writer.write(b"250 2.0.0 taken\r\n")
        return True


class Relay:
    """The daemon, in a process group of its own."""

    def __init__(self, next_hop: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="resel-kill-", dir="/var/tmp"))
        self._launcher = Launcher(self.directory)
        self.directory.chmod(0o755)
        self._launcher.give(self.directory)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        text = SETTINGS.format(port=self.port, next_hop=next_hop, directory=self.directory)
        (self.directory / "main.cf").write_text(text)
        for name in ("queue", "data"):
            (self.directory / name).mkdir()
            self._launcher.give(self.directory / name)
        self._output = (self.directory / "output").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, under: Sequence[str] = ()) -> None:
        """under: a command that runs it, such as strace."""
        words = [*under, *self._launcher.command("resel-mta"), "-c", str(self.directory)]
        self._process = self._launcher.start(words, self._output, {})

    def kill(self) -> None:
        """The whole group, by SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def queue(self) -> str:
        """The last line of the listing."""
        words = [*self._launcher.command("resel-queue"), "-c", str(self.directory), "-p"]
        listing = self._launcher.run(words, timeout=30).stdout.splitlines()
        return listing[-1] if listing else ""

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def output(self) -> str:
        return (self.directory / "output").read_text()

    def close(self) -> None:
        self.kill()
        self._output.close()
        shutil.rmtree(self.directory)


class Load:
    """Clients that hand in mail, and go on when the relay is away."""

    def __init__(self, port: int, account: Account, clients: int = 6) -> None:
        self._port = port
        self._account = account
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(n,)) for n in range(1, clients + 1)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _client(self, name: int) -> None:
        number = name * 1_000_000
        chance = random.Random(name)
        while not self._ended.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self._port, timeout=20) as client:
                    client.ehlo("client.example.org")
                    while not self._ended.is_set():
                        number += 1
                        self._send(client, number, chance.choice((1, 1, 1, 4)))
            except (OSError, smtplib.SMTPException):
                self._ended.wait(0.01)

    def _send(self, client: smtplib.SMTP, number: int, count: int) -> None:
        client.mail("sender@example.org")
        recipients = [f"r{n}@example.net" for n in range(count)]
        for recipient in recipients:
            client.rcpt(recipient)
        header = b"Subject: mail\r\nX-Number: %d\r\n\r\n" % number
        code, _ = client.data(header + body_of(number))
        if code == 250:
            self._account.acknowledged.update((number, recipient) for recipient in recipients)
