"""A whole daemon, and commands of root and of others beside it."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sendmail_helpers import ROOT, RUN

IS_ROOT = os.getuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
OWNER = "nobody"
# A user that is neither root nor the mail owner.
OTHER = pwd.getpwnam("games")


class Daemon:
    """`resel-mta --role smarthost`, whose mail waits in the queue for a relay that is not there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.aliases = directory / "aliases"
        self.aliases.write_text("root: lcarr@resel.fr\n")
        self.queue = directory / "queue"
        (directory / "main.cf").write_text(
            f"role = smarthost\nmyhostname = vm1.adm.resel.fr\nsmtpd_listen =\n"
            f"mydestination = $myhostname, localhost\nrelayhost = [127.0.0.1]:1\n"
            f"queue_directory = {self.queue}\ndata_directory = {directory}/data\n"
            f"alias_maps = hash:{self.aliases}\nalias_database = hash:{self.aliases}\n"
            f"mail_owner = {OWNER}\n"
        )
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log.open("ab") as log:
            path = self.directory / "notify"
            path.unlink(missing_ok=True)
            ready.bind(str(path))
            path.chmod(0o666)
            ready.settimeout(90)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(self.directory)],
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(path)},
            )
            while b"READY=1" not in ready.recv(4096):
                continue

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(90) == 0
            self.process = None

    def run(
        self, *words: str, name: str = "sendmail", data: bytes = b"Subject: x\n\nhi\n",
        uid: int | None = None, before: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        command = [sys.executable, "-P", "-c", RUN, name, "-C", str(self.directory), *words]
        done = subprocess.run(
            [*before, *command], input=data, capture_output=True, timeout=90, cwd="/", check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, user=uid, group=uid,
            extra_groups=None if uid is None else [],
        )  # fmt: skip
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def queue_command(
        self, *words: str, uid: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """resel-queue, in the same way."""
        command = [
            *(sys.executable, "-P", "-m", "resel_mta.commands.queue", "-c", str(self.directory)), *words
        ]  # fmt: skip
        return subprocess.run(
            command, capture_output=True, text=True, timeout=90, cwd="/", check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, user=uid, group=uid,
            extra_groups=None if uid is None else [],
        )  # fmt: skip

    def await_log(self, words: str) -> str:
        until = time.monotonic() + 60
        while words not in (text := self.log.read_text()):
            assert time.monotonic() < until, text
            time.sleep(0.02)
        return text

    def await_taken(self) -> None:
        """Nothing is left of what was dropped, of which the log tells earlier."""
        until = time.monotonic() + 60
        while left := list((self.queue / "drop").iterdir()):
            assert time.monotonic() < until, left
            time.sleep(0.02)
