"""SASL, the server's side: PLAIN (RFC 4616), LOGIN and SCRAM (RFC 5802), without any transport.

SMTP, IMAP and POP3 carry the exchange in base64; `decode_response` reads what they carry:

    exchange = server.exchange()
    step = await exchange.start("PLAIN", initial)
    while isinstance(step, Challenge):
        step = await exchange.respond(...)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import enum
from collections.abc import Coroutine
from dataclasses import dataclass

from resel_mta.mail import TempFail
from resel_mta.users import scram
from resel_mta.users.directory import Users
from resel_mta.users.passwd_file import Entry
from resel_mta.users.scram import HASHES, ClientFirst, ScramExchange
from resel_mta.users.user import User

#: Octets of one decoded response that are looked at; RFC 4616 lets a server refuse above 255 a name.
MAX_RESPONSE = 4096


class FailureKind(enum.Enum):
    """Why an exchange failed, so that a protocol can choose its reply."""

    CREDENTIALS = "credentials"
    ABORTED = "aborted"
    MALFORMED = "malformed"
    MECHANISM = "mechanism"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class Challenge:
    """To be sent to the client in base64."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Success:
    """Logged in. mechanism: the one that was used, for the log."""

    user: User
    mechanism: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Not logged in. reason: for the log; username: as claimed, "" where none was said."""

    reason: str
    kind: FailureKind = FailureKind.CREDENTIALS
    username: str = ""


Step = Challenge | Success | Failure


class DecodeError(ValueError):
    """A client's line that is no base64."""


class Aborted(Exception):
    """The client sent "*"."""


def decode_response(line: bytes, *, initial: bool = False) -> bytes:
    """What a client's line carries. Raises Aborted, DecodeError.

    initial: it came with the command, where "=" stands for an empty response (RFC 4954 §4).
    """
    line = line.strip(b" \r\n")
    if line == b"*":
        raise Aborted
    if initial and line == b"=":
        return b""
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error as error:
        raise DecodeError("not base64") from error


class SaslServer:
    """What one service offers."""

    def __init__(self, users: Users) -> None:
        self._users = users

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What can be used now."""
        return self._users.mechanisms()

    def exchange(self, remote: str = "") -> Exchange:
        """A new exchange, for one attempt of a client at the address `remote`."""
        return Exchange(self._users, self.mechanisms, remote)


class Exchange:
    """One attempt. Never raises: what goes wrong is a `Failure`, which has been delayed already
    where it was a guess."""

    def __init__(self, users: Users, mechanisms: tuple[str, ...], remote: str) -> None:
        self._remote = remote
        self._users = users
        self._mechanisms = mechanisms
        self._mechanism = ""
        self._username: bytes | None = None
        self._scram: ScramExchange | None = None
        self._scram_name = ""
        self._scram_entry: Entry | None = None
        self._proved: Success | None = None

    async def start(self, mechanism: str, initial: bytes | None = None) -> Step:
        """initial: the decoded initial response, None where the client sent none."""
        self._mechanism = mechanism.upper()
        if self._mechanism not in self._mechanisms:
            return Failure("unsupported mechanism", FailureKind.MECHANISM)
        if initial is None:
            return Challenge(b"Username:" if self._mechanism == "LOGIN" else b"")
        return await self.respond(initial)

    async def respond(self, response: bytes | None) -> Step:
        """response: decoded; None where the client gave up ("*")."""
        if response is None:
            return Failure("aborted by the client", FailureKind.ABORTED)
        if len(response) > MAX_RESPONSE:
            return Failure("response too long", FailureKind.MALFORMED)
        if self._mechanism == "PLAIN":
            return await self._plain(response)
        if self._mechanism in HASHES:
            return await self._scram_step(response)
        if self._username is None:
            self._username = response
            return Challenge(b"Password:")
        return await self._check(b"", self._username, response)

    async def _plain(self, response: bytes) -> Step:
        """RFC 4616 §2: message = [authzid] NUL authcid NUL passwd."""
        parts = response.split(b"\0")
        if len(parts) != 3:
            return Failure("malformed PLAIN response", FailureKind.MALFORMED)
        return await self._check(*parts)

    async def _scram_step(self, response: bytes) -> Step:
        """RFC 5802 §3. The server's last word is a challenge too: in none of the protocols here
        can it come with the success."""
        if self._proved is not None:
            if response:
                return Failure("malformed SCRAM response", FailureKind.MALFORMED)
            return self._proved
        try:
            if self._scram is None:
                return await self._scram_first(scram.parse_client_first(response))
            signature = self._scram.finish(response)
        except scram.ScramError as error:
            return Failure(str(error), FailureKind.MALFORMED, self._scram_name)
        step = await self._judge(self._scram_name, self._proof(signature))
        if not isinstance(step, Success) or signature is None:
            return step
        self._proved = step
        return Challenge(signature)

    async def _scram_first(self, first: ClientFirst) -> Step:
        self._scram_name = name = first.name
        if not name or "\0" in name:
            return Failure("empty user name", FailureKind.CREDENTIALS, name)
        if first.authzid and first.authzid != name:
            return Failure("authorization identity differs", FailureKind.CREDENTIALS, name)
        try:
            secret, self._scram_entry = await self._users.scram_secret(name, self._mechanism)
        except TempFail as failure:
            return Failure(failure.reply.text, FailureKind.TEMPORARY, name)
        self._scram = ScramExchange(first, secret, HASHES[self._mechanism])
        return Challenge(self._scram.challenge)

    async def _proof(self, signature: bytes | None) -> User | None:
        if signature is None or self._scram_entry is None:
            return None
        return await self._users.mailbox_of(self._scram_entry)

    async def _check(self, authzid: bytes, authcid: bytes, password: bytes) -> Step:
        try:
            name = authcid.decode("utf-8")
            password.decode("utf-8")
        except UnicodeDecodeError:
            return Failure("not UTF-8", FailureKind.MALFORMED)
        if not name or not password or "\0" in name or b"\0" in password:
            return Failure("empty user name or password", FailureKind.CREDENTIALS, name)
        if authzid and authzid != authcid:
            # Acting for somebody else is nobody's right here.
            return Failure("authorization identity differs", FailureKind.CREDENTIALS, name)
        return await self._judge(name, self._authenticate(name, password))

    async def _authenticate(self, name: str, password: bytes) -> User | None:
        """With both as they came, then as SASLprep has them (RFC 4616 §2): an accent can be a
        character or two, and what is stored is prepared or not."""
        user = await self._users.authenticate(name, password)
        forms = scram.prepare(name.encode()).decode(), scram.prepare(password)
        if user is None and forms != (name, password):
            user = await self._users.authenticate(*forms)
        return user

    async def _judge(self, name: str, judgement: Coroutine[None, None, User | None]) -> Step:
        """The outcome of a judgement, for which others of this address may have to wait."""
        try:
            turn = await self._users.penalties.turn(self._remote, self._users.known_as(name))
        except TempFail as failure:
            judgement.close()
            return Failure(failure.reply.text, FailureKind.TEMPORARY, name)
        try:
            user = await judgement
        except TempFail as failure:
            turn.undecided()
            return Failure(failure.reply.text, FailureKind.TEMPORARY, name)
        except BaseException:
            # Whoever hangs up before he has his answer has guessed all the same.
            turn.failed()
            raise
        if user is not None:
            turn.succeeded()
            return Success(user, self._mechanism)
        await asyncio.sleep(turn.failed())
        return Failure("authentication failed", FailureKind.CREDENTIALS, name)
