"""The network process's side of the socket to the supervisor (see `supervisor`)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from resel_lda.errand import Errand
from resel_lda.helpers import HelperFailure
from resel_lda.keeper import Spawned
from resel_mta.config import ConfigError, Listener, Settings
from resel_mta.config.problems import Problem
from resel_mta.pickup.drop import Unfit
from resel_mta.privileges import PrivilegeError, current_account, mailbox_account
from resel_mta.rights import has_helper
from resel_mta.sockets import BindError, Bound
from resel_mta.tls import KeyFiles
from resel_mta.users import User
from resel_mta.users.pam import PamLogin
from resel_mta.users.pam_remote import RemotePam

MOST_DESCRIPTORS = 32
PACKET = 64 * 1024
# Seconds between two looks at the certificates, for renewed ones.
LOOK_EVERY = 10.0
ANSWER_TIMEOUT = 30.0
_PR_SET_PDEATHSIG = 1


class SupervisorGone(Exception):
    """The supervisor does not answer: this process is about to end too."""


class SuppliedFiles(KeyFiles):
    """Certificates and keys that the supervisor reads, held as memfds."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, object]] = {}
        self._missing: dict[str, int] = {}

    def supply(self, files: Mapping[str, Any], descriptors: list[int]) -> None:
        """Take the supervisor's answer; descriptors of before are closed."""
        before = self._found
        self._missing = {p: each["errno"] for p, each in files.items() if "errno" in each}
        self._found = {
            path: (descriptors[each["index"]], tuple(each["stamp"]))
            for path, each in files.items()
            if "index" in each
        }
        for descriptor, _ in before.values():
            os.close(descriptor)

    def _entry(self, path: str) -> tuple[int, object]:
        try:
            return self._found[path]
        except KeyError:
            number = self._missing.get(path, 2)
            raise OSError(number, os.strerror(number), path) from None

    def stamp(self, path: str) -> object:
        return self._entry(path)[1]

    def readable(self, path: str) -> str:
        return f"/proc/self/fd/{self._entry(path)[0]}"


class SupervisedWorker:
    """A mailbox worker that the supervisor started. Implements `keeper.Spawned`."""

    def __init__(self, link: SupervisorLink, control: socket.socket, pid: int) -> None:
        self._link = link
        self.control = control
        self.pid = pid

    def terminate(self) -> None:
        """It ends when its socket does."""
        self.control.shutdown(socket.SHUT_RDWR)

    async def kill(self) -> None:
        await self._link.ask(do="kill", pid=self.pid)

    async def wait(self) -> int | None:
        """Until the process is gone. Its exit status stays with the supervisor: None here."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return None


class SupervisorLink:
    """Asks the supervisor."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._control.settimeout(ANSWER_TIMEOUT)
        self._lock = threading.Lock()
        self.files = SuppliedFiles()

    def _ask(
        self, request: Mapping[str, Any], given: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        room = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)
        rights = array.array("i", given)
        with self._lock:
            try:
                self._control.sendmsg(
                    [json.dumps(request).encode()],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if given else [],
                )
                packet, ancillary, _, _ = self._control.recvmsg(PACKET, room)
            except OSError as error:
                raise SupervisorGone(str(error)) from error
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data)
        if not packet:
            raise SupervisorGone("end of its socket")
        return json.loads(packet), list(descriptors)

    async def ask(self, **request: Any) -> tuple[dict[str, Any], list[int]]:
        """(answer, descriptors). Raises SupervisorGone, BindError for what was refused."""
        answer, descriptors = await asyncio.to_thread(self._ask, request)
        if "error" in answer:
            raise BindError(answer["error"])
        return answer, descriptors

    def helpers(self, settings: Settings) -> SupervisedDispatch:
        """Whoever has helpers run as other accounts."""
        return SupervisedDispatch(self, settings)

    def pam(self, service: str) -> PamLogin:
        """PAM asked by a process that is root."""

        async def connect() -> socket.socket:
            try:
                _, (descriptor,) = await self.ask(do="pam", service=service)
            except BindError as error:
                raise OSError(str(error)) from error
            return socket.socket(fileno=descriptor)

        return RemotePam(service, connect)

    async def give_errand(self, errand: Errand, descriptors: Sequence[int]) -> None:
        """Raises HelperFailure, with what the supervisor says against it."""
        request = {"do": "errand", "errand": asdict(errand)}
        try:
            answer, _ = await asyncio.to_thread(self._ask, request, tuple(descriptors))
        except SupervisorGone as error:
            raise HelperFailure(f"no answer from the supervisor: {error}") from error
        if "error" in answer:
            raise HelperFailure(str(answer["error"]), str(answer.get("enhanced", "4.3.0")))

    async def bind(self, listener: Listener) -> Bound:
        """Raises BindError."""
        _, (descriptor,) = await self.ask(do="bind", **asdict(listener))
        listening = socket.socket(fileno=descriptor)
        listening.setblocking(False)
        return Bound(listener, listening)

    async def open_letter(self, name: str) -> int:
        """A file of the drop folder. Raises pickup.drop.Unfit, OSError."""
        answer, descriptors = await self.ask(do="letter", name=name)
        if descriptors:
            return descriptors[0]
        if "unfit" in answer["ok"]:
            raise Unfit(answer["ok"]["unfit"])
        number = answer["ok"]["errno"]
        raise OSError(number, os.strerror(number), name)

    async def look_at_files(self) -> None:
        """Have certificates and keys read again."""
        answer, descriptors = await self.ask(do="files")
        self.files.supply(answer["files"], descriptors)

    async def keep_looking(self) -> None:
        """For as long as the daemon runs, so that renewed certificates are found."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look_at_files()

    async def spawn(self, user: str = "") -> Spawned:
        """A mailbox worker; with a name, one that runs as this user. Raises OSError."""
        try:
            answer, (descriptor,) = await self.ask(do="worker", user=user)
        except BindError as error:
            raise OSError(str(error)) from error
        control = socket.socket(fileno=descriptor)
        control.setblocking(False)
        return SupervisedWorker(self, control, int(answer["ok"]["pid"]))


class SupervisedDispatch:
    """Implements `resel_lda.helpers.Dispatch` and `user_workers.SpawnFor`: the supervisor decides
    what is done as whom."""

    def __init__(self, link: SupervisorLink, settings: Settings) -> None:
        self._link = link
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Raises ConfigError."""
        self._settings = settings
        try:
            self._worker = mailbox_account(settings, current_account())
        except PrivilegeError as error:
            raise ConfigError([Problem("", "mail_uid", str(error))]) from error

    def serves(self, user: User) -> bool:
        """All with a uid of their own, and who is refused; the mailbox worker does the others."""
        return has_helper(user, self._settings, self._worker)

    def is_own(self, uid: int | None) -> bool:
        return uid is None or uid == self._worker.uid

    async def spawn(self) -> Spawned:
        return await self._link.spawn()

    async def spawn_for(self, user: str) -> Spawned:
        return await self._link.spawn(user)

    async def send(self, errand: Errand, descriptors: Sequence[int]) -> None:
        await self._link.give_errand(errand, descriptors)

    async def retire(self, errand: Errand) -> None:
        with contextlib.suppress(BindError, SupervisorGone):
            await self._link.ask(do="retire", errand=asdict(errand))

    async def close(self) -> None:
        """Helpers end with the supervisor."""


def from_environment(told: str) -> tuple[SupervisorLink, list[Bound]]:
    """What the supervisor passed to this process when it started it. From now on the supervisor's
    death is a SIGTERM: without it, ports and queue would stay taken by what cannot be reloaded."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    facts = json.loads(told)
    bound = []
    for row in facts["listeners"]:
        listening = socket.socket(fileno=row.pop("descriptor"))
        os.set_inheritable(listening.fileno(), False)
        listening.setblocking(False)
        bound.append(Bound(Listener(**row), listening))
    os.set_inheritable(facts["control"], False)
    return SupervisorLink(socket.socket(fileno=facts["control"])), bound
