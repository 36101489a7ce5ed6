"""The admin socket: commands ask the running daemon, one JSON object a line.

A request is ``{"verb": name, "args": {…}, "octets": n}``, and n octets of a message that it is about,
if it is; the verb finds them as `Input` in its argument "input". The answer is any number of ``{"row": {…}}`` and then
one ``{"done": {…}}`` or ``{"error": {"exit": sysexits, "text": one line}}``. Only root and the
daemon's own uid are heard; the kernel says who is asking (SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resel_mta.maillog import MailLog
from resel_mta.maillog.limited import LimitedLog
from resel_mta.sockets import bind_unix, unix_address

Row = dict[str, Any]
Verb = Callable[[Mapping[str, Any]], AsyncIterator[Row]]

REQUEST_LIMIT = 16 * 1024 * 1024
ANSWER_TIMEOUT = 120.0
_BLOCK = 1 << 16
#: Seconds for what an asker sends beyond a request that was refused.
_REST = 1.0


class ControlError(Exception):
    """A verb that could not be carried out. exit: as in sysexits.h; text: one line for a person."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.text = text


class WentAway(ControlError):
    """Whoever was asked ended in the middle of its answer."""


class NotRunning(Exception):
    """Nobody listens on the admin socket."""


def control_path(data_directory: str, worker: int = 0) -> Path:
    """Where the admin socket of a daemon with this data_directory is; or of one of its workers,
    which only the daemon asks."""
    return Path(data_directory) / (f"control.{worker}" if worker else "control")


async def ask(path: Path, verb: str, args: Mapping[str, Any]) -> AsyncIterator[Row]:
    """The rows of an answer, for one daemon process that asks another. Raises NotRunning before
    the first, WentAway or another ControlError at any time."""
    try:
        with unix_address(path) as address:
            reader, writer = await asyncio.open_unix_connection(address, limit=REQUEST_LIMIT)
    except OSError as error:
        raise NotRunning(str(path)) from error
    begun = False
    try:
        given = {name: value for name, value in args.items() if name != "input"}
        writer.write(json.dumps({"verb": verb, "args": given}).encode() + b"\n")
        async for line in reader:
            if not line.endswith(b"\n"):
                break
            answer = json.loads(line)
            if "error" in answer:
                raise ControlError(answer["error"]["exit"], answer["error"]["text"])
            if "done" in answer:
                return
            begun = True
            yield answer["row"]
        raise ConnectionResetError
    except ConnectionError as error:
        if not begun:
            raise NotRunning(str(path)) from error
        raise WentAway(75, "a worker went away before it had answered") from error
    finally:
        writer.close()


class Input:
    """What was handed in with a request: `size` octets, read once."""

    def __init__(self, reader: asyncio.StreamReader, size: int) -> None:
        self._reader = reader
        self._left = size
        self.size = size

    async def blocks(self) -> AsyncIterator[bytes]:
        """What is left of it. Raises ConnectionResetError when the asker goes away in between."""
        while self._left:
            block = await self._reader.read(min(self._left, _BLOCK))
            if not block:
                raise ConnectionResetError
            self._left -= len(block)
            yield block

    async def skip(self) -> None:
        """Read what nobody wanted: an asker that still sends would not see the answer."""
        async for _ in self.blocks():
            continue


class ControlServer:
    """Answers on the admin socket.

    verbs: name → async generator over rows. A verb raises ControlError for what the asker
    should read; anything else is a bug, logged, and answered with exit 70 (EX_SOFTWARE).
    mode: of the socket. request_limit: octets of a request. patience: seconds for all of one.
    """

    mode = 0o600
    request_limit = REQUEST_LIMIT
    patience: float | None = None

    def __init__(self, path: Path, verbs: Mapping[str, Verb], log: MailLog) -> None:
        self._path = path
        self._verbs = verbs
        self._log = log
        self._complaints = LimitedLog(log, "control")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises OSError."""
        listening = bind_unix(self._path, self.mode)
        listening.setblocking(False)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listening, limit=self.request_limit
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._complaints.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(self.patience):
                answer = await self._answer(reader, writer)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
            if "error" in answer:
                await _skip_rest(reader)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            # The command was interrupted, or we are stopping: nobody reads the answer.
            return
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Row:
        uid = _peer_uid(writer.get_extra_info("socket"))
        try:
            with self.admitted(uid):
                return await self._take(uid, reader, writer)
        except ControlError as error:
            return _error(error.exit_code, error.text)

    async def _take(
        self, uid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Row:
        """Raises ControlError."""
        try:
            request = json.loads(await reader.readline())
            verb = str(request["verb"])
            octets = Input(reader, int(request.get("octets", 0)))
            args = {**request.get("args", {}), "input": octets}
            await self.check(uid, verb, args)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self._complaints.warning(uid, f"bad request: {error!r}")
            return _error(65, "the daemon could not read the request")
        answer = await self._perform(uid, verb, args, writer)
        await octets.skip()
        return answer

    @contextlib.contextmanager
    def admitted(self, uid: int) -> Iterator[None]:
        """While somebody is served. Raises ControlError where he may not ask, or not now."""
        if uid not in (0, os.getuid()):
            text = "permission denied: only root and the mail owner may ask the daemon"
            raise ControlError(77, text)
        yield

    async def check(self, uid: int, verb: str, args: Mapping[str, Any]) -> None:
        """Raises ControlError where this is not for that user."""

    async def _perform(
        self, uid: int, verb: str, args: Mapping[str, Any], writer: asyncio.StreamWriter
    ) -> Row:
        """Send the rows; the last line of the answer."""
        handler = self._verbs.get(verb)
        if handler is None:
            return _error(64, f"the daemon does not know '{verb}': is it an older version?")
        try:
            async for row in handler(args):
                writer.write(json.dumps({"row": row}).encode() + b"\n")
                await writer.drain()
        except ControlError as error:
            return _error(error.exit_code, error.text)
        except (ValueError, KeyError, TypeError) as error:
            self._complaints.warning(uid, f"bad request for '{verb}': {error!r}")
            return _error(65, "the daemon could not read the request")
        except ConnectionError:
            raise
        except Exception as error:
            self._complaints.warning(uid, f"'{verb}' failed: {error!r}")
            return _error(70, f"the daemon failed at '{verb}'; its log says why")
        return {"done": {}}


async def _skip_rest(reader: asyncio.StreamReader) -> None:
    """What the asker still sends: closed with that unread, a socket takes the answer with it. Raises
    TimeoutError."""
    async with asyncio.timeout(_REST):
        while await reader.read(_BLOCK):
            continue


def _error(exit_code: int, text: str) -> Row:
    return {"error": {"exit": exit_code, "text": text}}


def _peer_uid(connection: Any) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


class ControlClient:
    """A command's side of the admin socket. Blocks."""

    def __init__(self, path: Path, timeout: float = ANSWER_TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def call(self, verb: str, content: bytes = b"", **args: Any) -> Iterator[Row]:
        """The rows of the answer. content: octets to hand in with it. Raises NotRunning before the first, ControlError at any time."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(self._timeout)
            try:
                with unix_address(self._path) as address:
                    channel.connect(address)
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                raise NotRunning(str(self._path)) from error
            except PermissionError as error:
                raise ControlError(77, f"{self._path}: permission denied; ask as root") from error
            try:
                yield from self._converse(channel, verb, args, content)
            except TimeoutError as error:
                text = f"the daemon did not answer within {self._timeout:g} s"
                raise ControlError(75, text) from error
            except ConnectionError as error:
                raise ControlError(75, "the daemon went away before it had answered") from error

    def _converse(
        self, channel: socket.socket, verb: str, args: Mapping[str, Any], content: bytes
    ) -> Iterator[Row]:
        request = {"verb": verb, "args": args, "octets": len(content)}
        channel.sendall(json.dumps(request).encode() + b"\n")
        if content:
            channel.sendall(content)
        with channel.makefile("rb", 4 * _BLOCK) as answers:
            for line in answers:
                answer = json.loads(line)
                if "row" in answer:
                    yield answer["row"]
                elif "error" in answer:
                    raise ControlError(answer["error"]["exit"], answer["error"]["text"])
                else:
                    return
        raise ConnectionResetError
