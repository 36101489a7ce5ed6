"""The envelope's commands: HELO, MAIL, RCPT, VRFY, RSET (RFC 5321 §4.1.1).

A transaction is an `Envelope` that MAIL opens and RCPT fills. The queue id is allocated with the
first recipient, as in Postfix, so that every log line about the message carries it.
"""

from __future__ import annotations

from functools import partial

from resel_mta.mail import Envelope, Recipient, Reply, TempFail
from resel_mta.smtpd import replies
from resel_mta.smtpd.command import Command, Work, command_table
from resel_mta.smtpd.login import LoginCommands
from resel_mta.smtpd.options import Options
from resel_mta.smtpd.parameters import Offers, Refused, parse_mail, parse_rcpt, qualify
from resel_mta.smtpd.recipients import LookUp


class TransactionCommands(LoginCommands):
    """A session with a transaction.

    in_chunks: content has begun to come by BDAT.
    """

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

    def abandon(self) -> Work:
        self.forget_mail()
        return None

    def reset_state(self) -> None:
        super().reset_state()
        self.forget_mail()

    def do_HELO(self, arg: bytes) -> Work:
        if not arg:
            self.say(replies.SYNTAX_HELO)
            return None
        return self._hello(arg, esmtp=False)

    def do_EHLO(self, arg: bytes) -> Work:
        if not arg:
            self.say(replies.SYNTAX_EHLO)
            return None
        return self._hello(arg, esmtp=True)

    def _hello(self, arg: bytes, *, esmtp: bool) -> Work:
        work = self.abandon()
        client = self.client
        before = client.helo, client.esmtp
        # What it says goes into a header field and the log: one word, printable.
        client.helo = replies.ascii_only(arg.split()[0].decode("utf-8", "replace"), 255)
        client.esmtp = esmtp
        refusal = self.access.on_helo()
        if refusal is not None:
            self.log_reject("EHLO" if esmtp else "HELO", refusal)
            client.helo, client.esmtp = before
            self.say(refusal)
            return work
        if esmtp:
            starttls = not self.client.tls and self.offered_tls() is not None
            self.offers, reply = self._ehlo(self.mechanisms(), starttls)
            self.say(reply)
        else:
            self.say(Reply(250, "", self.options.myhostname))
        return work

    def _ehlo(self, mechanisms: tuple[str, ...], starttls: bool) -> tuple[Offers, bytes]:
        """What is offered, and the reply that says so; kept for the other sessions."""
        key = self.options, mechanisms, starttls
        if self.service.ehlo is None or self.service.ehlo[0] != key:
            self.service.ehlo = key, _offers(*key)
        return self.service.ehlo[1]

    def do_RSET(self, arg: bytes) -> Work:
        if arg:
            self.say(replies.SYNTAX_RSET)
            return None
        self.say(replies.OK)
        return self.abandon()

    def do_MAIL(self, arg: bytes) -> Work:
        options = self.options
        if options.helo_required and not self.client.helo:
            self.say(replies.NEED_HELO)
        elif self.in_chunks:
            self.say(replies.after_bdat("MAIL"))
        elif self.mail is not None:
            self.say(replies.NESTED_MAIL)
        else:
            try:
                envelope, size = parse_mail(arg, self.offers, options.message_size_limit)
            except Refused as refused:
                self._refuse_syntax("MAIL", arg, refused)
                return None
            sender = envelope.reverse_path = qualify(envelope.reverse_path, options.myorigin)
            refusal = self.access.on_mail(sender) if self.access.early else None
            refusal = refusal or self.service.lacks_room(size)
            if refusal is not None:
                self.log_reject("MAIL", refusal, f" from=<{sender}>")
                self.say(refusal)
                return None
            self.mail = envelope
            self.say(replies.MAIL_OK)
        return None

    def do_RCPT(self, arg: bytes) -> Work:
        envelope = self.mail
        if envelope is None:
            self.say(replies.NEED_MAIL)
            return None
        if self.in_chunks:
            self.say(replies.after_bdat("RCPT"))
            return None
        try:
            recipient = parse_rcpt(arg, self.offers, smtputf8=envelope.smtputf8)
        except Refused as refused:
            self._refuse_syntax("RCPT", arg, refused)
            return None
        if len(envelope.recipients) >= self.options.recipient_limit:
            self.overshoot += 1
            self.say(replies.TOO_MANY_RECIPIENTS)
            if self.overshoot <= self.options.recipient_overshoot_limit:
                self._errors -= 1
            return None
        shown = recipient.address
        recipient.address = qualify(shown, self.options.myorigin)
        try:
            refusal = self.access.on_rcpt(envelope.reverse_path, recipient.address, shown)
        except LookUp:
            return self._rcpt_slowly(envelope, recipient, shown)
        self._answer_rcpt(envelope, recipient, shown, refusal)
        return None

    async def _rcpt_slowly(self, envelope: Envelope, recipient: Recipient, shown: str) -> None:
        check = partial(self.access.on_rcpt, envelope.reverse_path, recipient.address, shown)
        try:
            refusal = await self.access.settle(check)
        except TempFail as failure:
            if failure.why:
                self.log(f"warning: {failure.why}")
            refusal = failure.reply
        self._answer_rcpt(envelope, recipient, shown, refusal)

    def _answer_rcpt(
        self, envelope: Envelope, recipient: Recipient, shown: str, refusal: Reply | None
    ) -> None:
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

    def _refuse_syntax(self, command: str, arg: bytes, refused: Refused) -> None:
        if refused.illegal_address:
            shown = replies.ascii_only(arg.decode("utf-8", "replace").partition(":")[2].strip())
            self.log(
                f"warning: Illegal address syntax from {self.client.label()} in {command} "
                f"command: {shown}"
            )
        elif refused.reply is replies.SIZE_LIMIT:
            path = arg.partition(b"<")[2].partition(b">")[0].decode("utf-8", "replace")
            self.log_reject(command, replies.SIZE_LIMIT, f" from=<{replies.ascii_only(path)}>")
        self.say(refused.reply)

    def do_VRFY(self, arg: bytes) -> Work:
        if self.options.vrfy_disabled:
            self.say(replies.VRFY_DISABLED)
            return None
        address, _, option = arg.partition(b" ")
        utf8 = option.strip().upper() == b"SMTPUTF8" and self.options.smtputf8
        if not address or (option and not utf8):
            self.say(replies.SYNTAX_VRFY)
            return None
        try:
            recipient = parse_rcpt(b"TO:" + address, Offers(), smtputf8=utf8)
        except Refused as refused:
            self.say(refused.reply)
            return None
        return self._verify(recipient.address)

    async def _verify(self, shown: str) -> None:
        address = qualify(shown, self.options.myorigin)
        refusal = await self.access.settle(partial(self.access.on_rcpt, None, address, shown))
        if refusal is not None:
            self.log_reject("VRFY", refusal, f" to=<{shown}>")
        self.say(refusal or Reply(252, "2.0.0", shown))

    def do_not_implemented(self, arg: bytes) -> Work:
        """EXPN, ETRN."""
        self.say(replies.NOT_IMPLEMENTED)
        return None

    commands = command_table(
        Command(do_HELO, "HELO", last=True),
        Command(do_EHLO, "EHLO", last=True),
        Command(do_MAIL, "MAIL"),
        Command(do_RCPT, "RCPT"),
        Command(do_RSET, "RSET", junk=True),
        Command(do_VRFY, "VRFY", junk=True, last=True),
        Command(do_not_implemented, "EXPN"),
        Command(do_not_implemented, "ETRN", junk=True, last=True),
    )


def _offers(options: Options, mechanisms: tuple[str, ...], starttls: bool) -> tuple[Offers, bytes]:
    """What EHLO offers, and the reply that says so."""
    keywords = ["PIPELINING", f"SIZE {options.message_size_limit}".removesuffix(" 0")]
    if not options.vrfy_disabled:
        keywords.append("VRFY")
    if starttls:
        keywords.append("STARTTLS")
    if mechanisms:
        keywords.append(f"AUTH {' '.join(mechanisms)}")
    keywords += ["ENHANCEDSTATUSCODES", "8BITMIME", "DSN"]
    if options.smtputf8:
        keywords.append("SMTPUTF8")
    keywords += ["CHUNKING", "HELP"]
    discarded = options.discard_ehlo_keywords
    offered = [word for word in keywords if word.partition(" ")[0] not in discarded]
    offers = Offers(dsn="DSN" in offered, utf8="SMTPUTF8" in offered, auth=bool(mechanisms))
    return offers, Reply(250, "", "\n".join([options.myhostname, *offered])).wire()
