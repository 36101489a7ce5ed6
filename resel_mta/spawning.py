"""How the supervisor starts processes: with which environment, as whom, with which socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from resel_lda import handover
from resel_lda.keeper import COMMAND as WORKER_COMMAND
from resel_mta.privileges import Account

Started = tuple[socket.socket, "subprocess.Popen[bytes]"]
"""The socket to it, and the process."""

SETTLED = 5.0
"""Seconds after which a process that was started counts as running."""
LONGEST_PAUSE = 60.0


class Restarts:
    """How long to wait before a process that has ended is started again: each time longer, where
    it does not get so far as to run. Whatever is in its way may go by itself, or be put right."""

    def __init__(self) -> None:
        self._pause = 0.0

    def pause(self, lived: float, status: int) -> float:
        """Seconds, for one that was there for `lived` seconds. status: as subprocess has it."""
        # One that gives up by itself may have taken its time before: on a busy machine, or for a
        # queue that is in use.
        settled = SETTLED if status < 0 else LONGEST_PAUSE
        self._pause = min(self._pause * 2 or 1.0, LONGEST_PAUSE) if lived < settled else 0.0
        return self._pause


def python_environment() -> dict[str, str]:
    """So that a child finds this very package, wherever it is started."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else root
    return environment


def can_run(account: Account) -> bool:
    """Whether the account can execute this interpreter and read these packages: a checkout in
    root's home is closed to it."""
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", "import resel_mta, resel_lda, resel_relay, uvloop"],
            env=python_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=account.uid,
            group=account.gid,
            extra_groups=[account.gid],
            check=False,
        )
    except OSError:
        return False
    return tried.returncode == 0


def start_worker(uid: int, gid: int) -> Started:
    """A mailbox worker with these rights. Raises OSError."""
    front, theirs = handover.socket_pair()
    try:
        with theirs:
            worker = subprocess.Popen(
                WORKER_COMMAND,
                stdin=theirs.fileno(),
                env=python_environment(),
                cwd="/",
                user=uid,
                group=gid,
                extra_groups=[gid],
            )
    except BaseException:
        front.close()
        raise
    return front, worker


def start_pam(service: str) -> Started:
    """The process that asks PAM. It stays root: pam_unix reads the shadow file. Raises OSError."""
    front, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "resel_mta.users.pam_process", service],
                stdin=theirs.fileno(),
                env=python_environment(),
                cwd="/",
            )
    except BaseException:
        front.close()
        raise
    return front, process
