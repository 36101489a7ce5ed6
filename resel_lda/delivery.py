"""Deliveries by way of the workers: for a front that may not write the mailboxes itself.

The fields of a DELIVER packet are {"number", "header": octets of the header block, "jobs"}; of
its answer {"number", "outcomes"}. A worker that dies leaves its deliveries deferred: one that was
on disk already comes a second time, and none is lost.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any, Protocol

from resel_lda.deposit import Depositor
from resel_lda.handover import MAX_PACKET
from resel_lda.job import Job, deferred
from resel_lda.parcel import is_small, outcome_row, row_outcome, unwrap, wrap
from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.mail import Outcome
from resel_mta.users import User


class WorkerGone(Exception):
    """The worker died before it said what became of a delivery."""


class Courier(Protocol):
    """What `WorkerDepositor` needs of the pool."""

    def owner(self, user: str) -> int:
        """The number of the worker that owns a user."""
        ...

    async def deliver(self, owner: int, fields: Mapping[str, object], descriptor: int) -> list[Any]:
        """The answer's outcomes. Raises WorkerGone."""
        ...


class WorkerDepositor:
    """Implements `deposit.Depositor`. directory: for messages too large for memory."""

    def __init__(self, courier: Courier, directory: str) -> None:
        self._courier = courier
        self._directory = directory

    def reconfigure(self, settings: Settings) -> None:
        """The worker is told by the pool."""

    async def close(self) -> None:
        """The pool is its owner's to stop."""

    async def deposit(self, content: Content, jobs: Sequence[Job]) -> list[Outcome]:
        owned: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            owned.setdefault(self._courier.owner(job.user.name), []).append(index)
        found = await asyncio.gather(
            *(
                self._by_one(owner, content, [jobs[index] for index in indexes])
                for owner, indexes in owned.items()
            )
        )
        outcomes = dict(zip(chain(*owned.values()), chain(*found), strict=True))
        return [outcomes[index] for index in range(len(jobs))]

    async def _by_one(self, owner: int, content: Content, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for some in _packets(jobs):
            outcomes += await self._deposit(owner, content, some)
        return outcomes

    async def _deposit(self, owner: int, content: Content, jobs: Sequence[Job]) -> list[Outcome]:
        try:
            if is_small(content):
                descriptor = wrap(content, self._directory)
            else:
                descriptor = await asyncio.to_thread(wrap, content, self._directory)
        except OSError as error:
            text = f"the message cannot be read for delivery: {os.strerror(error.errno or 0)}"
            return [deferred(job, text, "4.3.0") for job in jobs]
        fields = {"header": len(content.header.raw), "jobs": [asdict(job) for job in jobs]}
        try:
            found = await self._courier.deliver(owner, fields, descriptor)
        except WorkerGone:
            return [deferred(job, "the mailbox process went away", "4.3.0") for job in jobs]
        finally:
            os.close(descriptor)
        return [row_outcome(row, job.relay) for row, job in zip(found, jobs, strict=True)]


def _packets(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    """Jobs in groups that fit into a packet each."""
    most = MAX_PACKET // 4096
    return [jobs[start : start + most] for start in range(0, len(jobs), most)]


async def carry_out(
    depositor: Depositor, fields: Mapping[str, Any], descriptor: int
) -> dict[str, object]:
    """The worker's side: the fields of the answer. `descriptor` is closed."""
    try:
        content = unwrap(descriptor, int(fields["header"]))
        jobs = [Job(**{**row, "user": User(**row["user"])}) for row in fields["jobs"]]
        outcomes = await depositor.deposit(content, jobs)
    finally:
        os.close(descriptor)
    return {"number": fields["number"], "outcomes": [outcome_row(outcome) for outcome in outcomes]}
