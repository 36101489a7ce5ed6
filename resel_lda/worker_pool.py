"""Starts the worker, hands it sessions, and starts it again when it dies.

There is one worker. Nothing here depends on who exec'd it: it needs the socket pair only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from resel_lda import handover
from resel_lda.handover import Handover, HandoverError
from resel_mta.config import Settings
from resel_mta.maillog import MailLog

# Seconds: a worker must be ready within this; one that dies sooner than _SETTLED is started again
# only after _PAUSE, so that a broken one does not eat the machine.
_READY = 30.0
_SETTLED = 5.0
_PAUSE = 1.0

COMMAND = (sys.executable, "-P", "-m", "resel_lda.worker")


class WorkerUnavailable(Exception):
    """No worker could take the session."""


class WorkerPool:
    """Holds the worker's process and socket. command: what is exec'd."""

    def __init__(self, settings: Settings, log: MailLog, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._log = log
        self._command = tuple(command)
        self._sessions: dict[str, Callable[[], None]] = {}
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._gone = asyncio.Event()
        self._writable = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self.pid = 0

    async def start(self) -> None:
        """Start the worker; it need not be waited for."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, timeout: float) -> None:
        """Have the worker say BYE to its sessions, and wait for its end."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(timeout):
                    await process.wait()
            except TimeoutError:
                self._log.warning("master", f"worker pid {process.pid} does not end: killed")
                process.kill()
                await process.wait()
        self._disconnect()

    def reconfigure(self, settings: Settings) -> None:
        """Stores opened from now on use these."""
        self._settings = settings
        if self._control is not None:
            with contextlib.suppress(OSError):
                handover.send(self._control, self._configuration())

    async def hand_over(
        self, request: Handover, connection: socket.socket, ended: Callable[[], None]
    ) -> None:
        """Give the worker a session; `ended` is called when it is over, also by the worker's
        death. `connection` stays the caller's to close. Raises WorkerUnavailable."""
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

    async def _send(self, control: socket.socket, packet: bytes, descriptor: int) -> bool:
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
        while True:
            started = time.monotonic()
            try:
                await self._spawn()
                await self._gone.wait()
            except OSError as error:
                self._log.warning("master", f"cannot start worker: {error}")
            self._disconnect()
            if self._process is not None:
                status = await self._process.wait()
                self._log.warning(
                    "master", f"worker pid {self._process.pid} ended with status {status}"
                )
            if time.monotonic() - started < _SETTLED:
                await asyncio.sleep(_PAUSE)

    async def _spawn(self) -> None:
        control, theirs = handover.socket_pair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=theirs.fileno(), env=_environment()
            )
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
        self._control = control
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

    def _readable(self) -> None:
        while self._control is not None:
            try:
                received = handover.receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                received = None
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
            except HandoverError as error:
                self._log.warning("master", f"worker: {error}")

    def _packet(self, kind: bytes, fields: dict[str, object]) -> None:
        if kind == handover.READY:
            self.pid = int(str(fields.get("pid", 0)))
            self._ready.set()
        elif kind == handover.ENDED:
            ended = self._sessions.pop(str(fields.get("session")), None)
            if ended is not None:
                ended()
        elif kind == handover.LOG:
            self._log.event(str(fields.get("service")), str(fields.get("text")))


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


def _environment() -> dict[str, str]:
    """So that the worker finds this very package, wherever the front was started."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else root
    return environment
