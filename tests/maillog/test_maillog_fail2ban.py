"""fail2ban's own filters on lines that our daemon wrote: who fails is found, who does not is not."""

from __future__ import annotations

import contextlib
import imaplib
import poplib
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.machines import free_port
from demo.network import TOAD, Network

# One address for each thing that a client may do.
LOGS_IN, WRITES, DELIVERS = "127.0.0.21", "127.0.0.22", "127.0.0.23"
GUESSES, ABORTS, KNOCKS, SPEAKS_PLAIN = "127.0.0.31", "127.0.0.32", "127.0.0.33", "127.0.0.34"
GUESSES_POP3 = "127.0.0.35"
NO_USER, RELAYS, GUESSES_SMTP, BABBLES, LEAVES = (f"127.0.0.4{number}" for number in range(1, 6))


class Pop3(poplib.POP3):
    """From an address of its own."""

    def __init__(self, port: int, address: str) -> None:
        self._address = address
        super().__init__(TOAD, port, 10)

    def _create_socket(self, timeout: float) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout, (self._address, 0))


class Clients:
    """Talk to Toad, each from its own address."""

    def __init__(self, network: Network, submission: int, imaps: int, pop3: int) -> None:
        self._network = network
        self._submission = submission
        self._imaps = imaps
        self._pop3 = pop3
        self._context = ssl.create_default_context(cafile=str(network.certificate))
        self._context.check_hostname = False

    def imap(self, address: str) -> imaplib.IMAP4:
        class Bound(imaplib.IMAP4):
            def _create_socket(self, timeout: float | None) -> socket.socket:
                return socket.create_connection((self.host, self.port), 10, (address, 0))

        return Bound(TOAD, self._network.imap_port)

    def smtp(self, address: str, port: int = 0) -> smtplib.SMTP:
        port = port or self._network.port
        return smtplib.SMTP(TOAD, port, "client.example.org", 10, (address, 0))

    @contextlib.contextmanager
    def submission(self, address: str, password: str) -> Iterator[smtplib.SMTP]:
        with self.smtp(address, self._submission) as client:
            client.starttls(context=self._context)
            client.login("lcarr", password)
            yield client

    def raw_imaps(self, address: str) -> socket.socket:
        return socket.create_connection((TOAD, self._imaps), 10, (address, 0))

    def behave(self) -> None:
        with self.imap(LOGS_IN) as client:
            client.login("lcarr", self._network.password)
            client.select()
        with self.submission(WRITES, self._network.password) as smtp:
            smtp.sendmail("lcarr@resel.fr", ["root@resel.fr"], "Subject: x\r\n\r\nx\r\n")
        with self.smtp(DELIVERS) as smtp:
            smtp.sendmail("friend@example.org", ["root@resel.fr"], "Subject: x\r\n\r\nx\r\n")

    def misbehave(self) -> None:
        with self.imap(GUESSES) as client:
            for user in ("lcarr", "nosuchuser"):
                with contextlib.suppress(imaplib.IMAP4.error):
                    client.login(user, "wrong")
        pop3 = Pop3(self._pop3, GUESSES_POP3)
        pop3.user("lcarr")
        with contextlib.suppress(poplib.error_proto):
            pop3.pass_("wrong")
        pop3.close()
        self.imap(KNOCKS).shutdown()
        self.imap(ABORTS).logout()
        with self.raw_imaps(SPEAKS_PLAIN) as connection:
            connection.sendall(b"a1 LOGIN lcarr secret\r\n")
            connection.recv(100)
        with self.smtp(NO_USER) as smtp, contextlib.suppress(smtplib.SMTPRecipientsRefused):
            smtp.sendmail("a@example.org", ["nosuchuser@resel.fr"], "x")
        with self.smtp(RELAYS) as smtp, contextlib.suppress(smtplib.SMTPRecipientsRefused):
            smtp.sendmail("a@example.org", ["b@example.net"], "x")
        with (
            contextlib.suppress(smtplib.SMTPAuthenticationError),
            self.submission(GUESSES_SMTP, "wrong"),
        ):
            raise AssertionError("a wrong password was taken")
        with (
            contextlib.suppress(smtplib.SMTPServerDisconnected),
            self.smtp(BABBLES) as smtp,
        ):
            for _ in range(100):
                smtp.docmd("BABBLE")
        leaver = self.smtp(LEAVES)
        leaver.ehlo()
        leaver.close()


@pytest.fixture(scope="module")
def log() -> Iterator[Path]:
    """What Toad logged of all of them."""
    submission, imaps, pop3 = (free_port([TOAD]) for _ in range(3))
    settings = {
        "submission_listen": f":{submission}",
        "imaps_listen": f":{imaps}",
        "pop3_listen": f":{pop3}",
        "mynetworks": f"{TOAD}/32",
    }
    with Network(extra={"toad": settings}) as network:
        network.toad.start()
        clients = Clients(network, submission, imaps, pop3)
        clients.behave()
        clients.misbehave()
        # The last to be logged.
        network.toad.await_log(rf"disconnect from \S+\[{LEAVES}\]")
        network.toad.await_log(r"TLS handshaking: SSL_accept\(\) failed")
        network.toad.stop()
        yield network.toad.log_path


def found(program: str, log: Path, name: str) -> set[str]:
    """The addresses that a filter finds."""
    words = [program, "-o", "ip", str(log), name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("normal", {GUESSES, GUESSES_POP3}),
        ("aggressive", {GUESSES, GUESSES_POP3, ABORTS, KNOCKS, SPEAKS_PLAIN}),
    ],
)
def test_maillog_fail2ban_dovecot(
    log: Path, need: Callable[[str], str], mode: str, expected: set[str]
) -> None:
    assert found(need("fail2ban-regex"), log, f"dovecot[mode={mode}]") == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("normal", {NO_USER, RELAYS, BABBLES}),
        ("auth", {GUESSES_SMTP}),
        ("errors", {BABBLES}),
        ("rbl", set()),
        ("ddos", {LEAVES, GUESSES_SMTP}),
        ("aggressive", {NO_USER, RELAYS, BABBLES, GUESSES_SMTP, LEAVES}),
    ],
)
def test_maillog_fail2ban_postfix(
    log: Path, need: Callable[[str], str], mode: str, expected: set[str]
) -> None:
    assert found(need("fail2ban-regex"), log, f"postfix[mode={mode}]") == expected
