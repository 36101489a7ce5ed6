"""ResEl's three machines and a stranger's Postfix, each a host of a Lan, all on port 25.

The files of conf/ lie in /etc as they are. Nothing is overridden.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lan import ACCOUNTS, Host, HostError, Lan

from benchmarks.servers import MASTER_CF
from demo.certificate import write_certificate
from demo.launcher import CHECKOUT, Launcher

COMMANDS = ("resel-mta", "resel-queue", "resel-conf", "resel-map", "resel-sendmail", "resel-adm")
PASSWORD = "dauphin-7-rouge"
ZONE = (
    "resel.fr. MX 10 toad.resel.fr.",
    "toad.resel.fr. A 192.0.2.25",
    "pegase.adm.resel.fr. A 10.0.1.25",
    "vm1.adm.resel.fr. A 10.0.2.11",
    "example.org. MX 10 mx.example.org.",
    "mx.example.org. A 192.0.2.99",
    # Reachable by IPv6 only, and by the second of its MX hosts only.
    "example.net. MX 10 gone.example.net.",
    "example.net. MX 20 mx6.example.net.",
    "gone.example.net. A 192.0.2.98",
    "mx6.example.net. AAAA 2001:db8::99",
    "25.2.0.192.in-addr.arpa. PTR toad.resel.fr.",
    "99.2.0.192.in-addr.arpa. PTR mx.example.org.",
    "25.1.0.10.in-addr.arpa. PTR pegase.adm.resel.fr.",
    "11.2.0.10.in-addr.arpa. PTR vm1.adm.resel.fr.",
)


class Machine(Host):
    """A host with the daemon of one role. `sendmail`, `mailq` and `newaliases` are ours there."""

    def __init__(
        self, directory: Path, fqdn: str, role: str, addresses: list[str], launcher: Launcher
    ) -> None:
        super().__init__(directory, fqdn, addresses)
        self.role = role
        scripts = directory / "bin"
        scripts.mkdir()
        for name in COMMANDS:
            _write_command(scripts / name, launcher)
        self.environment |= launcher.environment()
        self.environment["PATH"] = f"{scripts}:{self.environment['PATH']}"
        # Where Postfix is installed, its command is hidden; its other names lead to that one.
        self.bind(scripts / "resel-sendmail", "/usr/sbin/sendmail")
        (self.etc / "resel-mta").mkdir()
        shutil.copy(CHECKOUT / "conf" / f"{role}.cf", self.etc / "resel-mta/main.cf")
        aliases = "aliases.server" if role == "server" else "aliases"
        shutil.copy(CHECKOUT / "conf" / aliases, self.etc / "aliases")
        self.log_path = self.var / "log/mail.log"
        self._daemon: subprocess.Popen[bytes] | None = None

    def start_daemon(self, *words: str) -> None:
        """Returns when it says that it is ready. words: the command. Raises HostError."""
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
            self.log_path.open("ab") as log,
        ):
            ready.bind(str(path))
            path.chmod(0o666)
            ready.settimeout(0.1)
            self._daemon = self.spawn(
                *(words or ("resel-mta",)), output=log, environment={"NOTIFY_SOCKET": str(path)}
            )
            until = time.monotonic() + 60
            while time.monotonic() < until and self._daemon.poll() is None:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in ready.recv(4096).split(b"\n"):
                        return
        raise HostError(f"{self.name} did not start:\n{self.log()}")

    def stop_daemon(self) -> int:
        """With `resel-mta stop`; the daemon's exit code."""
        self.check("resel-mta", "stop")
        assert self._daemon is not None
        return self._daemon.wait(30)

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def await_log(self, pattern: str, timeout: float = 20, start: int = 0) -> re.Match[str]:
        """The first match after character `start`. Raises HostError."""
        until = time.monotonic() + timeout
        while True:
            match = re.compile(pattern, re.MULTILINE).search(self.log(), start)
            if match is not None:
                return match
            if time.monotonic() > until:
                raise HostError(f"{self.name} did not log {pattern}:\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def queue(self) -> str:
        return self.check("resel-queue", "-p").strip()

    def await_empty_queue(self, timeout: float = 30) -> None:
        until = time.monotonic() + timeout
        while (listing := self.queue()) != "Mail queue is empty":
            if time.monotonic() > until:
                raise HostError(f"{self.name} still has:\n{listing}")
            time.sleep(0.1)


class Stranger(Host):
    """A real Postfix outside: MX of example.org and example.net, mailboxes as Maildirs."""

    def __init__(self, directory: Path, need: Callable[[str], str]) -> None:
        super().__init__(directory, "mx.example.org", ["192.0.2.99", "2001:db8::99"])
        self._postfix = need("postfix")
        config = self.etc / "postfix"
        config.mkdir()
        for name in ("postfix-files", "dynamicmaps.cf"):
            shutil.copy(Path("/etc/postfix") / name, config)
        write_certificate("mx.example.org", config / "mx.crt", config / "mx.key")
        (config / "main.cf").write_text(
            "compatibility_level = 3.6\nmyhostname = mx.example.org\nmyorigin = example.org\n"
            "mydestination =\nmaillog_file = /var/log/mail.log\ninet_protocols = all\n"
            "alias_maps =\nalias_database =\nmynetworks = 127.0.0.0/8\n"
            "smtpd_tls_cert_file = /etc/postfix/mx.crt\nsmtpd_tls_key_file = /etc/postfix/mx.key\n"
            "smtpd_tls_security_level = may\nsmtp_tls_security_level = may\n"
            "virtual_mailbox_domains = example.org, example.net\n"
            "virtual_mailbox_maps = inline:{ { friend@example.org = org/ },"
            " { friend@example.net = net/ } }\n"
            f"virtual_uid_maps = static:{ACCOUNTS['peer']}\n"
            f"virtual_gid_maps = static:{ACCOUNTS['peer']}\n"
            "virtual_mailbox_base = /var/mail\nsmtputf8_enable = yes\n"
        )
        services = MASTER_CF.partition("\n")[2]
        (config / "master.cf").write_text(
            f"smtp inet n - n - - smtpd\n{services}virtual unix - n n - - virtual\n"
        )
        (self.var / "spool/postfix").mkdir()
        data = self.var / "lib/postfix"
        data.mkdir()
        shutil.chown(data, "postfix", "postfix")
        os.chown(self.var / "mail", ACCOUNTS["peer"], ACCOUNTS["peer"])

    def start_daemon(self) -> None:
        self.check(self._postfix, "start")

    def mails(self, mailbox: str) -> list[bytes]:
        """What is in "org" or "net"."""
        folder = self.var / "mail" / mailbox / "new"
        return [path.read_bytes() for path in folder.iterdir()] if folder.is_dir() else []

    def await_mail(self, mailbox: str, words: bytes, timeout: float = 20) -> bytes:
        """The mail with these octets in it. Raises HostError."""
        until = time.monotonic() + timeout
        while True:
            for mail in self.mails(mailbox):
                if words in mail:
                    return mail
            if time.monotonic() > until:
                log = (self.var / "log/mail.log").read_text()
                raise HostError(f"no mail with {words!r} in {mailbox}:\n{log[-3000:]}")
            time.sleep(0.05)


class ReselLan:
    """All of it. Entering starts every daemon; leaving ends every process and removes all files."""

    def __init__(self, need: Callable[[str], str]) -> None:
        self._need = need
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ReselLan:
        with contextlib.ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="resel-lan-"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.chmod(0o755)
            launcher = Launcher(directory)
            self.lan = stack.enter_context(Lan(directory, self._need("unbound"), ZONE))
            self.vm = Machine(
                directory / "vm", "vm1.adm.resel.fr", "smarthost", ["10.0.2.11"], launcher
            )
            self.pegase = Machine(
                directory / "pegase", "pegase.adm.resel.fr", "relay", ["10.0.1.25"], launcher
            )
            self.toad = Machine(
                directory / "toad",
                "toad.resel.fr",
                "server",
                ["192.0.2.25", "2001:db8::25"],
                launcher,
            )
            self._make_mailboxes()
            self.stranger = Stranger(directory / "stranger", self._need)
            for host in (self.toad, self.pegase, self.vm, self.stranger):
                self.lan.plug(host)
                host.start_daemon()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def machines(self) -> tuple[Machine, Machine, Machine]:
        return self.vm, self.pegase, self.toad

    @property
    def certificate(self) -> Path:
        return self.toad.etc / "letsencrypt/live/toad.resel.fr/fullchain.pem"

    def _make_mailboxes(self) -> None:
        toad = self.toad
        self.certificate.parent.mkdir(parents=True)
        write_certificate(
            "toad.resel.fr", self.certificate, self.certificate.with_name("privkey.pem")
        )
        users = toad.etc / "resel-mta/users"
        users.write_text(f"lcarr:{{PLAIN}}{PASSWORD}::::::\n")
        users.chmod(0o640)
        os.chown(users, 0, ACCOUNTS["resel"])
        mailboxes = toad.var / "vmail"
        mailboxes.mkdir()
        os.chown(mailboxes, ACCOUNTS["vmail"], ACCOUNTS["vmail"])


def _write_command(path: Path, launcher: Launcher) -> None:
    """A script that any account can run, also from cron's empty environment."""
    words = launcher.command(path.name)
    if len(words) == 1:
        path.symlink_to(words[0])
        return
    packages = launcher.environment()["PYTHONPATH"]
    module = words[-1]
    path.write_text(
        f"#!{words[0]}\nimport sys\nsys.path.insert(0, {packages!r})\n"
        f"from {module} import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
