"""resel-adm while the daemon runs: the worker does it, and sessions see it at once."""

from __future__ import annotations

import imaplib
import os
import poplib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.machines import free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
role = server
myhostname = toad.example.org
mydestination = example.org
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_listen =
submission_listen =
submissions_listen =
imaps_listen =
imap_listen = :{imap}
pop3_listen = :{pop3}
smtpd_tls_security_level = none
queue_directory = {root}/queue
data_directory = {root}/data
alias_maps =
passdb = passwd-file:{root}/users
mail_location = maildir:{root}/mail/%u
mail_owner = {account}
mail_uid = {account}
namespace_separator = /
"""


class Daemon:
    """`--role server` with the user lcarr. As root it runs as nobody."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.imap, self.pop3 = free_port(["127.0.0.1"]), free_port(["127.0.0.1"])
        account = "nobody" if os.geteuid() == 0 else str(os.geteuid())
        self.config = root / "main.cf"
        self.config.write_text(
            CONFIG.format(root=root, imap=self.imap, pop3=self.pop3, account=account)
        )
        (root / "users").write_text("lcarr:{PLAIN}secret::::::\nalice:{PLAIN}secret::::::\n")
        (root / "mail").mkdir()
        if os.geteuid() == 0:
            shutil.chown(root / "mail", "nobody", "nogroup")

    def start(self) -> None:
        self._log = open(self.root / "log", "ab")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(self.config)],
            stdout=self._log,
            stderr=self._log,
            cwd=ROOT,
        )
        deadline = time.monotonic() + 30
        while not (self.root / "data" / "daemon.json").exists():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        return (self.root / "log").read_text()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(30) == 0
        self._log.close()

    def session(self) -> imaplib.IMAP4:
        client = imaplib.IMAP4("127.0.0.1", self.imap)
        client.login("lcarr", "secret")
        return client

    def adm(self, *words: str, stdin: bytes = b"", status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "resel_mta.commands.adm", "-c", str(self.config), *words],
            input=stdin,
            capture_output=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, (done.stdout, done.stderr, self.log())
        return (done.stdout + done.stderr).decode()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    # Not tmp_path: another account must be able to reach it.
    root = Path(tempfile.mkdtemp(prefix="resel-adm-"))
    os.chmod(root, 0o755)
    one = Daemon(root)
    try:
        one.start()
        yield one
        one.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_adm_works_through_the_daemon(daemon: Daemon) -> None:
    message = b"Subject: large\r\n\r\n" + b"line of it\r\n" * 200_000
    daemon.adm("save", "-u", "lcarr", stdin=message)
    listed = daemon.adm("-f", "tab", "mailbox", "status", "-u", "lcarr", "messages vsize", "INBOX")
    assert listed == f"mailbox\tmessages\tvsize\nINBOX\t1\t{len(message)}\n"
    client = daemon.session()
    assert client.select("INBOX") == ("OK", [b"1"])
    daemon.adm("save", "-u", "lcarr", stdin=b"Subject: two\n\ntwo\n")
    client.noop()
    assert client.response("EXISTS")[1][-1] == b"2"
    text = daemon.adm("fetch", "-u", "lcarr", "text", "mailbox", "INBOX", "1")
    assert text == "text:\n" + message.decode().replace("\r\n", "\n")
    daemon.adm("-v", "expunge", "-u", "lcarr", "mailbox", "INBOX", "subject", "large")
    client.noop()
    assert client.response("EXPUNGE")[1][-1] == b"1"
    assert client.search(None, "ALL")[1] == [b"1"]
    said = daemon.adm("mailbox", "status", "-u", "lcarr", "messages", "None", status=68)
    assert "Mailbox doesn't exist: None" in said
    said = daemon.adm("mailbox", "list", "-u", "nosuch", status=67)
    assert said == "resel-adm(nosuch): Error: User doesn't exist\n"
    client.logout()


def test_adm_who_and_kick(daemon: Daemon) -> None:
    assert daemon.adm("-f", "tab", "who") == "username\t#\tproto\t(pids)\t(ips)\n"
    clients = [daemon.session(), daemon.session()]
    for client in clients:
        client.select("INBOX")
    rows = daemon.adm("-f", "tab", "who", "lc*").splitlines()[1].split("\t")
    assert (rows[:3], rows[4]) == (["lcarr", "2", "imap"], "(127.0.0.1)")
    assert len(daemon.adm("-f", "tab", "who", "-1", "127.0.0.0/8").splitlines()) == 3
    assert len(daemon.adm("-f", "tab", "who", "alice").splitlines()) == 1
    assert daemon.adm("kick", "alice", status=68) == "no users kicked\n"
    assert daemon.adm("kick", "lcarr").splitlines()[1] == "lcarr"
    for client in clients:
        with pytest.raises(imaplib.IMAP4.abort):
            client.noop()
        client.shutdown()
    assert daemon.adm("kick", "lcarr", status=68) == "no users kicked\n"
    # The user may come back at once.
    again = daemon.session()
    assert again.select("INBOX")[0] == "OK"
    again.logout()


def test_adm_and_pop3(daemon: Daemon) -> None:
    """POP3 by way of the daemon; what it removes can be brought back."""
    daemon.adm("save", "-u", "lcarr", stdin=b"Subject: one\n\none\n")
    client = poplib.POP3("127.0.0.1", daemon.pop3, timeout=20)
    client.user("lcarr")
    client.pass_("secret")
    row = daemon.adm("-f", "tab", "who").splitlines()[1].split("\t")
    assert row[:3] == ["lcarr", "1", "pop3"]
    assert client.retr(1)[1] == [b"Subject: one", b"", b"one"]
    client.dele(1)
    client.quit()
    status = ("-f", "tab", "mailbox", "status", "-u", "lcarr", "messages kept", "INBOX")
    assert daemon.adm(*status).splitlines()[1] == "INBOX\t0\t1"
    assert "1 message back in INBOX" in daemon.adm("undelete", "-u", "lcarr", "all")
    assert daemon.adm(*status).splitlines()[1] == "INBOX\t1\t0"
    assert "dovecot: pop3-login: Login: user=<lcarr>" in daemon.log()


def test_adm_works_before_and_after_the_daemon(daemon: Daemon) -> None:
    daemon.adm("save", "-u", "lcarr", stdin=b"Subject: one\n\none\n")
    daemon.stop()
    daemon.adm("flags", "add", "-u", "lcarr", "\\Flagged", "mailbox", "INBOX", "1")
    daemon.adm("save", "-u", "lcarr", stdin=b"Subject: two\n\ntwo\n")
    daemon.start()
    found = daemon.adm("-f", "tab", "fetch", "-u", "lcarr", "uid hdr.subject flags", "all")
    assert found.splitlines()[1:] in (
        ["1\tone\t\\Flagged", "2\ttwo\t"],
        ["1\tone\t\\Flagged \\Recent", "2\ttwo\t\\Recent"],
    )
    maildir = daemon.root / "mail" / "lcarr"
    owners = {(maildir / name).stat().st_uid for name in os.listdir(maildir)}
    assert owners == {(daemon.root / "mail").stat().st_uid}


def test_adm_refusals_before_the_message_is_read(daemon: Daemon) -> None:
    large = b"Subject: large\r\n\r\n" + b"line of it\r\n" * 2_000_000
    for words, status, said in (
        (["-u", "nosuch"], 67, "User doesn't exist"),
        (["-u", "lcarr", "-m", "Nosuch"], 68, "Mailbox doesn't exist: Nosuch"),
    ):
        assert said in daemon.adm("save", *words, stdin=large, status=status)
    assert "failed" not in daemon.log()
