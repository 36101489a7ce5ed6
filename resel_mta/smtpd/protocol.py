"""The SMTP service's protocol: content by DATA or BDAT, and its way to the intake (RFC 5321
§4.1.1.4, RFC 3030)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import ClassVar

from resel_mta import trace
from resel_mta.content import Content, Header
from resel_mta.mail import Envelope, Origin, PermFail, Reply, TempFail
from resel_mta.receiver import ContentReceiver
from resel_mta.smtpd import replies
from resel_mta.smtpd.basic import BasicCommands
from resel_mta.smtpd.command import Command, Commands, Work, command_table
from resel_mta.smtpd.login import LoginCommands
from resel_mta.smtpd.transaction import TransactionCommands
from resel_mta.wire.data import DataDecoder, LineNormalizer


class Incoming:
    """The content of one message, as it comes.

    decoder: a `DataDecoder` for DATA, a `LineNormalizer` for BDAT.
    left: octets of the chunk still to come. last: it is the last chunk.
    failure: set once the message cannot be accepted; chunks up to the last are still taken off
    the wire. told: the client knows.
    """

    __slots__ = ("decoder", "failure", "last", "left", "receiver", "size", "told")

    def __init__(self, receiver: ContentReceiver, decoder: LineNormalizer) -> None:
        self.receiver = receiver
        self.decoder = decoder
        self.left = self.size = 0
        self.last = False
        self.failure: Reply | bytes | None = None
        self.told = False


class SmtpProtocol(TransactionCommands):
    """One connection of an SMTP client.

    incoming: content that has begun to come.
    """

    incoming: Incoming | None = None
    _about: tuple[object, ...] = ()
    _origin: Callable[[bytes], Origin]
    _trace = b""

    @property
    def in_chunks(self) -> bool:
        return self.incoming is not None

    def abandon(self) -> Work:
        self.forget_mail()
        incoming, self.incoming = self.incoming, None
        if incoming is not None and incoming.receiver.on_disk:
            return incoming.receiver.fail(replies.LOCAL_ERROR)
        return None

    def _begin(self, decoder: LineNormalizer) -> Incoming:
        receiver = ContentReceiver(self.service.intake, self.options.message_size_limit)
        self.incoming = Incoming(receiver, decoder)
        return self.incoming

    def _take(self, incoming: Incoming, piece: bytes) -> bool:
        """Whether the next piece must wait. Content that cannot be kept is read to its end all
        the same, or it would be obeyed."""
        if incoming.receiver.feed(piece):
            self.wait_for(self._settle(incoming.receiver))
            return True
        return False

    async def _settle(self, receiver: ContentReceiver) -> None:
        try:
            await receiver.settle()
        except Exception as error:
            await receiver.fail(self.report(error))

    # -- DATA -------------------------------------------------------------------------------------

    def do_DATA(self, arg: bytes) -> Work:
        refusal = self._data_order(arg)
        if refusal is None and self.options.data_restrictions:
            refusal = self.access.on_data()
            if refusal is not None:
                self.log_reject("DATA", refusal, _parties(self.mail), self.queue_id)
        if refusal is not None:
            if self.has_input:
                # What follows unasked is the content, not commands (RFC 2920 §3.1).
                self.say(refusal)
                self.hang_up(replies.SYNCHRONIZATION)
            self.say(refusal)
            return None
        self.say(replies.GO_AHEAD)
        self._begin(DataDecoder())
        self.consumer = self._take_data
        return None

    def _data_order(self, arg: bytes) -> bytes | Reply | None:
        if self.in_chunks:
            return replies.after_bdat("DATA")
        if self.mail is None:
            return replies.NEED_RCPT
        if not self.mail.recipients:
            return replies.NO_VALID_RECIPIENTS
        return replies.SYNTAX_DATA if arg else None

    def _take_data(self) -> bool:
        """The consumer between DATA and the end mark."""
        incoming = self.incoming
        assert incoming is not None
        decoder = incoming.decoder
        assert isinstance(decoder, DataDecoder)
        if not decoder.done:
            block = self.take_block()
            if not block:
                return False
            piece = decoder.feed(block)
            if decoder.done:
                self.unread(decoder.rest)
            else:
                self.where = f"DATA ({decoder.size} bytes)"
            if piece and self._take(incoming, piece):
                return False
            if not decoder.done:
                return False
        self._complete(incoming, b"DATA")
        return False

    # -- BDAT -------------------------------------------------------------------------------------

    def do_BDAT(self, arg: bytes) -> Work:
        words = arg.split()
        last = len(words) == 2 and words[1].upper() == b"LAST"
        if not words or not (words[0].isdigit() and len(words[0]) <= 18) or len(words) > 1 + last:
            self.log(f"warning: malformed BDAT command syntax from {self.client.label()}")
            self.hang_up(replies.SYNTAX_BDAT)
        incoming = self.incoming
        if incoming is None:
            incoming = self._begin(LineNormalizer())
            incoming.failure = self._bdat_refusal()
        incoming.size = incoming.left = int(words[0])
        incoming.last = last
        self.consumer = self._take_chunk
        return None

    def _bdat_refusal(self) -> bytes | Reply | None:
        if self.mail is None:
            return replies.NEED_RCPT
        if not self.mail.recipients:
            return replies.NO_VALID_RECIPIENTS
        return self.access.on_data()

    def _take_chunk(self) -> bool:
        """The consumer while octets of a chunk are still to come."""
        incoming = self.incoming
        assert incoming is not None
        if incoming.left:
            block = self.take_block(incoming.left)
            if not block:
                return False
            incoming.left -= len(block)
            if incoming.left:
                self.where = f"BDAT ({incoming.size - incoming.left} bytes)"
            if incoming.failure is None:
                piece = incoming.decoder.feed(block)
                if piece and self._take(incoming, piece):
                    return False
            if incoming.left:
                return False
        return self._chunk_taken(incoming)

    def _chunk_taken(self, incoming: Incoming) -> bool:
        if incoming.failure is None:
            incoming.failure = incoming.receiver.failure
        if incoming.failure is None and incoming.last:
            self._complete(incoming, b"BDAT")
            return False
        self.consumer = None
        if incoming.failure is None:
            self.say(replies.chunk_taken(incoming.size))
        else:
            said = replies.discarded(incoming.size) if incoming.told else incoming.failure
            if incoming.last:
                self.incoming = None
                self._say_refusal(said, self.mail)
            else:
                self.say(said)
            incoming.told = True
        self.command_done(b"BDAT")
        return True

    # -- the message is complete ------------------------------------------------------------------

    def _complete(self, incoming: Incoming, verb: bytes) -> None:
        """Hand the message over, or say why not. Ends the transaction."""
        self.where = "END-OF-MESSAGE"
        self.consumer = None
        self.wait_for(self._hand_over(incoming), self.commands[verb])

    async def _hand_over(self, incoming: Incoming) -> None:
        envelope, queue_id, receiver = self.mail, self.queue_id, incoming.receiver
        assert envelope is not None
        answers: Sequence[bytes | Reply] = ()
        try:
            if receiver.feed(incoming.decoder.finish()):
                await receiver.settle()
            refusal = self._refusal_of(incoming)
            if refusal is None:
                content = await receiver.finish(self._check_header)
                answers = await self._submit(envelope, content, queue_id)
        except (TempFail, PermFail) as failure:
            refusal = failure.reply
        except Exception as error:
            refusal = self.report(error)
        finally:
            self.forget_mail()
        if refusal is None:
            for answer in answers:
                self.say(answer)
            self.forgive()
        else:
            await receiver.fail(refusal)
            self.log_reject("END-OF-MESSAGE", refusal, _parties(envelope), queue_id)
            self._say_refusal(refusal, envelope)
        # Not before: whatever ends the session meanwhile takes away what is on disk.
        self.incoming = None

    async def _submit(
        self, envelope: Envelope, content: Content, queue_id: str
    ) -> Sequence[bytes | Reply]:
        """Who takes responsibility for the message from here on; the answers to the client."""
        await self.service.intake.submit(envelope, content, self._origin_of(envelope), queue_id)
        return (replies.queued(queue_id),)

    def _say_refusal(self, refusal: bytes | Reply, envelope: Envelope | None) -> None:
        """The content is not accepted."""
        self.say(refusal)

    def _check_header(self, header: Header) -> Reply | None:
        return trace.check_hops(header, self.options.hopcount_limit)

    def _refusal_of(self, incoming: Incoming) -> Reply | None:
        refusal = None
        if self.options.end_of_data_restrictions:
            refusal = self.access.on_end_of_data()
        if refusal is None and incoming.decoder.bare_cr:
            refusal = replies.BARE_CR
        if refusal is None and incoming.decoder.bare_lf and self.strict_lines:
            refusal = self.bare_newline()
        return refusal or incoming.receiver.failure

    def _origin_of(self, envelope: Envelope) -> Origin:
        client = self.client
        utf8 = envelope.smtputf8
        about = (client.helo, client.esmtp, client.tls, client.sasl_username, utf8)
        if about != self._about:
            self._about = about
            self._note_origin(envelope)
        recipients = envelope.recipients
        return self._origin(
            trace.received_field(
                self._trace,
                self.queue_id,
                recipients[0].address if len(recipients) == 1 else "",
                self.service.date(time.time()),
            )
        )

    def _protocol(self, envelope: Envelope) -> str:
        """The "with" of the Received field."""
        client = self.client
        return trace.protocol_name(
            esmtp=client.esmtp,
            tls=bool(client.tls),
            authenticated=bool(client.sasl_username),
            utf8=envelope.smtputf8,
        )

    def _note_origin(self, envelope: Envelope) -> None:
        """What all messages of a client have in common, until it says something else of itself."""
        client, options = self.client, self.options
        protocol = self._protocol(envelope)
        self._trace = trace.received_head(
            helo=client.helo,
            client=client.received(),
            hostname=options.myhostname,
            protocol=protocol,
            tls=f"using {client.tls}" if client.tls and options.tls_received_header else "",
            user=client.sasl_username if options.sasl_authenticated_header else "",
        )
        self._origin = partial(
            Origin,
            protocol,
            self.service.log_name,
            client.name,
            client.address,
            client.port,
            client.helo,
            client.sasl_method,
            client.sasl_username,
            None,
            self.access.rewrites_header(),
        )

    commands: ClassVar[Commands] = MappingProxyType(
        {
            **BasicCommands.commands,
            **LoginCommands.commands,
            **TransactionCommands.commands,
            **command_table(Command(do_DATA, "DATA", last=True), Command(do_BDAT, "BDAT")),
        }
    )


def _parties(envelope: Envelope | None) -> str:
    """ " from=<…> to=<…>" for the log; the recipient where there is one only."""
    if envelope is None:
        return ""
    text = f" from=<{envelope.reverse_path}>"
    if len(envelope.recipients) == 1:
        text += f" to=<{envelope.recipients[0].address}>"
    return text
