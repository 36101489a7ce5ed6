"""The SMTP and LMTP client as a `mail.Transport`: hosts tried in order until every recipient has
an outcome. All failure policy of the client is here: which failure tries the next host, which
defers, which bounces."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from resel_mta.config import Settings
from resel_mta.config.maps import open_maps
from resel_mta.mail import (
    Bounced,
    Deferred,
    Message,
    Outcome,
    PermFail,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_relay.dns import Resolver
from resel_relay.failure import HostFailed, StaleConnection
from resel_relay.nexthop import NextHops, Target, parse_nexthop
from resel_relay.outgoing import Outgoing
from resel_relay.parameters import Parameters, read_parameters
from resel_relay.pool import Pool
from resel_relay.sasl import Credentials, PasswordMaps, find_credentials
from resel_relay.session import Opener, Session
from resel_relay.tls import client_context
from resel_relay.transaction import Result, Transaction

RECIPIENT = "recipient"


class SmtpTransport:
    """Implements `mail.Transport`.

    name: as in Route.transport; log_name: Postfix's program name ("smtp", "lmtp").
    settings: read for all parameters, or ready `Parameters` (tests).
    protocol: "smtp" or "lmtp".
    password_maps: `smtp_sasl_password_maps`; None takes them from the settings.
    Raises OSError, ValueError, ConfigError for settings that cannot work.
    """

    def __init__(
        self,
        name: str,
        log_name: str,
        settings: Settings | Parameters,
        resolver: Resolver,
        log: MailLog,
        protocol: str = "smtp",
        password_maps: PasswordMaps | None = None,
    ) -> None:
        self.name = name
        self.log_name = log_name
        self._resolver = resolver
        self._log = log
        self._protocol = protocol
        self._configure(settings, password_maps)

    def _configure(self, settings: Settings | Parameters, maps: PasswordMaps | None) -> None:
        if isinstance(settings, Parameters):
            parameters = settings
        else:
            parameters = read_parameters(settings, self._protocol)
            if parameters.sasl_auth_enable and maps is None:
                maps = open_maps(settings, "smtp_sasl_password_maps")
        context = None
        if parameters.protocol == "smtp" and parameters.tls_security_level != "none":
            context = client_context(parameters)
        self._parameters = parameters
        self._password_maps = maps if parameters.sasl_auth_enable else None
        self._nexthops = NextHops(self._resolver, parameters)
        self._opener = Opener(parameters, context, self._log, self.log_name)
        self._pool = Pool(parameters)

    def reconfigure(self, settings: Settings | Parameters) -> None:
        """Take new settings; deliveries in flight end with the old ones. Raises as `__init__`, and
        keeps the old settings then."""
        old = self._pool
        self._configure(settings, None)
        old.close()

    async def close(self) -> None:
        """Say QUIT on all kept connections."""
        self._pool.close()

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        """One outcome for each of `recipients`, always."""
        if message.content is None:
            raise ValueError("message without content")
        outgoing = Outgoing(message.content, self._parameters.line_length_limit)
        sender = message.envelope.reverse_path
        if len(recipients) == 1:
            own = recipients[0].reverse_path
            path = sender if own is None else own
            return await self._deliver(message, path, recipients, route, outgoing)
        if all(recipient.reverse_path is None for recipient in recipients):
            return await self._deliver(message, sender, recipients, route, outgoing)
        groups: dict[str | None, list[Recipient]] = {}
        for recipient in recipients:
            groups.setdefault(recipient.reverse_path, []).append(recipient)
        outcomes: dict[Recipient, Outcome] = {}
        for own, group in groups.items():
            path = sender if own is None else own
            outcomes.update(await self._deliver(message, path, group, route, outgoing))
        return outcomes

    async def _deliver(
        self,
        message: Message,
        sender: str,
        recipients: Sequence[Recipient],
        route: Route,
        outgoing: Outgoing,
    ) -> dict[Recipient, Outcome]:
        """Recipients with one reverse-path: a kept session first, then host after host."""
        started = time.monotonic()
        pool, nexthop = self._pool, route.nexthop
        result: Result | None = None
        while (session := pool.take(nexthop)) is not None:
            connect = time.monotonic() - started
            transaction = Transaction(session, message, sender, recipients, outgoing, connect)
            try:
                result = await transaction.run()
            except StaleConnection:
                continue
            pool.put(nexthop, session)
            if not result.retry:
                return result.outcomes
            break
        delivery = Delivery(message, sender, recipients, route, outgoing, started)
        if session is not None and result is not None:
            delivery.note(result, session)
        await self._try_hosts(delivery, pool)
        return delivery.outcomes

    async def _try_hosts(self, delivery: Delivery, pool: Pool) -> None:
        parameters, nexthop = self._parameters, delivery.route.nexthop
        tried = delivery.tried
        sessions = 1 if tried else 0
        async with aclosing(self._hosts(delivery)) as hosts:
            async for target in hosts:
                if tried and target.relay in tried:
                    continue
                tried.add(target.relay)
                session = await self._open(delivery, target)
                if session is None:
                    continue
                sessions += 1
                await delivery.send(session)
                pool.put(nexthop, session)
                if not delivery.left or sessions == parameters.mx_session_limit:
                    break
                self._note_retry(delivery)
        delivery.finish()

    async def _hosts(self, delivery: Delivery) -> AsyncGenerator[Target, None]:
        """All targets: those of the next hop, then of smtp_fallback_relay. A destination without
        any is noted in the delivery."""
        texts = [delivery.route.nexthop]
        origins = [delivery.route.origin]
        if self._parameters.fallback_relay:
            texts.append(" ".join(self._parameters.fallback_relay))
            origins.append("relayhost")
        for text, origin in zip(texts, origins, strict=True):
            try:
                destinations = parse_nexthop(text, self._parameters)
            except TempFail as error:
                self._unreachable(delivery, error.reply, origin)
                continue
            for destination in destinations:
                try:
                    targets = await self._nexthops.targets(destination)
                except (TempFail, PermFail) as error:
                    self._unreachable(delivery, error.reply, origin)
                    continue
                delivery.origin = origin
                for target in targets:
                    yield target

    def _unreachable(self, delivery: Delivery, reply: Reply, origin: str) -> None:
        """No host is known for a destination. Only a recipient's own domain can fail for good:
        what an administrator named can be mended by him, and must not cost mail meanwhile."""
        if reply.is_permanent and origin != RECIPIENT:
            reply = Reply(451, "4.3.5", reply.text)
        if origin != RECIPIENT:
            self._log.warning(self.log_name, f"{origin}: {reply.text}", delivery.message.queue_id)
        delivery.no_host(reply)

    async def _open(self, delivery: Delivery, target: Target) -> Session | None:
        try:
            credentials = await self._credentials(delivery.route.nexthop, target)
            return await self._opener.open(target, credentials)
        except HostFailed as error:
            # As Postfix logs it: what nobody said has no queue id.
            queue_id = delivery.message.queue_id if error.heard else ""
            self._log.event(self.log_name, error.reply.text, queue_id)
            delivery.host_failed(error, target)
        except TempFail as error:
            delivery.no_host(error.reply)
        return None

    async def _credentials(self, nexthop: str, target: Target) -> Credentials | None:
        if self._password_maps is None:
            return None
        return await find_credentials(self._password_maps, nexthop, target.host)

    def _note_retry(self, delivery: Delivery) -> None:
        """The reason that the log line per recipient will not show if the next host takes it."""
        outcome = delivery.outcomes[delivery.left[0]]
        self._log.event(self.log_name, outcome.reply.text, delivery.message.queue_id)


class Delivery:
    """The state of one delivery over several hosts.

    left: recipients that another host may still take. outcomes: of all others, and the last failure
    of those left. tried: relay texts of the hosts tried. origin: who named the current host.
    started: by the monotonic clock.
    """

    def __init__(
        self,
        message: Message,
        sender: str,
        recipients: Sequence[Recipient],
        route: Route,
        outgoing: Outgoing,
        started: float,
    ) -> None:
        self.message = message
        self.route = route
        self.origin = route.origin
        self.left: Sequence[Recipient] = recipients
        self.outcomes: dict[Recipient, Outcome] = {}
        self.tried: set[str] = set()
        self._sender = sender
        self._outgoing = outgoing
        self._started = started
        self._failure: Outcome | None = None

    async def send(self, session: Session) -> None:
        """One transaction with those left. Raises StaleConnection: nothing has changed."""
        connect = time.monotonic() - self._started
        transaction = Transaction(
            session, self.message, self._sender, self.left, self._outgoing, connect
        )
        self.note(await transaction.run(), session)

    def note(self, result: Result, session: Session) -> None:
        """What became of those left with one host."""
        self.outcomes.update(result.outcomes)
        self.left = result.retry
        if result.retry:
            self.tried.add(session.target.relay)

    def no_host(self, reply: Reply) -> None:
        """No host could be found."""
        if reply.is_permanent:
            self._failure = Bounced(reply, connect=time.monotonic() - self._started)
        else:
            self._failure = self._deferred(reply, None, "")

    def host_failed(self, error: HostFailed, target: Target) -> None:
        """A host that was found takes no mail. Its refusal of us may bounce the recipient's own
        mail as with Postfix, never what an administrator sent there."""
        if error.reply.is_permanent and self.origin == RECIPIENT:
            seconds = time.monotonic() - self._started
            self._failure = Bounced(
                error.reply, error.host, target.relay, seconds, diagnostic=error.diagnostic
            )
        else:
            reply = error.reply.softened()
            self._failure = self._deferred(reply, target if error.heard else None, error.host)

    def _deferred(self, reply: Reply, target: Target | None, host: str) -> Deferred:
        return Deferred(
            reply,
            host,
            target.relay if target else "none",
            time.monotonic() - self._started,
            host_down=True,
        )

    def finish(self) -> None:
        """Give those that no host spoke about the failure of the last host. What a host said
        about a recipient is worth more than that the next one is down."""
        failure = self._failure
        if failure is None:
            reply = Reply(451, "4.4.1", f"no host to try for {self.route.nexthop}")
            failure = self._deferred(reply, None, "")
        for recipient in self.left:
            self.outcomes.setdefault(recipient, failure)
