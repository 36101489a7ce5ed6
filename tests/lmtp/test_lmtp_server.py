"""LMTP on a whole daemon: Toad with `lmtp_listen`, real clients, mailboxes read back by IMAP."""

from __future__ import annotations

import contextlib
import os
import smtplib
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from demo.machines import free_port
from demo.network import TOAD, Network

MAIL = b"From: a@example.org\r\nTo: lcarr@resel.fr\r\nSubject: by LMTP\r\n\r\n.\r\nline\r\n"


@pytest.fixture
def port() -> int:
    return free_port([TOAD])


@pytest.fixture
def network(port: int) -> Iterator[Network]:
    with Network({"toad": {"lmtp_listen": f":{port}"}}) as network:
        path = network.toad.directory / "lmtp.sock"
        network.toad.configure({"lmtp_listen": f":{port} unix:{path}"})
        network.toad.start()
        yield network


def subjects(network: Network, folder: str = "INBOX") -> list[bytes]:
    client = network.imap()
    _, (count,) = client.select(folder, readonly=True)
    parts = []
    if count != b"0":
        _, parts = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    client.logout()
    return [part[1].strip() for part in parts if isinstance(part, tuple)]


class Dialog:
    """Lines out, whole replies in."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=10)
        self._file = self._socket.makefile("rwb")

    def send(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

    def reply(self) -> str:
        lines = []
        while True:
            line = self._file.readline().decode()
            lines.append(line)
            if line[3:4] != "-":
                return "".join(lines)

    def ask(self, line: str) -> str:
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def __enter__(self) -> Dialog:
        assert self.reply().startswith("220 ")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._socket.close()


def test_every_recipient_has_a_reply_of_its_own(network: Network, port: int) -> None:
    with Dialog((TOAD, port)) as dialog:
        assert dialog.ask("EHLO me").startswith("500 5.5.2")
        assert dialog.ask("HELO me").startswith("500 5.5.2")
        features = dialog.ask("LHLO me")
        for word in ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "CHUNKING"):
            assert f"250-{word}\r\n" in features or f"250 {word}\r\n" in features
        assert dialog.ask("MAIL FROM:<a@example.org>").startswith("250 ")
        assert dialog.ask("RCPT TO:<lcarr@resel.fr>").startswith("250 2.1.5")
        refused = dialog.ask("RCPT TO:<nobody.here@resel.fr>")
        assert refused.startswith("550 5.1.1 <nobody.here@resel.fr> User doesn't exist")
        assert dialog.ask("RCPT TO:<lcarr+lists@resel.fr>").startswith("250 2.1.5")
        assert dialog.ask("DATA").startswith("354 ")
        dialog.send(MAIL.replace(b"\r\n.\r\n", b"\r\n..\r\n") + b".\r\n")
        first, second = dialog.reply(), dialog.reply()
        assert first.startswith("250 2.0.0 <lcarr@resel.fr> ")
        assert second.startswith("250 2.0.0 <lcarr+lists@resel.fr> ")
        assert dialog.ask("QUIT").startswith("221 ")
    assert subjects(network) == [b"Subject: by LMTP"] * 2
    lines = [line for line in network.toad.log() if "/lmtpd[" in line and "status=sent" in line]
    assert len(lines) == 2
    assert network.toad.command("resel-queue", "-p").stdout == "Mail queue is empty\n"


def test_chunks_and_pipelining(network: Network, port: int) -> None:
    half = len(MAIL) // 2
    with Dialog((TOAD, port)) as dialog:
        dialog.send(
            b"LHLO me\r\nMAIL FROM:<> BODY=8BITMIME\r\nRCPT TO:<lcarr>\r\n"
            b"RCPT TO:<lcarr@resel.fr>\r\n"
            + b"BDAT %d\r\n" % half
            + MAIL[:half]
            + b"BDAT %d LAST\r\n" % (len(MAIL) - half)
            + MAIL[half:]
            + b"QUIT\r\n"
        )
        codes = [dialog.reply()[:3] for _ in range(8)]
    assert codes == ["250", "250", "250", "250", "250", "250", "250", "221"]
    assert len(subjects(network)) == 2


def test_a_refused_content_is_refused_for_each(network: Network, port: int) -> None:
    with Dialog((TOAD, port)) as dialog:
        dialog.send(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<lcarr>\r\nRCPT TO:<lcarr@resel.fr>\r\n")
        for _ in range(4):
            assert dialog.reply().startswith("250")
        assert dialog.ask("DATA").startswith("354")
        dialog.send(b"Subject: x\r\n\r\nbare\rreturn\r\n.\r\n")
        assert dialog.reply().startswith("550 5.5.2")
        assert dialog.reply().startswith("550 5.5.2")
        assert dialog.ask("NOOP").startswith("250")
    assert subjects(network) == []


def test_python_over_the_unix_socket_and_a_large_mail(network: Network) -> None:
    path = network.toad.directory / "lmtp.sock"
    body = b"Subject: large\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 30_000
    client = smtplib.LMTP(str(path), local_hostname="localhost")
    refused = client.sendmail("a@example.org", ["lcarr@resel.fr", "who@resel.fr"], body)
    client.quit()
    assert list(refused) == ["who@resel.fr"]
    imap = network.imap()
    imap.select("INBOX", readonly=True)
    _, parts = imap.fetch("1", "(BODY.PEEK[TEXT])")
    imap.logout()
    part = parts[0]
    assert isinstance(part, tuple)
    assert part[1] == body.partition(b"\r\n\r\n")[2]
    spool = network.toad.directory / "spool"
    assert not [name for folder in ("incoming", "content") for name in os.listdir(spool / folder)]


def test_a_stranger_may_not(network: Network, port: int) -> None:
    network.toad.configure({"mynetworks": "192.0.2.0/24"})
    network.toad.hang_up()
    network.toad.await_log("reload -- version")
    with Dialog((TOAD, port)) as dialog:
        assert dialog.ask("LHLO me").startswith("250")
        assert dialog.ask("MAIL FROM:<>").startswith("250")
        assert dialog.ask("RCPT TO:<lcarr@resel.fr>").startswith("554 5.7.1")


def test_smtp_source_speaks_lmtp(network: Network, port: int, need: Callable[[str], str]) -> None:
    source = need("smtp-source")
    words = f"-L -s 4 -m 40 -d -f a@example.org -t lcarr@resel.fr {TOAD}:{port}"
    subprocess.run([source, *words.split()], check=True, timeout=30)
    assert len(subjects(network)) == 40


def test_idle_sees_it_at_once(network: Network, port: int) -> None:
    client = network.imap()
    client.select("INBOX")
    client.send(b"x IDLE\r\n")
    assert client.readline().startswith(b"+")
    with contextlib.closing(smtplib.LMTP(TOAD, port, local_hostname="localhost")) as lmtp:
        lmtp.sendmail("a@example.org", ["lcarr@resel.fr"], MAIL)
    client.sock.settimeout(5)
    assert client.readline() == b"* 1 EXISTS\r\n"
    client.send(b"DONE\r\n")
    while not client.readline().startswith(b"x OK"):
        continue
    client.logout()
