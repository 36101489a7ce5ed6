"""The public socket: any user of this machine hands in a letter, and the kernel says who it is."""

from __future__ import annotations

import asyncio
import socket
import struct
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from resel_mta.maillog import MailLog
from resel_mta.maillog.limited import LimitedLog
from resel_mta.pickup.letter import BLOCK, ENVELOPE_LIMIT, Answer, Letter, LetterError
from resel_mta.pickup.taker import EX_DATAERR, EX_TEMPFAIL, CutShort, Taker
from resel_mta.sockets import bind_unix

#: Letters that are taken in at a time, of one user and of all. Who comes too many puts the letter
#: into the drop folder.
MOST_OF_ONE = 20
MOST_OF_ALL = 100
#: Seconds that a client may be silent. It has the whole letter before it connects.
PATIENCE = 60.0


class SubmitServer:
    """Listens at `path`."""

    def __init__(self, path: Path, taker: Taker, log: MailLog, patience: float = PATIENCE) -> None:
        self._path = path
        self._taker = taker
        self._complaints = LimitedLog(log, "pickup")
        self._patience = patience
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_uid: Counter[int] = Counter()

    async def start(self) -> None:
        """Raises OSError."""
        listening = bind_unix(self._path, 0o666)
        listening.setblocking(False)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listening, limit=ENVELOPE_LIMIT
        )

    async def stop(self, timeout: float) -> None:
        """Take no more; letters on their way may come to their end within `timeout` seconds."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._complaints.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            uid = peer_uid(writer.get_extra_info("socket"))
            answer = await self._admit(uid, reader)
            writer.write(answer.encode())
            async with asyncio.timeout(self._patience):
                await writer.drain()
        except CutShort as error:
            self._complaints.warning(uid, f"{error}; nothing was kept")
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            # Nobody reads the answer any more, or we are stopping: the client keeps its letter.
            return
        finally:
            writer.close()

    async def _admit(self, uid: int, reader: asyncio.StreamReader) -> Answer:
        if self._by_uid[uid] >= MOST_OF_ONE or self._by_uid.total() >= MOST_OF_ALL:
            return Answer(EX_TEMPFAIL, "too many messages at once", busy=True)
        self._by_uid[uid] += 1
        try:
            return await self._take(uid, reader)
        except CutShort:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._complaints.warning(
                uid, f"{error!r} at {where.name} line {where.lineno}: not taken"
            )
            return Answer(EX_TEMPFAIL, "the daemon failed; its log says why")
        finally:
            self._by_uid[uid] -= 1
            if not self._by_uid[uid]:
                del self._by_uid[uid]

    async def _take(self, uid: int, reader: asyncio.StreamReader) -> Answer:
        try:
            async with asyncio.timeout(self._patience):
                line = await reader.readline()
        except TimeoutError:
            raise CutShort("a client said nothing") from None
        except ValueError:
            return Answer(EX_DATAERR, "the envelope is too long")
        if not line.endswith(b"\n"):
            # A look whether somebody listens, or a client that was killed.
            raise CutShort("a client went away")
        try:
            letter = Letter.decode(line)
        except LetterError as error:
            return Answer(EX_DATAERR, str(error))
        return await self._taker.take(letter, uid, self._blocks(reader, letter.size), check=True)

    async def _blocks(self, reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
        """The content. Raises CutShort."""
        left = size
        while left:
            try:
                async with asyncio.timeout(self._patience):
                    block = await reader.read(min(BLOCK, left))
            except (TimeoutError, ConnectionError):
                block = b""
            if not block:
                raise CutShort(f"a client went away, {left} octets before the end")
            left -= len(block)
            yield block


def peer_uid(connection: socket.socket) -> int:
    """The uid that connected, from the kernel (unix(7), SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])
