"""Takes what waits in the drop folder. The folder is open to everybody: nothing in it is trusted.

A file that is no letter, or one that will never be taken, is moved to ``aside`` beside the folder
and reported; nothing that has a name of its own is ever deleted before it is safe in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resel_mta.disk import Disk
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog
from resel_mta.pickup.drop import Unfit, check_letter
from resel_mta.pickup.letter import BLOCK, ENVELOPE_LIMIT, Letter, LetterError, is_token
from resel_mta.pickup.taker import EX_TEMPFAIL, CutShort, Taker, token_of

#: Seconds between two looks; a look at an empty folder costs next to nothing.
INTERVAL = 2.0
#: What is taken of one user in one look, so that nobody keeps others waiting.
MOST_LETTERS = 100
MOST_OCTETS = 64 * 1024 * 1024
#: Seconds to the next try after a temporary failure, doubled each time.
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 600.0
#: Seconds after which a file that was never finished is swept away: its writer is dead.
UNFINISHED = 2 * 86400.0

#: Seconds that a letter is known after it was taken, and how often older ones are forgotten.
KNOWN_FOR = 7 * 86400.0
FORGET_EVERY = 3600.0

#: Opens a file of the folder, by name. Raises Unfit, OSError.
Opener = Callable[[str], Awaitable[int]]


class Ledger(Protocol):
    """What the queue knows of letters that it took (see `queue.door.QueueStore`)."""

    async def knows_token(self, token: str) -> bool: ...

    async def forget_tokens(self, before: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    uid: int
    size: int
    modified: float


@dataclass(slots=True)
class _Pause:
    until: float
    length: float


class DropReader:
    """Looks into `directory` again and again."""

    def __init__(
        self,
        directory: Path,
        opener: Opener,
        taker: Taker,
        ledger: Ledger,
        log: MailLog,
        disk: Disk,
        interval: float = INTERVAL,
    ) -> None:
        self._directory = directory
        self._aside = directory.with_name("aside")
        self._opener = opener
        self._taker = taker
        self._ledger = ledger
        self._forgot: float | None = None
        self._log = log
        self._disk = disk
        self._interval = interval
        self._pauses: dict[str, _Pause] = {}
        self._told: set[str] = set()
        self._stopping = asyncio.Event()

    def begin_stop(self) -> None:
        """Come to an end after the letter that is being taken: a cancelled one might be in the
        queue and here."""
        self._stopping.set()

    async def run(self) -> None:
        """Until `begin_stop`."""
        while not self._stopping.is_set():
            try:
                await self.look()
                await self._forget()
            except OSError as error:
                self._tell("", f"{self._directory}: {error.strerror or error}")
            except TempFail as failure:
                self._tell("", f"the queue does not answer: {failure.reply.text}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._stopping.wait()

    async def look(self) -> int:
        """Take what is there now; how many letters were taken. Raises OSError."""
        entries = await asyncio.to_thread(self._scan)
        names = {entry.name for entry in entries}
        self._pauses = {name: p for name, p in self._pauses.items() if name in names}
        self._told &= names | {""}
        taken = 0
        for entry in self._fair(entries):
            if self._stopping.is_set():
                break
            if await self._handle(entry):
                taken += 1
        return taken

    async def _forget(self) -> None:
        now = time.time()
        if self._forgot is None or now - self._forgot > FORGET_EVERY:
            await self._ledger.forget_tokens(now - KNOWN_FOR)
            self._forgot = now

    def _scan(self) -> list[_Entry]:
        entries = []
        with os.scandir(self._directory) as found:
            for each in found:
                with contextlib.suppress(FileNotFoundError):
                    status = each.stat(follow_symlinks=False)
                    entries.append(
                        _Entry(each.name, status.st_uid, status.st_size, status.st_mtime)
                    )
        return entries

    def _fair(self, entries: list[_Entry]) -> list[_Entry]:
        """What to look at now: oldest first, so much of each user."""
        now = time.monotonic()
        letters: Counter[int] = Counter()
        octets: Counter[int] = Counter()
        chosen = []
        for entry in sorted(entries, key=lambda each: (each.modified, each.name)):
            pause = self._pauses.get(entry.name)
            if entry.name in self._told or (pause is not None and pause.until > now):
                continue
            full = letters[entry.uid] >= MOST_LETTERS or octets[entry.uid] >= MOST_OCTETS
            if not full:
                letters[entry.uid] += 1
                octets[entry.uid] += entry.size
                chosen.append(entry)
        return chosen

    async def _handle(self, entry: _Entry) -> bool:
        """Whether it was taken."""
        if entry.name.startswith("."):
            if time.time() - entry.modified > UNFINISHED:
                await self._set_aside(entry, "was never finished")
            return False
        if not is_token(entry.name):
            await self._set_aside(entry, "not the name of a message")
            return False
        try:
            fd = await self._opener(entry.name)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            self._postpone(entry, "somebody holds it")
            return False
        except PermissionError:
            self._tell(
                entry.name, f"{self._of(entry)}: only a daemon that root started can read it"
            )
            return False
        except (Unfit, OSError) as error:
            text = (error.strerror if isinstance(error, OSError) else None) or str(error)
            await self._set_aside(entry, text)
            return False
        try:
            return await self._read(entry, fd)
        finally:
            os.close(fd)

    async def _read(self, entry: _Entry, fd: int) -> bool:
        status = os.fstat(fd)
        try:
            check_letter(status)
            line = await asyncio.to_thread(_first_line, fd)
            letter = Letter.decode(line)
            if len(line) + letter.size != status.st_size:
                raise LetterError(f"{status.st_size} octets, not {len(line) + letter.size}")
        except (Unfit, LetterError) as error:
            await self._set_aside(entry, str(error))
            return False
        if await self._ledger.knows_token(token_of(letter, status.st_uid)):
            # The daemon or the client ended before it heard that this was taken.
            self._log.event("pickup", f"{self._of(entry)}: was taken before")
            await self._remove(entry)
            return False
        blocks = _blocks(fd, len(line), letter.size)
        try:
            answer = await self._taker.take(letter, status.st_uid, blocks, check=False)
        except CutShort as error:
            await self._set_aside(entry, str(error))
            return False
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._postpone(entry, f"{error!r} at {where.name} line {where.lineno}")
            return False
        if answer.queue_id:
            await self._remove(entry)
            return True
        if answer.exit == EX_TEMPFAIL:
            self._postpone(entry, answer.text)
        else:
            await self._set_aside(entry, answer.text)
        return False

    async def _remove(self, entry: _Entry) -> None:
        """It is in the queue."""
        path = self._directory / entry.name
        try:
            await asyncio.to_thread(self._disk.unlink, path)
            await asyncio.to_thread(self._disk.sync_directory, self._directory)
        except FileNotFoundError:
            return

    async def _set_aside(self, entry: _Entry, reason: str) -> None:
        target = self._aside / f"{entry.name.lstrip('.')[:100] or 'unnamed'}.{time.time_ns():x}"
        try:
            await asyncio.to_thread(self._move, entry.name, target)
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell(entry.name, f"{self._of(entry)}: {reason}; left there: {error.strerror}")
            return
        self._log.warning("pickup", f"{self._of(entry)}: {reason}; kept as {target}")

    def _move(self, name: str, target: Path) -> None:
        self._disk.make_directories(self._aside)
        self._disk.rename(self._directory / name, target)
        self._disk.sync_directory(self._aside)

    def _postpone(self, entry: _Entry, reason: str) -> None:
        before = self._pauses.get(entry.name)
        length = FIRST_PAUSE if before is None else min(before.length * 2, LONGEST_PAUSE)
        self._pauses[entry.name] = _Pause(time.monotonic() + length, length)
        self._log.warning("pickup", f"{self._of(entry)}: {reason}; tried again in {length:.0f} s")

    def _tell(self, name: str, text: str) -> None:
        """Once for each name, for as long as it stays."""
        if name not in self._told:
            self._told.add(name)
            self._log.warning("pickup", text)

    def _of(self, entry: _Entry) -> str:
        return f"{self._directory / entry.name} of uid {entry.uid}"


def _first_line(fd: int) -> bytes:
    """Raises LetterError."""
    line = b""
    while len(line) <= ENVELOPE_LIMIT:
        block = os.pread(fd, BLOCK, len(line))
        end = block.find(b"\n")
        if end >= 0:
            return line + block[: end + 1]
        if not block:
            raise LetterError("no envelope")
        line += block
    raise LetterError("no envelope")


async def _blocks(fd: int, offset: int, size: int) -> AsyncIterator[bytes]:
    """The content. Raises CutShort."""
    left = size
    while left:
        block = await asyncio.to_thread(os.pread, fd, min(BLOCK, left), offset)
        if not block:
            raise CutShort("it became shorter while it was read")
        offset += len(block)
        left -= len(block)
        yield block
