"""Deliveries by way of the worker: for a front that may not write the mailboxes itself.

The fields of a DELIVER packet are {"number", "header": octets of the header block, "jobs"}; of
its answer {"number", "outcomes"}. A worker that dies leaves its deliveries deferred: one that was
on disk already comes a second time, and none is lost.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from resel_lda.deposit import Depositor, Job, deferred
from resel_lda.handover import MAX_PACKET
from resel_mta.config import Settings
from resel_mta.content import Content, Header
from resel_mta.mail import Bounced, Deferred, Delivered, Outcome, Reply
from resel_mta.users import User

_BLOCK = 1 << 18
_SMALL = 1 << 20
_KINDS: Mapping[str, type[Outcome]] = {
    "delivered": Delivered,
    "deferred": Deferred,
    "bounced": Bounced,
}


class WorkerGone(Exception):
    """The worker died before it said what became of a delivery."""


class Courier(Protocol):
    """What `WorkerDepositor` needs of the pool."""

    async def deliver(self, fields: Mapping[str, object], descriptor: int) -> list[Any]:
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
        outcomes: list[Outcome] = []
        for some in _packets(jobs):
            outcomes += await self._deposit(content, some)
        return outcomes

    async def _deposit(self, content: Content, jobs: Sequence[Job]) -> list[Outcome]:
        try:
            if content.body.in_memory and content.size <= _SMALL:
                descriptor = _copy(content, os.memfd_create("mail", os.MFD_CLOEXEC))
            else:
                descriptor = await asyncio.to_thread(self._copy_large, content)
        except OSError as error:
            text = f"the message cannot be read for delivery: {os.strerror(error.errno or 0)}"
            return [deferred(job, text, "4.3.0") for job in jobs]
        fields = {"header": len(content.header.raw), "jobs": [asdict(job) for job in jobs]}
        try:
            found = await self._courier.deliver(fields, descriptor)
        except WorkerGone:
            return [deferred(job, "the mailbox process went away", "4.3.0") for job in jobs]
        finally:
            os.close(descriptor)
        return [_outcome(row, job) for row, job in zip(found, jobs, strict=True)]

    def _copy_large(self, content: Content) -> int:
        with tempfile.TemporaryFile(dir=self._directory) as file:
            return _copy(content, os.dup(file.fileno()))


def _packets(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    """Jobs in groups that fit into a packet each."""
    most = MAX_PACKET // 4096
    return [jobs[start : start + most] for start in range(0, len(jobs), most)]


def _copy(content: Content, descriptor: int) -> int:
    """Write the whole message into an open file, which is closed if that fails."""
    try:
        with open(descriptor, "wb", closefd=False, buffering=0) as file:
            _write(file.fileno(), content.header.raw + b"\r\n")
            offset = 0
            while block := content.body.read(offset, _BLOCK):
                _write(file.fileno(), block)
                offset += len(block)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _outcome(row: Mapping[str, Any], job: Job) -> Outcome:
    reply = Reply(int(row["code"]), str(row["enhanced"]), str(row["text"]))
    return _KINDS[str(row["kind"])](reply, relay=job.relay)


class _FileBody:
    """A body in an open file, after the header. Implements `content.Body`."""

    in_memory = False

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self.size = os.fstat(descriptor).st_size - start

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, self._start + offset)


async def carry_out(
    depositor: Depositor, fields: Mapping[str, Any], descriptor: int
) -> dict[str, object]:
    """The worker's side: the fields of the answer. `descriptor` is closed."""
    try:
        header = int(fields["header"])
        content = Content(
            Header(os.pread(descriptor, header, 0)), _FileBody(descriptor, header + 2)
        )
        jobs = [Job(**{**row, "user": User(**row["user"])}) for row in fields["jobs"]]
        outcomes = await depositor.deposit(content, jobs)
    finally:
        os.close(descriptor)
    return {"number": fields["number"], "outcomes": [_row(outcome) for outcome in outcomes]}


def _row(outcome: Outcome) -> dict[str, object]:
    reply = outcome.reply
    kind = next(name for name, one in _KINDS.items() if isinstance(outcome, one))
    return {"kind": kind, "code": reply.code, "enhanced": reply.enhanced, "text": reply.text}
