"""How resel-queue reaches the queue: it asks the daemon, or takes the queue's lock when none runs.

Whoever is neither root nor the mail owner asks the daemon's public socket: to list and to flush.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import IO, Any

import apsw

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.config import ConfigError, Settings
from resel_mta.control import ControlClient, ControlError, NotRunning, Row, control_path
from resel_mta.mail import Route, TempFail
from resel_mta.maillog import FileSink, MailLog, StreamSink, SyslogSink
from resel_mta.public_queue import PUBLIC_VERBS, public_queue_path
from resel_mta.queue.door import Entry
from resel_mta.queue.lock import QueueLocked
from resel_mta.queue.parts import other_parts, part_directory
from resel_mta.queue.retry import Policy
from resel_mta.queue.schema import UnknownVersion, UnusableLibrary
from resel_mta.queue.spool import DISK_FULL
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.queue.why import HostState, marks
from resel_mta.routing import RoutingTable
from resel_mta.users import Users
from resel_mta.verbs import QueueVerbs
from resel_mta.workers.merging import MergedQueue

LOCK_PATIENCE = 5.0
MEMORY = 4 * 1024 * 1024
"""Characters of an answer that are kept in memory."""

_UNAVAILABLE = {
    "queue.walk": "the queue cannot be listed",
    "queue.flush": "the queue cannot be flushed",
}


def open_log(settings: Settings) -> MailLog | None:
    """Where changes are logged while no daemon does: maillog_file, else syslog, if there is one."""
    path = settings.text("maillog_file")
    is_syslog = path in ("", "/dev/stdout", "/dev/log")
    try:
        sink = SyslogSink() if is_syslog else FileSink(path)
    except OSError:
        return None
    return MailLog(
        sink,
        syslog_name=settings.text("syslog_name"),
        hostname=settings.text("myhostname").partition(".")[0],
        stamped=not is_syslog,
        as_json=settings.text("log_format") == "json",
    )


class DamageLog(MailLog):
    """What the store finds damaged while no daemon runs: it is set aside at once, and the next
    start finds nothing. Told to whoever asked, unless the answer tells it, and in the mail log,
    which is opened only then."""

    def __init__(self, settings: Settings, verb: str) -> None:
        super().__init__(StreamSink(2))
        self._settings = settings
        self._answered = verb == "queue.check"

    def warning(self, service: str, text: str, queue_id: str = "", **fields: object) -> None:
        whole = f"{queue_id}: {text}" if queue_id else text
        if not self._answered:
            print(f"resel-queue: warning: {cli.printable(whole)}", file=sys.stderr)
        log = open_log(self._settings)
        if log is not None:
            log.warning(service, text, queue_id, **fields)
            log.flush()


class Stopped:
    """Implements `verbs.Deliverer` while no daemon runs."""

    running = False

    def __init__(self, settings: Settings) -> None:
        self._policy = Policy(settings)
        self._router: RoutingTable | None
        try:
            self._router = RoutingTable(settings, Users([], [], lambda text: None))
        except ConfigError:
            # The configuration has faults that the queue does not need to know of.
            self._router = None

    async def flush(self, queue_id: str | None = None, site: str | None = None) -> int:
        raise ControlError(
            69,
            "the mail system is down: nothing can be flushed; it will be tried at the next start",
        )

    async def route(self, address: str) -> Route | None:
        if self._router is None:
            return None
        try:
            return await self._router.route(address, via=marks(address))
        except TempFail:
            return None

    def host_state(self, route: Route, address: str) -> HostState:
        return HostState(limit=self._policy.limits(route.transport).concurrency)

    def deadline(self, entry: Entry) -> float:
        return self._policy.deadline(entry.arrival, entry.sender, entry.expires)

    def active_since(self, queue_id: str) -> float:
        return 0.0

    @property
    def trash_time(self) -> float:
        return self._policy.trash_time

    def revive(self) -> None:
        """Nothing is remembered from before."""


class Queue:
    """The queue of these settings, wherever it is held."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = settings.text("queue_directory")
        self._client = ControlClient(control_path(settings.text("data_directory")))

    def ask(self, verb: str, **args: Any) -> Iterator[Row]:
        """A verb's rows. Raises Failure."""
        if verb in PUBLIC_VERBS and not self._is_owner():
            yield from self._ask_publicly(verb, args)
            return
        try:
            yield from self._client.call(verb, **args)
        except NotRunning:
            yield from self._ask_directly(verb, args)
        except ControlError as error:
            raise Failure(error.exit_code, self._with_cure(error.text)) from None

    def _with_cure(self, text: str) -> str:
        """Where others have filled the disk to its last octet, what the queue keeps for itself
        may be used up: then it cannot be emptied either."""
        if DISK_FULL.text not in text:
            return text
        mount = os.path.realpath(self._directory)
        while not os.path.ismount(mount):
            mount = os.path.dirname(mount)
        return (
            f"{text}: no space is left on the file system {mount}; free some there first, "
            "elsewhere than in the queue, then try again"
        )

    def _is_owner(self) -> bool:
        """Root, the mail owner, or nobody knows yet who that is."""
        try:
            return os.geteuid() in (0, os.stat(self._directory).st_uid)
        except OSError:
            return True

    def _ask_publicly(self, verb: str, args: dict[str, Any]) -> Iterator[Row]:
        client = ControlClient(public_queue_path(self._directory))
        # The daemon does not wait for a reader that takes its time.
        with tempfile.SpooledTemporaryFile(MEMORY, "w+") as answer:
            try:
                for row in client.call(verb, **args):
                    answer.write(json.dumps(row) + "\n")
            except NotRunning:
                text = f"{_UNAVAILABLE[verb]}: the mail system is down"
                raise Failure(cli.EX_UNAVAILABLE, text) from None
            except ControlError as error:
                raise Failure(error.exit_code, error.text) from None
            answer.seek(0)
            yield from map(json.loads, answer)

    def _ask_directly(self, verb: str, args: dict[str, Any]) -> Iterator[Row]:
        self._become_owner()
        try:
            # Not row by row: a reader that takes its time must not hold the queue's lock.
            with tempfile.SpooledTemporaryFile(MEMORY, "w+") as answer:
                try:
                    asyncio.run(self._answer(verb, args, answer))
                except TempFail:
                    # Damage that came to light at the commit; what was saved is there now.
                    answer.seek(0)
                    answer.truncate()
                    asyncio.run(self._answer(verb, args, answer))
                answer.seek(0)
                yield from map(json.loads, answer)
        except ControlError as error:
            raise Failure(error.exit_code, self._with_cure(error.text)) from None
        except QueueLocked as error:
            raise Failure(cli.EX_TEMPFAIL, f"{error}, which does not answer") from None
        except TempFail as error:
            text = self._with_cure(f"queue in {self._directory}: {error.reply.text}")
            raise Failure(cli.EX_TEMPFAIL, text) from None
        except (UnusableLibrary, UnknownVersion, apsw.Error) as error:
            raise Failure(
                cli.EX_UNAVAILABLE, f"the queue in {self._directory} cannot be used: {error}"
            ) from None

    def _become_owner(self) -> None:
        """Files made on the way must be the daemon's, not root's."""
        try:
            owner = os.stat(self._directory)
        except FileNotFoundError:
            raise Failure(
                cli.EX_UNAVAILABLE, f"queue_directory {self._directory} does not exist yet"
            ) from None
        if os.geteuid() == owner.st_uid:
            return
        if os.geteuid() != 0:
            raise Failure(
                cli.EX_NOPERM, f"{self._directory}: only root and the mail owner may read the queue"
            )
        os.setgroups([owner.st_gid])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)

    async def _answer(self, verb: str, args: dict[str, Any], answer: IO[str]) -> None:
        log = open_log(self._settings) if verb == "queue.change" else None
        async with AsyncExitStack() as stack:
            if log is not None:
                stack.callback(log.flush)
            deliverer = Stopped(self._settings)
            tables = {}
            # Part 0 comes first: who has that may have the others.
            for part in (0, *other_parts(self._directory)):
                store = await self._open(part, DamageLog(self._settings, verb))
                stack.push_async_callback(store.close)
                tables[part] = QueueVerbs(store, deliverer, log).table()
            async for row in MergedQueue(lambda: tables).table()[verb](args):
                answer.write(json.dumps(row) + "\n")

    async def _open(self, part: int, log: MailLog) -> SQLiteStore:
        """Another command, or what is left of a daemon, may have it for a moment."""
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                where = part_directory(self._directory, part)
                return await SQLiteStore.open(where, log=log, part=part)
            except QueueLocked:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
