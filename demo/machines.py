"""One machine of the demo and of the system tests: a daemon with folders and commands of its own."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from demo.launcher import CHECKOUT, Launcher

START_TIMEOUT = 60.0
STOP_TIMEOUT = 25.0


class MachineError(Exception):
    """A daemon did not do what it must. Says what, in a line; `log` has its last lines."""

    def __init__(self, text: str, log: list[str] | None = None) -> None:
        super().__init__(text)
        self.log = log or []


class Machine:
    """A daemon with one role, configured by a file of conf/ and overrides.

    directory: its own; made here, with main.cf and aliases copied from conf/.
    address: the loopback address that it listens on.
    overrides: what its main.cf has in place of the values of conf/, so that all commands see them.
    """

    def __init__(
        self,
        name: str,
        role: str,
        address: str,
        directory: Path,
        launcher: Launcher,
        overrides: Mapping[str, str],
        aliases: str = "aliases",
    ) -> None:
        self.name = name
        self.role = role
        self.address = address
        self.directory = directory
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        directory.mkdir(mode=0o755)
        shutil.copyfile(CHECKOUT / "conf" / f"{role}.cf", directory / "main.cf")
        shutil.copyfile(CHECKOUT / "conf" / aliases, directory / "aliases")
        for path in (directory, directory / "main.cf", directory / "aliases"):
            launcher.give(path)
        settings = {
            "queue_directory": str(directory / "spool"),
            "data_directory": str(directory / "data"),
            "alias_maps": f"hash:{directory}/aliases",
            "inet_interfaces": address,
            "smtp_bind_address": address,
        } | dict(overrides)
        self.configure(settings)

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write lines into its main.cf, in place of those with the same name. They count from the
        next start or reload."""
        path = self.directory / "main.cf"
        kept: list[str] = []
        dropping = False
        for line in path.read_text().splitlines(keepends=True):
            if not line[0].isspace():
                dropping = line.partition("=")[0].strip() in settings
            if not dropping:
                kept.append(line)
        kept += [f"{name} = {value}\n" for name, value in settings.items()]
        path.write_text("".join(kept))

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    @property
    def pid(self) -> int:
        """Of the running daemon; 0 while it is down."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Returns when the daemon says that it is ready (sd_notify). Raises MachineError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            # A name of the kernel's choice and no file: the folder's path may be too long for one.
            channel.bind("")
            name = channel.getsockname()[1:].decode()
            channel.settimeout(0.05)
            words = self._words("resel-mta", "--role", self.role)
            self._output = self.log_path.open("ab")
            self._process = self._launcher.start(words, self._output, {"NOTIFY_SOCKET": f"@{name}"})
            self._await_ready(channel, self._process)

    def _await_ready(self, channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until:
            try:
                if "READY=1" in channel.recv(4096).decode().split("\n"):
                    return
            except TimeoutError:
                if process.poll() is not None:
                    self._forget()
                    raise MachineError(
                        f"{self.name} did not start: exit code {process.returncode}", self.log()
                    ) from None
        self.kill()
        raise MachineError(f"{self.name} was not ready in {START_TIMEOUT:.0f} s", self.log())

    def stop(self) -> None:
        """SIGTERM, and the daemon must end by itself with exit code 0. Raises MachineError."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise MachineError(
                f"{self.name} did not stop in {STOP_TIMEOUT:.0f} s", self.log()
            ) from None
        self._forget()
        if code != 0:
            raise MachineError(f"{self.name} stopped with exit code {code}", self.log())

    def kill(self) -> None:
        """SIGKILL for the daemon and all its workers. Safe at any time, and twice."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT)
        self._forget()

    def hang_up(self) -> None:
        """SIGHUP: read the configuration again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def _forget(self) -> None:
        self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command such as "resel-queue" on this machine."""
        return self._launcher.run(self._words(name, *arguments))

    def _words(self, name: str, *arguments: str) -> list[str]:
        return [*self._launcher.command(name), "-c", str(self.directory), *arguments]

    def sendmail(self, arguments: Sequence[str], data: str) -> subprocess.CompletedProcess[str]:
        """Hand in a mail on this machine, as the user who runs this."""
        words = [*self._launcher.command("resel-sendmail"), "-C", str(self.directory), *arguments]
        return self._launcher.run(words, data=data, as_caller=True)

    def log(self) -> list[str]:
        """All its lines so far."""
        if not self.log_path.exists():
            return []
        return self.log_path.read_text("utf-8", "replace").splitlines()

    def await_log(self, pattern: str, timeout: float = 60.0, start: int = 0) -> re.Match[str]:
        """The first line from number `start` on that the pattern is found in. MachineError if
        there is none in time."""
        until = time.monotonic() + timeout
        while True:
            for line in self.log()[start:]:
                match = re.search(pattern, line)
                if match:
                    return match
            if self._process is not None and self._process.poll() is not None:
                raise MachineError(f"{self.name} ended by itself", self.log())
            if time.monotonic() > until:
                raise MachineError(
                    f"{self.name} did not log what was awaited: {pattern}", self.log()
                )
            time.sleep(0.02)


def free_port(addresses: list[str]) -> int:
    """A port that is free on all of these addresses now. Below the range that the kernel takes
    from for outgoing connections, so that it is still free when the daemon binds it."""
    for _ in range(100):
        port = random.randrange(10000, 30000)
        with contextlib.ExitStack() as stack:
            try:
                for address in addresses:
                    probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                    probe.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError("no port is free on all addresses")
