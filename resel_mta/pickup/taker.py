"""Takes a letter, wherever it comes from, to the intake: what pickup(8) does."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from email.header import Header as EncodedWords

from resel_mta.config import Settings
from resel_mta.content import Content, Header
from resel_mta.mail import (
    Envelope,
    Intake,
    Notify,
    Origin,
    PermFail,
    Recipient,
    Reply,
    Router,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.pickup.letter import Answer, Letter
from resel_mta.receiver import ContentReceiver
from resel_mta.trace import check_hops, rfc5322_date
from resel_mta.wire.data import LineNormalizer
from resel_mta.wire.path import PathError, parse_address

EX_DATAERR = 65
EX_NOUSER = 67
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75

_CUT_SHORT = Reply(451, "4.3.0", "the message was cut short")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")


class CutShort(Exception):
    """The content ended before it was complete: whoever sent it went away."""


class Refused(Exception):
    """The letter cannot be taken; `answer` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.answer = answer


class Taker:
    """One for all letters."""

    def __init__(self, settings: Settings, intake: Intake, router: Router, log: MailLog) -> None:
        self._intake = intake
        self._router = router
        self._log = log
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """From the next letter on, by these."""
        self._myhostname = settings.text("myhostname")
        self._mail_name = settings.text("mail_name")
        self.size_limit = settings.number("message_size_limit")
        self._hopcount_limit = settings.number("hopcount_limit")
        self._smtputf8 = settings.flag("smtputf8_enable")

    async def take(
        self, letter: Letter, uid: int, blocks: AsyncIterator[bytes], *, check: bool
    ) -> Answer:
        """Submit a letter of a user; what to tell them. Nothing was kept unless it has a queue id.

        check: recipients that are known to be unknown are refused; else mail for them bounces.
        Raises CutShort, and what is a bug; nothing was kept then.
        """
        try:
            envelope = self._envelope(letter)
            refused = await self._unknown(envelope) if check or letter.verify else {}
            if letter.verify:
                return _verified(envelope, refused)
            known = [each for each in envelope.recipients if each.address not in refused]
            pairs = tuple(refused.items())
            if not known:
                return Answer(EX_NOUSER, "user unknown", refused=pairs)
            envelope.recipients = known
            queue_id = await self._submit(letter, envelope, uid, blocks)
        except Refused as refusal:
            return refusal.answer
        except TempFail as failure:
            return Answer(EX_TEMPFAIL, failure.reply.text)
        except PermFail as failure:
            return Answer(EX_UNAVAILABLE, failure.reply.text)
        return Answer(EX_NOUSER if refused else 0, queue_id=queue_id, refused=pairs)

    def _envelope(self, letter: Letter) -> Envelope:
        """Raises Refused."""
        sender = _address(letter.sender) if letter.sender else ""
        notify = Notify.UNSET
        for word in letter.notify:
            notify |= Notify[word]
        addresses = dict.fromkeys(_address(address) for address in letter.recipients)
        recipients = [Recipient(address, notify=notify) for address in addresses]
        utf8 = not all(address.isascii() for address in (sender, *addresses))
        if utf8 and not self._smtputf8:
            raise Refused(Answer(EX_DATAERR, "an address is not ASCII, and SMTPUTF8 is off"))
        return Envelope(
            sender,
            recipients,
            body=letter.body,
            smtputf8=utf8,
            ret=letter.ret,
            envid=letter.envid,
        )

    async def _unknown(self, envelope: Envelope) -> dict[str, str]:
        """Why, by address. A table that fails for now is asked again when the mail is queued."""
        refused: dict[str, str] = {}
        for recipient in envelope.recipients:
            try:
                reply = await self._router.check_recipient(recipient.address)
            except TempFail:
                continue
            if reply is not None:
                refused[recipient.address] = reply.text
        return refused

    async def _submit(
        self, letter: Letter, envelope: Envelope, uid: int, blocks: AsyncIterator[bytes]
    ) -> str:
        """The queue id. Raises Refused, TempFail, PermFail, CutShort."""
        if 0 < self.size_limit < letter.size:
            raise Refused(Answer(EX_UNAVAILABLE, "Message file too big"))
        content = await self._receive(letter, blocks)
        queue_id = self._intake.new_id()
        if letter.rewrite and letter.full_name:
            add_from(content.header, envelope.reverse_path, letter.full_name)
        self._log.event("pickup", f"uid={uid} from=<{envelope.reverse_path}>", queue_id)
        received = (
            f"Received: by {self._myhostname} ({self._mail_name}, from userid {uid})\r\n"
            f"\tid {queue_id}; {rfc5322_date(time.time())}\r\n"
        )
        origin = Origin(
            "local",
            service="pickup",
            uid=uid,
            rewrite=letter.rewrite,
            received=received.encode("utf-8", "replace"),
            token=token_of(letter, uid),
        )
        return await self._intake.submit(envelope, content, origin, queue_id)

    async def _receive(self, letter: Letter, blocks: AsyncIterator[bytes]) -> Content:
        receiver = ContentReceiver(self._intake, self.size_limit)
        # The sender promised CR LF; a peer must not suffer if it lied.
        normalizer = LineNormalizer()
        try:
            async for block in blocks:
                await receiver.add(normalizer.feed(block))
                if receiver.failure is not None or normalizer.bare_cr:
                    break
            else:
                await receiver.add(normalizer.finish())
            if normalizer.bare_cr:
                raise Refused(Answer(EX_DATAERR, "a line holds a bare CR"))
            if receiver.failure is not None:
                raise Refused(_answer(receiver.failure))
            return await receiver.finish(self._check_hops)
        except BaseException:
            await receiver.fail(_CUT_SHORT)
            raise

    def _check_hops(self, header: Header) -> Reply | None:
        return check_hops(header, self._hopcount_limit)


def token_of(letter: Letter, uid: int) -> str:
    """As the queue knows it: nobody can use up somebody else's."""
    return f"{uid}.{letter.token}"


def _answer(reply: Reply) -> Answer:
    if reply.is_temporary:
        return Answer(EX_TEMPFAIL, reply.text)
    return Answer(EX_UNAVAILABLE, reply.text.removeprefix("Error: "))


def _address(text: str) -> str:
    try:
        return parse_address(text)
    except PathError as error:
        raise Refused(Answer(EX_DATAERR, f"{error}: {text}")) from None


def _verified(envelope: Envelope, refused: dict[str, str]) -> Answer:
    said = tuple(
        (each.address, refused.get(each.address, "deliverable")) for each in envelope.recipients
    )
    return Answer(EX_NOUSER if refused else 0, verified=said, refused=tuple(refused.items()))


def add_from(header: Header, sender: str, full_name: str) -> None:
    """A From field with the sender's full name, where there is none (Resent-From in a message
    that is sent again)."""
    names = {name.lower() for name, _ in header.fields()}
    prefix = "Resent-" if any(name.startswith(b"resent-") for name in names) else ""
    if not sender or f"{prefix}from".lower().encode() in names:
        return
    field = f"{prefix}From: {_phrase(full_name)} <{sender}>\r\n"
    header.append(field.encode())


def _phrase(name: str) -> str:
    """A display name (RFC 5322 §3.2.5, RFC 2047)."""
    if not name.isascii():
        return EncodedWords(name, "utf-8").encode(maxlinelen=0)
    if _ATOMS.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
