"""Started by root: commands, files, .forward and mailboxes of users with their own uid, each done
with its owner's rights. Skipped for ordinary users."""

from __future__ import annotations

import contextlib
import imaplib
import os
import pwd
import re
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

# OWNER runs the network process; the alias file is root's, so its commands are PRIVS's.
OWNER, MAILBOXES, PRIVS, ANN, BOB = "nobody", "games", "daemon", "news", "backup"
pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes as other users"),
    pytest.mark.skipif(
        not {OWNER, MAILBOXES, PRIVS, ANN, BOB} <= {entry.pw_name for entry in pwd.getpwall()},
        reason="needs accounts that every Debian has",
    ),
]


def ids(account: str) -> tuple[int, int]:
    entry = pwd.getpwnam(account)
    return entry.pw_uid, entry.pw_gid


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A daemon with users ann and bob, who have accounts of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        for name, account, mode in (
            ("out", "root", 0o1777),
            ("mail", MAILBOXES, 0o755),
            ("ann", ANN, 0o700),
            ("bob", BOB, 0o700),
        ):
            (directory / name).mkdir()
            os.chown(directory / name, *ids(account))
            (directory / name).chmod(mode)
        spool = directory / "spool"
        spool.mkdir()
        os.chown(spool, 0, 8)
        spool.chmod(0o2775)
        self.out = directory / "out"
        users = "".join(
            f"{name}::{':'.join(map(str, ids(account)))}::{directory}/{name}::\n"
            for name, account in (("ann", ANN), ("bob", BOB))
        )
        (directory / "users").write_text(users + "rob::0:0::/root::\nvirtual:x\n")
        self.configure()
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(directory / "notify"))
        os.chmod(directory / "notify", 0o666)
        self._ready.settimeout(90)
        self.log = directory / "log"

    def configure(self, *lines: str) -> None:
        text = f"""
role = server
myhostname = toad.resel.fr
mydomain = resel.fr
myorigin = resel.fr
mydestination = resel.fr, toad.resel.fr
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_listen = :{self.port}
imap_listen =
imaps_listen =
submission_listen =
submissions_listen =
recipient_delimiter = +
queue_directory = {self.directory}/queue
data_directory = {self.directory}/data
alias_maps = hash:{self.directory}/aliases, hash:{self.directory}/aliases.ann
userdb = passwd-file:{self.directory}/users
mail_spool_directory = {self.directory}/spool
default_privs = {PRIVS}
mail_owner = {OWNER}
mail_uid = {MAILBOXES}
mail_gid = {MAILBOXES}
deliver_lock_attempts = 2
"""
        (self.directory / "main.cf").write_text(text + "\n".join(lines) + "\n")

    def start(self, aliases: str, of_ann: str = "", account: str = "root") -> None:
        (self.directory / "aliases").write_text(aliases.replace("DIR", str(self.directory)))
        (self.directory / "aliases.ann").write_text(of_ann.replace("DIR", str(self.directory)))
        os.chown(self.directory / "aliases.ann", *ids(ANN))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(self.directory)],
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify")},
                user=ids(account)[0],
                group=ids(account)[1],
                extra_groups=[ids(account)[1]],
            )
        try:
            while b"READY=1" not in self._ready.recv(4096):
                continue
        except TimeoutError:
            raise AssertionError(f"not ready:\n{self.log.read_text()}") from None

    def send(self, *names: str, text: str = "hello") -> None:
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            for name in names:
                client.sendmail(
                    "cron@vm.resel.fr", [f"{name}@resel.fr"], f"Subject: x\r\n\r\n{text}\r\n"
                )

    def outcome(self, name: str, count: int = 1) -> str:
        """The end of the log line about a recipient: "status=sent (…)"."""
        until = time.monotonic() + 60
        pattern = re.compile(rf"to=<{re.escape(name)}@resel.fr>.*(dsn=\S+ status=.*)")
        while time.monotonic() < until:
            found = pattern.findall(self.log.read_text())
            if len(found) >= count:
                return str(found[count - 1]).replace(",", "")
            time.sleep(0.02)
        raise AssertionError(f"nothing about {name}:\n{self.log.read_text()}")

    def children(self) -> dict[int, list[bytes]]:
        """The supervisor's processes, with their command lines."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {
            int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            for pid in path.read_text().split()
        }

    def close(self) -> None:
        self._ready.close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        assert "Traceback" not in self.log.read_text()


@pytest.fixture
def server() -> Iterator[Server]:
    # Not tmp_path: others must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="resel-helpers-") as name:
        os.chmod(name, 0o755)
        made = Server(Path(name))
        yield made
        try:
            if made.process.poll() is None:
                made.stop()
        finally:
            made.close()


def owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def test_helpers_commands_and_files_by_owner_of_the_alias_file(server: Server) -> None:
    server.start(
        'cmd: "|id > DIR/out/cmd; cat >> DIR/out/cmd"\n'
        "file: DIR/out/box\n"
        'fail: "|echo no room; exit 69"\n'
        "both: cmd, file\n"
        "lists: :include:DIR/out/list\n"
        "shadow: :include:/etc/shadow\n"
        "friends: :include:DIR/ann/friends\n",
        'own: "|id -un > DIR/out/own"\n',
    )
    (server.out / "list").write_text("# members\nfile, bob\n")
    (server.directory / "ann" / "friends").write_text("bob\n")
    os.chown(server.directory / "ann" / "friends", *ids(ANN))
    (server.directory / "ann" / "friends").chmod(0o600)
    server.send("cmd", "file", "fail", "own", "lists", "shadow")
    assert server.outcome("cmd").startswith("dsn=2.0.0 status=sent (delivered to command: id > ")
    assert server.outcome("file").endswith(f"status=sent (delivered to file: {server.out}/box)")
    assert server.outcome("fail") == (
        "dsn=5.3.0 status=bounced (service unavailable. Command output: no room)"
    )
    assert server.outcome("own").startswith("dsn=2.0.0 status=sent")
    assert server.outcome("bob") == "dsn=2.0.0 status=sent (delivered to mailbox)"
    server.send("friends")
    assert server.outcome("bob", 2) == "dsn=2.0.0 status=sent (delivered to mailbox)"
    assert server.outcome("shadow").startswith("dsn=4.3.5 status=deferred (:include: file ")
    assert owner(server.out / "cmd") == ids(PRIVS)
    lines = (server.out / "cmd").read_text().splitlines()
    uid, gid = ids(PRIVS)
    assert lines[0] == f"uid={uid}({PRIVS}) gid={gid}({PRIVS}) groups={gid}({PRIVS})"
    assert lines[-1] == "hello"
    assert owner(server.out / "box") == ids(PRIVS)
    assert (server.out / "own").read_text() == f"{ANN}\n"
    assert owner(server.directory / "spool" / "bob") == (ids(BOB)[0], 8)
    server.send("both")
    server.outcome("both", 2)


def test_helpers_forward_runs_as_the_user(server: Server) -> None:
    forward = server.directory / "ann" / ".forward"
    forward.write_text(
        f'\\ann, "|id > {server.out}/id; env > {server.out}/env", bob\n{server.out}/file\n'
    )
    os.chown(forward, *ids(ANN))
    forward.chmod(0o600)
    server.start("team: ann\n")
    server.send("team")
    server.outcome("ann", 4)
    assert server.outcome("bob") == "dsn=2.0.0 status=sent (delivered to mailbox)"
    uid, gid = ids(ANN)
    assert (server.out / "id").read_text().strip() == (
        f"uid={uid}({ANN}) gid={gid}({ANN}) groups={gid}({ANN})"
    )
    lines = (server.out / "env").read_text().splitlines()
    assert {"USER=ann", f"HOME={server.directory}/ann", "ORIGINAL_RECIPIENT=team@resel.fr"} <= set(
        lines
    )
    assert owner(server.out / "file") == ids(ANN)
    text = (server.directory / "spool" / "ann").read_text()
    assert text.count("From cron@") == 1
    assert "Delivered-To: ann@resel.fr\n" in (server.directory / "spool" / "bob").read_text()


def test_helpers_loops_between_forward_files_end(server: Server) -> None:
    for name, account, text in (("ann", ANN, "bob\n"), ("bob", BOB, "ann@toad.resel.fr\n")):
        path = server.directory / name / ".forward"
        path.write_text(text)
        os.chown(path, *ids(account))
    server.start("")
    server.send("ann")
    spool = server.directory / "spool"
    until = time.monotonic() + 60
    while not (spool / "ann").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert (spool / "ann").read_text().count("hello") == 1
    assert not (spool / "bob").exists()


def test_helpers_maildir_in_the_home_and_nothing_as_root(server: Server) -> None:
    server.configure("home_mailbox = Maildir/")
    server.start('x: "|/bin/true"\n')
    server.send("ann", "rob")
    assert server.outcome("ann") == "dsn=2.0.0 status=sent (delivered to maildir)"
    [mail] = (server.directory / "ann" / "Maildir" / "new").iterdir()
    assert owner(mail) == ids(ANN)
    assert "is not delivered as root" in server.outcome("rob")
    assert "status=deferred" in server.outcome("rob")


def test_helpers_symbolic_links_lead_nowhere(server: Server) -> None:
    (server.directory / "ann" / "secret").write_text("precious")
    os.chown(server.directory / "ann" / "secret", *ids(ANN))
    (server.out / "link").symlink_to(server.directory / "ann" / "secret")
    spool = server.directory / "spool"
    (spool / "bob").symlink_to(server.directory / "ann" / "secret")
    server.start("link: DIR/out/link\nname: DIR/out/$(touch x)`id`;|\n")
    server.send("link", "bob")
    assert server.outcome("link").endswith("file is a symbolic link)")
    assert "status=bounced" in server.outcome("link")
    assert "status=deferred" in server.outcome("bob")
    assert (server.directory / "ann" / "secret").read_text() == "precious"


def test_helpers_hostile_programs_harm_only_their_own(server: Server) -> None:
    server.configure("command_time_limit = 2s")
    server.start(
        'killer: "|kill -9 -1"\nhang: "|trap \'\' TERM; sleep 60"\nok: "|/bin/true"\n'
        'many: "|(sleep 60 & sleep 60 & sleep 60 &) ; exit 0"\n',
        'annkill: "|kill -9 -1"\nannstop: "|kill -STOP $PPID; sleep 5"\n',
    )
    server.send("annkill", "hang", "bob", "many", "ok")
    assert server.outcome("bob").startswith("dsn=2.0.0 status=sent")
    assert server.outcome("ok").startswith("dsn=2.0.0 status=sent")
    assert server.outcome("many").startswith("dsn=2.0.0 status=sent")
    assert server.outcome("annkill").startswith("dsn=4.3.0 status=deferred")
    assert server.outcome("hang").startswith(
        "dsn=5.3.0 status=bounced (Command time limit exceeded: "
    )
    server.send("annstop", "ok", "bob", "ann")
    assert server.outcome("ok", 2).startswith("dsn=2.0.0 status=sent")
    assert server.outcome("bob", 2).startswith("dsn=2.0.0 status=sent")


def test_helpers_end_with_the_daemon_and_lose_nothing(server: Server) -> None:
    server.configure("shutdown_timeout = 1s")
    server.start('slow: "|cat > DIR/out/part; echo $$ > DIR/out/pid; sleep 60"\n')
    server.send("slow")
    until = time.monotonic() + 60
    while not (server.out / "pid").exists() and time.monotonic() < until:
        time.sleep(0.02)
    # A hang-up or an interrupt of the whole group is not for them.
    for pid, words in server.children().items():
        if b"resel_lda.helper" in words:
            for number in (signal.SIGHUP, signal.SIGINT):
                os.kill(pid, number)
    assert "ended by itself" not in server.log.read_text()
    server.stop()
    pid = int((server.out / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()
    listed = subprocess.run(
        [sys.executable, "-m", "resel_mta.commands.queue", "-c", str(server.directory), "-p"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "slow@resel.fr" in listed.stdout


def test_helpers_pam_is_asked_by_a_process_that_is_root(server: Server) -> None:
    """Nobody has the password of `games`; PAM says so, and does not fail."""
    port = free_port()
    server.configure(
        "passdb = pam:other",
        "submission/smtpd_sasl_auth_enable = yes",
        f"submission_listen = 127.0.0.1:{port}",
        "submission/smtpd_tls_security_level = none",
        "submission/smtpd_tls_auth_only = no",
    )
    server.start("")
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()
        for name in (MAILBOXES, "root", "no-such-user"):
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.login(name, "wrong")
            assert refused.value.smtp_code == 535
    commands = server.children().values()
    assert any(b"resel_mta.users.pam_process" in words for words in commands)


def logged_in_again(port: int) -> imaplib.IMAP4:
    """As ann, whose worker was killed: a session that it was given while it died is over with it."""
    until = time.monotonic() + 60
    while True:
        client = imaplib.IMAP4("127.0.0.1", port)
        try:
            client.login("ann", "a")
        except imaplib.IMAP4.abort:
            client.shutdown()
            assert time.monotonic() < until
        else:
            return client


def test_helpers_imap_of_users_with_their_own_uid(server: Server) -> None:
    port = free_port()
    users = server.directory / "users"
    users.write_text(
        users.read_text().replace("ann::", "ann:{PLAIN}a:").replace("bob::", "bob:{PLAIN}b:")
    )
    server.configure(
        "home_mailbox = Maildir/",
        f"imap_listen = 127.0.0.1:{port}",
        f"passdb = passwd-file:{users}",
    )
    server.start("")
    server.send("ann", "bob")
    server.outcome("ann")
    server.outcome("bob")
    clients = {}
    for name in ("ann", "bob"):
        client = clients[name] = imaplib.IMAP4("127.0.0.1", port)
        client.login(name, name[0])
        assert client.select()[1] == [b"1"]
    workers = {
        pid: os.stat(f"/proc/{pid}").st_uid
        for pid, words in server.children().items()
        if b"resel_lda.worker" in words
    }
    assert {ids(ANN)[0], ids(BOB)[0]} <= set(workers.values())
    # One user's worker dies: the other's session goes on, and the first can come again.
    [pid] = [pid for pid, uid in workers.items() if uid == ids(ANN)[0]]
    os.kill(pid, signal.SIGKILL)
    assert clients["bob"].noop()[0] == "OK"
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        clients["ann"].noop()
    with contextlib.suppress(OSError):
        clients["ann"].shutdown()
    client = logged_in_again(port)
    # With what status, only the supervisor could tell: not 0.
    assert f"worker pid {pid} ended\n" in server.log.read_text()
    assert client.select()[1] == [b"1"]
    client.logout()
    clients["bob"].logout()
    assert owner(server.directory / "ann" / "Maildir") == ids(ANN)


def test_helpers_without_root_everything_is_done_as_oneself(server: Server) -> None:
    server.configure("home_mailbox = mbox")
    os.chown(server.directory, *ids(ANN))
    forward = server.directory / "ann" / ".forward"
    forward.write_text(f'\\ann, "|id -un > {server.out}/forward"\n')
    os.chown(forward, *ids(ANN))
    (server.directory / "data").mkdir()
    os.chown(server.directory / "data", *ids(ANN))
    server.start(
        'cmd: "|id -un > DIR/out/cmd"\nfile: DIR/out/box\n', 'x: "|/bin/true"\n', account=ANN
    )
    server.send("cmd", "file", "ann", "bob")
    assert server.outcome("cmd").startswith("dsn=2.0.0 status=sent")
    assert server.outcome("file").startswith("dsn=2.0.0 status=sent")
    server.outcome("ann", 3)
    # Another's mailbox is not ours to write.
    assert "status=deferred" in server.outcome("bob")
    assert (server.out / "cmd").read_text() == f"{ANN}\n"
    assert (server.out / "forward").read_text() == f"{ANN}\n"
    assert owner(server.out / "box") == ids(ANN)
    assert "hello" in (server.directory / "ann" / "mbox").read_text()


def test_helpers_a_new_sympa_list_is_live_within_a_second(server: Server) -> None:
    aliases = server.directory / "sympa"
    aliases.write_text('old: "| /bin/cat >> DIR/out/lists"\n'.replace("DIR", str(server.directory)))
    server.configure(
        f"alias_maps = hash:{server.directory}/aliases, watch:hash:{aliases}",
        "smtpd_error_sleep_time = 0",
        "smtpd_soft_error_limit = 10000",
        "smtpd_hard_error_limit = 10000",
    )
    server.start("")
    server.send("old")
    assert server.outcome("old").startswith("dsn=2.0.0 status=sent")
    with aliases.open("a") as file:
        file.write(f'jeux: "| /bin/cat >> {server.out}/lists"\n')
    changed = time.monotonic()
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        client.ehlo()
        while True:
            client.mail("s@x.org")
            code, _ = client.rcpt("jeux@resel.fr")
            if code == 250:
                break
            assert code == 550
            assert time.monotonic() - changed < 5
            client.rset()
            time.sleep(0.02)
        took = time.monotonic() - changed
        assert client.data("Subject: x\r\n\r\nhello\r\n")[0] == 250
    assert took < 1.5, "a second, and what a loaded machine needs beside"
    assert server.outcome("jeux").startswith("dsn=2.0.0 status=sent")
    assert f"{aliases} has changed and is live" in server.log.read_text()


def test_helpers_a_supervisor_that_is_killed_takes_all_with_it(server: Server) -> None:
    server.configure("shutdown_timeout = 1s")
    server.start('slow: "|echo $$ > DIR/out/pid; sleep 60"\n')
    server.send("ann", "slow")
    server.outcome("ann")
    until = time.monotonic() + 60
    while not (server.out / "pid").exists() and time.monotonic() < until:
        time.sleep(0.02)
    pids = [*server.children(), int((server.out / "pid").read_text() or 0)]
    assert len(pids) >= 4
    server.process.kill()
    server.process.wait(30)
    until = time.monotonic() + 30
    while any(is_running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_running(pid)]
    assert "status=deferred (mail system shuts down: " in server.log.read_text()


def is_running(pid: int) -> bool:
    """Not counting what only waits for its parent to hear of its end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status
