"""One mail transaction: MAIL, RCPT, DATA and what each recipient's fate is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from resel_mta.mail import Bounced, Deferred, Message, Notify, Outcome, Recipient, Relayed, Reply
from resel_mta.wire import xtext
from resel_mta.wire.reply import ServerReply
from resel_relay.connection import LOST
from resel_relay.failure import StaleConnection
from resel_relay.outgoing import Outgoing
from resel_relay.session import Session, said

BODY_STAGE = "sending message body"
END_STAGE = "sending end of data -- message may be sent more than once"
NOTIFY_WORDS = ((Notify.SUCCESS, "SUCCESS"), (Notify.FAILURE, "FAILURE"), (Notify.DELAY, "DELAY"))


@dataclass(slots=True)
class Result:
    """outcomes: for every recipient. retry: those among them that another host may still take."""

    outcomes: dict[Recipient, Outcome] = field(default_factory=dict)
    retry: list[Recipient] = field(default_factory=list)


class Transaction:
    """Sends one message to recipients that share a reverse-path over a session, once.

    connect: seconds spent until the session was ready, for the log.
    """

    __slots__ = (
        "_accepted",
        "_connect",
        "_message",
        "_outgoing",
        "_recipients",
        "_result",
        "_sender",
        "_session",
        "_started",
    )

    def __init__(
        self,
        session: Session,
        message: Message,
        sender: str,
        recipients: Sequence[Recipient],
        outgoing: Outgoing,
        connect: float,
    ) -> None:
        self._session = session
        self._message = message
        self._sender = sender
        self._recipients = recipients
        self._outgoing = outgoing
        self._connect = connect
        self._started = time.monotonic()
        self._result = Result()
        self._accepted: list[Recipient] = []

    async def run(self) -> Result:
        """Never raises for what a server does, except StaleConnection: a kept session was closed
        before it could take notice of this message."""
        session = self._session
        try:
            offered = session.capabilities
            if not offered.eight_bit_mime:
                await self._outgoing.is_eight_bit()
            extensions = self._extensions()
            if isinstance(extensions, Reply):
                self._fail(self._recipients, extensions, by_server=False)
                return self._result
            if session.connection.surplus:
                session.connection.fail("sent a reply to no command")
            if session.capabilities.pipelining:
                data = await self._envelope_at_once(extensions)
            else:
                data = await self._envelope_stepwise(extensions)
            if data is not None:
                await self._content(data)
        except OSError as error:
            # The end mark was not sent, so the server drops what it has.
            session.connection.fail(LOST)
            self._unread(error)
        except BaseException:
            session.connection.fail(LOST)
            raise
        session.uses += 1
        return self._result

    # What the server must be able to do, and the parameters of MAIL.

    def _extensions(self) -> str | Reply:
        """The parameters of MAIL, or why this server cannot have the message. Whether it has
        octets above 127 must be known where that matters."""
        session, envelope, outgoing = self._session, self._message.envelope, self._outgoing
        offered, name = session.capabilities, session.target.name
        words = ""
        if offered.size is not None:
            if 0 < offered.size < outgoing.size:
                text = f"message size {outgoing.size} exceeds size limit {offered.size} of server {name}"
                return Reply(552, "5.3.4", text)
            words = f" SIZE={outgoing.size}"
        if offered.eight_bit_mime:
            # A large body that is not known to be 7-bit is not read twice to find out.
            if envelope.body == "8BITMIME" or outgoing.eight_bit is not False:
                words += " BODY=8BITMIME"
        elif outgoing.eight_bit:
            text = f"8BITMIME conversion required but not supported; not offered by host {name}"
            return Reply(554, "5.6.3", text)
        if envelope.smtputf8 and not offered.smtputf8 and self._needs_smtputf8():
            return Reply(553, "5.6.7", f"SMTPUTF8 is required, but was not offered by host {name}")
        if envelope.smtputf8 and offered.smtputf8:
            words += " SMTPUTF8"
        if offered.dsn and not self._is_list_mail:
            if envelope.ret:
                words += f" RET={envelope.ret}"
            if envelope.envid:
                words += f" ENVID={envelope.envid}"
        return words

    @property
    def _is_list_mail(self) -> bool:
        """Whether the recipients have it from a mailing list, and so nothing of what the sender
        asked about notices (RFC 3461 §5.2.7.1). All of one transaction have the same sender."""
        return self._recipients[0].reverse_path is not None

    def _needs_smtputf8(self) -> bool:
        addresses = self._sender + "".join(r.address for r in self._recipients)
        return not (addresses.isascii() and self._outgoing.header_is_ascii)

    def _rcpt(self, recipient: Recipient) -> str:
        if not self._session.capabilities.dsn:
            return f"RCPT TO:<{recipient.address}>\r\n"
        words = ""
        if recipient.orcpt:
            words = f" ORCPT={recipient.orcpt}"
        elif recipient.orig_to and recipient.orig_to.isascii() and not self._is_list_mail:
            words = f" ORCPT=rfc822;{xtext.encode(recipient.orig_to)}"
        notify = recipient.notify
        if not notify:
            pass
        elif notify & Notify.NEVER:
            words += " NOTIFY=NEVER"
        else:
            words += " NOTIFY=" + ",".join(word for flag, word in NOTIFY_WORDS if notify & flag)
        return f"RCPT TO:<{recipient.address}>{words}\r\n"

    # The envelope.

    async def _envelope_at_once(self, extensions: str) -> ServerReply | None:
        """PIPELINING (RFC 2920): the whole envelope in one write. The reply to DATA if the
        conversation goes on."""
        session, connection = self._session, self._session.connection
        parameters = session.parameters
        recipients = self._recipients
        head = "RSET\r\n" if session.reset_due else ""
        if len(recipients) == 1:
            rcpts = self._rcpt(recipients[0])
        else:
            rcpts = "".join([self._rcpt(recipient) for recipient in recipients])
        text = f"{head}MAIL FROM:<{self._sender}>{extensions}\r\n{rcpts}DATA\r\n"
        connection.write(text.encode("utf-8", "surrogateescape"))
        skip = 1 if head else 0
        wanted = skip + 1 + len(recipients) + 1
        replies = await connection.replies(
            wanted,
            max(parameters.mail_timeout, parameters.rcpt_timeout, parameters.data_init_timeout),
        )
        self._check_fresh(replies)
        session.reset_due = True
        if len(replies) == wanted:
            return self._judge(replies[skip], replies[skip + 1 : -1], replies[-1])
        got = replies[skip:]
        if len(got) <= 1:
            stage = "sending RCPT TO" if got else "sending MAIL FROM"
        else:
            stage = "sending RCPT TO" if len(got) <= len(recipients) else "sending DATA command"
        if got:
            self._judge(got[0], got[1 : 1 + len(recipients)], None)
        self._broken(stage, got[-1] if got else None)
        return None

    async def _envelope_stepwise(self, extensions: str) -> ServerReply | None:
        """One command at a time, for servers without PIPELINING."""
        session, parameters = self._session, self._session.parameters
        if session.reset_due:
            reply = await self._ask("RSET\r\n", parameters.rset_timeout)
            if reply is None:
                self._check_fresh([])
                self._broken("sending final RSET", None)
                return None
        mail = f"MAIL FROM:<{self._sender}>{extensions}\r\n"
        reply = await self._ask(mail, parameters.mail_timeout)
        self._check_fresh([reply] if reply else [])
        if reply is None:
            self._broken("sending MAIL FROM", None)
            return None
        session.reset_due = True
        if reply.code // 100 != 2:
            return self._judge(reply, [], None)
        for recipient in self._recipients:
            answer = await self._ask(self._rcpt(recipient), parameters.rcpt_timeout)
            if answer is None:
                self._broken("sending RCPT TO", None)
                return None
            self._judge_rcpt(recipient, answer)
            if answer.code == 421:
                self._broken("sending RCPT TO", answer)
                return None
        if not self._accepted:
            return None
        data = await self._ask("DATA\r\n", parameters.data_init_timeout)
        if data is None:
            self._broken("sending DATA command", None)
        return data

    async def _ask(self, command: str, seconds: float) -> ServerReply | None:
        connection = self._session.connection
        connection.write(command.encode("utf-8", "surrogateescape"))
        replies = await connection.replies(1, seconds)
        return replies[0] if replies else None

    def _check_fresh(self, replies: Sequence[ServerReply]) -> None:
        if self._session.uses and (not replies or replies[0].code == 421):
            self._session.connection.fail(LOST)
            raise StaleConnection

    def _judge(
        self, mail: ServerReply, rcpts: Sequence[ServerReply], data: ServerReply | None
    ) -> ServerReply | None:
        if mail.code // 100 != 2:
            self._fail(
                self._recipients, said(self._session.target, mail, "MAIL FROM command"), mail
            )
        else:
            for recipient, reply in zip(self._recipients, rcpts, strict=False):
                self._judge_rcpt(recipient, reply)
        return data

    def _judge_rcpt(self, recipient: Recipient, reply: ServerReply) -> None:
        if reply.code // 100 == 2:
            self._accepted.append(recipient)
        else:
            self._fail([recipient], said(self._session.target, reply, "RCPT TO command"), reply)

    # The content.

    async def _content(self, data: ServerReply) -> None:
        """Send the content if the server waits for it, and read the final reply or replies."""
        session, connection, accepted = self._session, self._session.connection, self._accepted
        if data.code != 354:
            if data.code == 421:
                connection.fail(LOST)
            self._fail(accepted, said(session.target, data, "DATA command"), data)
            return
        if not accepted:
            # Every recipient was refused, yet the server waits for content: give it none.
            connection.write(b".\r\n")
            await connection.replies(1, session.parameters.data_done_timeout)
            return
        whole = self._outgoing.whole()
        if whole is not None:
            connection.write(whole)
        elif not await self._send_blocks():
            early = await connection.replies(1, 0)
            if early and early[0].code >= 400:
                # It said why before it closed.
                self._fail(
                    accepted, said(session.target, early[0], "end of DATA command"), early[0]
                )
            else:
                self._broken(BODY_STAGE, None)
            return
        lmtp = session.parameters.protocol == "lmtp"
        wanted = len(accepted) if lmtp else 1
        replies = await connection.replies(wanted, session.parameters.data_done_timeout)
        self._final(accepted, replies, lmtp=lmtp)

    async def _send_blocks(self) -> bool:
        connection = self._session.connection
        seconds = self._session.parameters.data_xfer_timeout
        async for block in self._outgoing.blocks():
            connection.write(block)
            if not await connection.drain(seconds):
                return False
        return True

    def _final(
        self, accepted: list[Recipient], replies: Sequence[ServerReply], *, lmtp: bool
    ) -> None:
        """What the server says of the content; LMTP: for each recipient that it accepted."""
        session = self._session
        if not lmtp and replies:
            self._settle(accepted, replies[0])
        else:
            for recipient, reply in zip(accepted, replies, strict=False):
                self._settle([recipient], reply)
        if len(replies) < (len(accepted) if lmtp else 1):
            unknown = accepted if not lmtp else accepted[len(replies) :]
            # It may have the message: the next host at once would be sure to duplicate it.
            self._fail(unknown, session.broken(END_STAGE), by_server=False, retry=False)
            return
        session.reset_due = False

    def _settle(self, recipients: Sequence[Recipient], reply: ServerReply) -> None:
        target = self._session.target
        if reply.code // 100 != 2:
            self._fail(recipients, said(target, reply, "end of DATA command"), reply)
            return
        answer = reply.reply()
        if not answer.enhanced:
            answer = Reply(answer.code, "2.0.0", answer.text)
        outcome = Relayed(
            answer,
            target.host,
            self._session.relay,
            self._connect,
            time.monotonic() - self._started,
            dsn_capable=self._session.capabilities.dsn,
        )
        for recipient in recipients:
            self._result.outcomes[recipient] = outcome

    # Failures.

    def _fail(
        self,
        recipients: Sequence[Recipient],
        reply: Reply,
        server: ServerReply | None = None,
        *,
        by_server: bool = True,
        retry: bool = True,
    ) -> None:
        target = self._session.target
        kind = Bounced if reply.is_permanent else Deferred
        outcome = kind(
            reply,
            target.host if by_server else "",
            target.relay,
            self._connect,
            time.monotonic() - self._started,
            diagnostic=server.log_text if server else "",
        )
        for recipient in recipients:
            self._result.outcomes[recipient] = outcome
        if retry and kind is Deferred:
            self._result.retry.extend(recipients)

    def _broken(self, stage: str, last: ServerReply | None) -> None:
        """The connection ended: those without an outcome are deferred, by the server's 421 if that
        was its last word."""
        left = [r for r in self._recipients if r not in self._result.outcomes]
        session = self._session
        if last is not None and last.code == 421:
            session.connection.fail(LOST)
            command = stage.removeprefix("sending ").removesuffix(" command") + " command"
            self._fail(left, said(session.target, last, command), last)
        else:
            self._fail(left, session.broken(stage), by_server=False)

    def _unread(self, error: OSError) -> None:
        left = [r for r in self._recipients if r not in self._result.outcomes]
        reply = Reply(451, "4.3.0", f"message content could not be read: {error.strerror or error}")
        self._fail(left, reply, by_server=False, retry=False)
