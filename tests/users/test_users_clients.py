"""Real clients log in to a whole daemon with SCRAM: GNU SASL's own, msmtp and mpop."""

from __future__ import annotations

import base64
import hashlib
import hmac
import imaplib
import os
import poplib
import smtplib
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.machines import free_port
from demo.network import TOAD, USER, Network

PASSWORD = "märz, = 7"
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-1")


class Toad:
    """The server with all services; stored: the user's password, as in the file."""

    def __init__(self, network: Network, submission: int, pop3: int) -> None:
        self.network = network
        self.submission = submission
        self.pop3 = pop3

    @property
    def imap(self) -> int:
        return self.network.imap_port

    def store(self, stored: str) -> None:
        (self.network.directory / "toad" / "users").write_text(f"{USER}:{stored}::::::\n")


@pytest.fixture
def toad() -> Iterator[Toad]:
    submission, pop3 = free_port([TOAD]), free_port([TOAD])
    values = {
        "submission_listen": f":{submission}",
        "pop3_listen": f":{pop3}",
        "auth_failure_delay": "1s",
    }
    with Network({"toad": values}) as network:
        yield Toad(network, submission, pop3)


def made_by_gsasl(gsasl: str, mechanism: str) -> str:
    """The stored secret, as this other implementation makes it."""
    words = [gsasl, "-k", "-m", mechanism, "-p", PASSWORD, "--iteration-count", "4096"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def run(words: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        words, input=text, env=environment, capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_users_scram_with_gsasl(toad: Toad, need: Callable[[str], str], mechanism: str) -> None:
    gsasl = need("gsasl")
    toad.store(made_by_gsasl(gsasl, mechanism))
    toad.network.toad.start()
    for protocol, port in (("--imap", toad.imap), ("--smtp", toad.submission)):
        words = [gsasl, f"--connect={TOAD}:{port}", protocol, "-m", mechanism, "-a", USER]
        # It takes no other name in a certificate than it connects to: not verified, and then it
        # fails by itself where it could bind to the channel.
        words += ["--x509-ca-file=", "--no-cb"] if protocol == "--smtp" else ["--no-starttls"]
        good = run([*words, "-p", PASSWORD])
        assert good.returncode == 0, good.stdout + good.stderr
        bad = run([*words, "-p", "wrong"])
        assert bad.returncode != 0
    log = "\n".join(toad.network.toad.log())
    assert f"method={mechanism}" in log
    toad.network.toad.stop()


def test_users_scram_with_msmtp_and_mpop(toad: Toad, need: Callable[[str], str]) -> None:
    msmtp, mpop, gsasl = need("msmtp"), need("mpop"), need("gsasl")
    toad.store(made_by_gsasl(gsasl, "SCRAM-SHA-256"))
    toad.network.toad.start()
    common = [f"--host={TOAD}", f"--user={USER}", "--auth=scram-sha-256"]
    for password, code in ((PASSWORD, 0), ("wrong", 77)):
        words = [msmtp, "--file=/dev/null", *common, f"--port={toad.submission}", "--tls=on"]
        words += ["--tls-starttls=on", "--tls-certcheck=off", "--from=lcarr@resel.fr"]
        words += [f"--passwordeval=printf '%s' '{password}'", "lcarr@resel.fr"]
        sent = run(words, "Subject: by SCRAM\n\ntext\n")
        assert sent.returncode == code, sent.stderr
    inbox = toad.network.directory / "toad" / "mail" / USER / "new"
    until = time.monotonic() + 60
    while not (inbox.is_dir() and list(inbox.iterdir())):
        assert time.monotonic() < until, toad.network.toad.log()
        time.sleep(0.05)
    mbox = toad.network.directory / "fetched"
    words = [mpop, "--file=/dev/null", *common, f"--port={toad.pop3}", "--tls=off", "--keep=on"]
    words += [f"--passwordeval=printf '%s' '{PASSWORD}'", f"--delivery=mbox,{mbox}"]
    fetched = run([*words, f"--uidls-file={mbox}.uidls"])
    assert fetched.returncode == 0, fetched.stderr
    assert "Subject: by SCRAM" in mbox.read_text()
    toad.network.toad.stop()


def test_users_scram_with_imaplib(toad: Toad) -> None:
    """And with a password that is stored as it is; and what the capabilities say."""
    toad.store("{PLAIN}" + PASSWORD)
    toad.network.toad.start()
    with imaplib.IMAP4(TOAD, toad.imap) as client:
        assert "AUTH=SCRAM-SHA-256" in client.capabilities
        client.authenticate("SCRAM-SHA-256", Steps(USER, PASSWORD))
        assert client.state == "AUTH"
    with imaplib.IMAP4(TOAD, toad.imap) as client:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            client.authenticate("SCRAM-SHA-256", Steps(USER, "wrong"))
    toad.store("{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=")
    # The file is looked at once a second.
    until = time.monotonic() + 60
    while True:
        with imaplib.IMAP4(TOAD, toad.imap) as client:
            if "AUTH=SCRAM-SHA-256" not in client.capabilities:
                break
        assert time.monotonic() < until
        time.sleep(0.2)
    toad.network.toad.stop()


def test_users_parallel_guesses_share_one_account(toad: Toad) -> None:
    """Of all protocols: four at a time, a second each."""
    toad.store("{PLAIN}" + PASSWORD)
    toad.network.toad.start()
    context = ssl._create_unverified_context()

    def imap() -> None:
        with imaplib.IMAP4(TOAD, toad.imap, timeout=20) as client:
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                client.login(USER, "wrong")

    def pop3() -> None:
        client = poplib.POP3(TOAD, toad.pop3, timeout=20)
        client.user(USER)
        with pytest.raises(poplib.error_proto, match="AUTH"):
            client.pass_("wrong")
        client.close()

    def submission() -> None:
        with smtplib.SMTP(TOAD, toad.submission, "localhost", timeout=20) as client:
            client.starttls(context=context)
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                client.login(USER, "wrong", initial_response_ok=True)
            assert caught.value.smtp_code == 535

    began = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(each) for each in (imap, pop3, submission) * 4]:
            done.result()
    # smtplib tries PLAIN, then LOGIN: 16 guesses.
    assert 4 <= time.monotonic() - began < 12
    toad.network.toad.stop()


class Steps:
    """imaplib's hook, on a client's side of SCRAM of its own."""

    def __init__(self, name: str, password: str) -> None:
        self._bare = f"n={name},r=rOprNGfwEbeRWgbNEkqO".encode()
        self._password = password.encode()
        self._signature = b""

    def __call__(self, challenge: bytes) -> bytes:
        if not challenge:
            return b"n,," + self._bare
        if challenge.startswith(b"v="):
            assert challenge[2:] == base64.b64encode(self._signature)
            return b""
        nonce, salt, iterations = (field[2:] for field in challenge.split(b","))
        salted = hashlib.pbkdf2_hmac(
            "sha256", self._password, base64.b64decode(salt), int(iterations)
        )
        key = hmac.digest(salted, b"Client Key", "sha256")
        unsigned = b"c=biws,r=" + nonce
        text = b",".join((self._bare, challenge, unsigned))
        mask = hmac.digest(hashlib.sha256(key).digest(), text, "sha256")
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), text, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, mask, strict=True))
        return unsigned + b",p=" + base64.b64encode(proof)
