"""The front's side of helpers: hands out errands and waits for what became of them.

However a helper fares (it dies, hangs, is stopped by its user, talks nonsense), the errand ends:
its mail is deferred then, and other accounts' mail is not held up. A helper that is killed after
it did its work makes a second copy, and loses none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from resel_lda import errand as errands
from resel_lda.errand import MAX_ANSWER, Errand
from resel_lda.keeper import child_environment
from resel_lda.parcel import is_small, wrap
from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.users import User

COMMAND = (sys.executable, "-P", "-m", "resel_lda.helper")

#: Errands of one user, and of one alias, that are done at a time; that wait, and seconds for which
#: they do.
_AT_ONCE_USER = 4
_AT_ONCE = 10
_WAITING = 10
_WAIT = 10.0
#: Seconds for an errand beside a command's own time limit: locks, large files, slow disks.
_PATIENCE = 120.0
_BLOCK = 1 << 16


class HelperFailure(Exception):
    """It is not known what became of an errand, or nothing did: the text says why."""

    def __init__(self, text: str, enhanced: str = "4.3.0") -> None:
        super().__init__(text)
        self.enhanced = enhanced


class Dispatch(Protocol):
    """Whoever has helpers run."""

    def serves(self, user: User) -> bool:
        """Whether this user's mailbox is a helper's business."""
        ...

    async def send(self, errand: Errand, descriptors: Sequence[int]) -> None:
        """Give an errand and its descriptors to a helper. Raises HelperFailure."""
        ...

    async def retire(self, errand: Errand) -> None:
        """The helper that got this errand does not answer: the next errand gets a new one."""
        ...

    def reconfigure(self, settings: Settings) -> None: ...

    async def close(self) -> None: ...


class Helpers:
    """Runs errands. directory: for messages too large for memory."""

    def __init__(self, settings: Settings, dispatch: Dispatch, directory: str) -> None:
        self._dispatch = dispatch
        self._directory = directory
        self._busy: Counter[str] = Counter()
        self._gates: dict[str, asyncio.Semaphore] = {}
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self._time_limit = settings.seconds("command_time_limit")
        self._dispatch.reconfigure(settings)

    def serves(self, user: User) -> bool:
        """Whether this user's mailbox is a helper's business."""
        return self._dispatch.serves(user)

    async def run(self, errand: Errand, content: Content | None) -> dict[str, Any]:
        """The answer to an errand (see `helper`). Raises HelperFailure."""
        key = f"alias {errand.alias}" if errand.alias else errand.job.user.name
        async with self._turn(key, _AT_ONCE if errand.alias else _AT_ONCE_USER):
            message = await self._wrapped(content) if content is not None else None
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    if content is not None:
                        errand = replace(errand, header=len(content.header.raw))
                    descriptors = [theirs.fileno(), *([] if message is None else [message])]
                    await self._dispatch.send(errand, descriptors)
                return await self._answer(errand, ours)
            finally:
                ours.close()
                if message is not None:
                    os.close(message)

    @contextlib.asynccontextmanager
    async def _turn(self, key: str, at_once: int) -> AsyncIterator[None]:
        """Not all at once for one account: what hangs for it is its own mail only."""
        if self._busy[key] >= at_once + _WAITING:
            raise HelperFailure(f"too many deliveries for {key} at a time")
        self._busy[key] += 1
        gate = self._gates.setdefault(key, asyncio.Semaphore(at_once))
        try:
            try:
                async with asyncio.timeout(_WAIT):
                    await gate.acquire()
            except TimeoutError:
                raise HelperFailure(f"too many deliveries for {key} at a time") from None
            try:
                yield
            finally:
                gate.release()
        finally:
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key], self._gates[key]

    async def _wrapped(self, content: Content) -> int:
        try:
            if is_small(content):
                return wrap(content, self._directory)
            return await asyncio.to_thread(wrap, content, self._directory)
        except OSError as error:
            text = f"the message cannot be read for delivery: {error.strerror}"
            raise HelperFailure(text) from error

    async def _answer(self, errand: Errand, ours: socket.socket) -> dict[str, Any]:
        ours.setblocking(False)
        limit = _PATIENCE
        if errand.do == errands.COMMAND:
            limit += self._time_limit
        try:
            async with asyncio.timeout(limit):
                data = await _read_all(ours)
        except TimeoutError:
            await self._dispatch.retire(errand)
            raise HelperFailure("the delivery process does not answer") from None
        if not data:
            raise HelperFailure("the delivery process went away")
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise HelperFailure("the delivery process gave no proper answer")
        return answer

    async def close(self) -> None:
        """End the helpers; commands that still run are killed, and their mail is deferred."""
        await self._dispatch.close()


async def _read_all(stream: socket.socket) -> bytes:
    """Up to the end, or MAX_ANSWER octets; b"" if it was broken."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    try:
        while block := await loop.sock_recv(stream, _BLOCK):
            data += block
            if len(data) > MAX_ANSWER:
                return b""
    except OSError:
        return b""
    return bytes(data)


def configuration(settings: Settings) -> bytes:
    """The first packet to a helper."""
    explicit = settings.explicit().items()
    values = {name: one.value for name, one in explicit if name != "role"}
    told: Mapping[str, object] = {"role": settings.role, "values": values}
    return json.dumps(told, separators=(",", ":")).encode()


class ChildDispatch:
    """One helper, a child with the rights of this process: for a daemon not started by root."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._ended: list[asyncio.subprocess.Process] = []

    def serves(self, user: User) -> bool:
        return user.uid == os.getuid()

    def reconfigure(self, settings: Settings) -> None:
        """For the errands that follow."""
        if settings is not self._settings:
            self._settings = settings
            if self._control is not None:
                with contextlib.suppress(OSError):
                    errands.send(self._control, configuration(settings))

    async def send(self, errand: Errand, descriptors: Sequence[int]) -> None:
        async with self._starting:
            packet = errand.pack()
            for _ in range(2):
                if self._control is None:
                    await self._start()
                assert self._control is not None
                try:
                    errands.send(self._control, packet, descriptors)
                except BlockingIOError:
                    raise HelperFailure("the delivery process is busy") from None
                except OSError:
                    # It died since the last errand.
                    self._let_go()
                else:
                    return
        raise HelperFailure("the delivery process cannot be started")

    async def retire(self, errand: Errand) -> None:
        process = self._process
        self._let_go()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _start(self) -> None:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *COMMAND, stdin=theirs.fileno(), env=child_environment()
                )
            errands.send(control, configuration(self._settings))
        except OSError as error:
            control.close()
            raise HelperFailure(f"the delivery process cannot be started: {error}") from error
        self._control = control
        asyncio.get_running_loop().add_reader(control.fileno(), self._done, control)

    def _done(self, control: socket.socket) -> None:
        """Its word that an errand is done; the answer itself came on the errand's own socket."""
        try:
            packet = control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet and control is self._control:
            self._let_go()

    def _let_go(self) -> None:
        """It ends soon: what still runs in it is killed."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._process is not None:
            self._ended.append(self._process)
            self._process = None
        self._ended = [each for each in self._ended if each.returncode is None]

    async def close(self) -> None:
        self._let_go()
        for process in self._ended:
            try:
                async with asyncio.timeout(5.0):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
