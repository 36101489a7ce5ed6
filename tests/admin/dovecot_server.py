"""A private Dovecot with doveadm and, where wanted, listeners. It needs root to start."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

PASSWORD = "secret"

CONFIG = """\
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/log
instance_name = private
ssl = no
disable_plaintext_auth = no
protocols = {protocols}
default_login_user = dovenull
default_internal_user = dovecot
mail_location = maildir:~/Maildir
first_valid_uid = 1
first_valid_gid = 1
passdb {{
  driver = passwd-file
  args = {root}/passwd
}}
userdb {{
  driver = passwd-file
  args = {root}/passwd
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
plugin {{
  quota = maildir:User quota
  quota_rule = *:storage=100M
}}
mail_plugins = quota
service anvil {{
  chroot =
}}
{more}
"""


class DovecotServer:
    """Users of `names` with PASSWORD, their Maildirs in root/mail/NAME/Maildir. Use as a context
    manager. root: reachable for everybody."""

    def __init__(self, root: Path, names: list[str], protocols: str = "", more: str = "") -> None:
        self.root = root
        self.config = root / "dovecot.conf"
        owner = pwd.getpwnam("nobody")
        for name in names:
            (root / "mail" / name).mkdir(parents=True)
        (root / "passwd").write_text(
            "".join(
                f"{name}:{{PLAIN}}{PASSWORD}:{owner.pw_uid}:{owner.pw_gid}::{root}/mail/{name}::\n"
                for name in names
            )
        )
        self.config.write_text(CONFIG.format(root=root, protocols=protocols, more=more))
        self.own()

    def own(self) -> None:
        """Hand the mail to the account that Dovecot reads it as."""
        for directory, _, files in os.walk(self.root / "mail"):
            shutil.chown(directory, "nobody", "nogroup")
            for name in files:
                shutil.chown(os.path.join(directory, name), "nobody", "nogroup")

    def __enter__(self) -> DovecotServer:
        self._process = subprocess.Popen(
            ["/usr/sbin/dovecot", "-F", "-c", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not (self.root / "run" / "auth-userdb").is_socket():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"dovecot: {(self.root / 'log').read_text()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(20)

    def doveadm(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        done = subprocess.run(
            ["doveadm", "-c", str(self.config), *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=30,
        )
        return done.returncode, _text(done.stdout), _text(done.stderr)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
