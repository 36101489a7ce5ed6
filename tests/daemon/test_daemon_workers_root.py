"""Workers under a supervisor: their own link to it, and mailboxes that another account owns."""

from __future__ import annotations

import os
import pwd
import signal
import smtplib
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from test_daemon_root import MAILBOXES, OWNER, Server
from workers_rig import free_port, until

from resel_mta.queue.ids import part_of

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes as other users"),
    pytest.mark.skipif(
        not {OWNER, MAILBOXES} <= {entry.pw_name for entry in pwd.getpwall()},
        reason=f"needs the accounts {OWNER} and {MAILBOXES}",
    ),
]
SETTINGS = """\
worker_processes = 3
smtpd_tls_cert_file = {directory}/cert.pem
smtpd_tls_key_file = {directory}/key.pem
smtpd_tls_security_level = may
submissions_listen = :{submissions}
lmtp_listen = 127.0.0.1:{lmtp}
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="resel-root-") as name:
        os.chmod(name, 0o755)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        files = ["-keyout", f"{name}/key.pem", "-out", f"{name}/cert.pem"]
        subprocess.run(
            ["openssl", "req", "-x509", *key, *files, "-days", "2", "-subj", "/CN=toad.resel.fr"],
            check=True,
            capture_output=True,
        )
        # Only root may read the key.
        os.chmod(f"{name}/key.pem", 0o600)
        submissions, lmtp = free_port(), free_port()
        settings = SETTINGS.format(directory=name, submissions=submissions, lmtp=lmtp)
        running = Server(Path(name), settings)
        running.submissions, running.lmtp = submissions, lmtp
        until(lambda: len(workers(running)) == 2)
        yield running
        if running.process.poll() is None:
            running.stop()
        running.close()


def delivered(server: Server) -> list[Path]:
    return list((server.directory / "mail").glob("lcarr/new/*"))


def workers(server: Server) -> list[int]:
    """Pids of all but worker 0."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            folder = str(server.directory).encode()
            if b"resel_mta.workers.process" in words and any(
                os.readlink(one).encode().startswith(folder + b"/queue/parts/")
                for one in (entry / "fd").iterdir()
            ):
                found.append(int(entry.name))
    return found


def test_workers_of_root_deliver_to_mailboxes(server: Server) -> None:
    context = ssl.create_default_context(cafile=f"{server.directory}/cert.pem")
    context.check_hostname = False
    parts: set[int] = set()
    sent = 0
    with ExitStack() as stack:
        while len(parts) < 3:
            assert sent < 40
            client = stack.enter_context(smtplib.SMTP("127.0.0.1", server.smtp))
            client.starttls(context=context)
            client.ehlo()
            client.mail("cron@vm.resel.fr")
            client.rcpt("root@resel.fr")
            _, said = client.data(b"Subject: x\r\n\r\nhello\r\n")
            sent += 1
            parts.add(part_of(said.decode().rpartition(" ")[2]))
    found = server.await_mail(sent)
    assert len(found) == sent
    assert {each.stat().st_uid for each in found} == {pwd.getpwnam(MAILBOXES).pw_uid}
    owner = pwd.getpwnam(OWNER).pw_uid
    assert {os.stat(f"/proc/{pid}").st_uid for pid in workers(server)} == {owner}
    # A worker that is killed leaves the supervisor as it was. What it has delivered and not yet
    # forgotten would come again.
    until(lambda: server.log.read_text().count(": removed") == sent)
    victim = workers(server)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers(server)) == 2 and victim not in workers(server))
    server.send()
    assert len(server.await_mail(sent + 1)) == sent + 1
    assert server.stop() == 0
    assert workers(server) == []
    assert "Traceback" not in server.log.read_text()


def test_workers_of_root_log_users_in_under_tls(server: Server) -> None:
    context = ssl.create_default_context(cafile=f"{server.directory}/cert.pem")
    context.check_hostname = False
    parts: set[int] = set()
    sent = 0
    with ExitStack() as stack:
        while len(parts) < 3:
            assert sent < 40
            address = ("127.0.0.1", server.submissions)
            client = stack.enter_context(smtplib.SMTP_SSL(*address, context=context))
            client.login("lcarr", "secret")
            client.mail("lcarr@resel.fr")
            client.rcpt("root@resel.fr")
            _, said = client.data(b"Subject: x\r\n\r\nhello\r\n")
            sent += 1
            parts.add(part_of(said.decode().rpartition(" ")[2]))
    assert len(server.await_mail(sent)) == sent
    assert server.stop() == 0


def test_workers_of_root_all_take_lmtp(server: Server) -> None:
    """What is answered is in a mailbox of another account, whichever process took it."""
    parts: set[int] = set()
    sent = 0
    large = b"Subject: x\r\n\r\n" + b"line\r\n" * 100_000
    with ExitStack() as stack:
        while len(parts) < 3:
            assert sent < 40
            client = stack.enter_context(smtplib.LMTP("127.0.0.1", server.lmtp))
            client.ehlo("vm.resel.fr")
            client.mail("cron@vm.resel.fr")
            client.rcpt("lcarr@resel.fr")
            code, said = client.data(large if sent % 2 else b"Subject: x\r\n\r\nhello\r\n")
            assert code == 250
            sent += 1
            words = said.decode().split()
            assert words[::3] == ["2.0.0", "Saved"]
            parts.add(part_of(words[2]))
            # It was there before the answer.
            assert len(delivered(server)) == sent
    assert {each.stat().st_uid for each in delivered(server)} == {pwd.getpwnam(MAILBOXES).pw_uid}
    spool = server.directory / "queue"
    assert not [*spool.rglob("incoming/*"), *spool.rglob("content/*")]
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_workers_of_root_end_with_the_supervisor(server: Server) -> None:
    server.process.kill()
    server.process.wait()
    until(lambda: not workers(server), 30)


def test_workers_of_root_get_a_new_worker_0(server: Server) -> None:
    before = set(workers(server))
    os.kill(server.network_pid(), signal.SIGKILL)
    until(lambda: len(workers(server)) == 2 and not before & set(workers(server)))
    server.send()
    assert len(server.await_mail(1)) == 1
    assert server.stop() == 0
