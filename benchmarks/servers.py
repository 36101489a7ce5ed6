"""What is compared, each a relay to a sink: a private Postfix, resel-mta, and the bare loop.

Both with the sync settings they are shipped with, a queue on a real disk, and logs in a file.
"""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from benchmarks.load import BenchmarkError, tool
from demo.launcher import CHECKOUT, Launcher
from demo.machines import Machine, free_port

OURS = "resel-mta"
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = mta.bench.example
mydestination =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{sink}
"""


class Server(Protocol):
    """A relay under load. name: for people; port: where it takes mail; pid: root of its processes."""

    name: str
    port: int
    pid: int

    def await_empty(self, messages: int, timeout: float) -> None:
        """Returns when the queue is empty after `messages` more messages."""
        ...

    def await_deferred(self, messages: int, timeout: float) -> None:
        """Returns when `messages` messages wait for a next hop that is away."""
        ...

    def hold(self) -> None:
        """The next hop is away from now on."""
        ...

    def flush(self) -> None:
        """Try deferred mail now."""
        ...

    def stop(self) -> None: ...


class PostfixServer:
    """A Postfix of our own: the machine's, if it runs one, is not touched. Needs root."""

    name = "Postfix"

    def __init__(self, directory: Path, sink_port: int) -> None:
        self._directory = directory / "postfix"
        self._config = self._directory / "etc"
        self.port = free_port(["127.0.0.1"])
        for part in ("etc", "spool", "data"):
            (self._directory / part).mkdir(parents=True)
        shutil.chown(self._directory / "data", "postfix")
        self._write("main.cf", MAIN_CF.format(directory=self._directory, sink=sink_port))
        self._write("master.cf", MASTER_CF.format(port=self.port))
        self._postfix("start")
        self.pid = self._await_master()

    def _write(self, name: str, text: str) -> None:
        (self._config / name).write_text(text)

    def _postfix(self, verb: str) -> None:
        self._run("postfix", verb)

    def _run(self, program: str, verb: str) -> None:
        result = subprocess.run(
            [tool(program), "-c", str(self._config), verb],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if result.returncode != 0:
            log = self._directory / "log"
            lines = log.read_text().splitlines()[-3:] if log.exists() else []
            raise BenchmarkError(f"{program} {verb}: {result.stderr.strip()} {' / '.join(lines)}")

    def _await_master(self) -> int:
        path = self._directory / "spool/pid/master.pid"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if path.exists() and path.read_text().strip():
                return int(path.read_text())
            time.sleep(0.05)
        raise BenchmarkError("Postfix did not start")

    def _count(self, queue: str) -> int:
        folder = self._directory / "spool" / queue
        return sum(len(files) for _, _, files in os.walk(folder))

    def await_empty(self, messages: int, timeout: float) -> None:
        until = time.monotonic() + timeout
        for queue in ("deferred", "maildrop", "incoming", "active"):
            while self._count(queue):
                if time.monotonic() > until:
                    raise BenchmarkError("Postfix's queue did not become empty")
                time.sleep(0.005)

    def await_deferred(self, messages: int, timeout: float) -> None:
        until = time.monotonic() + timeout
        while self._count("deferred") < messages:
            if time.monotonic() > until:
                raise BenchmarkError("Postfix did not defer everything")
            time.sleep(0.2)

    def hold(self) -> None:
        """It finds that out by itself."""

    def flush(self) -> None:
        self._run("postqueue", "-f")

    def stop(self) -> None:
        self._postfix("stop")


class ReselServer:
    """`resel-mta --role relay` with conf/relay.cf, unprivileged."""

    def __init__(
        self,
        directory: Path,
        sink_port: int,
        launcher: Launcher | None = None,
        workers: int | None = None,
    ) -> None:
        """workers: worker_processes; None leaves it as it is shipped."""
        self.name = OURS if workers is None else f"{OURS}, {workers} proc."
        self.port = free_port(["127.0.0.1"])
        overrides = {
            "myhostname": "mta.bench.example",
            "smtpd_listen": f":{self.port}",
            "relayhost": f"[127.0.0.1]:{sink_port}",
        }
        if workers is not None:
            overrides["worker_processes"] = str(workers)
        launcher = launcher or Launcher(directory)
        folder = directory / ("resel" if workers is None else f"resel-{workers}")
        self._machine = Machine("resel", "relay", "127.0.0.1", folder, launcher, overrides)
        self._machine.start()
        self.pid = self._machine.pid
        self._offset = 0

    def await_empty(self, messages: int, timeout: float) -> None:
        """Each message's last log line says that it was removed from the queue."""
        self._await_lines(b": removed\n", messages, timeout)

    def await_deferred(self, messages: int, timeout: float) -> None:
        self._await_lines(b" status=deferred ", messages, timeout)

    def hold(self) -> None:
        """It finds that out by itself."""

    def flush(self) -> None:
        result = self._machine.command("resel-queue", "-f")
        if result.returncode != 0:
            raise BenchmarkError(f"resel-queue -f: {result.stderr.strip()}")

    def _await_lines(self, mark: bytes, wanted: int, timeout: float) -> None:
        """So many more lines of the log with a mark."""
        until = time.monotonic() + timeout
        found = 0
        rest = b""
        with self._machine.log_path.open("rb") as log:
            log.seek(self._offset)
            while True:
                whole, end, rest = (rest + log.read()).rpartition(b"\n")
                found += (whole + end).count(mark)
                if found >= wanted:
                    self._offset = log.tell() - len(rest)
                    return
                if time.monotonic() > until:
                    raise BenchmarkError(f"resel-mta logged {found} of {wanted} lines {mark!r}")
                time.sleep(0.005)

    def stop(self) -> None:
        self._machine.stop()

    def kill(self) -> None:
        self._machine.kill()


class BareServer:
    """`bare.py`: the same bytes and syncs, and nothing else."""

    name = "bare loop"

    def __init__(self, directory: Path, sink_port: int) -> None:
        self.port = free_port(["127.0.0.1"])
        words = [sys.executable, str(CHECKOUT / "benchmarks/bare.py"), str(self.port)]
        self._process = subprocess.Popen([*words, str(sink_port), str(directory / "bare")])
        self.pid = self._process.pid
        self._gone = self._taken = 0
        until = time.monotonic() + 10
        while True:
            try:
                self._client = smtplib.SMTP("127.0.0.1", self.port, timeout=30)
            except OSError:
                if time.monotonic() > until or self._process.poll() is not None:
                    self._process.kill()
                    raise BenchmarkError("the bare loop did not start") from None
                time.sleep(0.05)
            else:
                return

    def pad(self, coming: int, going: int) -> None:
        """So many octets are written for each message from now on."""
        self._ask(f"XPAD {coming} {going}")

    def hold(self) -> None:
        self._ask("XHOLD")

    def flush(self) -> None:
        self._ask("XFLUSH")

    def syncs(self) -> int:
        return self._counts()[2]

    def await_empty(self, messages: int, timeout: float) -> None:
        self._await(1, self._gone + messages, timeout)
        self._taken, self._gone, _ = self._counts()

    def await_deferred(self, messages: int, timeout: float) -> None:
        self._await(0, self._taken + messages, timeout)

    def _await(self, which: int, wanted: int, timeout: float) -> None:
        until = time.monotonic() + timeout
        while self._counts()[which] < wanted:
            if time.monotonic() > until:
                raise BenchmarkError(f"the bare loop did not get through: {self._counts()}")
            time.sleep(0.005)

    def _ask(self, command: str) -> bytes:
        return self._client.docmd(command)[1]

    def _counts(self) -> tuple[int, int, int]:
        taken, gone, syncs = self._ask("XCOUNT").split()
        return int(taken), int(gone), int(syncs)

    def stop(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(10)
