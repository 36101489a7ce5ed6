"""Follows mail that does not exist to its ends: the real Transports with nobody below them who
writes, so that `explain` says what they would do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from resel_lda import errand as errands
from resel_lda.by_helper import ByHelper
from resel_lda.errand import Errand
from resel_lda.helpers import ChildDispatch, HelperFailure, Helpers
from resel_lda.job import Job
from resel_lda.local import LocalTransport
from resel_lda.local_options import LocalOptions
from resel_lda.mailbox_place import is_in_spool, mbox_path
from resel_lda.maildir.layout import LocationError
from resel_lda.maildir.locate import locate
from resel_lda.parcel import outcome_row
from resel_mta.commands.explain_judge import Judge
from resel_mta.config import Settings
from resel_mta.config.aliases import TargetKind, read_targets
from resel_mta.config.target_files import Found, read_forward
from resel_mta.content import Body, Content, MemoryBody
from resel_mta.fixed_transports import fixed_transports
from resel_mta.mail import (
    BodySink,
    Bounced,
    Deferred,
    Delivered,
    Envelope,
    Message,
    Origin,
    Outcome,
    PermFail,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.resolving import configure_resolver
from resel_mta.rights import Refused, Rights
from resel_mta.routing.explain import Destination, Explainer, Explanation, Step
from resel_mta.routing.forwarding import Forwarder
from resel_mta.routing.table import EXPAND
from resel_mta.users import User, Users
from resel_relay.dns import Resolver
from resel_relay.nexthop import NextHops, Target, parse_nexthop
from resel_relay.parameters import read_parameters

_TAKEN = Delivered(Reply(250, "2.0.0", "would be delivered"))
#: .forward files that lead to .forward files.
_MAX_DEPTH = 10


@dataclass(slots=True)
class End:
    """Where one copy ends.

    kind: "maildir", "mbox", "command", "file" (what: its place), "forward" (what: the file;
        `onward` has its own ends), "smtp", "lmtp" (what: the next hop; `hosts`: to be tried in
        this order), "discard", "bounce", "wait". account: with whose rights, "" if not known.
    reply: why it bounces or waits, or what the hosts could not be found for.
    """

    destination: Destination
    kind: str
    what: str = ""
    account: str = ""
    reply: Reply | None = None
    hosts: list[Target] = field(default_factory=list)
    onward: list[Followed] = field(default_factory=list)


@dataclass(slots=True)
class Followed:
    """An address, the rules that had a say, and its ends."""

    explanation: Explanation
    ends: list[End]


class _Seen:
    """What the Transport would have done: the last thing that somebody below it was asked."""

    def __init__(self) -> None:
        self.kind = self.what = self.account = ""
        self.children: list[Recipient] = []

    def mailbox(self, user: User, settings: Settings, account: str) -> Outcome:
        """A delivery to a mailbox."""
        path = mbox_path(user, settings)
        try:
            self.kind, self.what = (
                ("mbox", path) if path else ("maildir", locate(user, settings).inbox)
            )
        except LocationError as error:
            return Deferred(Reply(451, "4.3.5", str(error)), relay="local")
        self.account = account
        return _TAKEN


class _NoSink:
    """A body that nobody keeps. Implements `mail.BodySink`."""

    async def write(self, block: bytes) -> None:
        return None

    async def finish(self) -> Body:
        return MemoryBody(b"")

    async def discard(self) -> None:
        return None


class _NoIntake:
    """Implements `mail.Intake`: remembers the recipients."""

    def __init__(self, seen: _Seen) -> None:
        self._seen = seen

    def new_id(self) -> str:
        return "EXPLAIN"

    def sink(self) -> BodySink:
        return _NoSink()

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        self._seen.children += envelope.recipients
        return "EXPLAIN"

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        raise TempFail(Reply(451, "4.3.0", "nothing is queued here"))


class _NoDepositor:
    """Implements `deposit.Depositor`: the mailboxes of mail_uid."""

    def __init__(self, settings: Settings, seen: _Seen, account: str) -> None:
        self._settings = settings
        self._seen = seen
        self._account = account

    async def deposit(self, content: Content, jobs: Sequence[Job]) -> list[Outcome]:
        return [self._seen.mailbox(job.user, self._settings, self._account) for job in jobs]

    def reconfigure(self, settings: Settings) -> None:
        self._settings = settings

    async def close(self) -> None:
        return None


class _NoHelpers(Helpers):
    """Deliveries with the rights of others: who would do them is the supervisor's own decision."""

    def __init__(self, settings: Settings, seen: _Seen, judge: Judge) -> None:
        super().__init__(settings, ChildDispatch(settings), settings.text("queue_directory"))
        self._settings = settings
        self._seen = seen
        self._judge = judge
        self._rights = Rights(settings, judge.owner) if judge.supervised else None
        self._options = LocalOptions.from_settings(settings)

    def serves(self, user: User) -> bool:
        return self._judge.has_helper(user, self._settings)

    async def run(self, errand: Errand, content: Content | None) -> dict[str, Any]:
        return await asyncio.to_thread(self._run, errand)

    def _run(self, errand: Errand) -> dict[str, Any]:
        account = self._judge.owner.name
        if self._rights is not None:
            try:
                errand, identity = self._rights.grant(errand)
            except Refused as error:
                raise HelperFailure(str(error), error.enhanced) from error
            account = errand.job.user.name or str(identity.uid)
        seen = self._seen
        if errand.do == errands.DELIVER:
            paths = self._options.forward_paths(errand)
            for path in paths:
                self._judge.look_at(path)
            found = read_forward(paths, lambda _: None)
            if found is not None:
                seen.kind, seen.what, seen.account = "forward", _first(paths), account
                return {"targets": _rows(found)}
            if is_in_spool(errand.job.user, self._settings):
                return {"spool": True}
        if errand.do in (errands.COMMAND, errands.FILE):
            seen.kind = "command" if errand.do == errands.COMMAND else "file"
            seen.what, seen.account = errand.argument, account
            return {"outcome": outcome_row(_TAKEN)}
        outcome = seen.mailbox(errand.job.user, self._settings, account)
        return {"outcome": outcome_row(outcome)}


def _first(paths: list[str]) -> str:
    return next((path for path in paths if os.path.exists(path)), "")


def _rows(found: Found) -> list[list[str]]:
    return [[target.kind.value, target.value, stands_in] for target, stands_in in found]


class Follower:
    """Follows mail by one configuration, as the daemon that `judge` is does."""

    def __init__(self, settings: Settings, users: Users, log: MailLog, judge: Judge) -> None:
        self.explainer = Explainer(settings, users)
        self._settings = settings
        self._judge = judge
        self._seen = seen = _Seen()
        forwarder = Forwarder(settings, self.explainer.table, _NoIntake(seen))
        by_helper = ByHelper(settings, log, _NoHelpers(settings, seen, judge), forwarder)
        depositor = _NoDepositor(settings, seen, judge.worker.name)
        self._local = {
            name: LocalTransport(settings, users, log, depositor, by_helper, name=name)
            for name in ("local", "virtual")
        }
        self._fixed = fixed_transports()
        self._resolver = Resolver()
        configure_resolver(self._resolver, settings)

    async def follow(self, address: str, sender: str = "") -> Followed:
        """Raises TempFail: a table cannot be read, and not even the address's class is known."""
        return await self._follow(await self.explainer.begin(address, sender), sender, 0)

    async def _follow(self, explanation: Explanation, sender: str, depth: int) -> Followed:
        followed = Followed(explanation, [])
        trouble = dict(explanation.trouble)
        for step in explanation.steps:
            self._look_at_lists(step)
        for recipient in explanation.recipients:
            path = sender if recipient.reverse_path is None else recipient.reverse_path
            destination = await self.explainer.route(recipient, path)
            if destination.route is None or destination.route.transport == EXPAND:
                # The queue comes to the same rules once more, at each try.
                before = explanation.steps
                destination.steps = [each for each in destination.steps if each not in before]
                reply = destination.trouble or trouble.get(recipient.address)
                kind = "bounce" if reply is not None and reply.is_permanent else "wait"
                followed.ends.append(End(destination, kind, reply=reply))
                continue
            followed.ends.append(await self._end(destination, destination.route, path, depth))
        return followed

    def _look_at_lists(self, step: Step) -> None:
        """The files that an alias includes."""
        with contextlib.suppress(ValueError):
            for target in read_targets(step.result) if step.kind == "alias" else ():
                if target.kind is TargetKind.INCLUDE:
                    self._judge.look_at(target.value)

    async def _end(self, destination: Destination, route: Route, sender: str, depth: int) -> End:
        if route.transport in self._local:
            return await self._local_end(destination, route, sender, depth)
        if route.transport in ("smtp", "relay", "lmtp"):
            return await self._remote_end(destination, route)
        fixed = self._fixed.get(route.transport)
        if fixed is None:
            reply = Reply(451, "4.3.5", f"unknown mail transport: {route.transport}")
            return End(destination, "wait", reply=reply)
        outcomes = await fixed.deliver(
            _message(destination.recipient, sender), [destination.recipient], route
        )
        outcome = outcomes[destination.recipient]
        if isinstance(outcome, Delivered):
            return End(destination, "discard", reply=outcome.reply)
        return End(destination, _failure(outcome), reply=outcome.reply)

    async def _local_end(
        self, destination: Destination, route: Route, sender: str, depth: int
    ) -> End:
        seen, recipient = self._seen, destination.recipient
        seen.kind = seen.what = seen.account = ""
        seen.children = []
        transport = self._local[route.transport]
        outcome = (await transport.deliver(_message(recipient, sender), [recipient], route))[
            recipient
        ]
        if isinstance(outcome, Bounced | Deferred):
            return End(destination, _failure(outcome), seen.what, seen.account, outcome.reply)
        end = End(destination, seen.kind, seen.what, seen.account)
        children = seen.children
        for child in children if depth < _MAX_DEPTH else []:
            explanation = await self.explainer.forward([child], sender)
            end.onward.append(await self._follow(explanation, sender, depth + 1))
        return end

    async def _remote_end(self, destination: Destination, route: Route) -> End:
        protocol = "lmtp" if route.transport == "lmtp" else "smtp"
        end = End(destination, protocol, route.nexthop)
        parameters = read_parameters(self._settings, protocol)
        hops = NextHops(self._resolver, parameters)
        try:
            for each in parse_nexthop(route.nexthop, parameters):
                end.hosts += await hops.targets(each)
        except (TempFail, PermFail) as failure:
            end.reply = failure.reply
        return end


def _failure(outcome: Outcome) -> str:
    return "bounce" if isinstance(outcome, Bounced) else "wait"


def _message(recipient: Recipient, sender: str) -> Message:
    """A message that is not there."""
    content = Content.from_bytes(b"\r\n")
    return Message("", 0.0, Envelope(sender, [recipient]), 0, [recipient], content)
