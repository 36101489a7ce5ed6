"""A next hop that promises notifications (RFC 3461), and what it was given: for tests of DSN."""

from __future__ import annotations

import email
import re
import socketserver
import threading
import time
from collections import Counter
from email.message import Message
from typing import Any


class _Session(socketserver.StreamRequestHandler):
    """Takes everything, and notes each recipient with its parameters."""

    def handle(self) -> None:
        self._say("220 sink ESMTP")
        sender, recipients = "", list[str]()
        while line := self.rfile.readline().decode().strip():
            verb = line[:4].upper()
            if verb == "EHLO":
                self._say("250-sink\r\n250-8BITMIME\r\n250 DSN")
            elif verb == "MAIL":
                sender, recipients = line[5:], []
                self._say("250 2.1.0 Ok")
            elif verb == "RCPT":
                recipients.append(line[5:])
                self._say("250 2.1.5 Ok")
            elif verb == "DATA":
                self._say("354 go on")
                data = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    data += part
                self.server.take(sender, recipients, data)  # type: ignore[attr-defined]
                self._say("250 2.0.0 Ok: queued as X")
            elif verb == "QUIT":
                self._say("221 2.0.0 Bye")
                return
            else:
                self._say("250 2.0.0 Ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Sink(socketserver.ThreadingTCPServer):
    """events: for each mail, named by its Subject or by a notice's Original-Envelope-Id, what came:
    "to=<address> from=<sender> and the other parameters", or "action final-recipient (original)"."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.port = int(self.server_address[1])
        self.events: dict[str, Counter[str]] = {}
        self._came = threading.Condition()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self, sender: str, recipients: list[str], data: bytes) -> None:
        mail = email.message_from_bytes(data)
        if sender.startswith("FROM:<>"):
            name, said = _notice(mail)
        else:
            name = str(mail["Subject"])
            said = [f"{_asked(recipient)} {_asked(sender)}".strip() for recipient in recipients]
        with self._came:
            self.events.setdefault(name, Counter()).update(said)
            self._came.notify_all()

    def await_count(self, count: int, timeout: float) -> None:
        """Returns when so many events have come, or after `timeout` seconds."""
        until = time.monotonic() + timeout
        with self._came:
            while sum(map(Counter.total, self.events.values())) < count:
                if not self._came.wait(until - time.monotonic()):
                    return


def _asked(words: str) -> str:
    """A command's address and its parameters about notices, in one order."""
    asked = re.findall(r"(?:NOTIFY|ORCPT|RET|ENVID)=\S+", words)
    path = words.split()[0].lower().replace("to:", "to=").replace("from:", "from=")
    return " ".join([path, *sorted(asked)])


def _notice(mail: Message) -> tuple[str, list[str]]:
    status: Any = mail.get_payload(1)
    about, *recipients = status.get_payload()
    said = [
        f"{each['Action']} {_address(each['Final-Recipient'])} ({_address(each['Original-Recipient'])})"
        for each in recipients
        if each["Action"]
    ]
    return str(about["Original-Envelope-Id"]), said


def _address(field: str) -> str:
    return field.partition(";")[2].strip()
