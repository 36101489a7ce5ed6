"""The demo's DNS servers, each in a thread beside the story told in plain order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType

from demo.dns_server import DnsServer


class NameServer:
    """A DnsServer that runs while the block does. `address` is what `dns_nameservers` wants."""

    def __init__(self, zone: Mapping[tuple[str, str], Sequence[str]]) -> None:
        self._server = DnsServer(zone, ttl=1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def address(self) -> str:
        return f"{self._server.host}:{self._server.port}"

    @property
    def queries(self) -> list[tuple[str, str]]:
        """(name, type) of all questions so far, in order."""
        return list(self._server.queries)

    def answer(self, name: str, kind: str) -> str:
        """What it says to a question, for showing."""
        return ", ".join(self._server.zone.get((name, kind), ["nothing"]))
