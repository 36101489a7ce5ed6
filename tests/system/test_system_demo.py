"""`make demo` as a newcomer runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def daemons(temporary: Path) -> list[str]:
    """Processes that use the demo's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(temporary).encode() in command:
                found.append(command.replace(b"\0", b" ").decode())
    return found


def world_readable(path: Path) -> Path:
    """A temporary directory that the account of the daemons can enter. Its path leaves no room
    for the name of a unix socket."""
    directory = Path("/tmp") / f"{path.parent.parent.name}-{path.name}-{os.getpid()}{'x' * 60}"
    directory.mkdir(mode=0o755)
    return directory


def test_system_demo_succeeds_and_leaves_nothing(tmp_path: Path) -> None:
    temporary = world_readable(tmp_path)
    try:
        process = start(temporary)
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, output + errors
        assert errors == ""
        assert "In brackets: no MX question. Without: one." in output
        assert "Mail queue is empty" in output
        assert list(temporary.iterdir()) == []
        assert daemons(temporary) == []
    finally:
        temporary.rmdir()


def test_system_demo_interrupted_leaves_nothing(tmp_path: Path) -> None:
    temporary = world_readable(tmp_path)
    try:
        process = start(temporary)
        until = time.monotonic() + 60
        while not daemons(temporary) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, output + errors
        assert "Interrupted" in errors
        assert list(temporary.iterdir()) == []
        # One that was killed ends when it gets its turn.
        until = time.monotonic() + 30
        while daemons(temporary) and time.monotonic() < until:
            time.sleep(0.02)
        assert daemons(temporary) == []
    finally:
        temporary.rmdir()
