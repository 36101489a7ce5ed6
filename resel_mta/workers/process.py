"""A worker: ``python -m resel_mta.workers.process NUMBER``, started by worker 0 (see `pool`).

Descriptor 0 is the socket pair to it. It takes mail by SMTP into its part of the queue, and
delivers from there. It ends when it is told to, on SIGTERM, or when worker 0 is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from resel_lda.delivery import WorkerDepositor, WorkerGone
from resel_lda.deposit import Depositor
from resel_mta.composition import Composition, open_log
from resel_mta.config import ConfigError, Listener, Settings
from resel_mta.control import ControlServer, control_path
from resel_mta.maillog import MailLog
from resel_mta.queue.lock import QueueLocked
from resel_mta.sockets import Bound
from resel_mta.supervised import SupervisedDispatch, SupervisorLink
from resel_mta.verbs import QueueVerbs
from resel_mta.workers import channel
from resel_mta.workers.board import Board
from resel_mta.workers.channel import Channel, Fields
from resel_mta.workers.sharing import SharingPeers
from resel_mta.workers.telling import read_settings
from resel_mta.workers.warned import Warned

#: Seconds: for the end when worker 0 is gone; for a lock that worker 0, the worker of before, or a
#: command may still have; between two looks at it.
_ALONE = 2.0
_LOCKED = 30.0
_LOOK_EVERY = 0.05


class Courier:
    """Has worker 0 deliver to mailboxes. Implements `resel_lda.delivery.Courier`."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[list[Any]]] = {}

    def owner(self, user: str) -> int:
        """Worker 0 finds out."""
        return 0

    async def deliver(self, owner: int, fields: Mapping[str, object], descriptor: int) -> list[Any]:
        """Raises WorkerGone."""
        if self.channel is None:
            raise WorkerGone
        number = next(self._numbers)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self.channel.send(channel.DELIVER, {**fields, "number": number}, descriptor)
            return await answer
        finally:
            del self._answers[number]

    def answered(self, fields: Fields) -> None:
        answer = self._answers.get(fields["number"])
        if answer is None or answer.done():
            return
        if fields["outcomes"] is None:
            answer.set_exception(WorkerGone())
        else:
            answer.set_result(fields["outcomes"])

    def lost(self) -> None:
        """Worker 0 is gone."""
        self.channel = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(WorkerGone())


class WorkerComposition(Composition):
    """What a worker runs. courier: delivers to mailboxes that belong to another account."""

    def __init__(
        self,
        settings: Settings,
        log: MailLog,
        supervisor: SupervisorLink | None,
        board: Board,
        peers: SharingPeers,
        courier: Courier,
    ) -> None:
        super().__init__(settings, log, supervisor, board, peers, board.number)
        self._courier = courier

    def _remote_depositor(self, dispatch: SupervisedDispatch) -> Depositor:
        return WorkerDepositor(self._courier, self.settings.text("queue_directory"))


class Process:
    """From its start to its end."""

    def __init__(self, number: int, control: socket.socket) -> None:
        self._number = number
        self._courier = Courier()
        self._channel = Channel(control, self._received, self._worker_0_gone)
        self._courier.channel = self._channel
        self._peers = SharingPeers(self._channel.send)
        self._board: Board | None = None
        self._link: SupervisorLink | None = None
        self._listening: dict[Listener, Bound] = {}
        self._services: WorkerComposition | None = None
        self._settings: asyncio.Queue[Settings] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._timeout: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """The exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        # What a terminal sends to the whole group: worker 0 decides, and tells by packets.
        for ignored in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(ignored, lambda: None)
        settings = await self._unless_stopped(self._settings.get())
        if settings is None or self._board is None:
            return 0
        log = open_log(settings)
        warned = Warned(lambda lines: self._channel.send(channel.WARNED, {"lines": lines}))
        log.warned = warned.add
        try:
            return await self._serve(settings, log, self._board)
        finally:
            log.flush()
            warned.flush()
            self._channel.close()

    async def _unless_stopped(self, work: Coroutine[Any, Any, Settings]) -> Settings | None:
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    async def _serve(self, settings: Settings, log: MailLog, board: Board) -> int:
        services = WorkerComposition(settings, log, self._link, board, self._peers, self._courier)
        self._channel.send(channel.OPENING, {})
        if not await self._open(services, log):
            return 1
        self._services = services
        verbs = QueueVerbs(services.store, services.scheduler, log).table()
        control = ControlServer(
            control_path(settings.text("data_directory"), self._number), verbs, log
        )
        try:
            await control.start()
        except OSError as error:
            log.warning("master", f"worker {self._number} cannot start: {error}")
            await services.close(0.0)
            return 1
        if self._link is not None:
            self._background(self._link.keep_looking())
        for entry in list(self._listening.values()):
            await services.listen(entry)
        self._channel.send(channel.READY, {"pid": os.getpid()})
        self._background(self._reconfigure(services))
        await self._stopping.wait()
        timeout = self._timeout
        if timeout is None:
            timeout = services.settings.seconds("shutdown_timeout")
        await services.close(timeout)
        await control.stop()
        for task in tuple(self._tasks):
            task.cancel()
        return 0

    async def _open(self, services: WorkerComposition, log: MailLog) -> bool:
        until = time.monotonic() + _LOCKED
        while not self._stopping.is_set():
            try:
                await services.open([])
            except QueueLocked as error:
                if time.monotonic() > until:
                    log.warning("master", f"worker {self._number}: {error}")
                    return False
                await asyncio.sleep(_LOOK_EVERY)
            except Exception as error:
                log.warning("master", f"worker {self._number} cannot start: {error!r}")
                return False
            else:
                return True
        return False

    async def _reconfigure(self, services: WorkerComposition) -> None:
        while True:
            settings = await self._settings.get()
            try:
                await services.reconfigure(settings)
            except ConfigError as error:
                self._refuse("; ".join(problem.plain() for problem in error.problems))
            except Exception as error:
                # Worker 0 waits for an answer.
                self._refuse(repr(error))
            else:
                self._channel.send(channel.READY, {"pid": os.getpid()})

    def _refuse(self, why: str) -> None:
        self._channel.send(channel.REFUSED, {"why": why[:4000]})

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what worker 0 says ---------------------------------------------------------------------

    def _worker_0_gone(self) -> None:
        """Whoever starts the daemon again wants the ports and the queue."""
        self._courier.lost()
        self._timeout = _ALONE
        self._stopping.set()

    def _received(self, kind: bytes, fields: Fields, descriptor: int | None) -> None:
        if kind == channel.STOP:
            self._timeout = fields["timeout"]
            self._stopping.set()
        elif kind == channel.REOPEN:
            if self._services is not None:
                self._services.log.reopen()
        elif kind == channel.DELIVERED:
            self._courier.answered(fields)
        elif kind == channel.UNLISTEN:
            self._close_listener(Listener(**fields))
        elif descriptor is None:
            self._peers.hear(kind, fields)
        elif kind == channel.BOARD:
            self._board = Board(descriptor, self._number)
        elif kind == channel.LINK:
            self._link = SupervisorLink(socket.socket(fileno=descriptor))
        elif kind == channel.LISTEN:
            self._listen(Listener(**fields), descriptor)
        elif kind == channel.CONFIGURE and self._board is not None:
            self._board.use(fields["count"])
            self._settings.put_nowait(read_settings(descriptor))

    def _listen(self, listener: Listener, descriptor: int) -> None:
        bound = Bound(listener, socket.socket(fileno=descriptor))
        self._listening[listener] = bound
        if self._services is not None:
            self._background(self._services.listen(bound))

    def _close_listener(self, listener: Listener) -> None:
        bound = self._listening.pop(listener, None)
        if bound is not None:
            bound.socket.close()
            if self._services is not None:
                self._services.close_listener(listener)


def main() -> int:
    """Exit status 0, 1 where it cannot work, or 64 when it was not started by worker 0."""
    import uvloop

    os.umask(0o077)
    try:
        number = int(sys.argv[1])
        control = socket.socket(fileno=os.dup(0))
        if control.family != socket.AF_UNIX:
            raise OSError("descriptor 0 is another socket")
    except (OSError, ValueError, IndexError):
        print("resel_mta.workers.process is started by resel-mta, not by hand", file=sys.stderr)
        return 64
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    async def run() -> int:
        return await Process(number, control).run()

    with contextlib.suppress(KeyboardInterrupt):
        return uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
