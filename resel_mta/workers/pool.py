"""Worker 0's side: starts the others, keeps them, and opens the parts of the queue that have none.

A worker that dies is started again at once, and opens its part of the queue. A part whose worker
takes more than a moment for that is opened by worker 0 in its stead, and handed to it when it is
ready; what cannot be started, and parts beyond `worker_processes`, stay open in worker 0
(`adopting`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from resel_lda import handover
from resel_lda.keeper import child_environment
from resel_mta.config import Settings
from resel_mta.control import Row, control_path
from resel_mta.maillog import RECENT, MailLog
from resel_mta.queue.parts import other_parts
from resel_mta.queue.peers import Peers
from resel_mta.sockets import Bound
from resel_mta.workers import channel
from resel_mta.workers.adopting import Adopted, AdoptedParts
from resel_mta.workers.board import Board
from resel_mta.workers.channel import Fields
from resel_mta.workers.child import GRACE, Worker, worker_count
from resel_mta.workers.merging import Table, remote_table
from resel_mta.workers.sharing import Hub

COMMAND = (sys.executable, "-P", "-m", "resel_mta.workers.process")
#: Seconds. A worker must serve within _READY. One that dies sooner than _SETTLED after its start is
#: started again after _PAUSE, and after so many such deaths its part stays open here.
_READY = 60.0
_SETTLED = 5.0
_PAUSE = 0.5
_DEATHS = 3
#: Seconds that a part may be without somebody who has it open before it is opened here.
_LATE = 2.0
#: Seconds for what is under way in a part that a worker waits for; it waits longer (`process`).
_HANDING_OVER = 20.0


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
        self._workers: dict[int, Worker] = {}
        self._here = AdoptedParts(log, hub, host.adopt)
        # What they have warned of: (when, line, number).
        self._warned: dict[int, deque[tuple[float, str, int]]] = {}
        # When a part that nobody has open is opened here.
        self._late: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Parts beyond worker_processes.
        self._surplus: set[int] = set()
        self._stopping = False
        self._changed = asyncio.Lock()

    async def start(self) -> None:
        """Start all; they need not be waited for."""
        self._background(self._here.look())
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
            keeper, worker = self._keepers.get(part), self._workers.get(part)
            if part >= count and worker is not None:
                # Its keeper goes on with it as a surplus part.
                worker.channel.send(
                    channel.STOP, {"timeout": self._settings.seconds("shutdown_timeout")}
                )
            if keeper is None or (keeper.done() and part < count):
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
                if not await self._here.open(part, lambda: self._stopping):
                    await asyncio.sleep(_PAUSE)
                elif part in self._surplus or deaths >= _DEATHS:
                    return
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
        late = self._late.setdefault(part, time.monotonic() + _LATE)
        worker = await self._spawn(part)
        self._workers[part] = worker
        if self._stopping:
            worker.channel.send(channel.STOP, {"timeout": 0})
        self._background(self._stand_in(worker, late))
        try:
            status = await self._until_ended(worker)
        finally:
            del self._workers[part]
            worker.channel.close()
            if worker.opens.is_set():
                self._hub.leave(part)
                self._late[part] = time.monotonic() + _LATE
            self._board.wipe(part)
        if not (self._stopping or part in self._surplus):
            pid = worker.process.pid
            self._log.warning("master", f"worker {part} pid {pid} ended with status {status}")

    async def _stand_in(self, worker: Worker, late: float) -> None:
        """Have the part of a worker open here, from the time `late` on until it opens it itself."""
        part = worker.number

        def unwanted() -> bool:
            gone = self._workers.get(part) is not worker
            return gone or self._stopping or worker.opens.is_set()

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(late - time.monotonic()):
                await worker.opens.wait()
        while not (unwanted() or await self._here.open(part, unwanted)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await worker.opens.wait()

    async def _until_ended(self, worker: Worker) -> int:
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

    async def _spawn(self, part: int) -> Worker:
        control, theirs = handover.socket_pair()
        link: int | None = None
        try:
            link = await self._host.link()
            process = await asyncio.create_subprocess_exec(
                *COMMAND, str(part), stdin=theirs.fileno(), env=child_environment()
            )
            worker = Worker(part, process, control, self._heard)
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
    def _tell_listener(worker: Worker, bound: Bound) -> None:
        worker.channel.send(channel.LISTEN, asdict(bound.listener), bound.socket.fileno())

    def _heard(self, worker: Worker, kind: bytes, fields: Fields, descriptor: int | None) -> None:
        part = worker.number
        if kind == channel.DELIVER and descriptor is not None:
            self._background(self._deposit(worker, fields, descriptor))
            return
        if descriptor is not None:
            os.close(descriptor)
        if kind == channel.OPENING:
            self._late.pop(part, None)
            self._background(self._hand_over(part))
        elif kind == channel.READY:
            self._background(self._join(worker))
        elif kind == channel.WARNED:
            warned = self._warned.setdefault(part, deque(maxlen=RECENT))
            warned.extend((when, line, part) for when, line in fields["lines"])
        elif kind == channel.REFUSED:
            self._log.warning(
                "master", f"worker {part} keeps the old configuration: {fields['why']}"
            )
        else:
            self._hub.heard(part, kind, fields)

    async def _hand_over(self, part: int) -> None:
        timeout = min(self._settings.seconds("shutdown_timeout"), _HANDING_OVER)
        if await self._here.close(part, timeout):
            self._log.event("master", f"part {part} of the queue goes to its worker")

    async def _join(self, worker: Worker) -> None:
        """Its scheduler delivers; nobody else who tried to open its part is taken for it."""
        part, say = worker.number, worker.channel.send
        async with self._here.lock(part):
            if self._workers.get(part) is worker:
                self._hub.join(part, lambda kind, fields: say(kind, fields))

    async def _deposit(self, worker: Worker, fields: Fields, descriptor: int) -> None:
        try:
            answer = await self._host.deposit(fields, descriptor)
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._log.warning("local", f"delivery for worker {worker.number} failed: {error!r}")
            answer = {"number": fields.get("number"), "outcomes": None}
        worker.channel.send(channel.DELIVERED, answer)

    # -- for the daemon -------------------------------------------------------------------------

    def tables(self) -> dict[int, Table]:
        """The queue's verbs for each part but 0."""
        data = self._settings.text("data_directory")
        found: dict[int, Table] = {}
        for part in self._keepers:
            found[part] = self._here.table(part) or remote_table(control_path(data, part))
        return found

    def warnings(self) -> list[Row]:
        """The last ones of all workers, with the worker's number, by time."""
        own = [(when, line, 0) for when, line in self._log.recent]
        found = sorted([*own, *(each for some in self._warned.values() for each in some)])
        return [
            {"time": when, "text": text, "worker": number} for when, text, number in found[-RECENT:]
        ]

    def status(self) -> list[Row]:
        """Of each worker, for people."""
        rows: list[Row] = [self._row(0, "running", os.getpid())]
        for part in sorted(self._keepers):
            worker = self._workers.get(part)
            state = "adopted" if self._keepers[part].done() else "starting"
            if worker is not None and worker.ready.is_set():
                state = "running"
            pid = worker.process.pid if worker is not None else 0
            rows.append(self._row(part, state, pid))
        return rows

    def _row(self, part: int, state: str, pid: int) -> Row:
        """state: "running", "starting", or "adopted" for a part that has no worker."""
        return {
            "number": part,
            "state": state,
            "pid": pid,
            "sessions": self._board.sessions(part),
            "adopted": part in self._here,
        }

    async def reconfigure(self, settings: Settings) -> None:
        """All take these settings; workers are started and ended as these say."""
        async with self._changed:
            self._settings = settings
            self._here.reconfigure(settings)
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
        await asyncio.gather(*ends, self._here.close_all(timeout))
        if self._keepers:
            # What was being started just then ends too.
            await asyncio.wait(self._keepers.values(), timeout=timeout + GRACE)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._here.close_all(timeout)
