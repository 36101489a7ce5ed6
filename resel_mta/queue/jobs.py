"""What the writer is asked to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import apsw

from resel_mta.queue.rows import Row

Operation = Callable[[apsw.Connection], Any]
Refused = tuple[int, bool]
"""A message of a commit that failed, and whether it is a notice."""
Answered = Callable[[Any, BaseException | None], None]


@dataclass(slots=True, eq=False)
class Job:
    """One operation that waits for the next commit.

    operation: None for a plain message, `row`, that is inserted with others.
    answered: called on the event loop with (result, error) before whoever waits goes on, also
    when nobody waits any more.
    entering: the messages that must not be there afterwards if the commit fails. notices: they
    are notices, which may stay: they are there only if what they are about is done.
    changes: whether it writes; a group of readers needs no commit.
    """

    operation: Operation | None
    future: asyncio.Future[Any]
    entering: tuple[int, ...] = ()
    changes: bool = True
    row: Row | None = None
    answered: Answered | None = None
    notices: bool = False
    result: Any = None
    error: BaseException | None = None

    @property
    def refused(self) -> list[Refused]:
        """`entering`, when the commit has failed."""
        return [(number, self.notices) for number in self.entering]


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
