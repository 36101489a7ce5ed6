"""The process that owns users' mail: ``python -m resel_lda.worker``, started by the front.

Descriptor 0 is the socket pair to the front (see `handover`): the configuration arrives over it,
then sessions that have logged in. All sessions of a user share one store. It ends when the front
closes the socket, or on SIGTERM, each session with BYE.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resel_lda import handover
from resel_lda.arrival_filler import ArrivalFiller
from resel_lda.delivery import carry_out
from resel_lda.deposit import ThreadDepositor
from resel_lda.handover import Handover, HandoverError
from resel_lda.imap.stream import Stream
from resel_lda.mailbox import MailboxError, MailStore
from resel_lda.maildir.background import Background
from resel_lda.maildir.layout import MailLocation
from resel_lda.maildir.reserve import keep_reserve
from resel_lda.maildir.store import MaildirStore
from resel_lda.pop3.drop import DropLock
from resel_lda.sessions import ADMIN, DELIVERY, Running, make_session, refuse, user_of
from resel_mta.config import ConfigError, Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink

# Seconds that a user's store stays open after the last session, so that the next one is warm.
_KEEP_STORE = 300.0
_DRAIN = 20.0

OpenStore = Callable[[Settings, Handover, MailLog, Background], MailStore]


class _FrontLog(MailLog):
    """Has the front write the lines, so that all are in one place, in order."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        super().__init__(StreamSink(2))
        self._say = say

    def event(self, service: str, text: str, queue_id: str = "", **fields: object) -> None:
        self._say(service, text)


@dataclass(slots=True)
class _Held:
    """A user's store and how many sessions use it. warm: a client has used it, and its next
    session should find it open."""

    store: MailStore
    sessions: int = 0
    warm: bool = False
    closing: asyncio.TimerHandle | None = None
    drop_lock: DropLock = field(default_factory=DropLock)


class Worker:
    """Serves sessions that arrive over `control`. open_store: makes a user's store."""

    def __init__(self, control: socket.socket, open_store: OpenStore) -> None:
        control.setblocking(False)
        self._control = control
        self._open_store = open_store
        self._settings: Settings | None = None
        self._stores: dict[str, _Held] = {}
        self._background = Background()
        self._servers: dict[asyncio.Task[None], Running | None] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log: MailLog = _FrontLog(self.log)
        self._filler = ArrivalFiller(self._background, self._store_of, self._log)
        self._outgoing: deque[bytes] = deque()
        self._ending = asyncio.Event()
        self._closers: set[asyncio.Task[None]] = set()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._depositor: ThreadDepositor | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Until the front closes the socket or `stop` is called."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._readable)
        reserve = loop.create_task(keep_reserve(lambda: self._settings, self._log))
        try:
            await self._ending.wait()
            loop.remove_reader(self._control.fileno())
            await self._drain()
        finally:
            reserve.cancel()
            loop.remove_writer(self._control.fileno())
            loop.remove_reader(self._control.fileno())
            self._control.close()

    def stop(self) -> None:
        self._ending.set()

    async def _drain(self) -> None:
        for task, server in list(self._servers.items()):
            if server is None:
                task.cancel()
            else:
                server.stop()
        if self._servers:
            _, late = await asyncio.wait(list(self._servers), timeout=_DRAIN)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        await self._filler.close()
        for held in self._stores.values():
            if held.closing is not None:
                held.closing.cancel()
            await held.store.close()
        self._stores.clear()
        if self._closers:
            await asyncio.wait(self._closers)
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=_DRAIN)
        if self._depositor is not None:
            await self._depositor.close()

    # The socket to the front.

    def _readable(self) -> None:
        # A packet's worth at a time, so that a burst of log-ins does not hold up sessions.
        for _ in range(16):
            try:
                received = handover.receive(self._control)
            except BlockingIOError:
                return
            if received is None:
                self._ending.set()
                return
            self._packet(*received)

    def _packet(self, packet: bytes, descriptor: int | None) -> None:
        try:
            kind, fields, octets = handover.unpack(packet)
            if kind == handover.CONFIGURE:
                self._configure(fields)
                self._say(handover.READY, {"pid": os.getpid()})
            elif kind == handover.SESSION and descriptor is not None:
                request = handover.unpack_session(fields, octets)
                connection = socket.socket(fileno=descriptor)
                descriptor = None
                task = asyncio.get_running_loop().create_task(self._serve(request, connection))
                self._servers[task] = None
                self._tasks[request.session] = task
                task.add_done_callback(self._servers.pop)
            elif kind == handover.DELIVER and descriptor is not None:
                self._deliver(fields, descriptor)
                descriptor = None
            elif kind == handover.KICK:
                self._kick(str(fields.get("session")))
        except (HandoverError, ConfigError) as error:
            self.log("master", f"error: {error}")
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _configure(self, fields: Mapping[str, object]) -> None:
        values = fields.get("values")
        if not isinstance(values, dict):
            raise HandoverError("configuration is not a mapping")
        self._settings = Settings.build(str(fields.get("role")), **values)
        if self._depositor is None:
            self._depositor = ThreadDepositor(
                self._settings, self._warn_from_thread, Disk(), self._delivered_in_thread
            )
        else:
            self._depositor.reconfigure(self._settings)

    def _deliver(self, fields: Mapping[str, object], descriptor: int) -> None:
        if self._depositor is None:
            os.close(descriptor)
            raise HandoverError("delivery before configuration")
        depositor = self._depositor

        async def deliver() -> None:
            try:
                answer = await carry_out(depositor, fields, descriptor)
            except (KeyError, TypeError, ValueError, OSError) as error:
                self.log("local", f"warning: delivery failed: {error!r}")
                answer = {"number": fields.get("number"), "outcomes": None}
            self._say(handover.DELIVERED, answer)

        task = asyncio.get_running_loop().create_task(deliver())
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    def _warn_from_thread(self, service: str, text: str, queue_id: str) -> None:
        fields = {"service": service, "text": f"warning: {text[:4000]}", "id": queue_id}
        self._loop.call_soon_threadsafe(self._say, handover.LOG, fields)

    def _delivered_in_thread(self, user: str, location: MailLocation, base: str) -> None:
        self._loop.call_soon_threadsafe(self._filler.delivered, user, location, base)

    def _store_of(self, user: str) -> MailStore | None:
        held = self._stores.get(user)
        return None if held is None else held.store

    def _say(self, kind: bytes, fields: Mapping[str, object]) -> None:
        self._outgoing.append(handover.pack(kind, fields))
        if len(self._outgoing) == 1:
            self._send()

    def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while self._outgoing:
            try:
                handover.send(self._control, self._outgoing[0])
            except BlockingIOError:
                loop.add_writer(self._control.fileno(), self._send)
                return
            except OSError:
                # The front is gone; so is whoever would have read it.
                self._outgoing.clear()
                self._ending.set()
                break
            self._outgoing.popleft()
        loop.remove_writer(self._control.fileno())

    def log(self, service: str, text: str) -> None:
        """A line for the operator's log, written by the front."""
        self._say(handover.LOG, {"service": service, "text": text[:4000]})

    # Sessions.

    def _kick(self, session: str) -> None:
        """End one session; nothing if it is over already."""
        task = self._tasks.get(session)
        running = self._servers.get(task) if task is not None else None
        if running is not None:
            running.stop()
        elif task is not None:
            task.cancel()

    async def _serve(self, request: Handover, connection: socket.socket) -> None:
        service = request.service
        prefix = f"{service}({request.user})<{os.getpid()}><{request.session}>: "
        connection.setblocking(False)
        stream = Stream(request.unread)
        reason = "Internal error"
        held: _Held | None = None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: stream, connection)
            held = self._hold(request)
            reason = await self._run(request, stream, held, prefix)
        except asyncio.CancelledError:
            reason = "Server shutting down."
        except MailboxError as error:
            # The user's mail_location is of no use: the log says why, the client that it is so.
            reason = error.text
            refuse(request, stream, error)
        except Exception as error:
            # One session's failure is not the others'.
            self.log(service, f"{prefix}error: session failed: {error!r}")
            connection.close()
        finally:
            self._tasks.pop(request.session, None)
            stream.close()
            if held is not None:
                self._release(request.user, held)
            self._say(handover.ENDED, {"session": request.session})
            if reason:
                self.log(service, f"{prefix}Disconnected: {reason}")

    async def _run(self, request: Handover, stream: Stream, held: _Held, prefix: str) -> str:
        assert self._settings is not None
        running = make_session(
            request,
            stream,
            held.store,
            self._settings,
            lambda text: self.log(request.service, prefix + text),
            held.drop_lock,
        )
        task = asyncio.current_task()
        if task is not None:
            self._servers[task] = running
        if self._ending.is_set():
            running.stop()
        return await running.run()

    def _hold(self, request: Handover) -> _Held:
        if self._settings is None:
            raise HandoverError("session before configuration")
        held = self._stores.get(request.user)
        if held is None:
            held = self._stores[request.user] = _Held(
                self._open_store(self._settings, request, self._log, self._background)
            )
        if held.closing is not None:
            held.closing.cancel()
            held.closing = None
        held.sessions += 1
        held.warm = held.warm or request.service not in (ADMIN, DELIVERY)
        return held

    def _release(self, user: str, held: _Held) -> None:
        held.sessions -= 1
        if held.sessions == 0 and not self._ending.is_set():
            loop = asyncio.get_running_loop()
            # A command for all users must not leave all their stores open.
            delay = _KEEP_STORE if held.warm else 0.0
            held.closing = loop.call_later(delay, self._close_store, user)

    def _close_store(self, user: str) -> None:
        held = self._stores.pop(user)
        task = asyncio.get_running_loop().create_task(held.store.close())
        self._closers.add(task)
        task.add_done_callback(self._closers.discard)


def open_maildir(
    settings: Settings, request: Handover, log: MailLog, background: Background
) -> MailStore:
    """The user's Maildir store."""
    return MaildirStore(user_of(request), settings, Disk(), log, background=background)


async def serve(control: socket.socket, open_store: OpenStore) -> None:
    """Run a worker until SIGTERM or the end of `control`."""
    worker = Worker(control, open_store)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    # The terminal's interrupt goes to the whole group: the front decides, and tells by SIGTERM.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    # A hang-up of the terminal, or a reload sent to the whole group: its settings come by packet.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    await worker.run()


def main(open_store: OpenStore = open_maildir) -> int:
    """Exit status 0, or 64 when it was not started by the front."""
    import uvloop

    os.umask(0o077)
    try:
        control = socket.socket(fileno=os.dup(0))
        if control.family != socket.AF_UNIX:
            raise OSError("descriptor 0 is another socket")
    except OSError:
        print("resel_lda.worker is started by resel-mta, not by hand", file=sys.stderr)
        return 64
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # What the modules hold stays; to look through all of it takes as long as a SELECT does.
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(control, open_store))
    return 0


if __name__ == "__main__":
    sys.exit(main())
