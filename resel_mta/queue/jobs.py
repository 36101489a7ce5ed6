"""What the writer is asked to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import apsw

from resel_mta.queue.rows import Row

Operation = Callable[[apsw.Connection], Any]
Answered = Callable[[Any, BaseException | None], None]


@dataclass(slots=True, eq=False)
class Job:
    """One operation that waits for the next commit.

    operation: None for a plain message, `row`, that is inserted with others.
    answered: called on the event loop with (result, error) before whoever waits goes on, also
    when nobody waits any more.
    entering: the messages that must not be there afterwards if the commit fails.
    changes: whether it writes; a group of readers needs no commit.
    """

    operation: Operation | None
    future: asyncio.Future[Any]
    entering: tuple[int, ...] = ()
    changes: bool = True
    row: Row | None = None
    answered: Answered | None = None
    result: Any = None
    error: BaseException | None = None


def answer(group: Iterable[Job]) -> None:
    """Tell whoever waits; on the event loop."""
    for job in group:
        if job.answered is not None:
            job.answered(job.result, job.error)
        future = job.future
        if future.done():
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.result)
