"""What a group of processes costs: CPU seconds and memory, from /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync")


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, with that of children that ended and were waited for:
    Postfix's processes come and go."""
    ticks = 0
    for one in process_tree(pid):
        fields = _stat(one)
        if fields:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process tree: each shared page counted once in all."""
    total = 0
    for one in process_tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended just now
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def written_octets(pid: int) -> int:
    """What a process tree has caused to be written to disks so far, as the kernel counts it."""
    total = 0
    for one in process_tree(pid):
        try:
            text = Path(f"/proc/{one}/io").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended just now
        for line in text.splitlines():
            if line.startswith("write_bytes:"):
                total += int(line.split()[1])
    return total


class Syncs:
    """Counts what a process tree syncs while the block runs, by strace, which slows it down."""

    def __init__(self, pid: int) -> None:
        self.count = 0
        words = ["strace", "-f", "-c", "-e", f"trace={','.join(SYNCS)}"]
        for one in process_tree(pid):
            words += ["-p", str(one)]
        self._words = words

    def __enter__(self) -> Syncs:
        self._strace = subprocess.Popen(
            self._words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._strace.stderr is not None
        self._strace.stderr.readline()  # it is attached
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.send_signal(signal.SIGINT)
        summary = self._strace.communicate(timeout=30)[1]
        rows = [row.split() for row in summary.splitlines()]
        self.count = sum(int(row[3]) for row in rows if row and row[-1] in SYNCS)


def _stat(pid: int) -> list[str]:
    """The fields after the name, from the state on; [] for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


class PeakMemory:
    """Samples the PSS of a process tree twice a second while the block runs; `bytes` is the peak."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.bytes = 0

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self.bytes = max(self.bytes, pss_bytes(self._pid))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, pss_bytes(self._pid))
