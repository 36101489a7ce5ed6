"""Worker 0's side: starts the others, keeps them, and opens the parts of the queue that have none.

A worker that dies is started again at once, and its part of the queue with it. What cannot be
started, and parts beyond `worker_processes`, are opened by worker 0 itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from resel_lda import handover
from resel_lda.keeper import child_environment
from resel_mta.config import Settings
from resel_mta.control import Row, control_path
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog
from resel_mta.queue.parts import other_parts
from resel_mta.queue.peers import Peers
from resel_mta.sockets import Bound
from resel_mta.workers import channel
from resel_mta.workers.board import Board
from resel_mta.workers.channel import Channel, Fields
from resel_mta.workers.merging import Table, remote_table
from resel_mta.workers.sharing import Hub
from resel_mta.workers.telling import settings_file

COMMAND = (sys.executable, "-P", "-m", "resel_mta.workers.process")
#: Seconds. A worker must serve within _READY. One that dies sooner than _SETTLED after its start is
#: started again after _PAUSE, and after so many such deaths its part is opened here.
_READY = 60.0
_SETTLED = 5.0
_PAUSE = 0.5
_DEATHS = 3
#: Seconds between two looks at parts that were opened here.
_LOOK_EVERY = 2.0
#: Seconds beyond its own time for a worker to end.
_GRACE = 5.0


class Adopted(Protocol):
    """A part of the queue that is open in this process."""

    def table(self) -> Table: ...

    def reconfigure(self, settings: Settings) -> None: ...

    async def has_mail(self) -> bool:
        """Whether anything is there to be delivered."""
        ...

    async def close(self, timeout: float) -> None: ...


class Host(Protocol):
    """The daemon that the workers belong to."""

    async def adopt(self, part: int, peers: Peers) -> Adopted:
        """Open a part of the queue and deliver from it. Raises what `SQLiteStore.open` does."""
        ...

    async def link(self) -> int | None:
        """A descriptor for a worker to ask the supervisor by; None where there is none. Raises
        OSError."""
        ...

    async def deposit(self, fields: Mapping[str, Any], descriptor: int) -> dict[str, object]:
        """Deliver to mailboxes for a worker: the fields of the answer. `descriptor` is closed."""
        ...

    def shared(self) -> Sequence[Bound]:
        """The sockets that all workers accept from."""
        ...


def worker_count(settings: Settings) -> int:
    """How many workers `worker_processes` asks for; 0 there is one for each core."""
    return settings.number("worker_processes") or len(os.sched_getaffinity(0))


class _Worker:
    """One process, from its start to its end."""

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        hear: Callable[[_Worker, bytes, Fields, int | None], None],
    ) -> None:
        self.number = number
        self.process = process
        self.ready = asyncio.Event()
        self.started = time.time()
        self._answers: list[asyncio.Future[bool]] = []
        self.channel = Channel(control, self._received, self._ended)
        self._hear = hear

    def _received(self, kind: bytes, fields: Fields, descriptor: int | None) -> None:
        if kind in (channel.READY, channel.REFUSED):
            self.ready.set()
            self._answer(kind == channel.READY)
        self._hear(self, kind, fields, descriptor)

    def _ended(self) -> None:
        # Its exit follows, or it is of no use any more.
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        while self._answers:
            self._answer(False)

    def _answer(self, taken: bool) -> None:
        if self._answers and not (answer := self._answers.pop(0)).done():
            answer.set_result(taken)

    def configure(self, settings: Settings) -> asyncio.Future[bool]:
        """Whether it takes these settings."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        with settings_file(settings) as descriptor:
            count = worker_count(settings)
            self.channel.send(channel.CONFIGURE, {"count": count}, descriptor)
        return answer

    async def end(self, timeout: float) -> None:
        """Have it end within `timeout` seconds; wait for it."""
        self.channel.send(channel.STOP, {"timeout": timeout})
        try:
            async with asyncio.timeout(timeout + _GRACE):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


class Pool:
    """Call `start`, and `stop` at the end. Part 0 is not its business."""

    def __init__(
        self, settings: Settings, log: MailLog, board: Board, hub: Hub, host: Host
    ) -> None:
        self._settings = settings
        self._log = log
        self._board = board
        self._hub = hub
        self._host = host
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._workers: dict[int, _Worker] = {}
        self._adopted: dict[int, Adopted] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Parts beyond worker_processes.
        self._surplus: set[int] = set()
        self._stopping = False
        self._changed = asyncio.Lock()

    async def start(self) -> None:
        """Start all; they need not be waited for."""
        self._background(self._look())
        await self._adjust(worker_count(self._settings))

    async def _adjust(self, count: int) -> None:
        """Have so many workers, and the other parts opened here."""
        self._board.use(count)
        directory = self._settings.text("queue_directory")
        there = await asyncio.to_thread(other_parts, directory)
        for part in sorted({*there, *range(1, count)}):
            self._surplus.discard(part)
            if part >= count:
                self._surplus.add(part)
            adopted = self._adopted.get(part)
            if part < count and adopted is not None:
                self._keepers[part].cancel()
                await self._close_part(part, self._settings.seconds("shutdown_timeout"))
                del self._keepers[part]
            elif part >= count and (worker := self._workers.get(part)) is not None:
                # Its keeper goes on with it as a surplus part.
                worker.channel.send(
                    channel.STOP, {"timeout": self._settings.seconds("shutdown_timeout")}
                )
            if part not in self._keepers:
                task = asyncio.get_running_loop().create_task(self._keep(part))
                self._keepers[part] = task

    def _background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- one part's life ------------------------------------------------------------------------

    async def _keep(self, part: int) -> None:
        deaths = 0
        while not self._stopping:
            if part in self._surplus or deaths >= _DEATHS:
                if await self._adopt(part):
                    return
                await asyncio.sleep(_PAUSE)
                continue
            started = time.monotonic()
            try:
                await self._run(part)
            except OSError as error:
                self._log.warning("master", f"worker {part} cannot be started: {error}")
            if self._stopping or part in self._surplus:
                continue
            if time.monotonic() - started < _SETTLED:
                deaths += 1
                await asyncio.sleep(_PAUSE)
            else:
                deaths = 0

    async def _run(self, part: int) -> None:
        """A worker from its start to its end. Raises OSError."""
        worker = await self._spawn(part)
        self._workers[part] = worker
        if self._stopping:
            worker.channel.send(channel.STOP, {"timeout": 0})
        try:
            status = await self._until_ended(worker)
        finally:
            del self._workers[part]
            worker.channel.close()
            self._hub.leave(part)
            self._board.wipe(part)
        if not (self._stopping or part in self._surplus):
            pid = worker.process.pid
            self._log.warning("master", f"worker {part} pid {pid} ended with status {status}")

    async def _until_ended(self, worker: _Worker) -> int:
        ended = asyncio.ensure_future(worker.process.wait())
        ready = asyncio.ensure_future(worker.ready.wait())
        try:
            await asyncio.wait((ended, ready), timeout=_READY, return_when=asyncio.FIRST_COMPLETED)
            if not (ready.done() or ended.done()):
                self._log.warning("master", f"worker {worker.number} does not become ready")
                worker.process.kill()
            return await ended
        finally:
            ready.cancel()

    async def _spawn(self, part: int) -> _Worker:
        control, theirs = handover.socket_pair()
        link: int | None = None
        try:
            link = await self._host.link()
            process = await asyncio.create_subprocess_exec(
                *COMMAND, str(part), stdin=theirs.fileno(), env=child_environment()
            )
            worker = _Worker(part, process, control, self._heard)
            worker.channel.send(channel.BOARD, {}, self._board.descriptor)
            if link is not None:
                worker.channel.send(channel.LINK, {}, link)
            for bound in self._host.shared():
                self._tell_listener(worker, bound)
            worker.configure(self._settings)
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
            if link is not None:
                os.close(link)
        return worker

    @staticmethod
    def _tell_listener(worker: _Worker, bound: Bound) -> None:
        worker.channel.send(channel.LISTEN, asdict(bound.listener), bound.socket.fileno())

    def _heard(self, worker: _Worker, kind: bytes, fields: Fields, descriptor: int | None) -> None:
        part = worker.number
        if kind == channel.DELIVER and descriptor is not None:
            self._background(self._deposit(worker, fields, descriptor))
            return
        if descriptor is not None:
            os.close(descriptor)
        if kind == channel.READY:
            say = worker.channel.send
            self._hub.join(part, lambda kind, fields: say(kind, fields))
        elif kind == channel.REFUSED:
            self._log.warning(
                "master", f"worker {part} keeps the old configuration: {fields['why']}"
            )
        else:
            self._hub.heard(part, kind, fields)

    async def _deposit(self, worker: _Worker, fields: Fields, descriptor: int) -> None:
        try:
            answer = await self._host.deposit(fields, descriptor)
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._log.warning("local", f"delivery for worker {worker.number} failed: {error!r}")
            answer = {"number": fields.get("number"), "outcomes": None}
        worker.channel.send(channel.DELIVERED, answer)

    # -- parts without a worker -----------------------------------------------------------------

    async def _adopt(self, part: int) -> bool:
        try:
            adopted = await self._host.adopt(part, self._hub.peers(part))
        except Exception as error:
            # As long as it cannot be had, its mail waits; all other parts go on.
            self._hub.leave(part)
            self._log.warning("master", f"part {part} of the queue cannot be opened: {error}")
            return False
        self._adopted[part] = adopted
        self._log.event("master", f"part {part} of the queue is opened here: it has no worker")
        return True

    async def _close_part(self, part: int, timeout: float) -> None:
        adopted = self._adopted.pop(part)
        self._hub.leave(part)
        await adopted.close(timeout)

    async def _look(self) -> None:
        """Parts that were opened here have a share of all limits while there is mail in them."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for part, adopted in list(self._adopted.items()):
                with contextlib.suppress(TempFail):
                    self._hub.set_idle(part, idle=not await adopted.has_mail())

    # -- for the daemon -------------------------------------------------------------------------

    def tables(self) -> dict[int, Table]:
        """The queue's verbs for each part but 0."""
        data = self._settings.text("data_directory")
        found: dict[int, Table] = {}
        for part in self._keepers:
            adopted = self._adopted.get(part)
            found[part] = adopted.table() if adopted else remote_table(control_path(data, part))
        return found

    def status(self) -> list[Row]:
        """Of each worker, for people."""
        rows: list[Row] = [self._row(0, "running", os.getpid())]
        for part in sorted(self._keepers):
            worker = self._workers.get(part)
            state = "adopted" if part in self._adopted else "starting"
            if worker is not None and worker.ready.is_set():
                state = "running"
            pid = worker.process.pid if worker is not None else 0
            rows.append(self._row(part, state, pid))
        return rows

    def _row(self, part: int, state: str, pid: int) -> Row:
        sessions = self._board.sessions(part)
        return {"number": part, "state": state, "pid": pid, "sessions": sessions}

    async def reconfigure(self, settings: Settings) -> None:
        """All take these settings; workers are started and ended as these say."""
        async with self._changed:
            self._settings = settings
            for adopted in self._adopted.values():
                adopted.reconfigure(settings)
            answers = [worker.configure(settings) for worker in self._workers.values()]
            if answers:
                await asyncio.wait(answers, timeout=_READY)
            await self._adjust(worker_count(settings))

    def reopen_log(self) -> None:
        """It may have been moved away."""
        for worker in self._workers.values():
            worker.channel.send(channel.REOPEN, {})

    def listen(self, bound: Bound) -> None:
        """All accept from this socket too."""
        for worker in self._workers.values():
            self._tell_listener(worker, bound)

    def close_listener(self, bound: Bound) -> None:
        """Nobody accepts from it any more."""
        for worker in self._workers.values():
            worker.channel.send(channel.UNLISTEN, asdict(bound.listener))

    async def stop(self, timeout: float) -> None:
        """End all workers, and close all parts, within `timeout` seconds."""
        self._stopping = True
        ends = [worker.end(timeout) for worker in self._workers.values()]
        ends += [self._close_part(part, timeout) for part in list(self._adopted)]
        await asyncio.gather(*ends)
        if self._keepers:
            # What was being started or opened just then ends too.
            await asyncio.wait(self._keepers.values(), timeout=timeout + _GRACE)
        await asyncio.gather(*(self._close_part(part, timeout) for part in list(self._adopted)))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
