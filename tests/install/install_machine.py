"""A machine to install on: this one's root under an overlay, its changes in memory, with a systemd,
a network and a process table of its own. Nothing of the real machine is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
SYSTEMD = Path("/lib/systemd/systemd")
# Only what every machine has before its services.
TARGET = "[Unit]\nDescription=Nothing but the basis\nRequires=basic.target\nAfter=basic.target\n"
BOOT_PATIENCE = 60.0


class Machine:
    """holder: the process that keeps the mount namespace; system: unshare, whose child is systemd."""

    def __init__(self, holder: subprocess.Popen[str], root: Path) -> None:
        self._holder = holder
        self._root = root
        self._system: subprocess.Popen[bytes] | None = None
        self._first = 0

    def run(
        self, *words: str, text: str = "", timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command there: before `boot` with this machine's network, afterwards beside systemd."""
        if self._first:
            enter = ["nsenter", "-t", str(self._first), "-a"]
        else:
            enter = ["nsenter", "-t", str(self._holder.pid), "-m", "chroot", str(self._root)]
        done = subprocess.run(
            [*enter, *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            said = f"{done.stdout}{done.stderr}"
            if words[0] == "systemctl":
                said += self.journal()
            pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{said}")
        return done

    def make(self, *arguments: str) -> str:
        """Make's output, both kinds, in the checkout. The checkout's own folders cannot be written
        for real, and need not be: .venv is there."""
        return self.run(
            "make", "-C", str(CHECKOUT), "--no-print-directory", *arguments, timeout=300
        ).stdout

    def write(self, path: str, text: str) -> None:
        """A file there."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", path, text=text)

    def boot(self) -> None:
        """Start systemd; skips the test where that is not possible."""
        self.write("/etc/systemd/system/install-test.target", TARGET)
        self._system = subprocess.Popen(
            [
                *("nsenter", "-t", str(self._holder.pid), "-m"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"),
                *(
                    "--uts",
                    "--ipc",
                    "--net",
                    "--cgroup",
                    "sh",
                    str(HERE / "boot.sh"),
                    str(self._root),
                ),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + BOOT_PATIENCE
        while time.monotonic() < deadline and self._system.poll() is None:
            if self._is_up():
                return
            time.sleep(0.1)
        self._first = 0
        why = b""
        if self._system.poll() is not None and self._system.stderr is not None:
            why = self._system.stderr.read()
        pytest.skip(f"systemd does not start in namespaces here {why.decode(errors='replace')}")

    def _is_up(self) -> bool:
        assert self._system is not None
        pid = self._system.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self._first = int(children[0])
        if Path(f"/proc/{self._first}/comm").read_text().strip() != "systemd":
            return False
        state = self.run("systemctl", "is-system-running", check=False, timeout=20).stdout.strip()
        return state in ("running", "degraded")

    def journal(self) -> str:
        """What the service wrote since the start."""
        return self.run("journalctl", "-b", "--no-pager", "-u", "resel-mta").stdout

    def until(self, wanted: str, timeout: float = 20) -> str:
        """The journal once these words are in it."""
        deadline = time.monotonic() + timeout
        while wanted not in (text := self.journal()):
            if time.monotonic() > deadline:
                pytest.fail(f"{wanted!r} is not in the journal:\n{text}")
            time.sleep(0.1)
        return text

    def close(self) -> None:
        if self._system is not None:
            self._system.kill()
            self._system.wait()
            if self._system.stderr is not None:
                self._system.stderr.close()
        self._holder.kill()
        self._holder.wait()


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """folder: an empty one to mount things on. Skips where this cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("installing for real needs root")
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing or not SYSTEMD.exists():
        pytest.skip(f"not on this machine: {', '.join(missing) or 'systemd'}")
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", str(HERE / "root.sh"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    found = Machine(holder, folder / "root")
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"no overlay over this machine's root: {holder.stderr.read()}")
        yield found
    finally:
        found.close()
        holder.stdout.close()
        holder.stderr.close()
