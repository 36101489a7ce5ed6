"""The SMTP service's protocol: content by DATA or BDAT, and its way to the intake (RFC 5321
§4.1.1.4, RFC 3030)."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from resel_mta import trace
from resel_mta.mail import Envelope, Origin, PermFail, Reply, TempFail
from resel_mta.receiver import ContentReceiver
from resel_mta.smtpd import replies
from resel_mta.smtpd.connection import Closing, Lost, TimedOut
from resel_mta.smtpd.transaction import TransactionCommands
from resel_mta.wire.data import DataDecoder, LineNormalizer


class Chunks:
    """A message that comes in BDAT chunks, between the first and the last of them.

    failure: set once it cannot be accepted; chunks up to the last are still taken off the wire.
    told: the client knows.
    """

    __slots__ = ("failure", "normalizer", "receiver", "told")

    def __init__(self, receiver: ContentReceiver) -> None:
        self.receiver = receiver
        self.normalizer = LineNormalizer()
        self.failure: Reply | bytes | None = None
        self.told = False


class SmtpProtocol(TransactionCommands):
    """One connection of an SMTP client."""

    commands: ClassVar[dict[bytes, str]] = {
        **TransactionCommands.commands,
        b"DATA": "smtp_DATA",
        b"BDAT": "smtp_BDAT",
    }

    chunks: Chunks | None = None

    @property
    def in_chunks(self) -> bool:
        return self.chunks is not None

    async def abandon(self) -> None:
        await super().abandon()
        chunks, self.chunks = self.chunks, None
        if chunks is not None:
            await chunks.receiver.fail(replies.LOCAL_ERROR)

    async def smtp_DATA(self, arg: bytes) -> None:
        refusal = self._data_order(arg)
        if refusal is None and self.options.data_restrictions:
            refusal = await self.access.on_data()
            if refusal is not None:
                self.log_reject("DATA", refusal, _parties(self.mail), self.queue_id)
        if refusal is not None:
            self.say(refusal)
            if self.has_input:
                # What follows unasked is the content, not commands (RFC 2920 §3.1).
                self.log(f"improper command pipelining after DATA from {self.client.label()}")
                await self.hang_up(replies.SYNCHRONIZATION)
            return
        self.say(replies.GO_AHEAD)
        await self.flush()
        decoder = DataDecoder()
        receiver = ContentReceiver(self.service.intake, self.options.message_size_limit)
        try:
            while not decoder.done:
                piece = decoder.feed(await self.read_block())
                if piece:
                    await self._receive(receiver, piece)
        except BaseException:
            self.where = f"DATA ({decoder.size} bytes)"
            await receiver.fail(replies.LOCAL_ERROR)
            raise
        self.unread(decoder.rest)
        await self._end_of_data(receiver, decoder)

    def _data_order(self, arg: bytes) -> bytes | Reply | None:
        if self.chunks is not None:
            return replies.after_bdat("DATA")
        if self.mail is None:
            return replies.NEED_RCPT
        if not self.mail.recipients:
            return replies.NO_VALID_RECIPIENTS
        return replies.SYNTAX_DATA if arg else None

    async def _receive(self, receiver: ContentReceiver, piece: bytes) -> None:
        """Content that cannot be taken must still be read to its end, or it would be obeyed."""
        try:
            await receiver.add(piece)
        except Exception as error:
            await receiver.fail(self.report(error))

    async def smtp_BDAT(self, arg: bytes) -> None:
        words = arg.split()
        last = len(words) == 2 and words[1].upper() == b"LAST"
        if not words or not (words[0].isdigit() and len(words[0]) <= 18) or len(words) > 1 + last:
            self.log(f"warning: malformed BDAT command syntax from {self.client.label()}")
            await self.hang_up(replies.SYNTAX_BDAT)
        size = int(words[0])
        chunks = self.chunks
        if chunks is None:
            chunks = self.chunks = Chunks(
                ContentReceiver(self.service.intake, self.options.message_size_limit)
            )
            chunks.failure = await self._bdat_refusal()
        await self._read_chunk(chunks, size)
        if chunks.failure is None:
            chunks.failure = chunks.receiver.failure
        if last:
            self.chunks = None
        if chunks.failure is not None:
            self.say(replies.discarded(size) if chunks.told else chunks.failure)
            chunks.told = True
            if last:
                await chunks.receiver.fail(replies.LOCAL_ERROR)
        elif not last:
            self.say(replies.chunk_taken(size))
        else:
            await self._receive(chunks.receiver, chunks.normalizer.finish())
            await self._end_of_data(chunks.receiver, chunks.normalizer)

    async def _bdat_refusal(self) -> bytes | Reply | None:
        if self.mail is None:
            return replies.NEED_RCPT
        if not self.mail.recipients:
            return replies.NO_VALID_RECIPIENTS
        return await self.access.on_data()

    async def _read_chunk(self, chunks: Chunks, size: int) -> None:
        left = size
        try:
            while left:
                block = await self.read_block()
                if len(block) > left:
                    self.unread(block[left:])
                    block = block[:left]
                left -= len(block)
                if chunks.failure is None:
                    piece = chunks.normalizer.feed(block)
                    if piece:
                        await self._receive(chunks.receiver, piece)
        except BaseException:
            self.where = f"BDAT ({size - left} bytes)"
            raise

    async def _end_of_data(self, receiver: ContentReceiver, decoder: LineNormalizer) -> None:
        """Content is complete: hand the message over, or say why not. Ends the transaction."""
        self.where = "END-OF-MESSAGE"
        envelope, queue_id = self.mail, self.queue_id
        assert envelope is not None
        try:
            refusal = None
            if self.options.end_of_data_restrictions:
                refusal = await self.access.on_end_of_data()
            if refusal is None and decoder.bare_cr:
                refusal = replies.BARE_CR
            if refusal is not None:
                await receiver.fail(refusal)
            if receiver.failure is None:
                await self._submit(receiver, envelope)
                self.say(replies.queued(queue_id))
                self.forgive()
            refusal = receiver.failure
        except (TempFail, PermFail) as failure:
            refusal = failure.reply
        except (Closing, Lost, TimedOut, asyncio.CancelledError):
            raise
        except Exception as error:
            refusal = self.report(error)
        finally:
            self.forget_mail()
        if refusal is not None:
            await receiver.fail(refusal)
            self.log_reject("END-OF-MESSAGE", refusal, _parties(envelope), queue_id)
            self.say(refusal)

    async def _submit(self, receiver: ContentReceiver, envelope: Envelope) -> None:
        content = await receiver.finish()
        refusal = trace.check_hops(content.header, self.options.hopcount_limit)
        if refusal is not None:
            raise PermFail(refusal)
        origin = await self._origin(envelope)
        await self.service.intake.submit(envelope, content, origin, self.queue_id)

    async def _origin(self, envelope: Envelope) -> Origin:
        client, options = self.client, self.options
        protocol = trace.protocol_name(
            esmtp=client.esmtp,
            tls=bool(client.tls),
            authenticated=bool(client.sasl_username),
            utf8=envelope.smtputf8,
        )
        recipients = envelope.recipients
        field = trace.received_field(
            helo=client.helo,
            client=client.received(),
            hostname=options.myhostname,
            protocol=protocol,
            queue_id=self.queue_id,
            recipient=recipients[0].address if len(recipients) == 1 else "",
            date=self.service.date(time.time()),
            tls=f"using {client.tls}" if client.tls and options.tls_received_header else "",
            user=client.sasl_username if options.sasl_authenticated_header else "",
        )
        return Origin(
            protocol=protocol,
            service=self.service.log_name,
            client_name=client.name,
            client_address=client.address,
            client_port=client.port,
            helo=client.helo,
            sasl_method=client.sasl_method,
            sasl_username=client.sasl_username,
            rewrite=await self.access.rewrites_header(),
            received=field,
        )


def _parties(envelope: Envelope | None) -> str:
    """ " from=<…> to=<…>" for the log; the recipient where there is one only."""
    if envelope is None:
        return ""
    text = f" from=<{envelope.reverse_path}>"
    if len(envelope.recipients) == 1:
        text += f" to=<{envelope.recipients[0].address}>"
    return text
