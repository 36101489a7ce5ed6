"""What worker 0 runs beside its part of the queue: what there is but one of.

That is the mailboxes with IMAP and POP3, the mail of this machine's programs, the other
workers, and the parts of the queue that have none.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

from resel_lda.delivery import WorkerDepositor, carry_out
from resel_lda.deposit import Depositor
from resel_lda.front import Active, ImapService, LoginService
from resel_lda.pop3.front import Pop3Service
from resel_lda.user_workers import Workers
from resel_lda.worker_pool import WorkerPool
from resel_mta.composition import SHARED_SERVICES, Composition
from resel_mta.config import Settings
from resel_mta.maillog import MailLog
from resel_mta.pickup.drop import smtp_path
from resel_mta.pickup.service import PickupService
from resel_mta.queue.peers import Peers
from resel_mta.sockets import BindError, Bound, bind_unix
from resel_mta.supervised import SupervisedDispatch, SupervisorGone, SupervisorLink
from resel_mta.verbs import QueueVerbs
from resel_mta.workers.accepting import Factory
from resel_mta.workers.adopted import AdoptedPart
from resel_mta.workers.board import Board
from resel_mta.workers.child import worker_count
from resel_mta.workers.merging import MergedQueue
from resel_mta.workers.pool import Pool
from resel_mta.workers.sharing import Hub

IMAP_SERVICES = ("imap", "imaps")
POP3_SERVICES = ("pop3", "pop3s")
SERVICES = (*SHARED_SERVICES, *IMAP_SERVICES, *POP3_SERVICES)


class MainComposition(Composition):
    """Worker 0. Implements `workers.pool.Host`."""

    def __init__(
        self, settings: Settings, log: MailLog, supervisor: SupervisorLink | None = None
    ) -> None:
        """supervisor: does what this process may not; None when there is nobody above it."""
        self._hub = Hub()
        super().__init__(settings, log, supervisor, Board.make(), self._hub.peers(0))
        self.board.use(worker_count(settings))
        self.logins: dict[str, LoginService] = {}
        self._bound: list[Bound] = []
        self._deadline = 0.0
        self._local_smtp: asyncio.Server | None = None
        self.workers = Pool(settings, log, self.board, self._hub, self)

    async def open(self, bound: list[Bound]) -> None:
        await super().open(bound)
        await self._serve_users()
        await self.workers.start()

    def _open_depositor(self, dispatch: SupervisedDispatch | None) -> Depositor:
        make = (self.settings, self.log)
        self.pool = Workers(*make, dispatch) if dispatch is not None else WorkerPool(*make)
        return super()._open_depositor(dispatch)

    def _remote_depositor(self, dispatch: SupervisedDispatch) -> Depositor:
        return WorkerDepositor(self.pool, self.settings.text("queue_directory"))

    async def _serve_users(self) -> None:
        """Mail of this machine's programs: sendmail(1), and its -bs, which speaks SMTP."""
        self.pickup = PickupService(
            self.settings,
            self.intake,
            self.router,
            self.store,
            self.log,
            self.supervisor.open_letter if self.supervisor else None,
        )
        await self.pickup.start()
        listening = bind_unix(smtp_path(self.settings.text("queue_directory")), 0o666)
        listening.setblocking(False)
        self._local_smtp = await asyncio.get_running_loop().create_unix_server(
            self._smtp_service("smtpd").factory, sock=listening
        )

    def _login_service(self, name: str) -> LoginService:
        """name: "imap" or "pop3"."""
        if name not in self.logins:
            self.pool.start()
            make = Pop3Service if name == "pop3" else ImapService
            self.logins[name] = make(self.settings, self.users, self.log, self.tls, self.pool)
        return self.logins[name]

    def sessions(self) -> list[Active]:
        """Who is logged in to his mail."""
        return [one for service in self.logins.values() for one in service.active()]

    def _served(self, service: str) -> tuple[Factory, ssl.SSLContext | None]:
        if service in SHARED_SERVICES:
            return super()._served(service)
        login = self._login_service("pop3" if service in POP3_SERVICES else "imap")
        return login.factory(implicit_tls=service in ("imaps", "pop3s")), None

    async def listen(self, entry: Bound) -> None:
        await super().listen(entry)
        self._bound.append(entry)
        if entry.listener.service in SHARED_SERVICES:
            self.workers.listen(entry)

    def stop_listening(self, entry: Bound) -> None:
        """Accept no more there; its sessions go on. The socket is closed."""
        self._bound.remove(entry)
        self.close_listener(entry.listener)
        if entry.listener.service in SHARED_SERVICES:
            self.workers.close_listener(entry)
        entry.socket.close()

    async def reconfigure(self, settings: Settings) -> None:
        alone = self.board.is_alone
        await super().reconfigure(settings)
        await self.workers.reconfigure(settings)
        if self.board.is_alone is not alone:
            self._counter.publish()
            for entry in self._bound:
                if entry.listener.service in SHARED_SERVICES:
                    self.close_listener(entry.listener)
                    await super().listen(entry)

    def _more_parts(self) -> Iterable[object]:
        return (self.pool, self.pickup, *self.logins.values())

    async def close(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        bound, self._bound = self._bound, []
        for entry in bound:
            entry.socket.close()
        await super().close(timeout)

    def _stops(self, timeout: float) -> list[Awaitable[None]]:
        if self._local_smtp is not None:
            self._local_smtp.close()
        return [
            *super()._stops(timeout),
            self.workers.stop(timeout),
            self.pickup.stop(timeout),
            *(service.stop(timeout) for service in self.logins.values()),
        ]

    async def _close_mailboxes(self) -> None:
        await self.pool.stop(max(self._deadline - time.monotonic(), 1.0))
        await super()._close_mailboxes()

    # -- the whole queue ------------------------------------------------------------------------

    def queue_verbs(self) -> MergedQueue:
        """The queue's verbs over all parts."""
        own = QueueVerbs(self.store, self.scheduler, self.log).table()
        return MergedQueue(lambda: {0: own, **self.workers.tables()})

    # -- workers.pool.Host ----------------------------------------------------------------------

    async def adopt(self, part: int, peers: Peers) -> AdoptedPart:
        return await AdoptedPart.open(
            self.settings, self.log, part, self.expander, self.router, self.transports, peers
        )

    async def link(self) -> int | None:
        if self.supervisor is None:
            return None
        try:
            _, (descriptor,) = await self.supervisor.ask(do="link")
        except (BindError, SupervisorGone) as error:
            raise OSError(str(error)) from error
        return descriptor

    async def deposit(self, fields: Mapping[str, Any], descriptor: int) -> dict[str, object]:
        return await carry_out(self.depositor, fields, descriptor)

    def shared(self) -> Sequence[Bound]:
        return [entry for entry in self._bound if entry.listener.service in SHARED_SERVICES]
