"""Runs the project's commands without privileges, also when root starts them.

Root runs them as `nobody`. Where that account cannot read this checkout or its interpreter (a
clone in root's home, say), the packages are copied to a directory that it can read.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("resel_mta", "resel_relay", "resel_lda")
SYSTEM_PYTHON = "/usr/bin/python3"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


class LaunchError(Exception):
    """The commands cannot be run here. Says why, in one line."""


class Launcher:
    """How a command of the project is started on this machine.

    directory: an existing directory of the caller's for what must be copied.
    account: whose processes they become, None for the caller's own.
    uid, gid: who owns the files that they write.
    """

    def __init__(self, directory: Path) -> None:
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.uid = self.account.pw_uid if self.account else os.getuid()
        self.gid = self.account.pw_gid if self.account else os.getgid()
        self._scripts = Path(sys.prefix) / "bin"
        self._copy: Path | None = None
        self._python = sys.executable
        if not self._can_run(self._python):
            self._python = self._other_interpreter()
            self._copy = directory / "packages"
            copy_packages(self._copy)
            if not self._can_run(self._python):
                raise LaunchError(f"{self._python} cannot import the project's packages")

    def command(self, name: str) -> list[str]:
        """The words that start a console script such as "resel-queue"."""
        script = self._scripts / name
        if self._copy is None and script.exists():
            return [str(script)]
        return [self._python, "-m", f"resel_mta.commands.{name.removeprefix('resel-')}"]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """A small environment, the same on every machine."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if self._copy is not None:
            environment["PYTHONPATH"] = str(self._copy)
        return environment | dict(extra or {})

    def start(
        self, words: Sequence[str], output: IO[bytes], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """A process in a session of its own, so that a Ctrl-C is ours to pass on."""
        with signals_held():
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(environment),
                cwd="/",
                start_new_session=True,
                **self._identity(),
            )

    def run(
        self, words: Sequence[str], *, timeout: float = 60, data: str = "", as_caller: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """A command run to its end, its output as text. Raises subprocess.TimeoutExpired.

        as_caller: it stays the caller's process, even root's.
        """
        return subprocess.run(
            words,
            input=data,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(),
            cwd="/",
            check=False,
            **({} if as_caller else self._identity()),
        )

    def give(self, path: Path) -> None:
        """Make a file or directory the account's."""
        os.chown(path, self.uid, self.gid)

    def _identity(self) -> dict[str, Any]:
        if self.account is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def _can_run(self, python: str) -> bool:
        try:
            result = self.run([python, "-c", f"import uvloop, {', '.join(PACKAGES)}"])
        except OSError:
            return False
        return result.returncode == 0

    def _other_interpreter(self) -> str:
        """An interpreter of this one's version that the account can execute: compiled packages
        fit one version only."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        code = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
        for python in (
            os.path.realpath(sys.executable),
            SYSTEM_PYTHON,
            SYSTEM_PYTHON + version[1:],
        ):
            try:
                if self.run([python, "-c", code]).returncode == 0:
                    return python
            except OSError:
                continue
        raise LaunchError(
            f"the account nobody cannot execute {os.path.realpath(sys.executable)}; "
            f"run: make clean, then: make demo PYTHON={SYSTEM_PYTHON}"
        )


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals that Python code handles come at the end of the block.

    One that raised while a process is being made would leave a process that nobody knows. Not
    blocked by the mask, which the process would inherit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, lambda got, _: caught.append(got))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        for held in caught:
            signal.raise_signal(held)


def copy_packages(target: Path) -> None:
    """This checkout's packages and all that they need, readable by everybody."""
    target.mkdir(mode=0o755)
    for package in PACKAGES:
        shutil.copytree(
            CHECKOUT / package, target / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for distribution in requirements_of("resel-mta"):
        for file in distribution.files or ():
            if ".." not in file.parts:
                destination = target / file
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(distribution.locate_file(file)), destination)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def requirements_of(name: str) -> Iterable[importlib.metadata.Distribution]:
    """The installed distributions that `name` needs, and those that they need."""
    waiting = [name]
    seen: set[str] = set()
    while waiting:
        for line in importlib.metadata.requires(waiting.pop()) or ():
            wanted = re.match(r"[\w.-]+", line)
            if wanted is None or "extra ==" in line or wanted[0].lower() in seen:
                continue
            seen.add(wanted[0].lower())
            try:
                yield importlib.metadata.distribution(wanted[0])
            except importlib.metadata.PackageNotFoundError:
                continue  # for another system or version: its marker does not hold here
            waiting.append(wanted[0])
