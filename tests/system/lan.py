"""Hosts in namespaces of their own: network, mounts, processes and name. Needs root.

Each host is a process (`sleep`) that holds its namespaces. When it ends, or this program does, the
kernel ends all processes of the host and takes its network away: nothing is left to clean up but
a directory. /etc and /var are the host's own; the machine's are not visible in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from demo.launcher import CHECKOUT

CLONE_NEWNET = 0x40000000
#: What programs look for in /etc: copied from the machine's where it is there.
OF_THE_MACHINE = (
    "alternatives", "default/cron", "environment", "host.conf", "ld.so.cache", "localtime",
    "login.defs", "mail.rc", "mailcap", "mime.types", "Muttrc", "Muttrc.d", "nsswitch.conf",
    "pam.conf", "pam.d", "protocols", "python3", "python3.11", "security", "services",
    "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
#: Accounts that a package would make: name, uid.
ACCOUNTS = {"resel": 64101, "vmail": 64102, "peer": 64103}
BASE_ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/root", "PYTHONDONTWRITEBYTECODE": "1"}


_KINDS = ("--net", "--mount", "--uts", "--ipc", "--pid")
#: The kernel kills it when this program ends, and its child, the first process of the host, then.
_HOLD = ("setpriv", "--pdeathsig=KILL", "unshare", "--fork", "--kill-child=KILL", "--mount-proc")


class HostError(Exception):
    """A host did not do what it must."""


class Host:
    """One machine. `name` is its host name, `fqdn` how the DNS knows it."""

    def __init__(self, directory: Path, fqdn: str, addresses: Sequence[str] = ()) -> None:
        self.fqdn = fqdn
        self.name = fqdn.partition(".")[0]
        self.addresses = addresses
        self.directory = directory
        self.etc = directory / "etc"
        self.var = directory / "var"
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | BASE_ENVIRONMENT
        self._binds: list[tuple[Path, str]] = []
        self._holder: subprocess.Popen[str] | None = None
        self._services: list[subprocess.Popen[bytes]] = []
        self.pid = 0
        self._make_files()

    def _make_files(self) -> None:
        self.directory.mkdir(mode=0o755)
        for folder in ("lib", "log", "mail", "spool", "tmp", "cache"):
            (self.var / folder).mkdir(parents=True)
        (self.var / "tmp").chmod(0o1777)
        (self.var / "run").symlink_to("/run")
        for name in OF_THE_MACHINE:
            source, target = Path("/etc") / name, self.etc / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copy(source, target)
        (self.etc / "passwd").write_text("".join(_accounts()))
        (self.etc / "group").write_text("".join(_groups()))
        (self.etc / "hostname").write_text(f"{self.name}\n")
        (self.etc / "mailname").write_text(f"{self.fqdn}\n")
        (self.etc / "hosts").write_text(
            f"127.0.0.1 localhost\n127.0.1.1 {self.fqdn} {self.name}\n::1 localhost\n"
        )

    def bind(self, source: Path, target: str) -> None:
        """Before `start`: this host sees `source` at `target`, which exists on the machine."""
        self._binds.append((source, target))

    def start(self) -> None:
        """Make the namespaces. Raises HostError."""
        binds = [*self._through_var(), (self.etc, "/etc"), (self.var, "/var"), *self._binds]
        script = [f"mount --rbind {source.resolve()} {target}" for source, target in binds]
        script += ["mount -t tmpfs -o mode=0755 none /run", "mkdir -m 1777 /run/lock"]
        script += [f"hostname {self.name}", "ip link set lo up", "echo ready"]
        self._holder = subprocess.Popen(
            [*_HOLD, *_KINDS, "sh", "-ec", "\n".join([*script, "exec sleep infinity"])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise HostError(f"{self.name}: its namespaces could not be made")
        children = f"/proc/{self._holder.pid}/task/{self._holder.pid}/children"
        self.pid = int(Path(children).read_text().split()[0])

    def _through_var(self) -> list[tuple[Path, str]]:
        """What lies in the machine's /var and is used here all the same: a checkout may be there."""
        found = []
        for path in {CHECKOUT.resolve(), Path(sys.prefix).resolve(), self.directory.resolve()}:
            if path.is_relative_to("/var") and not path.is_relative_to(self.var):
                place = self.var / path.relative_to("/var")
                place.mkdir(parents=True, exist_ok=True)
                found.append((path, str(place)))
        return found

    def stop(self) -> None:
        """End all its processes. Safe at any time, and twice."""
        holder, self._holder = self._holder, None
        if holder is not None:
            if holder.stdout is not None:
                holder.stdout.close()
            holder.send_signal(signal.SIGKILL)
            holder.wait(20)
        for process in self._services:
            process.wait(20)

    def _enter(self, words: Sequence[str], user: str) -> list[str]:
        account = _account(user)
        become = ["setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups"]
        return [
            *("nsenter", f"--target={self.pid}", *_KINDS, "--wdns=/", "--"),
            *(become if account else ()),
            *words,
        ]

    def run(
        self,
        *words: str,
        data: bytes = b"",
        user: str = "root",
        timeout: float = 30,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command on this host. Octets of its output that are no UTF-8 are shown as \\xNN."""
        done = subprocess.run(
            self._enter(words, user),
            input=data,
            capture_output=True,
            timeout=timeout,
            env=self.environment | dict(environment or {}),
            check=False,
        )
        out, err = (text.decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(words, done.returncode, out, err)

    def check(self, *words: str, data: bytes = b"", user: str = "root") -> str:
        """As `run`, for what must succeed; what it printed. Raises HostError."""
        done = self.run(*words, data=data, user=user)
        if done.returncode != 0:
            raise HostError(f"{self.name}: {words} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def spawn(
        self, *words: str, output: IO[bytes], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A service on this host. Signals do not reach it; it ends with the host at the latest."""
        process = subprocess.Popen(
            self._enter(words, "root"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self.environment | dict(environment or {}),
        )
        self._services.append(process)
        return process

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread makes in the block belong to the host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.pid}/ns/net") as theirs:
            _set_namespace(libc, theirs)
            try:
                yield
            finally:
                _set_namespace(libc, ours)


class Lan:
    """A switch with a name server on it, and hosts plugged into it. A context manager.

    zone: unbound's local-data records, such as "resel.fr. MX 10 toad.resel.fr.".
    """

    NAME_SERVER = "10.0.0.53"

    def __init__(self, directory: Path, unbound: str, zone: Sequence[str]) -> None:
        self._stack = contextlib.ExitStack()
        self._directory = directory
        self._unbound = unbound
        self._zone = zone
        self.switch = Host(directory / "switch", "switch.adm.resel.fr")

    def __enter__(self) -> Lan:
        with contextlib.ExitStack() as stack:
            stack.callback(self.switch.stop)
            self.switch.start()
            for words in (
                "ip link add sw0 type bridge",
                f"ip addr add {self.NAME_SERVER}/32 dev sw0",
                "ip link set sw0 up",
                "ip route add default dev sw0",
            ):
                self.switch.check(*words.split())
            self._serve_names()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def plug(self, host: Host) -> None:
        """Start a host and connect it."""
        (host.etc / "resolv.conf").write_text(f"nameserver {self.NAME_SERVER}\n")
        self._stack.callback(host.stop)
        host.start()
        port = f"p-{host.name}"[:15]
        # By its number outside the namespaces: `ip` must be there as well.
        subprocess.run(
            [
                *f"nsenter --target={self.switch.pid} --net ip link add {port}".split(),
                *f"type veth peer name eth0 netns {host.pid}".split(),
            ],
            check=True,
            timeout=20,
        )
        self.switch.check(*f"ip link set {port} master sw0 up".split())
        for address in host.addresses:
            width, more = ("64", ["nodad"]) if ":" in address else ("32", [])
            host.check("ip", "addr", "add", f"{address}/{width}", "dev", "eth0", *more)
        host.check("ip", "link", "set", "eth0", "up")
        host.check("ip", "route", "add", "default", "dev", "eth0")

    @property
    def queries(self) -> list[tuple[str, str, str]]:
        """(address that asked, name, type), in order."""
        found = []
        for line in (self.switch.var / "log/unbound.log").read_text().splitlines():
            words = line.split()
            if words[-1] == "IN":
                found.append((words[-4], words[-3], words[-2]))
        return found

    def _serve_names(self) -> None:
        config = self.switch.etc / "unbound.conf"
        data = "".join(f"  local-data: '{record}'\n" for record in self._zone)
        config.write_text(
            f"server:\n  interface: {self.NAME_SERVER}\n  access-control: 0.0.0.0/0 allow\n"
            '  do-daemonize: no\n  username: ""\n  chroot: ""\n  pidfile: ""\n'
            '  directory: "/var/lib"\n  logfile: "/var/log/unbound.log"\n  use-syslog: no\n'
            '  log-queries: yes\n  module-config: "iterator"\n'
            "  local-zone: . static\n  local-zone: 10.in-addr.arpa. static\n"
            f"  local-zone: 2.0.192.in-addr.arpa. static\n{data}"
            "remote-control:\n  control-enable: no\n"
        )
        with (self.switch.var / "log/unbound.out").open("wb") as output:
            process = self.switch.spawn(
                self._unbound, "-d", "-c", "/etc/unbound.conf", output=output
            )
        until = time.monotonic() + 60
        log = self.switch.var / "log/unbound.log"
        while not log.exists() or "start of service" not in log.read_text():
            if process.poll() is not None or time.monotonic() > until:
                output_text = (self.switch.var / "log/unbound.out").read_text()
                raise HostError(f"unbound did not start: {output_text}")
            time.sleep(0.02)


def _account(user: str) -> int:
    return ACCOUNTS[user] if user in ACCOUNTS else pwd.getpwnam(user).pw_uid


def _accounts() -> Iterator[str]:
    """/etc/passwd without passwords, and the accounts of ours."""
    for entry in pwd.getpwall():
        if entry.pw_name not in ACCOUNTS:
            numbers = f"{entry.pw_uid}:{entry.pw_gid}"
            yield f"{entry.pw_name}:*:{numbers}::{entry.pw_dir}:{entry.pw_shell}\n"
    for name, uid in ACCOUNTS.items():
        yield f"{name}:*:{uid}:{uid}::/nonexistent:/usr/sbin/nologin\n"


def _groups() -> Iterator[str]:
    for entry in grp.getgrall():
        if entry.gr_name not in ACCOUNTS:
            yield f"{entry.gr_name}:*:{entry.gr_gid}:\n"
    for name, gid in ACCOUNTS.items():
        yield f"{name}:*:{gid}:\n"


def _set_namespace(libc: ctypes.CDLL, namespace: IO[str]) -> None:
    if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
