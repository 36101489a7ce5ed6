"""Connections that have not logged in: how many there may be, and which has to go for one more."""

from __future__ import annotations

import asyncio
import resource
import time

from resel_lda.imap.stream import Stream

# Of the files that this process may open; the others are for sessions, mail and its queue.
_SHARE = 8
# Seconds between two warnings.
_WARN_AGAIN = 60.0

Task = asyncio.Task[None]


class Waiting:
    """The dialogs of one protocol, by the client's address; with its stream, once there is one."""

    def __init__(self) -> None:
        self._by_address: dict[str, dict[Task, Stream | None]] = {}
        self._addresses: dict[Task, str] = {}
        self._warned = 0.0

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, task: Task, address: str, stream: Stream | None) -> None:
        """Until the task is done."""
        self._by_address.setdefault(address, {})[task] = stream
        self._addresses[task] = address
        task.add_done_callback(self._remove)

    def has_stream(self, task: Task, stream: Stream) -> None:
        """The handshake is over."""
        if task in self._addresses:
            self._by_address[self._addresses[task]][task] = stream

    def everybody(self) -> dict[Task, Stream | None]:
        return {task: one for tasks in self._by_address.values() for task, one in tasks.items()}

    def take_one(self) -> tuple[Task, Stream | None, str]:
        """The oldest of the address that has the most, and the address: who opens thousands loses
        his own, not those of others."""
        address = max(self._by_address, key=lambda one: len(self._by_address[one]))
        task, stream = next(iter(self._by_address[address].items()))
        task.remove_done_callback(self._remove)
        self._remove(task)
        return task, stream, address

    def is_to_warn(self) -> bool:
        """Whether nobody was told for a while."""
        now = time.monotonic()
        due = not self._warned or now - self._warned > _WARN_AGAIN
        if due:
            self._warned = now
        return due

    def _remove(self, task: Task) -> None:
        address = self._addresses.pop(task)
        tasks = self._by_address[address]
        del tasks[task]
        if not tasks:
            del self._by_address[address]


def most_waiting(wanted: int) -> int:
    """As many as wanted, as far as the process may open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft // _SHARE, 1))
