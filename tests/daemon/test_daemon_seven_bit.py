"""Mail that the next hop cannot have, for it knows neither 8BITMIME nor SMTPUTF8: the bounces, to
senders whose domain is an IDN written in ASCII, go over the same next hop."""

from __future__ import annotations

import email
import os
import quopri
import tempfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from workers_rig import NextHop, Relay, make_relay, until

SENDER = "kevin@xn--crans-montana-e0g.example"
TEXT = "Où êtes-vous ?\r\n..trois points\r\n"


class SevenBits(NextHop):
    """Keeps what it takes. Its reply to EHLO offers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[bytes] = []
        self.mails: list[bytes] = []

    def serve(self, lines: Any, out: Any) -> None:
        super().serve(_Noted(lines, self.commands), out)

    def _take(self, lines: Any) -> None:
        data = b""
        while (line := lines.readline()) not in (b".\r\n", b""):
            data += line.removeprefix(b".")
        self.mails.append(data)


class _Noted:
    def __init__(self, lines: Any, noted: list[bytes]) -> None:
        self._lines, self._noted = lines, noted

    def readline(self) -> Any:
        line = self._lines.readline()
        self._noted.append(line)
        return line


@pytest.fixture
def next_hop() -> Iterator[SevenBits]:
    hop = SevenBits()
    hop.open()
    yield hop
    hop.close()


@pytest.fixture
def relay(next_hop: SevenBits) -> Iterator[Relay]:
    # Not tmp_path: the daemon's account must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="resel-seven-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        relay = make_relay(Path(name), 1, next_hop)
        relay.start()
        yield relay
        relay.kill()
        until(lambda: not relay.processes())


def send(relay: Relay, to: str, subject: str, *options: str) -> None:
    with relay.client() as client:
        client.command_encoding = "utf-8"
        client.ehlo()
        assert client.mail(SENDER, ["BODY=8BITMIME", *options])[0] == 250
        assert client.rcpt(to)[0] == 250
        header = f"Subject: {subject}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        code, text = client.data(f"{header}\r\n{TEXT}".encode())
        assert code == 250, text


def part(mail: Message, number: int) -> Message:
    found = mail.get_payload(number)
    assert isinstance(found, Message)
    return found


def text_of(mail: Message) -> str:
    data = mail.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data.decode()


def test_bounces_reach_a_next_hop_of_7_bits(relay: Relay, next_hop: SevenBits) -> None:
    send(relay, "rcpt@far.example", "plain")
    send(relay, "renée@far.example", "né", "SMTPUTF8")
    until(lambda: len(next_hop.mails) == 2 and not relay.entries())
    assert b"".join([*next_hop.mails, *next_hop.commands]).isascii()
    assert f"MAIL FROM:<{SENDER}>".encode() not in b"".join(next_hop.commands)
    found = {
        part(mail, 2).get_content_type(): mail
        for mail in map(email.message_from_bytes, next_hop.mails)
    }
    assert sorted(found) == ["message/global", "message/rfc822"]
    assert "8BITMIME conversion required" in text_of(part(found["message/rfc822"], 0))
    returned = part(part(found["message/rfc822"], 2), 0)
    assert text_of(returned) == TEXT
    about = part(part(found["message/global"], 1), 1)
    assert about["Final-Recipient"] == r"utf-8; ren\x{E9}e@far.example"
    assert about["Status"] == "5.6.3"
    whole = quopri.decodestring(part(part(found["message/global"], 2), 0).as_bytes()).decode()
    assert "Subject: né\n" in whole
    assert whole.endswith(TEXT.replace("\r\n", "\n"))
    assert "It balances" in relay.queue("audit")
