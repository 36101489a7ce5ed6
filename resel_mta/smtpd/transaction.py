"""The envelope's commands: HELO, MAIL, RCPT, VRFY, RSET (RFC 5321 §4.1.1).

A transaction is an `Envelope` that MAIL opens and RCPT fills. The queue id is allocated with the
first recipient, as in Postfix, so that every log line about the message carries it.
"""

from __future__ import annotations

from typing import ClassVar

from resel_mta.mail import Envelope, Recipient, Reply, TempFail
from resel_mta.smtpd import replies
from resel_mta.smtpd.login import LoginCommands
from resel_mta.smtpd.parameters import Offers, Refused, parse_mail, parse_rcpt, qualify
from resel_mta.smtpd.session import Session


class TransactionCommands(LoginCommands):
    """A session with a transaction.

    in_chunks: content has begun to come by BDAT.
    """

    commands: ClassVar[dict[bytes, str]] = {
        **Session.commands,
        **LoginCommands.commands,
        b"HELO": "smtp_HELO",
        b"EHLO": "smtp_EHLO",
        b"MAIL": "smtp_MAIL",
        b"RCPT": "smtp_RCPT",
        b"RSET": "smtp_RSET",
        b"VRFY": "smtp_VRFY",
        b"EXPN": "smtp_EXPN",
        b"ETRN": "smtp_ETRN",
    }

    mail: Envelope | None = None
    queue_id = ""
    #: Recipients that were refused for their number.
    overshoot = 0
    offers = Offers()

    @property
    def in_transaction(self) -> bool:
        return self.mail is not None

    @property
    def in_chunks(self) -> bool:
        return False

    def forget_mail(self) -> None:
        """The transaction is over."""
        self.mail = None
        self.queue_id = ""
        self.overshoot = 0

    async def abandon(self) -> None:
        self.forget_mail()

    def reset_state(self) -> None:
        super().reset_state()
        self.forget_mail()

    async def smtp_HELO(self, arg: bytes) -> None:
        await self._hello(arg, replies.SYNTAX_HELO, esmtp=False)

    async def smtp_EHLO(self, arg: bytes) -> None:
        await self._hello(arg, replies.SYNTAX_EHLO, esmtp=True)

    async def _hello(self, arg: bytes, syntax: bytes, *, esmtp: bool) -> None:
        if not arg:
            self.say(syntax)
            return
        await self.abandon()
        client = self.client
        before = client.helo, client.esmtp
        # What it says goes into a header field and the log: one word, printable.
        client.helo = replies.ascii_only(arg.split()[0].decode("utf-8", "replace"), 255)
        client.esmtp = esmtp
        refusal = await self.access.on_helo()
        if refusal is not None:
            self.log_reject("EHLO" if esmtp else "HELO", refusal)
            client.helo, client.esmtp = before
            self.say(refusal)
            return
        hostname = self.options.myhostname
        if not esmtp:
            self.say(Reply(250, "", hostname))
            return
        keywords = self._keywords()
        self.offers = Offers(
            dsn="DSN" in keywords, utf8="SMTPUTF8" in keywords, auth=bool(self.mechanisms())
        )
        self.say(Reply(250, "", "\n".join([hostname, *keywords])))

    def _keywords(self) -> list[str]:
        options = self.options
        keywords = ["PIPELINING", f"SIZE {options.message_size_limit}".removesuffix(" 0")]
        if not options.vrfy_disabled:
            keywords.append("VRFY")
        if not self.client.tls and self.offered_tls() is not None:
            keywords.append("STARTTLS")
        mechanisms = self.mechanisms()
        if mechanisms:
            keywords.append(f"AUTH {' '.join(mechanisms)}")
        keywords += ["ENHANCEDSTATUSCODES", "8BITMIME", "DSN"]
        if options.smtputf8:
            keywords.append("SMTPUTF8")
        keywords += ["CHUNKING", "HELP"]
        discarded = options.discard_ehlo_keywords
        return [word for word in keywords if word.partition(" ")[0] not in discarded]

    async def smtp_RSET(self, arg: bytes) -> None:
        if arg:
            self.say(replies.SYNTAX_RSET)
            return
        await self.abandon()
        self.say(replies.OK)

    async def smtp_MAIL(self, arg: bytes | None) -> None:
        options = self.options
        if options.helo_required and not self.client.helo:
            self.say(replies.NEED_HELO)
        elif self.in_chunks:
            self.say(replies.after_bdat("MAIL"))
        elif self.mail is not None:
            self.say(replies.NESTED_MAIL)
        else:
            text = self._decode(arg or b"")
            if text is None:
                return
            try:
                envelope = parse_mail(text, self.offers, options.message_size_limit)
            except Refused as refused:
                self._refuse_syntax("MAIL", text, refused)
                return
            envelope.reverse_path = qualify(envelope.reverse_path, options.myorigin)
            refusal = None
            if self.access.early:
                refusal = await self.access.on_mail(envelope.reverse_path)
            if refusal is not None:
                self.log_reject("MAIL", refusal, f" from=<{envelope.reverse_path}>")
                self.say(refusal)
                return
            self.mail = envelope
            self.say(replies.MAIL_OK)

    async def smtp_RCPT(self, arg: bytes | None) -> None:
        envelope = self.mail
        if envelope is None:
            self.say(replies.NEED_MAIL)
            return
        if self.in_chunks:
            self.say(replies.after_bdat("RCPT"))
            return
        text = self._decode(arg or b"")
        if text is None:
            return
        try:
            recipient = parse_rcpt(text, self.offers, smtputf8=envelope.smtputf8)
        except Refused as refused:
            self._refuse_syntax("RCPT", text, refused)
            return
        if len(envelope.recipients) >= self.options.recipient_limit:
            self.overshoot += 1
            self.say(replies.TOO_MANY_RECIPIENTS)
            if self.overshoot <= self.options.recipient_overshoot_limit:
                self._errors -= 1
            return
        await self._accept_recipient(envelope, recipient)

    async def _accept_recipient(self, envelope: Envelope, recipient: Recipient) -> None:
        shown = recipient.address
        recipient.address = qualify(shown, self.options.myorigin)
        try:
            refusal = await self.access.on_rcpt(envelope.reverse_path, recipient.address, shown)
        except TempFail as failure:
            refusal = failure.reply
        if refusal is not None:
            self.log_reject(
                "RCPT", refusal, f" from=<{envelope.reverse_path}> to=<{shown}>", self.queue_id
            )
            self.say(refusal)
            return
        if not self.queue_id:
            self.queue_id = self.service.intake.new_id()
            self._log_client()
        envelope.recipients.append(recipient)
        self.say(replies.RCPT_OK)

    def _log_client(self) -> None:
        client = self.client
        text = f"client={self.label()}"
        if client.sasl_username:
            text += f", sasl_method={client.sasl_method}, sasl_username={client.sasl_username}"
        self.log(text, self.queue_id)

    def _decode(self, arg: bytes) -> str | None:
        try:
            return arg.decode("utf-8")
        except UnicodeDecodeError:
            self.say(replies.BAD_UTF8)
            return None

    def _refuse_syntax(self, command: str, text: str, refused: Refused) -> None:
        if refused.illegal_address:
            shown = replies.ascii_only(text.partition(":")[2].strip())
            self.log(
                f"warning: Illegal address syntax from {self.client.label()} in {command} "
                f"command: {shown}"
            )
        elif refused.reply is replies.SIZE_LIMIT:
            self.log_reject(command, replies.SIZE_LIMIT)
        self.say(refused.reply)

    async def smtp_VRFY(self, arg: bytes) -> None:
        if self.options.vrfy_disabled:
            self.say(replies.VRFY_DISABLED)
            return
        text = self._decode(arg)
        if text is None:
            return
        if not text:
            self.say(replies.SYNTAX_VRFY)
            return
        address, _, option = text.partition(" ")
        utf8 = option.strip().upper() == "SMTPUTF8" and self.options.smtputf8
        if option and not utf8:
            self.say(replies.SYNTAX_VRFY)
            return
        try:
            recipient = parse_rcpt(f"TO:{address}", Offers(), smtputf8=utf8)
        except Refused as refused:
            self.say(refused.reply)
            return
        shown = recipient.address
        refusal = await self.access.on_rcpt(None, qualify(shown, self.options.myorigin), shown)
        if refusal is not None:
            self.log_reject("VRFY", refusal, f" to=<{shown}>")
        self.say(refusal or Reply(252, "2.0.0", shown))

    async def smtp_EXPN(self, arg: bytes) -> None:  # type: ignore[override]
        self.say(replies.NOT_IMPLEMENTED)

    async def smtp_ETRN(self, arg: bytes) -> None:
        self.say(replies.NOT_IMPLEMENTED)
