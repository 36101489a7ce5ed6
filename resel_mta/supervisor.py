"""What little runs as root: it binds, reads keys, and starts processes that are not root.

The network process (`mail_owner`) and the mailbox worker (`mail_uid`) are exec'd, never forked
with a running loop. The network process asks over a socket pair, one JSON object a packet:

    {"do": "worker", "user": name}         a mailbox worker, as this user where there is a name;
                                           the answer brings its socket
    {"do": "kill", "pid": n}               end a worker that does not end
    {"do": "bind", "service", "host", "port", "path"}
                                           a listener that the configuration has now
    {"do": "log"}                          maillog_file is made, or made ours, after log rotation
    {"do": "files"}                        TLS files named by the configuration, as memfds
    {"do": "letter", "name": name}         a file of the drop folder, which may be anybody's;
                                           {"errno": n} or {"unfit": why} if it cannot be had
    {"do": "errand", "errand": {…}}        with descriptors: something that needs an account's
                                           rights (see `resel_lda.errand`); a helper does it, if
                                           `rights` allow it
    {"do": "pam", "service": name}         a process that asks PAM, for a service in `passdb`; the
                                           answer brings its socket
    {"do": "retire", "errand": {…}}        the helper that got this does not answer: kill it
    {"do": "link"}                         another socket to ask by, for a worker (see `workers`)

and gets {"ok": …} or {"error": text}, with descriptors (SCM_RIGHTS). Nothing else is done for it:
if it is taken over, it can neither become root, nor read another file, nor have a command run that
no alias or .forward file names.
"""

from __future__ import annotations

import array
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from resel_lda import errand as errands
from resel_lda.errand import ErrandError
from resel_lda.worker_pool import worker_count
from resel_mta import sockets
from resel_mta.config import ConfigError, Listener, Settings
from resel_mta.helper_pool import IDLE, HelperPool
from resel_mta.maillog import MailLog
from resel_mta.pickup.drop import Unfit, drop_directory, open_letter
from resel_mta.privileges import Account, PrivilegeError, mailbox_account, prepare_log
from resel_mta.rights import Identity, Refused, Rights
from resel_mta.sockets import BindError, Bound
from resel_mta.spawning import Restarts, python_environment, start_pam, start_worker
from resel_mta.tls import tls_files
from resel_mta.users.directory import pam_services

ENVIRONMENT = "RESEL_SUPERVISED"
PACKET = 64 * 1024
# Processes for PAM and for the mailboxes of users with a uid of their own.
MOST_WORKERS = 64
# Sockets for workers of the network process.
MOST_LINKS = 64
# Exit codes that a new start would only repeat: usage, unavailable, cannot create, configuration.
FINAL = frozenset((0, 64, 69, 73, 77, 78))


class Closable(Protocol):
    """A descriptor that is closed once it was passed on."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Supervisor:
    """Runs until the network process ends for good.

    reread: reads the configuration as it is now. arguments: of resel-mta, for the network process.
    """

    def __init__(
        self,
        settings: Settings,
        account: Account,
        bound: Sequence[Bound],
        log: MailLog,
        reread: Callable[[], Settings],
        arguments: Sequence[str],
    ) -> None:
        self._settings = settings
        self._account = account
        self._bound = {entry.listener: entry for entry in bound}
        self._log = log
        self._reread = reread
        self._arguments = tuple(arguments)
        self._rights = Rights(settings, account)
        self._network: subprocess.Popen[bytes] | None = None
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._links: set[socket.socket] = set()
        self._stopping = False
        # Opened before anything runs that could put something else in its place.
        self._drop = os.open(
            drop_directory(settings.text("queue_directory")),
            os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
        )

    def run(self) -> int:
        """The exit status of the network process that ended for good."""
        wakeup, signalled = socket.socketpair()
        for end in (wakeup, signalled):
            end.setblocking(False)
        signal.set_wakeup_fd(signalled.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _woken)
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(wakeup, selectors.EVENT_READ, lambda: self._signals(wakeup.recv(512)))
            self._helpers = HelperPool(self._settings, selector, self._log, python_environment())
            restarts = Restarts()
            while True:
                started = time.monotonic()
                status = self._run_network(selector)
                # What the dead process asked for is asked for again by the next one.
                self._helpers.close()
                if status in FINAL or self._stopping:
                    return max(status, 0)
                pause = restarts.pause(time.monotonic() - started, status)
                after = f" after {pause:.0f} s" if pause else ""
                self._log.warning(
                    "master", f"network process ended with status {status}: started again{after}"
                )
                if self._is_stopped_within(pause):
                    return 0

    def _is_stopped_within(self, seconds: float) -> bool:
        """Nothing runs meanwhile."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data()
        return self._stopping

    def _run_network(self, selector: selectors.BaseSelector) -> int:
        """From its start to its end."""
        control = self._start_network()
        gone = False

        def asked() -> None:
            nonlocal gone
            gone = not self._answer(control)

        selector.register(control, selectors.EVENT_READ, asked)
        try:
            assert self._network is not None
            while (status := self._network.poll()) is None:
                for key, _ in selector.select(IDLE):
                    # Another's answer may have closed it since.
                    if key in selector.get_map().values():
                        key.data()
                self._helpers.let_idle_go()
                if gone:
                    # It closed its end: it is about to be gone.
                    status = self._network.wait()
                    break
        finally:
            selector.unregister(control)
            control.close()
            for link in tuple(self._links):
                self._close_link(link)
        return status

    def _start_network(self) -> socket.socket:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listeners = [
            {**asdict(listener), "descriptor": bound.socket.fileno()}
            for listener, bound in self._bound.items()
        ]
        told = json.dumps({"control": theirs.fileno(), "listeners": listeners})
        descriptors = [theirs.fileno(), *(each.socket.fileno() for each in self._bound.values())]
        with theirs:
            self._network = subprocess.Popen(
                [sys.executable, "-P", "-m", "resel_mta.commands.mta", *self._arguments],
                env=python_environment() | {ENVIRONMENT: told},
                pass_fds=descriptors,
                cwd="/",
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=[self._account.gid],
            )
        return control

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
                continue
            self._stopping = self._stopping or number != signal.SIGHUP
            if self._network is not None and self._network.poll() is None:
                self._network.send_signal(number)

    def _reap(self) -> None:
        for pid, worker in list(self._workers.items()):
            if worker.poll() is not None:
                del self._workers[pid]
        self._helpers.reap()

    # -- requests -------------------------------------------------------------------------------

    def _answer(self, control: socket.socket) -> bool:
        """Answer one request; False at the end of the socket."""
        try:
            packet, given = errands.receive(control, PACKET)
        except ConnectionResetError:
            # It died before it had read an answer.
            return False
        if not packet:
            return False
        descriptors: list[int] = []
        held: list[Closable] = []
        try:
            request = json.loads(packet)
            if request["do"] in ("errand", "retire"):
                answer = self._errand(request, given)
            else:
                answer = self._do(request, descriptors, held)
        except Refused as error:
            answer = {"error": str(error), "enhanced": error.enhanced}
        except (BindError, ConfigError, PrivilegeError, OSError) as error:
            answer = {"error": str(error)}
        except (ValueError, KeyError, TypeError) as error:
            answer = {"error": f"bad request: {error!r}"}
        for descriptor in given:
            os.close(descriptor)
        rights = array.array("i", descriptors)
        try:
            control.sendmsg(
                [json.dumps(answer).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            )
        except OSError as error:
            self._log.warning("master", f"cannot answer the network process: {error}")
        finally:
            for each in held:
                each.close()
            if "files" in answer:
                for descriptor in descriptors:
                    os.close(descriptor)
        return True

    def _do(
        self, request: Mapping[str, Any], descriptors: list[int], held: list[Closable]
    ) -> dict[str, Any]:
        match request["do"]:
            case "worker":
                front, pid = self._start_worker(str(request.get("user", "")))
                held.append(front)
                descriptors.append(front.fileno())
                return {"ok": {"pid": pid}}
            case "kill":
                worker = self._workers.get(int(request["pid"]))
                if worker is not None:
                    worker.kill()
                return {"ok": {}}
            case "bind":
                wanted = Listener(
                    str(request["service"]),
                    str(request["host"]),
                    int(request["port"]),
                    str(request["path"]),
                )
                descriptors.append(self._bind(wanted).socket.fileno())
                return {"ok": {}}
            case "letter":
                return {"ok": self._open_letter(str(request["name"]), descriptors, held)}
            case "pam":
                held.append(self._start_pam(str(request["service"])))
                descriptors.append(held[-1].fileno())
                return {"ok": {}}
            case "link":
                held.append(self._make_link())
                descriptors.append(held[-1].fileno())
                return {"ok": {}}
            case "log":
                prepare_log(self._settings, self._account)
                return {"ok": {}}
            case "files":
                return {"ok": {}, "files": self._read_files(descriptors)}
        raise ValueError(f"unknown request {request['do']!r}")

    def _make_link(self) -> socket.socket:
        """The end for the worker. What comes over it is answered like what the network process
        asks, and with the same rights."""
        if len(self._links) >= MOST_LINKS:
            raise PrivilegeError("too many workers")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def asked() -> None:
            if not self._answer(ours):
                self._close_link(ours)

        self._links.add(ours)
        self._selector.register(ours, selectors.EVENT_READ, asked)
        return theirs

    def _close_link(self, link: socket.socket) -> None:
        self._links.discard(link)
        self._selector.unregister(link)
        link.close()

    def _errand(self, request: Mapping[str, Any], given: list[int]) -> dict[str, Any]:
        """Raises Refused."""
        try:
            errand, identity = self._rights.grant(errands.errand_of(request["errand"]))
        except ErrandError as error:
            raise Refused(str(error), "4.3.0") from error
        if request["do"] == "retire":
            self._helpers.retire(identity)
        else:
            self._helpers.give(errand, identity, given)
        return {"ok": {}}

    def _start_worker(self, user: str) -> tuple[socket.socket, int]:
        """Raises PrivilegeError, Refused, OSError."""
        account: Account | Identity
        if user:
            if len(self._workers) >= MOST_WORKERS + worker_count(self._settings):
                raise PrivilegeError("too many workers")
            account = self._rights.worker_of(user)
        else:
            account = mailbox_account(self._settings, self._account)
        front, worker = start_worker(account.uid, account.gid)
        self._workers[worker.pid] = worker
        return front, worker.pid

    def _start_pam(self, service: str) -> socket.socket:
        """The only child that stays root: pam_unix reads the shadow file."""
        if service not in pam_services(self._settings):
            raise PrivilegeError(f"passdb names no PAM service {service}")
        front, process = start_pam(service)
        self._workers[process.pid] = process
        return front

    def _bind(self, wanted: Listener) -> Bound:
        """Only what the configuration says now, as root reads it."""
        settings = self._reread()
        if wanted not in settings.listeners(wanted.service):
            raise BindError(f"{sockets.describe(wanted)} is not in the configuration")
        if wanted not in self._bound:
            self._bound[wanted] = sockets.bind(wanted)
        return self._bound[wanted]

    def _open_letter(
        self, name: str, descriptors: list[int], held: list[Closable]
    ) -> dict[str, Any]:
        try:
            file = os.fdopen(open_letter(self._drop, name), "rb", buffering=0)
        except Unfit as error:
            return {"unfit": str(error)}
        except OSError as error:
            return {"errno": error.errno}
        held.append(file)
        descriptors.append(file.fileno())
        return {}

    def _read_files(self, descriptors: list[int]) -> dict[str, Any]:
        """{path: {"stamp": […], "index": position of its descriptor} or {"errno": n}}."""
        try:
            settings = self._reread()
            if settings.explicit() != self._settings.explicit():
                self._rights = Rights(settings, self._account)
                self._helpers.reconfigure(settings)
            self._settings = settings
        except ConfigError:
            # It keeps the old configuration, and so do we.
            self._log.warning(
                "master", "configuration cannot be read again: the old one stays in force"
            )
        found: dict[str, Any] = {}
        for path in tls_files(self._settings):
            try:
                content = Path(path).read_bytes()
                status = os.stat(path)
            except OSError as error:
                found[path] = {"errno": error.errno}
                continue
            descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
            os.write(descriptor, content)
            found[path] = {
                "stamp": [status.st_mtime_ns, status.st_size, status.st_ino],
                "index": len(descriptors),
            }
            descriptors.append(descriptor)
        return found


def _woken(number: int, frame: object) -> None:
    """The wakeup descriptor carries the signal."""
