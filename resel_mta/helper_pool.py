"""The supervisor's helpers: one process for each account that has mail, and not too many of them."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from resel_lda import errand as errands
from resel_lda.errand import Errand
from resel_lda.helpers import COMMAND, configuration
from resel_mta.config import Settings
from resel_mta.maillog import MailLog
from resel_mta.rights import Identity, Refused

#: Processes, and errands that one of them does at a time.
MOST_HELPERS = 32
MOST_ERRANDS = 64
#: Seconds: a helper without work is let go after IDLE; one that should end has END for it.
IDLE = 60.0
END = 3.0

Watch = Callable[[socket.socket, Callable[[], None]], None]


class _Helper:
    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.process = process
        self.control = control
        self.active = 0
        self.used = time.monotonic()


class HelperPool:
    """Starts helpers and hands them errands, never waiting for them. environment: theirs."""

    def __init__(
        self,
        settings: Settings,
        selector: selectors.BaseSelector,
        log: MailLog,
        environment: dict[str, str],
    ) -> None:
        self._settings = settings
        self._selector = selector
        self._log = log
        self._environment = environment
        self._helpers: dict[Identity, _Helper] = {}
        self._ending: list[subprocess.Popen[bytes]] = []

    def reconfigure(self, settings: Settings) -> None:
        """For the errands that follow."""
        self._settings = settings
        for identity, helper in list(self._helpers.items()):
            try:
                errands.send(helper.control, configuration(settings))
            except OSError:
                self._drop(identity, kill=True)

    def give(self, errand: Errand, identity: Identity, descriptors: Sequence[int]) -> None:
        """Raises Refused."""
        packet = errand.pack()
        if len(packet) > errands.MAX_PACKET:
            raise Refused("the errand is too large", "4.3.0")
        for _ in range(2):
            helper = self._helpers.get(identity) or self._start(identity)
            if helper.active >= MOST_ERRANDS:
                raise Refused("too many deliveries for one account at a time", "4.3.2")
            try:
                errands.send(helper.control, packet, descriptors)
            except BlockingIOError:
                raise Refused("the delivery process is busy", "4.3.2") from None
            except OSError:
                # It died since the last errand, or its user killed it.
                self._drop(identity, kill=True)
                continue
            helper.active += 1
            helper.used = time.monotonic()
            return
        raise Refused("the delivery process cannot be started", "4.3.0")

    def _start(self, identity: Identity) -> _Helper:
        """Raises Refused."""
        self._make_room()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        try:
            with theirs:
                process = subprocess.Popen(
                    COMMAND,
                    stdin=theirs.fileno(),
                    env=self._environment,
                    cwd="/",
                    user=identity.uid,
                    group=identity.gid,
                    extra_groups=[identity.gid],
                )
            errands.send(control, configuration(self._settings))
        except OSError as error:
            control.close()
            raise Refused(f"the delivery process cannot be started: {error}", "4.3.0") from error
        helper = self._helpers[identity] = _Helper(process, control)
        self._selector.register(control, selectors.EVENT_READ, lambda: self._heard(identity))
        return helper

    def _make_room(self) -> None:
        """Raises Refused."""
        if len(self._helpers) < MOST_HELPERS:
            return
        idle = [key for key, helper in self._helpers.items() if not helper.active]
        if not idle:
            raise Refused("too many accounts have mail delivered at a time", "4.3.2")
        self._drop(min(idle, key=lambda key: self._helpers[key].used))

    def _heard(self, identity: Identity) -> None:
        """An errand is done, or the process is gone."""
        helper = self._helpers[identity]
        try:
            packet = helper.control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            helper.active = max(helper.active - 1, 0)
            return
        self._log.warning("master", f"helper of uid {identity.uid} ended by itself")
        self._drop(identity, kill=True)

    def retire(self, identity: Identity) -> None:
        """It does not answer: the next errand gets a new one."""
        if identity in self._helpers:
            self._log.warning("master", f"helper of uid {identity.uid} does not answer: killed")
            self._drop(identity, kill=True)

    def _drop(self, identity: Identity, *, kill: bool = False) -> None:
        """It ends when its socket does; what still runs in it is killed by it."""
        helper = self._helpers.pop(identity)
        self._selector.unregister(helper.control)
        helper.control.close()
        if kill:
            with contextlib.suppress(ProcessLookupError):
                helper.process.kill()
        self._ending.append(helper.process)
        self.reap()

    def reap(self) -> None:
        """Forget those that are gone."""
        self._ending = [process for process in self._ending if process.poll() is None]

    def let_idle_go(self) -> None:
        before = time.monotonic() - IDLE
        for identity, helper in list(self._helpers.items()):
            if not helper.active and helper.used < before:
                self._drop(identity)

    def close(self) -> None:
        """End all; within END seconds."""
        for identity in list(self._helpers):
            self._drop(identity)
        deadline = time.monotonic() + END
        for process in self._ending:
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._ending.clear()
