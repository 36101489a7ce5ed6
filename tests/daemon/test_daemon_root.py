"""Started by root: nothing but the supervisor stays root. Skipped for ordinary users."""

from __future__ import annotations

import imaplib
import json
import os
import pwd
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import machines

OWNER, MAILBOXES = "nobody", "games"
pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes as other users"),
    pytest.mark.skipif(
        not {OWNER, MAILBOXES} <= {entry.pw_name for entry in pwd.getpwall()},
        reason=f"needs the accounts {OWNER} and {MAILBOXES}",
    ),
]


def free_port() -> int:
    return machines.free_port(["127.0.0.1"])


class Server:
    """A `--role server` started by root; ready when made."""

    submissions = lmtp = 0

    def __init__(self, directory: Path, more: str = "") -> None:
        self.directory = directory
        self.smtp, self.imap = free_port(), free_port()
        mail = directory / "mail"
        mail.mkdir()
        os.chown(mail, pwd.getpwnam(MAILBOXES).pw_uid, -1)
        (directory / "users").write_text("lcarr:{PLAIN}secret::::::\n")
        (directory / "aliases").write_text("root: lcarr\n")
        (directory / "main.cf").write_text(
            f"""
role = server
myhostname = toad.resel.fr
mydestination = resel.fr, toad.resel.fr
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_listen = :{self.smtp}
imap_listen = :{self.imap}
imaps_listen =
submission_listen =
submissions_listen =
queue_directory = {directory}/queue
data_directory = {directory}/data
alias_maps = hash:{directory}/aliases
passdb = passwd-file:{directory}/users
mail_location = maildir:{mail}/%n
mail_owner = {OWNER}
mail_uid = {MAILBOXES}
mail_gid = {MAILBOXES}
{more}"""
        )
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(directory / "notify"))
        os.chmod(directory / "notify", 0o666)
        self._ready.settimeout(90)
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(directory)],
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(directory / "notify")},
            )
        self.await_ready()

    def await_ready(self) -> None:
        while b"READY=1" not in self._ready.recv(4096):
            continue

    def network_pid(self) -> int:
        return int(json.loads((self.directory / "data" / "daemon.json").read_text())["pid"])

    def send(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp) as client:
            client.sendmail("cron@vm.resel.fr", ["root@resel.fr"], "Subject: x\r\n\r\nhello\r\n")

    def await_mail(self, count: int) -> list[Path]:
        until = time.monotonic() + 60
        while True:
            found = list((self.directory / "mail").glob("lcarr/*/*.*"))
            if len(found) >= count or time.monotonic() > until:
                return found
            time.sleep(0.02)

    def await_removal(self) -> None:
        """Until the log says that a message has left the queue."""
        until = time.monotonic() + 60
        while ": removed" not in self.log.read_text():
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self.close()
        return status

    def close(self) -> None:
        self._ready.close()


@pytest.fixture
def server() -> Iterator[Server]:
    # Not tmp_path: others must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="resel-root-") as name:
        os.chmod(name, 0o755)
        running = Server(Path(name))
        yield running
        if running.process.poll() is None:
            running.stop()


def test_daemon_mail_is_delivered_and_read_by_unprivileged_processes(server: Server) -> None:
    server.send()
    [mail] = server.await_mail(1)
    assert mail.stat().st_uid == pwd.getpwnam(MAILBOXES).pw_uid
    client = imaplib.IMAP4("127.0.0.1", server.imap)
    client.login("lcarr", "secret")
    _, [count] = client.select()
    client.logout()
    assert count == b"1"
    network = server.network_pid()
    assert os.stat(f"/proc/{network}").st_uid == pwd.getpwnam(OWNER).pw_uid
    status = Path(f"/proc/{network}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_daemon_what_is_in_the_way_of_a_start_is_in_the_mail_log(server: Server) -> None:
    """It is tried again, ever more rarely; and can be stopped meanwhile."""
    assert server.stop() == 0
    log, lock = server.directory / "mail.log", server.directory / "queue" / "queue.lock"
    with (server.directory / "main.cf").open("a") as config:
        config.write(f"maillog_file = {log}\n")
    lock.unlink()
    lock.symlink_to("elsewhere")
    server.process = subprocess.Popen(
        [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(server.directory)],
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while "ended with status 71: started again after 2 s" not in (
        text := log.read_text() if log.exists() else ""
    ):
        assert time.monotonic() < until, text
        time.sleep(0.02)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    lines = [line.partition("]: ")[2] for line in log.read_text().splitlines()]
    fatal = f"fatal: {lock}: Too many levels of symbolic links"
    ended = "warning: network process ended with status 71: started again after"
    assert [each for each in lines if each.startswith(("fatal", "warning: network"))] == [
        fatal, f"{ended} 1 s", fatal, f"{ended} 2 s"
    ]  # fmt: skip


def test_daemon_a_killed_network_process_is_started_again(server: Server) -> None:
    server.send()
    # What it has delivered and not yet forgotten would come again.
    server.await_removal()
    before = server.network_pid()
    os.kill(before, signal.SIGKILL)
    server.await_ready()
    assert server.network_pid() != before
    server.send()
    assert len(server.await_mail(2)) == 2
    assert server.stop() == 0


def test_daemon_a_hang_up_of_the_group_ends_no_worker(server: Server) -> None:
    client = imaplib.IMAP4("127.0.0.1", server.imap)
    client.login("lcarr", "secret")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    for pid in children.read_text().split():
        os.kill(int(pid), signal.SIGHUP)
    server.await_ready()
    assert client.noop()[0] == "OK"
    client.logout()
    assert server.stop() == 0


def test_daemon_accounts_that_do_not_exist_are_named(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text(
        f"role = relay\nsmtpd_listen = 127.0.0.1:{free_port()}\nmail_owner = nosuchuser\n"
        f"queue_directory = {tmp_path}/q\ndata_directory = {tmp_path}/d\nalias_maps =\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 78
    [line] = result.stderr.splitlines()
    assert "adduser --system" in line


def test_daemon_log_file_is_made_for_the_unprivileged_process_also_after_rotation() -> None:
    with tempfile.TemporaryDirectory(prefix="resel-root-") as name:
        os.chmod(name, 0o755)
        log = Path(name, "mail.log")
        running = Server(Path(name), f"maillog_file = {log}\n")
        try:
            assert log.stat().st_uid == pwd.getpwnam(OWNER).pw_uid
            old = log.rename(Path(name, "mail.log.1"))
            # As logrotate does it.
            log.touch(0o640)
            running.process.send_signal(signal.SIGHUP)
            running.await_ready()
            running.send()
            running.log = log
            running.await_removal()
            assert ": removed" not in old.read_text()
            # A stranger's is left alone, and no reason to refuse the reload.
            kept = log.rename(Path(name, "mail.log.2"))
            log.touch(0o640)
            os.chown(log, pwd.getpwnam(MAILBOXES).pw_uid, -1)
            running.process.send_signal(signal.SIGHUP)
            running.await_ready()
            running.send()
            running.log = kept
            running.await_removal()
            assert "log file not reopened" in kept.read_text()
            assert not log.read_bytes()
        finally:
            running.stop()
