"""Stand-ins for everything round the queue, and a small in-memory queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

from resel_mta.content import Body, Content, MemoryBody
from resel_mta.mail import (
    AddressClass,
    BodySink,
    Bounced,
    Deferred,
    Delivered,
    Envelope,
    Message,
    Origin,
    Outcome,
    QueueStats,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.queue.audit import TERMS, Audit
from resel_mta.queue.door import (
    AlreadyEntered,
    Checked,
    Entry,
    QueueStore,
    RecipientEntry,
    Result,
    Swept,
    Watcher,
)

OK = Reply(250, "2.0.0", "Ok: queued as X")


class LinesSink:
    """Log lines in a list."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += [line.partition("]: ")[2].rstrip("\n") for line in lines]

    def reopen(self) -> None:
        """Nothing to reopen."""


def make_log() -> tuple[MailLog, list[str]]:
    sink = LinesSink()
    return MailLog(sink, stamped=False), sink.lines


async def what_is_queued(store: QueueStore) -> dict[str, list[str]]:
    """Addresses of the recipients, by queue id."""
    return {
        entry.queue_id: [recipient.address for recipient in entry.recipients]
        async for entry in store.walk()
    }


async def ledger_counts(store: QueueStore) -> dict[str, int]:
    """The terms that are not 0, of a ledger that balances."""
    audit = await store.audit(0)
    assert audit.is_balanced, audit
    return {name: count for name, count in audit.counts.items() if count}


def make_message(
    store: QueueStore,
    *to: str,
    sender: str = "sender@example.org",
    body: Body | bytes = b"hello\r\n",
    header: bytes = b"Subject: test\r\n",
) -> Message:
    recipients = [Recipient(address) for address in to or ("rcpt@example.net",)]
    envelope = Envelope(sender, recipients)
    content = Content.from_bytes(header + b"\r\n")
    content.body = MemoryBody(body) if isinstance(body, bytes) else body
    return Message(
        store.new_id(), time.time(), envelope, content.size, recipients, content, "ESMTP"
    )


def read_all(content: Content) -> bytes:
    return content.header.raw + b"\r\n" + content.body.read(0, content.body.size)


class FakeIntake:
    """Prepares messages without looking at them; waits for `gate` before."""

    def __init__(self, store: QueueStore) -> None:
        self.store = store
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.preparing = 0

    def new_id(self) -> str:
        return self.store.new_id()

    def sink(self) -> BodySink:
        return self.store.sink()

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        message = await self.prepare(envelope, content, origin, queue_id)
        await self.store.enter(message)
        return message.queue_id

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        self.preparing += 1
        try:
            await self.gate.wait()
        finally:
            self.preparing -= 1
        if self.failure is not None:
            raise self.failure
        name = queue_id or self.new_id()
        return Message(
            name, time.time(), envelope, content.size, envelope.recipients, content, origin.protocol
        )


class FakeRouter:
    """Everything by "smtp" to the recipient's domain, unless a function says otherwise."""

    def __init__(self) -> None:
        self.decide: Callable[[str], Route] = lambda address: Route(
            "smtp", address.rpartition("@")[2]
        )
        self.remembers = False
        self.asked: list[str] = []

    async def classify(self, address: str) -> AddressClass:
        return AddressClass.DEFAULT

    async def check_recipient(self, address: str) -> Reply | None:
        return None

    async def route(self, address: str, reverse_path: str = "", via: Collection[str] = ()) -> Route:
        self.asked.append(address)
        return self.decide(address)

    def known_route(self, address: str) -> Route | None:
        return self.decide(address) if self.remembers else None


class FakeTransport:
    """Notes deliveries and answers by `answer`; waits for `gate` before."""

    def __init__(self, name: str = "smtp") -> None:
        self.name = name
        self.log_name = name
        self.deliveries: list[tuple[str, list[str]]] = []
        self.seen: dict[str, bytes] = {}
        self.answer: Callable[[Message, Recipient, Route], Outcome] = lambda m, r, route: Delivered(
            OK, relay="mx.example.net[192.0.2.1]:25"
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.most = 0
        self.changed = asyncio.Event()

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.deliveries.append((message.queue_id, [r.address for r in recipients]))
        self.changed.set()
        try:
            assert message.content is not None
            self.seen[message.queue_id] = read_all(message.content)
            await self.gate.wait()
            await asyncio.sleep(0)
            return {r: self.answer(message, r, route) for r in recipients}
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Nothing is kept open."""


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Let the loop run until something is so."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class MemorySink:
    def __init__(self) -> None:
        self._data = b""

    async def write(self, block: bytes) -> None:
        self._data += block

    async def finish(self) -> Body:
        return MemoryBody(self._data)

    async def discard(self) -> None:
        self._data = b""


class _Row:
    def __init__(self, message: Message, content: Content) -> None:
        self.message = message
        self.content = content
        self.owner: str | None = None
        self.due: dict[int, float] = {}
        self.replies: dict[int, tuple[str, str]] = {}
        self.waits: dict[int, str] = {}
        self.pending: dict[int, Recipient] = {}

    @property
    def next_attempt(self) -> float:
        return min(self.due[row] for row in self.pending)


class MemoryStore:
    """`QueueStore` in a dictionary: what the contract means, in the fewest words."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._leases: dict[str, float] = {}
        self._watchers: list[Watcher] = []
        self._last = 0
        self._tokens: dict[str, float] = {}
        self._trash: dict[str, float] = {}

    def new_id(self) -> str:
        self._last += 1
        return f"{0xA000000000 + self._last:X}"

    def check_space(self, size: int) -> None:
        """There is room."""

    def sink(self) -> BodySink:
        return MemorySink()

    async def discard(self, content: Content) -> None:
        """Nothing was stored."""

    def _insert(self, message: Message, owner: str | None) -> None:
        assert message.content is not None
        row = _Row(message, message.content)
        row.owner = None if message.hold else owner
        self._rows[message.queue_id] = row
        self._add(row, message.recipients, message.next_attempt)

    def _add(self, row: _Row, recipients: Iterable[Recipient], due: float) -> None:
        for recipient in recipients:
            recipient.row = len(row.due) + 1
            row.due[recipient.row] = due
            row.replies[recipient.row] = ("", "")
            row.pending[recipient.row] = recipient

    async def enter(self, message: Message, *, claim_for: str | None = None) -> None:
        owner, watcher = claim_for, None
        if owner is None and not message.hold:
            for candidate in self._watchers:
                owner = candidate.admit(message)
                if owner is not None:
                    watcher = candidate
                    break
        if message.token:
            if message.token in self._tokens:
                raise AlreadyEntered(message.token)
            self._tokens[message.token] = message.arrival
        self._insert(message, owner)
        await asyncio.sleep(0)
        if watcher is not None:
            watcher.entered(message)
        elif owner is None and not message.hold:
            self._arrived()

    def _arrived(self) -> None:
        for watcher in self._watchers:
            watcher.arrived()

    def _withdrawn(self, ids: Sequence[str]) -> None:
        for watcher in self._watchers:
            watcher.withdrawn(ids)

    def _copy(self, row: _Row, due: float | None) -> Message:
        old = row.message
        recipients = [
            r for n, r in row.pending.items() if due is None or row.due[n] <= due
        ]  # fmt: skip
        envelope = Envelope(
            old.envelope.reverse_path,
            recipients,
            old.envelope.body,
            old.envelope.smtputf8,
            old.envelope.ret,
            old.envelope.envid,
        )
        return Message(
            old.queue_id, old.arrival, envelope, old.size, recipients, None, old.origin_protocol,
            old.hold, row.next_attempt, old.expires, old.warned,
            whole=len(recipients) == len(row.pending),
        )  # fmt: skip

    async def claim(
        self,
        owner: str,
        lease: float,
        n: int,
        *,
        queue_ids: Iterable[str] | None = None,
        octets: int = 0,
    ) -> list[Message]:
        now = self._clock()
        self._leases[owner] = now + lease
        for name in [name for name, until in self._leases.items() if until < now]:
            del self._leases[name]
            for row in self._rows.values():
                row.owner = None if row.owner == name else row.owner
        wanted = None if queue_ids is None else set(queue_ids)
        found = [
            row
            for name, row in self._rows.items()
            if row.owner is None
            and not row.message.hold
            and name not in self._trash
            and (row.next_attempt <= now if wanted is None else name in wanted)
        ]
        found.sort(key=lambda row: row.next_attempt)
        claimed = []
        for row in found[:n]:
            row.owner = owner
            message = self._copy(row, now if wanted is None else None)
            octets -= message.size
            if octets >= 0:
                message.content = row.content
            claimed.append(message)
        return claimed

    async def knows_token(self, token: str) -> bool:
        return token in self._tokens

    async def forget_tokens(self, before: float) -> None:
        self._tokens = {name: at for name, at in self._tokens.items() if at >= before}

    async def renew(self, owner: str, lease: float) -> None:
        self._leases[owner] = self._clock() + lease

    async def unclaim(self, owner: str, queue_ids: Iterable[str] | None = None) -> None:
        for name in list(self._rows) if queue_ids is None else queue_ids:
            row = self._rows.get(name)
            if row is not None and row.owner == owner:
                row.owner = None
        self._arrived()

    async def next_commit(self) -> None:
        """There are no commits to wait for."""

    async def apply(self, owner: str, results: Sequence[Result]) -> set[str]:
        gone: set[str] = set()
        for result in results:
            row = self._rows.get(result.message.queue_id)
            if row is None:
                gone.add(result.message.queue_id)
                continue
            trashed = result.message.queue_id in self._trash
            for notice in () if trashed else result.notices:
                await self.enter(notice)
            for recipient, outcome in result.done:
                if not (trashed and isinstance(outcome, Bounced | Deferred)):
                    row.pending.pop(recipient.row, None)
            if trashed and result.notices:
                gone.add(result.message.queue_id)
            for retry in result.retries:
                row.due[retry.recipient.row] = retry.next_attempt
                if retry.outcome is not None:
                    row.replies[retry.recipient.row] = (
                        retry.outcome.reply.text,
                        retry.outcome.relay,
                    )
                    row.waits[retry.recipient.row] = retry.waits_for
                    row.pending[retry.recipient.row].attempts += retry.tried
                    row.pending[retry.recipient.row].waited = True
            self._add(row, result.added, 0.0)
            row.message.warned = row.message.warned or result.warned
            if not row.pending or result.complete:
                del self._rows[result.message.queue_id]
                self._trash.pop(result.message.queue_id, None)
                gone.add(result.message.queue_id)
            elif result.release and row.owner == owner:
                row.owner = None
        return gone

    async def content(self, message: Message) -> Content:
        row = self._rows.get(message.queue_id)
        if row is None:
            raise TempFail(Reply(451, "4.3.0", "gone"))
        return row.content

    def _chosen(self, ids: Iterable[str] | None, *, trash: bool = False) -> list[_Row]:
        names = [
            name
            for name in (list(self._rows) if ids is None else ids)
            if name in self._rows and (trash or name not in self._trash)
        ]
        return [self._rows[name] for name in names]

    async def hold(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        rows = [row for row in self._chosen(queue_ids) if not row.message.hold]
        for row in rows:
            row.message.hold = True
        self._withdrawn(_ids(rows))
        return _ids(rows)

    async def release(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        rows = [row for row in self._chosen(queue_ids) if row.message.hold]
        self._wake(rows)
        self._arrived()
        return _ids(rows)

    async def requeue(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        rows = self._chosen(queue_ids)
        self._wake(rows)
        self._withdrawn(_ids(rows))
        self._arrived()
        return _ids(rows)

    async def expire(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        rows = [row for row in self._chosen(queue_ids) if row.message.expires >= 0]
        for row in rows:
            row.message.expires = -1.0
        self._wake([row for row in rows if not row.message.hold])
        self._withdrawn(_ids(rows))
        self._arrived()
        return _ids(rows)

    def _wake(self, rows: list[_Row]) -> None:
        for row in rows:
            row.message.hold = False
            row.due = dict.fromkeys(row.due, 0.0)

    async def delete(
        self, queue_ids: Iterable[str] | None = None, *, keep: bool = False
    ) -> list[str]:
        rows = self._chosen(queue_ids, trash=not keep and queue_ids is not None)
        for row in rows:
            self._trash.pop(row.message.queue_id, None)
            if keep:
                self._trash[row.message.queue_id] = self._clock()
            else:
                del self._rows[row.message.queue_id]
        self._withdrawn(_ids(rows))
        return _ids(rows)

    async def undelete(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        ids = [n for n in (queue_ids or list(self._trash)) if n in self._trash]
        for name in ids:
            del self._trash[name]
        self._wake([row for row in self._chosen(ids) if not row.message.hold])
        self._arrived()
        return ids

    async def purge(self, before: float, n: int) -> int:
        old = sorted((at, name) for name, at in self._trash.items() if at < before)[:n]
        for _, name in old:
            del self._trash[name], self._rows[name]
        return len(old)

    async def dropped(self, recipients: int) -> None:
        """There is no ledger here."""

    def passed(self, message: Message, done: Sequence[tuple[Recipient, Outcome]]) -> None:
        """There is no ledger here."""

    async def audit(self, since: float) -> Audit:
        return Audit(since, self._clock(), counts=dict.fromkeys(TERMS, 0))

    async def check(self) -> Checked:
        return Checked(messages=len(self._rows))

    async def sweep(self) -> Swept:
        return Swept()

    async def forget_ledger(self, before: float) -> None:
        """There is no ledger here."""

    async def is_short(self) -> bool:
        return False

    async def wake(self, queue_ids: Iterable[str] | None = None) -> int:
        rows = [row for row in self._chosen(queue_ids) if not row.message.hold]
        self._wake(rows)
        self._arrived()
        return len(rows)

    async def wake_stranded(self, after: float) -> int:
        rows = self._rows.values()
        late = [row for row in rows if row.pending and min(row.due[n] for n in row.pending) > after]
        return await self.wake([row.message.queue_id for row in late]) if late else 0

    async def wake_waiting(self, waits_for: str) -> int:
        count = 0
        for row in self._rows.values():
            for number, name in row.waits.items():
                if name == waits_for and name and number in row.pending:
                    row.due[number], row.waits[number] = 0.0, ""
                    count += 1
        self._arrived()
        return count

    async def wake_probes(self) -> int:
        probed: set[str] = set()
        for row in self._rows.values():
            for number, name in row.waits.items():
                if name and number in row.pending and name not in probed and not row.message.hold:
                    row.due[number], row.waits[number] = 0.0, ""
                    probed.add(name)
        self._arrived()
        return len(probed)

    def _entry(self, row: _Row) -> Entry:
        message, now = row.message, self._clock()
        queue = "incoming" if row.next_attempt <= now else "deferred"
        if row.owner is not None:
            queue = "active"
        if message.hold:
            queue = "hold"
        if message.queue_id in self._trash:
            queue = "trash"
        recipients = tuple(
            RecipientEntry(
                r.address, r.orig_to, row.due[n], r.attempts, *row.replies[n], row.waits.get(n, "")
            )
            for n, r in row.pending.items()
        )
        return Entry(
            message.queue_id, queue, message.arrival, message.size,
            message.envelope.reverse_path, recipients, row.next_attempt, message.expires,
            forced_expire=message.expires < 0, deleted=self._trash.get(message.queue_id, 0.0),
        )  # fmt: skip

    async def walk(self, queue: str | None = None) -> AsyncIterator[Entry]:
        for name in sorted(self._rows):
            row = self._rows.get(name)
            if row is None:
                continue
            entry = self._entry(row)
            if entry.queue == queue or (queue is None and entry.queue != "trash"):
                yield entry

    async def headers(self, queue_ids: Iterable[str]) -> dict[str, bytes]:
        return {row.message.queue_id: row.content.header.raw for row in self._chosen(queue_ids)}

    async def get(self, queue_id: str) -> Entry | None:
        row = self._rows.get(queue_id)
        return None if row is None else self._entry(row)

    async def load(self, queue_id: str) -> Message | None:
        row = self._rows.get(queue_id)
        if row is None:
            return None
        message = self._copy(row, None)
        message.content = row.content
        return message

    def watch(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)

    async def next_due(self) -> float | None:
        due = [
            r.next_attempt for r in self._rows.values() if r.owner is None and not r.message.hold
        ]
        return min(due, default=None)

    async def stats(self) -> QueueStats:
        stats = QueueStats()
        for row in self._chosen(None):
            name = self._entry(row).queue
            setattr(stats, name, getattr(stats, name) + 1)
        return stats

    async def close(self) -> None:
        """Nothing is open."""


def _ids(rows: Iterable[_Row]) -> list[str]:
    return [row.message.queue_id for row in rows]
