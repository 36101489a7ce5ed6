"""The two whose IMAP, POP3 and LMTP are compared: a private Dovecot, and resel-mta with role server.

Both serve the same users from Maildirs with the same names below their own directories, on loopback
ports, with the settings they are shipped with.
"""

from __future__ import annotations

import abc
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.load import BenchmarkError
from demo.launcher import Launcher
from demo.machines import Machine, free_port

PASSWORD = "bench"
HOST = "toad.bench.example"
DOVECOT = "/usr/sbin/dovecot"

DOVECOT_CONF = """\
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/log
protocols = imap pop3 lmtp
ssl = no
disable_plaintext_auth = no
default_login_user = {user}
default_internal_user = {user}
default_internal_group = {group}
first_valid_uid = 1
mail_location = maildir:{root}/mail/%u
mail_uid = {uid}
mail_gid = {gid}
mail_max_userip_connections = 100
auth_username_format = %n
postmaster_address = postmaster@{host}
listen = 127.0.0.1
passdb {{
  driver = passwd-file
  args = {root}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={root}/mail/%u
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
  chroot =
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
  chroot =
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
service anvil {{
  chroot =
}}
service imap {{
  process_limit = 200
}}
"""


class MailServer(abc.ABC):
    """A server of mailboxes. mail: where the users' Maildirs lie; account: whose they are.
    port: IMAP's."""

    name: str
    pid: int

    def __init__(self, root: Path, users: int) -> None:
        root.mkdir(mode=0o755)
        self.root = root
        self.port, self.pop3, self.lmtp = (free_port(["127.0.0.1"]) for _ in range(3))
        self.mail = root / "mail"
        self.mail.mkdir(mode=0o755)
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.getuid())
        self.give(self.mail)
        lines = [f"u{number}:{{PLAIN}}{PASSWORD}:::::\n" for number in range(users)]
        (root / "users").write_text("".join(lines))
        (root / "users").chmod(0o644)

    def give(self, path: Path) -> None:
        """Make a file or directory the mailboxes' owner's."""
        if os.geteuid() == 0:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    @abc.abstractmethod
    def stop(self) -> None: ...


class DovecotServer(MailServer):
    """Needs root, as Dovecot's master does to give its processes their accounts."""

    name = "Dovecot"

    def __init__(self, root: Path, users: int) -> None:
        super().__init__(root, users)
        for part in ("run", "state"):
            (root / part).mkdir(mode=0o755)
        conf = root / "dovecot.conf"
        account = self.account
        conf.write_text(
            DOVECOT_CONF.format(
                root=root,
                user=account.pw_name,
                group="nogroup" if os.geteuid() == 0 else account.pw_gid,
                uid=account.pw_uid,
                gid=account.pw_gid,
                port=self.port,
                pop3=self.pop3,
                lmtp=self.lmtp,
                host=HOST,
            )
        )
        self._process = subprocess.Popen(
            [DOVECOT, "-F", "-c", str(conf)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        time.sleep(0.5)
        if self._process.poll() is not None and self._process.stderr is not None:
            text = self._process.stderr.read().decode("utf-8", "replace").strip()
            raise BenchmarkError(f"Dovecot did not start: {text}")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5)


class ReselMailServer(MailServer):
    """`resel-mta --role server`, unprivileged. more: settings beside these."""

    name = "resel-mta"
    imaps = 0

    def __init__(self, root: Path, users: int, more: Mapping[str, str] | None = None) -> None:
        super().__init__(root, users)
        overrides = {
            "myhostname": HOST,
            "smtpd_listen": "",
            "submission_listen": "",
            "submissions_listen": "",
            "imap_listen": f":{self.port}",
            "imaps_listen": "",
            "pop3_listen": f":{self.pop3}",
            "pop3s_listen": "",
            "lmtp_listen": f":{self.lmtp}",
            "relayhost": "",
            "smtpd_tls_cert_file": "",
            "smtpd_tls_key_file": "",
            "passdb": f"passwd-file:{root}/users",
            "userdb": "",
            "mail_location": f"maildir:{self.mail}/%u",
            **(more or {}),
        }
        self._machine = Machine(
            "toad", "server", "127.0.0.1", root / "toad", Launcher(root), overrides
        )
        self._machine.start()
        self.pid = self._machine.pid

    def stop(self) -> None:
        self._machine.stop()


def available() -> str:
    """Why Dovecot cannot be measured, or ""."""
    if not shutil.which(DOVECOT):
        return "dovecot is missing: apt install dovecot-imapd"
    return "" if os.geteuid() == 0 else "its master needs root"
