"""A relay with several workers: its daemon, its clients, and a next hop that notes what it took."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from demo import machines
from demo.launcher import CHECKOUT, Launcher
from resel_mta.control import ControlClient, ControlError, NotRunning, control_path
from resel_mta.queue.ids import part_of

SETTINGS = """\
role = relay
myhostname = relay.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_listen = 127.0.0.1:{port}
relayhost = [127.0.0.1]:{next_hop}
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
alias_maps =
"""
#: What makes workers that are started wait, as on a machine that is busy, until a file is gone.
GATE = """\
import os, sys, time
while "resel_mta.workers.process" in sys.orig_argv and os.path.exists({gate!r}):
    time.sleep(0.02)
"""
PATIENCE = 40.0


def free_port() -> int:
    return machines.free_port(["127.0.0.1"])


def until(what: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """What it gives, once that is true."""
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


class NextHop:
    """Takes mail. pause: seconds that each message takes, or less once `hurry` is set; taken: X-Number of each, and when;
    most: how many messages it was taking at one time; connections: how many there were."""

    def __init__(self) -> None:
        self.port = free_port()
        self.pause = 0.0
        self.hurry = threading.Event()
        self.taken: list[tuple[str, float]] = []
        self.most = self._now = self.connections = 0
        self._lock = threading.Lock()
        self._server: socketserver.ThreadingTCPServer | None = None

    def open(self) -> None:
        hop = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(ConnectionError):
                    hop.serve(self.rfile, self.wfile)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def serve(self, lines: Any, out: Any) -> None:
        with self._lock:
            self.connections += 1
        out.write(b"220 next.hop\r\n")
        while line := lines.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                out.write(b"354 go on\r\n")
                self._take(lines)
                out.write(b"250 2.0.0 Ok\r\n")
            elif verb == b"QUIT":
                out.write(b"221 2.0.0 Bye\r\n")
                return
            else:
                out.write(b"250 next.hop\r\n")

    def _take(self, lines: Any) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        number = ""
        while (line := lines.readline()) not in (b".\r\n", b""):
            if line.lower().startswith(b"x-number:"):
                number = line.split(b":", 1)[1].strip().decode()
        self.hurry.wait(self.pause)
        with self._lock:
            self._now -= 1
            if line:
                self.taken.append((number, time.time()))

    def numbers(self) -> Counter[str]:
        with self._lock:
            return Counter(number for number, _ in self.taken)


def mail(number: object) -> bytes:
    return (
        f"From: a@vm.example\r\nSubject: s{number}\r\nX-Number: {number}\r\n\r\nhello\r\n".encode()
    )


class Relay:
    """worker_processes = workers. Stopped by `stop`."""

    def __init__(self, directory: Path, workers: int, next_hop: NextHop, more: str = "") -> None:
        self.directory = directory
        self._launcher = Launcher(directory)
        # This very checkout's packages, unless they had to be copied.
        self._environment = {"PYTHONPATH": str(CHECKOUT), **self._launcher.environment()}
        self.gate = directory / "gate"
        (directory / "site").mkdir()
        (directory / "site" / "sitecustomize.py").write_text(GATE.format(gate=str(self.gate)))
        path = f"{directory / 'site'}:{self._environment['PYTHONPATH']}"
        self._gated = {**self._environment, "PYTHONPATH": path}
        self._settings = SETTINGS + more
        self._next_hop = next_hop
        self.port = free_port()
        self._launcher.give(directory)
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(workers)

    def configure(self, workers: int, more: str = "") -> None:
        text = self._settings.format(
            port=self.port, next_hop=self._next_hop.port, directory=self.directory
        )
        (self.directory / "main.cf").write_text(f"{text}worker_processes = {workers}\n{more}")

    # The daemon.

    def start(self) -> None:
        with (self.directory / "out").open("ab") as out:
            words = self._words("resel-mta", ())
            self.process = self._launcher.start(words, out, self._gated)
        until(lambda: self._exits() or self.all_run())

    def _exits(self) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError((self.directory / "out").read_text())

    def all_run(self) -> bool:
        status = self.status()
        return bool(status) and all(each["state"] != "starting" for each in status["workers"])

    def status(self) -> dict[str, Any]:
        """Empty while nobody answers. Not by the command: a process for each look takes long."""
        client = ControlClient(control_path(str(self.directory / "data")))
        try:
            (row,) = client.call("daemon.status")
        except NotRunning:
            return {}
        except ControlError as error:
            raise AssertionError(f"{error}\n{self.log()[-4000:]}") from error
        return row

    def told(self) -> str:
        """The status for people."""
        return self.run("resel-mta", "status").stdout

    def worker(self, number: int) -> dict[str, Any]:
        """Its line of the status."""
        row: dict[str, Any] = self.status()["workers"][number]
        return row

    def workers(self) -> dict[int, int]:
        """Number and pid of those that run."""
        status = self.status()
        assert status, self.log()[-4000:]
        rows = status["workers"]
        return {row["number"]: row["pid"] for row in rows if row["state"] == "running"}

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.process = None
        return status

    def kill(self) -> None:
        """Whatever is left, after a test that failed."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def processes(self) -> list[int]:
        """Of this daemon: by the file that each of them has open for its log, or its queue."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    for descriptor in (entry / "fd").iterdir():
                        if os.readlink(descriptor).startswith(f"{self.directory}/queue"):
                            found.append(int(entry.name))
                            break
        return found

    def log(self) -> str:
        return (self.directory / "log").read_text()

    # Commands.

    def _words(self, name: str, arguments: Sequence[str]) -> list[str]:
        return [*self._launcher.command(name), "-c", str(self.directory), *arguments]

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = ["env", f"PYTHONPATH={self._environment['PYTHONPATH']}"]
        return self._launcher.run([*words, *self._words(name, arguments)], timeout=60)

    def queue(self, *arguments: str) -> str:
        """What resel-queue prints and says; it succeeds."""
        found = self.run("resel-queue", *arguments)
        assert found.returncode == 0, found.stderr
        return found.stdout + found.stderr

    def entries(self) -> dict[str, dict[str, Any]]:
        """Of resel-queue -j, by id; what it says on stderr is not looked at."""
        found = self.run("resel-queue", "-j")
        assert found.returncode == 0, found.stderr
        rows = [json.loads(line) for line in found.stdout.splitlines()]
        return {row["queue_id"]: row for row in rows}

    # Clients.

    @contextmanager
    def client(self) -> Iterator[smtplib.SMTP]:
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=30)
        try:
            yield client
        finally:
            client.close()

    def send(
        self, client: smtplib.SMTP, number: object, to: str = "x@away.example", more: bytes = b""
    ) -> str:
        """The queue id. more: text at the end."""
        if not client.helo_resp and not client.ehlo_resp:
            client.ehlo()
        client.mail("a@vm.example")
        client.rcpt(to)
        code, text = client.data(mail(number) + more)
        assert code == 250, text
        return text.decode().rpartition(" ")[2]

    def send_to_all(
        self, workers: int, to: str = "x@away.example", more: bytes = b""
    ) -> dict[int, str]:
        """A message to each worker: part and queue id. The connections are kept open meanwhile, so
        that each goes to whoever has least."""
        found: dict[int, str] = {}
        with ExitStack() as stack:
            for number in range(60):
                client = stack.enter_context(self.client())
                queue_id = self.send(client, f"{number}", to, more)
                if part_of(queue_id) in found:
                    # It may have been delivered already.
                    self.run("resel-queue", "-d", queue_id)
                else:
                    found[part_of(queue_id)] = queue_id
                if len(found) == workers:
                    return found
        raise AssertionError(f"only workers {sorted(found)} took mail")


def make_relay(directory: Path, workers: int, next_hop: NextHop, more: str = "") -> Relay:
    """In a directory that the daemon's account can reach."""
    home = directory / "relay"
    home.mkdir()
    return Relay(home, workers, next_hop, more)
