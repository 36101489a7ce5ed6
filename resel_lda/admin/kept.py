"""What is said of expunged messages that can be brought back."""

from __future__ import annotations

import asyncio
import time

from resel_lda.admin.work import Work


class Kept:
    """Counts what goes to the bin while a command runs."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._before: dict[str, tuple[int, int]] = {}
        self._count = self._octets = 0

    async def before(self, name: str) -> None:
        """A folder is about to lose messages."""
        self._before[name] = await asyncio.to_thread(self._work.store.bin.contents, name)

    async def after(self, name: str) -> None:
        """It has lost them."""
        count, octets = await asyncio.to_thread(self._work.store.bin.contents, name)
        self._count += count - self._before[name][0]
        self._octets += octets - self._before[name][1]

    async def tell(self) -> None:
        """How much is kept, and until when."""
        if self._count <= 0:
            return
        end = time.time() + self._work.store.bin.keep
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(end))
        await self._work.tell.info(
            f"{messages_text(self._count)} ({size_text(self._octets)}) kept until {until}; "
            "undelete brings back, purge frees"
        )


def messages_text(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def size_text(octets: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if octets < 1024:
            return f"{octets} {unit}"
        octets //= 1024
    return f"{octets} GiB"
