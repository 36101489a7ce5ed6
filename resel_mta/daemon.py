"""The life of the network process: become ready, take signals, reload, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from resel_mta import __version__, sockets
from resel_mta.config import ConfigError, Settings
from resel_mta.config.live import publish_maps
from resel_mta.config.watched import WatchedMaps
from resel_mta.control import ControlError, ControlServer, Row, Verb, control_path
from resel_mta.mail_verbs import MailVerbs
from resel_mta.maillog import MailLog
from resel_mta.main_composition import SERVICES, MainComposition
from resel_mta.notify import notify, notify_reloading
from resel_mta.public_queue import PublicQueue, is_served
from resel_mta.queue.lock import QueueLocked
from resel_mta.sockets import BindError, Bound
from resel_mta.supervised import SupervisorLink

#: As the status names them, in its order.
QUEUES = ("active", "incoming", "deferred", "hold", "corrupt")
#: Seconds for a command that reads or changes the queue while no daemon runs; between two looks.
LOCKED = 30.0
LOOK_EVERY = 0.05


def bind_all(settings: Settings) -> list[Bound]:
    """Every listener of the settings. Raises BindError naming all that cannot be had."""
    bound: list[Bound] = []
    problems: list[str] = []
    for service in SERVICES:
        for listener in settings.listeners(service):
            try:
                bound.append(sockets.bind(listener))
            except BindError as error:
                problems.append(str(error))
    if problems:
        for entry in bound:
            entry.socket.close()
        raise BindError("\n".join(problems))
    return bound


def record_path(data_directory: str) -> Path:
    """Where the running daemon writes its role and pid, for the commands."""
    return Path(data_directory) / "daemon.json"


class Daemon:
    """One process with the services of its role.

    reread: reads the configuration again for a reload; raises ConfigError.
    """

    def __init__(
        self,
        settings: Settings,
        bound: list[Bound],
        log: MailLog,
        reread: Callable[[], Settings],
        supervisor: SupervisorLink | None = None,
    ) -> None:
        self._settings = settings
        self._bound = bound
        self._log = log
        self._reread = reread
        self._supervisor = supervisor
        self._parts = MainComposition(settings, log, supervisor)
        self._watched = WatchedMaps(
            settings,
            lambda text: log.event("master", text),
            lambda text: log.warning("master", text),
        )
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._started = self._configured = time.time()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._public: PublicQueue | None = None

    async def _open_parts(self) -> None:
        """Raises what `Composition.open` does."""
        queue = self._settings.text("queue_directory")
        until = time.monotonic() + LOCKED
        told = False
        while True:
            try:
                await self._parts.open(self._bound)
            except QueueLocked as error:
                if time.monotonic() > until or await asyncio.to_thread(is_served, queue):
                    raise
                if not told:
                    self._log.event("master", f"{error}: waiting for it")
                told = True
                await asyncio.sleep(LOOK_EVERY)
            else:
                return

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `resel-mta stop`. Raises what `Composition.open` does."""
        data = self._settings.text("data_directory")
        await self._publish_maps(self._settings)
        await self._open_parts()
        self._queue = self._parts.queue_verbs().table()
        control = ControlServer(control_path(data), self._verbs(), self._log)
        await control.start()
        self._public = await asyncio.to_thread(
            PublicQueue, self._settings, self._verbs(), self._log
        )
        await self._public.start()
        record = record_path(data)
        record.write_text(json.dumps({"pid": os.getpid(), "role": self._settings.role}) + "\n")
        self._take_signals()
        self._background(self._watched.keep_looking())
        if self._supervisor is not None:
            self._background(self._supervisor.keep_looking())
        self._announce()
        notify("READY=1", f"STATUS=role {self._settings.role}")
        await self._stopping.wait()
        notify("STOPPING=1")
        timeout = self._settings.seconds("shutdown_timeout")
        await control.stop()
        await self._public.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await self._parts.close(timeout)
        record.unlink(missing_ok=True)
        self._log.event("master", "terminated: all that was accepted is delivered or queued")
        self._log.flush()

    async def _publish_maps(self, settings: Settings) -> None:
        """Tables as their sources have them now; a broken one keeps its last good copy."""
        for problem in await asyncio.to_thread(publish_maps, settings):
            self._log.warning("master", problem.plain())

    def _announce(self) -> None:
        for warning in self._settings.warnings:
            self._log.warning("master", warning.plain())
        where = ", ".join(
            f"{entry.listener.service} on {sockets.describe(entry.listener)}"
            for entry in self._bound
        )
        self._log.event(
            "master",
            f"daemon started -- version {__version__}, role {self._settings.role}, "
            f"configuration {self._settings.path or '(none)'}: {where or 'no listeners'}",
        )

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)

    def _reload_soon(self) -> None:
        self._background(self._reload_logged())

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_logged(self) -> None:
        with contextlib.suppress(ControlError):
            await self.reload()

    # -- reload ---------------------------------------------------------------------------------

    async def reload(self) -> None:
        """Read the configuration again and use it; a bad one changes nothing.

        Raises ControlError(78) with every problem, which is also logged.
        """
        async with self._reloading:
            notify_reloading()
            try:
                await self._reload()
            except ConfigError as error:
                for problem in error.problems:
                    word = "error" if problem.is_error else "warning"
                    self._log.event("master", f"{word}: {problem.plain()}")
                self._log.warning("master", "reload refused: the old configuration stays in force")
                text = "\n".join(str(problem) for problem in error.problems)
                raise ControlError(78, f"{text}\nthe old configuration stays in force") from error
            finally:
                notify("READY=1")

    async def _reload(self) -> None:
        await self._reopen_log()
        read_at = time.time()
        settings = await asyncio.to_thread(self._reread)
        if settings.role != self._settings.role:
            self._log.warning(
                "master",
                f"the configuration says role = {settings.role}, but role {self._settings.role} is "
                "running: a role changes only by a restart",
            )
        await self._publish_maps(settings)
        await self._parts.reconfigure(settings)
        if self._public is not None:
            await asyncio.to_thread(self._public.reconfigure, settings)
        self._watched.reconfigure(settings)
        self._settings, self._configured = settings, read_at
        await self._relisten(settings)
        for warning in settings.warnings:
            self._log.warning("master", warning.plain())
        self._log.event("master", f"reload -- version {__version__}, configuration {settings.path}")

    async def _reopen_log(self) -> None:
        """It may have been moved away. One that cannot be written to is no reason not to reload:
        the old one stays open."""
        try:
            if self._supervisor is not None:
                await self._supervisor.ask(do="log")
            self._log.reopen()
        except (BindError, OSError) as error:
            self._log.warning("master", f"log file not reopened: {error}")
            return
        self._parts.workers.reopen_log()

    async def _relisten(self, settings: Settings) -> None:
        """Open what is new; what is no longer wanted is closed, its sessions go on."""
        wanted = {listener for service in SERVICES for listener in settings.listeners(service)}
        have = {entry.listener for entry in self._bound}
        for listener in sorted(wanted - have, key=sockets.describe):
            try:
                if self._supervisor is not None:
                    entry = await self._supervisor.bind(listener)
                else:
                    entry = sockets.bind(listener)
            except BindError as error:
                self._log.warning("master", f"{error} (a restart may help)")
                continue
            self._bound.append(entry)
            await self._parts.listen(entry)
        for entry in [each for each in self._bound if each.listener not in wanted]:
            self._bound.remove(entry)
            self._parts.stop_listening(entry)

    # -- verbs ----------------------------------------------------------------------------------

    def _verbs(self) -> Mapping[str, Verb]:
        return {
            **self._queue,
            **MailVerbs(self._parts.users, self._parts.pool, self._parts.sessions).table(),
            "daemon.about": self._about,
            "daemon.status": self._status,
            "daemon.reload": self._reload_verb,
            "daemon.stop": self._stop_verb,
        }

    async def _about(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """What everybody may know of it, so that `explain` decides as it does."""
        yield {
            "role": self._settings.role,
            "pid": os.getpid(),
            "configured": self._configured,
            "uid": os.getuid(),
            "gid": os.getgid(),
            "supervised": self._supervisor is not None,
        }

    async def _status(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        (stats,) = [row async for row in self._queue["queue.stats"]({})]
        yield {
            "version": __version__,
            "role": self._settings.role,
            "pid": os.getpid(),
            "started": self._started,
            "configuration": self._settings.path,
            "configured": self._configured,
            "recent": self._parts.workers.warnings(),
            "listeners": [
                {"service": e.listener.service, "where": sockets.describe(e.listener)}
                for e in self._bound
            ],
            "mailbox_processes": self._parts.pool.pids() if self._parts.logins else [],
            "workers": self._parts.workers.status(),
            "queue": {name: stats[name] for name in QUEUES},
        }

    async def _reload_verb(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        await self.reload()
        yield {"warnings": [str(warning) for warning in self._settings.warnings]}

    async def _stop_verb(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        yield {"pid": os.getpid()}
        self._stopping.set()
