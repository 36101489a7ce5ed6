"""ResEl's three machines on loopback: VM, Pégase and Toad, with the configurations of conf/.

Only what a sandbox must change is overridden: ports, directories, each machine's own name where
the file takes it from the system, and the DNS server to ask. All of them listen on the same port
of an address of their own, as real ones do on port 25.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import imaplib
import os
import secrets
import shutil
import smtplib
import ssl
import tempfile
from pathlib import Path
from types import TracebackType

from demo.certificate import write_certificate
from demo.launcher import Launcher
from demo.machines import Machine, free_port
from demo.nameserver import NameServer

VM, PEGASE, TOAD = "127.0.0.11", "127.0.0.12", "127.0.0.13"
USER = "lcarr"

ZONE = {
    ("resel.fr", "MX"): ["10 toad.resel.fr."],
    ("toad.resel.fr", "A"): [TOAD],
    ("pegase.adm.resel.fr", "A"): [PEGASE],
    ("vm1.adm.resel.fr", "A"): [VM],
    ("11.0.0.127.in-addr.arpa", "PTR"): ["vm1.adm.resel.fr."],
    ("12.0.0.127.in-addr.arpa", "PTR"): ["pegase.adm.resel.fr."],
    ("13.0.0.127.in-addr.arpa", "PTR"): ["toad.resel.fr."],
    ("1.0.0.127.in-addr.arpa", "PTR"): ["localhost."],
    ("localhost", "A"): ["127.0.0.1"],
}


class Network:
    """The three machines; a context manager that stops them and removes every trace.

    Entering prepares; `start` starts the daemons. dns: one server per machine, so that one sees
    who asked what; all know the same zone. extra: further overrides by machine name.
    """

    def __init__(
        self,
        extra: dict[str, dict[str, str]] | None = None,
        zone: dict[tuple[str, str], list[str]] | None = None,
        port: int = 0,
    ) -> None:
        self.port = port or free_port(["127.0.0.1", VM, PEGASE, TOAD])
        self.imap_port = free_port([TOAD])
        self.password = secrets.token_urlsafe(12)
        self._zone = ZONE | (zone or {})
        self._extra = extra or {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Network:
        with contextlib.ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="resel-"))
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.directory.chmod(0o755)
            self.launcher = Launcher(self.directory)
            self.dns = {
                name: stack.enter_context(NameServer(self._zone))
                for name in ("vm", "pegase", "toad")
            }
            self.vm = self._machine("vm", "smarthost", VM, {"myhostname": "vm1.adm.resel.fr"})
            self.pegase = self._machine("pegase", "relay", PEGASE, {})
            self.toad = self._machine("toad", "server", TOAD, self._mailbox_settings())
            self._make_user()
            for machine in self.machines:
                stack.callback(machine.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def machines(self) -> tuple[Machine, ...]:
        return (self.vm, self.pegase, self.toad)

    def start(self) -> None:
        """Raises MachineError."""
        for machine in self.machines:
            machine.start()

    def _machine(self, name: str, role: str, address: str, settings: dict[str, str]) -> Machine:
        overrides = {
            "smtpd_listen": f":{self.port}",
            "smtp_tcp_port": str(self.port),
            "dns_nameservers": self.dns[name].address,
            **settings,
            **self._extra.get(name, {}),
        }
        aliases = "aliases.server" if role == "server" else "aliases"
        return Machine(
            name, role, address, self.directory / name, self.launcher, overrides, aliases
        )

    def _mailbox_settings(self) -> dict[str, str]:
        """Toad's files lie here; and started without root it serves one account's mailboxes,
        not vmail's."""
        toad = self.directory / "toad"
        return {
            "imap_listen": f":{self.imap_port}",
            "imaps_listen": "",
            "submission_listen": "",
            "submissions_listen": "",
            "smtpd_tls_cert_file": f"{toad}/toad.crt",
            "smtpd_tls_key_file": f"{toad}/toad.key",
            "passdb": f"passwd-file:{toad}/users",
            "userdb": f"passwd-file:{toad}/users",
            "mail_location": f"maildir:{toad}/mail/%n",
            "mail_uid": "",
            "mail_gid": "",
        }

    def _make_user(self) -> None:
        toad = self.directory / "toad"
        salt = os.urandom(8)
        digest = hashlib.sha512(self.password.encode() + salt).digest() + salt
        users = toad / "users"
        users.write_text(f"{USER}:{{SSHA512}}{base64.b64encode(digest).decode()}::::::\n")
        users.chmod(0o600)
        self.certificate = toad / "toad.crt"
        write_certificate("toad.resel.fr", self.certificate, toad / "toad.key")
        (toad / "mail").mkdir()
        for name in ("users", "toad.crt", "toad.key", "mail"):
            self.launcher.give(toad / name)

    def smtp(self, machine: Machine) -> smtplib.SMTP:
        """A connection to a machine's SMTP port. Raises OSError, smtplib.SMTPException."""
        return smtplib.SMTP(machine.address, self.port, local_hostname="localhost", timeout=10)

    def imap(self) -> imaplib.IMAP4:
        """A session of lcarr's on Toad, encrypted. Raises OSError, imaplib.IMAP4.error."""
        client = imaplib.IMAP4(TOAD, self.imap_port, timeout=10)
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False  # the session goes to an address, not to a name
        try:
            client.starttls(context)
            client.login(USER, self.password)
        except BaseException:
            client.shutdown()
            raise
        return client
