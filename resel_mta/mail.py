"""The vocabulary of mail and the doors between the rooms.

Addresses are `str`: ``local@domain`` without angle brackets, the local part in its shortest
form (unquoted where RFC 5321 allows), "" for the null reverse-path. Non-ASCII characters occur
only in envelopes with `smtputf8`. Times are seconds since the epoch as float.
Values that are made for every message are not frozen, as that makes them take thrice the time, but
nobody changes them.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from resel_mta.content import Body, Content
from resel_mta.local_target import LocalTarget, answer_of


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply (RFC 5321 §4.2) with its enhanced status code (RFC 3463).

    enhanced: "5.1.1", or "" where a reply has none (greeting, EHLO, 354).
    text: one line, or several separated by "\\n".
    """

    code: int
    enhanced: str
    text: str

    @property
    def is_success(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        return 500 <= self.code < 600

    def __str__(self) -> str:
        if self.enhanced and self.text:
            return f"{self.code} {self.enhanced} {self.text}".replace("\n", " ")
        words = (str(self.code), self.enhanced, self.text.replace("\n", " "))
        return " ".join(word for word in words if word)

    def wire(self) -> bytes:
        """The reply as sent, CR LF included, with a hyphen on all lines but the last."""
        prefix = f"{self.enhanced} " if self.enhanced else ""
        lines = self.text.split("\n")
        sent = [f"{self.code}-{prefix}{line}\r\n" for line in lines[:-1]]
        sent.append(f"{self.code} {prefix}{lines[-1]}\r\n")
        return "".join(sent).encode("utf-8", "surrogateescape")

    def softened(self) -> Reply:
        """The same words as a temporary failure (``soft_bounce``)."""
        if not self.is_permanent:
            return self
        enhanced = "4" + self.enhanced[1:] if self.enhanced else ""
        return Reply(self.code - 100, enhanced, self.text)


class TempFail(Exception):
    """Try again later. Carries the 4xx reply that says why. why: more, for the log only."""

    def __init__(self, reply: Reply, why: str = "") -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.why = why


class PermFail(Exception):
    """Will not work however often it is tried. Carries the 5xx reply that says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Notify(enum.IntFlag):
    """When a sender wants a delivery status notification (RFC 3461 §4.1)."""

    UNSET = 0
    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8

    def without_success(self) -> Notify:
        """For those who take the place of a recipient whose success is answered by itself
        (RFC 3461 §5.2.7.3)."""
        if self == Notify.SUCCESS:
            return Notify.NEVER
        return self & ~Notify.SUCCESS


@dataclass(slots=True, eq=False)
class Recipient:
    """One recipient of one message. Compared by identity, so that it can key a mapping.

    address: where the mail goes now, after expansion.
    orig_to: the address the client gave, where expansion changed it; else "".
    reverse_path: this recipient's own, set by an ``owner-`` alias; None means the envelope's.
    orcpt: ORCPT as on the wire, "rfc822;user+40x@example.org" in xtext; "" if not given.
    row: the queue's number for it; 0 before it is queued.
    attempts: deliveries tried so far. waited: it was put off before, tried or not.
    via: addresses already expanded on the way here, so that a loop or a second pass is seen;
        "~user" where the user's .forward was followed; last, what `target` and `answer` read.
    """

    address: str
    orig_to: str = ""
    reverse_path: str | None = None
    orcpt: str = ""
    notify: Notify = Notify.UNSET
    row: int = 0
    attempts: int = 0
    via: tuple[str, ...] = ()
    waited: bool = False

    @property
    def target(self) -> LocalTarget | None:
        """The command or file that this is for; None where it is an address."""
        return LocalTarget.last_of(self.via)

    @property
    def answer(self) -> str:
        """Where this is an alias that has been expanded, and is here only because its sender wants
        to hear of that: what he is told, as `Expanded.action`. "" for all others."""
        return answer_of(self.via)


@dataclass(slots=True)
class Envelope:
    """Reverse-path, recipients, and what the client declared about the message.

    body: "7BIT", "8BITMIME" (RFC 6152); "" where the client declared nothing.
    ret: "FULL", "HDRS" or "" (RFC 3461 §4.3); envid: as on the wire (xtext), or "".
    """

    reverse_path: str
    recipients: list[Recipient]
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


@dataclass(unsafe_hash=True, slots=True)
class Origin:
    """Where a message came from: what the Received field and the log say of it.

    protocol: "SMTP", "ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA", "UTF8SMTP…", "LMTP" (RFC 3848,
        RFC 6531 §4.3), "local" for sendmail(1), "internal" for our own notices.
    service: Postfix's name of the program that took it, for the log: "smtpd", "pickup", "bounce".
    rewrite: whether missing Date, From and Message-ID are added and bare header addresses are
        qualified (Postfix's local_header_rewrite_clients).
    received: the ready Received field (CR LF at its end), or b"" for none.
    token: of a client that may hand in the same message twice; "" for none.
    """

    protocol: str
    service: str = "smtpd"
    client_name: str = ""
    client_address: str = ""
    client_port: int = 0
    helo: str = ""
    sasl_method: str = ""
    sasl_username: str = ""
    uid: int | None = None
    rewrite: bool = False
    received: bytes = b""
    token: str = ""


@dataclass(slots=True)
class Message:
    """A message as the queue holds it and Transports see it.

    recipients: those not yet done.
    size: octets of the content as accepted.
    expires: when it is given up; 0 where the queue decides (maximal_queue_lifetime or
        bounce_queue_lifetime after arrival).
    content: loaded before a Transport sees it.
    token: `Origin.token`, while it is entered; no other message can be entered with it.
    named: recipients before aliases were expanded, -1: none were; merged: those left out as double.
    generated: whether it was made here and not handed in: a bounce or another notice.
    whole: whether `recipients` are all that were not done when the queue gave it out, not only
        those that were due.
    """

    queue_id: str
    arrival: float
    envelope: Envelope
    size: int
    recipients: list[Recipient]
    content: Content | None = None
    origin_protocol: str = ""
    hold: bool = False
    next_attempt: float = 0.0
    expires: float = 0.0
    warned: bool = False
    token: str = ""
    named: int = -1
    merged: int = 0
    generated: bool = False
    whole: bool = False


@dataclass(unsafe_hash=True, slots=True)
class Outcome:
    """What became of one recipient. Use the subclasses.

    reply: what was said, ours or the peer's.
    host: the name of the host that said it, "" if it was us (Remote-MTA in RFC 3464).
    relay: as in the log: "mx.example.org[192.0.2.1]:25", "local", "none".
    connect, transmit: seconds, the c and d of Postfix's delays=a/b/c/d.
    diagnostic: the server's own words with their codes (Diagnostic-Code in RFC 3464), where
        `reply` quotes them as Postfix does: "host mx[192.0.2.1] said: 550 … (in reply to …)".
    """

    reply: Reply
    host: str = ""
    relay: str = "none"
    connect: float = 0.0
    transmit: float = 0.0
    diagnostic: str = ""

    status: ClassVar[str] = ""


@dataclass(unsafe_hash=True, slots=True)
class Delivered(Outcome):
    """In its mailbox, synced to disk."""

    status: ClassVar[str] = "sent"


@dataclass(unsafe_hash=True, slots=True)
class Relayed(Outcome):
    """Taken by the next hop. dsn_capable: the next hop promises notifications (RFC 3461 §5.2.2)."""

    dsn_capable: bool = False
    status: ClassVar[str] = "sent"


@dataclass(unsafe_hash=True, slots=True)
class Expanded(Outcome):
    """Replaced by other recipients, which are already queued.

    action: what a sender is told who asked for it (RFC 3461 §5.2.7): "expanded"; "delivered" for a
        mailing list; "" where the other recipients have his request, and will answer it.
    """

    action: str = "expanded"
    status: ClassVar[str] = "sent"


@dataclass(unsafe_hash=True, slots=True)
class Deferred(Outcome):
    """To be tried again. host_down: nothing was said about this mail, the next hop itself failed,
    so other mail for it need not try at once."""

    host_down: bool = False
    status: ClassVar[str] = "deferred"


@dataclass(unsafe_hash=True, slots=True)
class Bounced(Outcome):
    """Failed for good."""

    status: ClassVar[str] = "bounced"


class BodySink(Protocol):
    """Takes a body in blocks as it arrives: small in memory, large on disk."""

    async def write(self, block: bytes) -> None:
        """Append. Raises TempFail(452) when the disk is full or fails."""
        ...

    async def finish(self) -> Body:
        """The body. It belongs to whoever got it: to be submitted or discarded."""
        ...

    async def discard(self) -> None:
        """Forget what was written. Safe at any time before `Intake.submit`, and twice."""
        ...


class Intake(Protocol):
    """The one way in for all mail."""

    def new_id(self) -> str:
        """A queue id that was never used before and never will be again."""
        ...

    def sink(self) -> BodySink:
        """Raises TempFail(452) below `queue_minfree`."""
        ...

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        """Take responsibility for a message; its queue id once it would survive a power cut.

        queue_id: from `new_id`, or "" to have one allocated. The content belongs to the intake
        from the call on, also when it raises TempFail or PermFail.
        """
        ...

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        """All that `submit` does short of the commit: for the queue, which commits a bounce and
        the removal of what bounced in one step. Same errors."""
        ...


class AddressClass(enum.Enum):
    """Postfix's address classes (ADDRESS_CLASS_README), by the recipient's domain."""

    LOCAL = "local"
    VIRTUAL_ALIAS = "virtual alias"
    VIRTUAL_MAILBOX = "virtual mailbox"
    RELAY = "relay"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Route:
    """How a recipient is delivered.

    transport: a Transport's name ("local", "virtual", "smtp", "relay", "lmtp", "pipe", "error", "discard").
    nexthop: "[host]", "[host]:port", "domain", "domain:port", or what the transport understands.
    origin: who named the next hop: "recipient" (the recipient's own domain), "relayhost",
        "transport_maps". Only a recipient's own domain can fail for good.
    alike: whether it is that of every address of the domain without `via` just now, so that one
        look-up does for a message's other recipients there.
    """

    transport: str
    nexthop: str
    origin: str = "recipient"
    alike: bool = field(default=False, compare=False)


class Router(Protocol):
    """Where an address goes."""

    async def classify(self, address: str) -> AddressClass:
        """Raises TempFail when a map fails."""
        ...

    async def check_recipient(self, address: str) -> Reply | None:
        """None if mail for it can be accepted; else the refusal (550 5.1.1). Raises TempFail."""
        ...

    async def route(self, address: str, reverse_path: str = "", via: Collection[str] = ()) -> Route:
        """via: `Recipient.via`, so that an alias already followed is not followed again; one that
        is not, because its map failed at intake, gives the transport "expand".

        Raises TempFail, PermFail.
        """
        ...


class Transport(Protocol):
    """Delivers a message one hop further, or to its mailbox.

    name: as in Route.transport; log_name: Postfix's program name for the log ("smtp", "local").
    """

    name: str
    log_name: str

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        """One outcome for each of `recipients`, always. Raises only for bugs."""
        ...

    async def close(self) -> None:
        """Give up kept connections."""
        ...


@dataclass(slots=True)
class QueueStats:
    """Counts of messages by queue, as Postfix names them."""

    active: int = 0
    deferred: int = 0
    hold: int = 0
    incoming: int = 0
    corrupt: int = 0
