"""PAM by way of a process that is root: the network process's side (see `pam_process`)."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Awaitable, Callable

from resel_mta.users.pam import PATIENCE, PamFailure
from resel_mta.users.pam_process import MAX_PACKET

Connect = Callable[[], Awaitable[socket.socket]]
"""A socket to a new process. Raises OSError."""


class RemotePam:
    """Implements `pam.PamLogin`. The process is started when first needed, and again after it died."""

    def __init__(self, service: str, connect: Connect) -> None:
        self._service = service
        self._connect = connect
        self._connecting = asyncio.Lock()
        self._control: socket.socket | None = None
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._number = 0

    async def check(self, name: str, password: bytes) -> bool:
        self._number += 1
        number = self._number
        request = {
            "number": number,
            "name": name,
            "password": base64.b64encode(password).decode("ascii"),
        }
        packet = json.dumps(request).encode()
        if len(packet) > MAX_PACKET:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            await self._send(packet)
            self._waiting[number] = answer
            async with asyncio.timeout(PATIENCE):
                return await answer
        except (OSError, TimeoutError) as error:
            raise PamFailure(f"PAM service {self._service} does not answer") from error
        finally:
            self._waiting.pop(number, None)

    async def _send(self, packet: bytes) -> None:
        """Raises OSError, PamFailure."""
        control = await self._connected()
        try:
            control.send(packet)
        except BlockingIOError:
            raise
        except OSError:
            # It died since the last question.
            if control is self._control:
                self.close()
            (await self._connected()).send(packet)

    async def _connected(self) -> socket.socket:
        async with self._connecting:
            if self._control is None:
                try:
                    control = await self._connect()
                except OSError as error:
                    raise PamFailure(f"PAM service {self._service}: {error}") from error
                control.setblocking(False)
                asyncio.get_running_loop().add_reader(control.fileno(), self._readable)
                self._control = control
            return self._control

    def _readable(self) -> None:
        if self._control is None:
            return
        try:
            packet = self._control.recv(MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            return
        answer = json.loads(packet)
        waiting = self._waiting.get(int(answer["number"] or 0))
        if waiting is None or waiting.done():
            return
        if "ok" in answer:
            waiting.set_result(answer["ok"] is True)
        else:
            waiting.set_exception(PamFailure(str(answer.get("failed"))))

    def close(self) -> None:
        """The process ends when its socket does."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PamFailure(f"PAM service {self._service} went away"))
