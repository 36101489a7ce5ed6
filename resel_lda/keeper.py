"""Keeps one worker running, hands it sessions and deliveries, and starts it again when it dies.

Nothing here depends on who exec'd it: it needs the socket pair only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from resel_lda import handover
from resel_lda.delivery import WorkerGone
from resel_lda.handover import Handover, HandoverError
from resel_mta.config import Settings
from resel_mta.maillog import MailLog

# Seconds: a worker must be ready within this. One that dies is started again at once; only if the
# one before it did not live for _SETTLED either there is a _PAUSE, so that what cannot run does not
# eat the machine.
_READY = 30.0
_SETTLED = 5.0
_PAUSE = 1.0

COMMAND = (sys.executable, "-P", "-m", "resel_lda.worker")


class WorkerUnavailable(Exception):
    """No worker could take the session."""


class Spawned(Protocol):
    """A worker that has been started. control: this side's end of the socket pair."""

    control: socket.socket
    pid: int

    def terminate(self) -> None:
        """Ask it to end its sessions and itself."""
        ...

    async def kill(self) -> None: ...

    async def wait(self) -> int | None:
        """Its exit status, once it is gone; None where this process cannot know."""
        ...


class _Child:
    """A worker that is a child of this process."""

    def __init__(self, control: socket.socket, process: asyncio.subprocess.Process) -> None:
        self.control = control
        self.pid = process.pid
        self._process = process

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        return await self._process.wait()


async def spawn_child(command: Sequence[str] = COMMAND) -> Spawned:
    """exec a worker. Raises OSError."""
    control, theirs = handover.socket_pair()
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=theirs.fileno(), env=child_environment()
        )
    except BaseException:
        control.close()
        raise
    finally:
        theirs.close()
    return _Child(control, process)


class Keeper:
    """Holds a worker and its socket. spawn: starts one; raises OSError."""

    def __init__(
        self,
        settings: Settings,
        log: MailLog,
        spawn: Callable[[], Awaitable[Spawned]] = spawn_child,
    ) -> None:
        self._settings = settings
        self._log = log
        self._spawn_worker = spawn
        self._sessions: dict[str, Callable[[], None]] = {}
        self._deliveries: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._control: socket.socket | None = None
        self._worker: Spawned | None = None
        self._ready = asyncio.Event()
        self._gone = asyncio.Event()
        self._writable = asyncio.Lock()
        self._telling: set[asyncio.Task[bool]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the worker, if it was not yet; it need not be waited for."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self, timeout: float) -> None:
        """Have the worker say BYE to its sessions, and wait for its end."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        worker = self._worker
        if worker is not None:
            worker.terminate()
            try:
                async with asyncio.timeout(timeout):
                    await worker.wait()
            except TimeoutError:
                self._log.warning("master", f"worker pid {worker.pid} does not end: killed")
                await worker.kill()
                await worker.wait()
        self._disconnect()

    def reconfigure(self, settings: Settings) -> None:
        """Stores opened from now on use these."""
        self._settings = settings
        if self._control is not None:
            task = asyncio.create_task(self._send(self._control, self._configuration(), None))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def hand_over(
        self, request: Handover, connection: socket.socket, ended: Callable[[], None]
    ) -> int:
        """Give the worker a session: its pid. `ended` is called when it is over, also by the
        worker's death. `connection` stays the caller's to close. Raises WorkerUnavailable."""
        packet = request.pack()
        try:
            async with asyncio.timeout(_READY):
                while True:
                    await self._ready.wait()
                    control = self._control
                    if control is not None and await self._send(
                        control, packet, connection.fileno()
                    ):
                        break
                    # It died just now: the next one is on its way.
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise WorkerUnavailable("no mailbox worker") from None
        self._sessions[request.session] = ended
        return self.pid

    def has(self, session: str) -> bool:
        """Whether the worker has this session."""
        return session in self._sessions

    async def kick(self, session: str) -> None:
        """Have the worker end a session, politely."""
        if self._control is not None:
            await self._send(
                self._control, handover.pack(handover.KICK, {"session": session}), None
            )

    async def deliver(self, fields: Mapping[str, object], descriptor: int) -> list[Any]:
        """Have the worker deliver the message in `descriptor` (see `delivery`): its outcomes.
        Raises WorkerGone."""
        self.start()
        await self._started()
        self._number += 1
        number = self._number
        packet = handover.pack(handover.DELIVER, {"number": number, **fields})
        answer = asyncio.get_running_loop().create_future()
        self._deliveries[number] = answer
        try:
            control = self._control
            if control is None or not await self._send(control, packet, descriptor):
                raise WorkerGone
            return cast("list[Any]", await answer)
        finally:
            self._deliveries.pop(number, None)

    async def _started(self) -> None:
        """Raises WorkerGone when there is no worker for long."""
        try:
            async with asyncio.timeout(_READY):
                await self._ready.wait()
        except TimeoutError:
            raise WorkerGone from None

    async def _send(self, control: socket.socket, packet: bytes, descriptor: int | None) -> bool:
        """False if the worker is gone."""
        async with self._writable:
            while True:
                try:
                    handover.send(control, packet, descriptor)
                    return True
                except BlockingIOError:
                    await _until_writable(control)
                except OSError:
                    return False

    # The worker's life.

    async def _keep(self) -> None:
        settled = True
        while True:
            started = time.monotonic()
            try:
                await self._spawn()
                await self._gone.wait()
            except OSError as error:
                self._log.warning("master", f"cannot start worker: {error}")
            self._disconnect()
            if self._worker is not None:
                worker, self._worker = self._worker, None
                status = await worker.wait()
                known = "" if status is None else f" with status {status}"
                self._log.warning("master", f"worker pid {worker.pid} ended{known}")
            before, settled = settled, time.monotonic() - started >= _SETTLED
            if not before and not settled:
                await asyncio.sleep(_PAUSE)

    async def _spawn(self) -> None:
        self._worker = await self._spawn_worker()
        self._control = control = self._worker.control
        self._gone.clear()
        asyncio.get_running_loop().add_reader(control.fileno(), self._readable)
        handover.send(control, self._configuration())

    def _configuration(self) -> bytes:
        explicit = self._settings.explicit().items()
        values = {name: one.value for name, one in explicit if name != "role"}
        return handover.pack(handover.CONFIGURE, {"role": self._settings.role, "values": values})

    def _disconnect(self) -> None:
        """The socket is of no use any more; the sessions of that worker are over."""
        self._ready.clear()
        self.pid = 0
        if self._control is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._control.fileno())
            loop.remove_writer(self._control.fileno())
            self._control.close()
            self._control = None
        sessions, self._sessions = self._sessions, {}
        for ended in sessions.values():
            ended()
        for answer in self._deliveries.values():
            if not answer.done():
                answer.set_exception(WorkerGone())

    def _readable(self) -> None:
        while self._control is not None:
            try:
                received = handover.receive(self._control)
            except BlockingIOError:
                return
            if received is None:
                asyncio.get_running_loop().remove_reader(self._control.fileno())
                self._ready.clear()
                self._gone.set()
                return
            packet, descriptor = received
            if descriptor is not None:
                os.close(descriptor)
            try:
                self._packet(*handover.unpack(packet)[:2])
            except (HandoverError, ValueError) as error:
                self._log.warning("master", f"worker: {error}")

    def _packet(self, kind: bytes, fields: dict[str, object]) -> None:
        if kind == handover.READY:
            self.pid = int(str(fields.get("pid", 0)))
            self._ready.set()
        elif kind == handover.ENDED:
            ended = self._sessions.pop(str(fields.get("session")), None)
            if ended is not None:
                ended()
        elif kind == handover.DELIVERED:
            answer = self._deliveries.get(int(str(fields.get("number"))))
            if answer is not None and not answer.done():
                outcomes = fields.get("outcomes")
                if isinstance(outcomes, list):
                    answer.set_result(outcomes)
                else:
                    answer.set_exception(WorkerGone())
        elif kind == handover.LOG:
            self._log.event(
                str(fields.get("service")), str(fields.get("text")), str(fields.get("id", ""))
            )


async def _until_writable(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = loop.create_future()

    def wake() -> None:
        if not writable.done():
            writable.set_result(None)

    loop.add_writer(control.fileno(), wake)
    try:
        await writable
    finally:
        loop.remove_writer(control.fileno())


def child_environment() -> dict[str, str]:
    """So that a child finds this very package, wherever the front was started."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else root
    return environment
