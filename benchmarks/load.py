"""Postfix's own load tools: smtp-source writes, smtp-sink takes and counts."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from demo.machines import free_port


class BenchmarkError(Exception):
    """A run that measured nothing. Says why."""


@dataclass(frozen=True)
class Case:
    """One kind of load. size: octets of the body; recipients: of each message; keep: whether a
    session sends all its messages over one connection; backlog: the next hop is away while they
    come in, and the time is that from its return until they are gone."""

    name: str
    size: int = 5120
    sessions: int = 20
    recipients: int = 1
    keep: bool = True
    messages: int = 4000
    backlog: bool = False

    def source_words(self, port: int, messages: int) -> list[str]:
        words = [tool("smtp-source"), *(["-d"] if self.keep else [])]
        words += ["-s", str(min(self.sessions, messages)), "-l", str(self.size)]
        words += ["-m", str(messages), "-r", str(self.recipients)]
        words += ["-f", "sender@bench.example", "-t", "recipient@bench.example"]
        return [*words, f"inet:127.0.0.1:{port}"]


def tool(name: str) -> str:
    """The path of a program. BenchmarkError if it is not installed."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise BenchmarkError(f"{name} is not installed (apt install postfix)")
    return path


class Sink:
    """smtp-sink on a free port, with its counters in a file."""

    def __init__(self, directory: Path, name: str) -> None:
        self.port = free_port(["127.0.0.1"])
        self._path = directory / f"sink-{name}"
        self._before = 0
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        """Once it takes connections: a relay that is refused one would wait."""
        account = ["-u", "nobody"] if os.geteuid() == 0 else []
        with self._path.open("wb") as output:
            process = subprocess.Popen(
                [tool("smtp-sink"), *account, "-c", f"127.0.0.1:{self.port}", "1024"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 10).close()
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() > until:
                    process.kill()
                    process.wait()
                    text = self._path.read_text().strip()
                    raise BenchmarkError(f"smtp-sink did not start: {text}") from None
                time.sleep(0.01)
            else:
                return process

    def count(self) -> int:
        """Messages taken so far."""
        with self._path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 200))
            found = re.findall(rb"mesg=(\d+)\r", file.read())
        return self._before + (int(found[-1]) if found else 0)

    def away(self) -> None:
        """Connections are refused from now on."""
        self.stop()
        self._before = self.count()
        self._path.write_bytes(b"")

    def back(self) -> None:
        self._process = self._start()

    def await_count(self, wanted: int, timeout: float) -> None:
        """BenchmarkError if so many do not come in time."""
        until = time.monotonic() + timeout
        while self.count() < wanted:
            if self._process.poll() is not None:
                raise BenchmarkError(f"smtp-sink ended: {self._path.read_text().strip()}")
            if time.monotonic() > until:
                raise BenchmarkError(
                    f"{self.count()} of {wanted} messages arrived in {timeout:.0f} s"
                )
            time.sleep(0.005)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def send(case: Case, port: int, messages: int, timeout: float) -> float:
    """Run smtp-source; the seconds until the last message was accepted."""
    started = time.monotonic()
    result = subprocess.run(
        case.source_words(port, messages),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if result.returncode != 0:
        raise BenchmarkError(f"smtp-source failed: {result.stderr.strip() or result.returncode}")
    return time.monotonic() - started
