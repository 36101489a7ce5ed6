"""SCRAM (RFC 5802, RFC 7677): stored secrets, and the server's side of the exchange.

Stored as Dovecot does: ``iterations,salt,stored key,server key``, all but the first in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass

#: Mechanism -> digest.
HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
#: RFC 7677 §4: at least that many.
ITERATIONS = 4096
_MAX_ITERATIONS = 10_000_000
SALT = 16


class ScramError(ValueError):
    """A message or a stored secret that is none. The text holds no part of it."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What the server keeps of a password; logging in with it needs the password."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def format(self) -> str:
        """As it is stored."""
        fields = (self.salt, self.stored_key, self.server_key)
        return ",".join([str(self.iterations), *(base64.b64encode(f).decode() for f in fields)])


def parse_secret(stored: bytes, digest: str) -> Secret:
    """The inverse of `Secret.format`. digest: as `hashlib` calls it. Raises ScramError."""
    fields = stored.split(b",")
    if len(fields) != 4 or not fields[0].isdigit() or len(fields[0]) > 8:
        raise ScramError("a malformed SCRAM secret")
    iterations = int(fields[0])
    try:
        salt, stored_key, server_key = (base64.b64decode(f, validate=True) for f in fields[1:])
    except binascii.Error as error:
        raise ScramError("a malformed SCRAM secret") from error
    size = hashlib.new(digest).digest_size
    if not salt or len(stored_key) != size or len(server_key) != size:
        raise ScramError("a malformed SCRAM secret")
    if not 1 <= iterations <= _MAX_ITERATIONS:
        raise ScramError("a SCRAM secret with an impossible number of iterations")
    return Secret(iterations, salt, stored_key, server_key)


def derive(password: bytes, salt: bytes, iterations: int, digest: str) -> Secret:
    """The secret of a password (RFC 5802 §3). Takes milliseconds: for a thread."""
    salted = hashlib.pbkdf2_hmac(digest, password, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", digest)
    stored_key = hashlib.new(digest, client_key).digest()
    return Secret(iterations, salt, stored_key, hmac.digest(salted, b"Server Key", digest))


def matches(secret: Secret, password: bytes, digest: str) -> bool:
    """Whether the secret was made from `password`, as it is (Dovecot) or prepared (RFC 5802)."""
    for form in dict.fromkeys((password, prepare(password))):
        made = derive(form, secret.salt, secret.iterations, digest)
        if hmac.compare_digest(made.stored_key, secret.stored_key):
            return True
    return False


def prepare(password: bytes) -> bytes:
    """SASLprep (RFC 4013) for stored strings; what it forbids stays as it is."""
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        return password
    if text.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)
    )
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    return password if _forbidden(text) else text.encode()


def prohibits(text: str) -> bool:
    """Whether SASLprep has a character of this in its list of prohibited ones (RFC 4013 §2.3), but
    spaces, which it maps."""
    if text.isascii() and text.isprintable():
        return False
    tables = (
        stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
        stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7,
        stringprep.in_table_c8, stringprep.in_table_c9,
    )  # fmt: skip
    # What is mapped to nothing, as the zero width joiner is, stands in table C.2.2 too.
    kept = [c for c in text if not stringprep.in_table_b1(c)]
    return any(table(c) for c in kept for table in tables)


def _forbidden(text: str) -> bool:
    unassigned = stringprep.in_table_c12, stringprep.in_table_a1
    if not text or prohibits(text) or any(table(c) for c in text for table in unassigned):
        return True
    right_to_left = [stringprep.in_table_d1(c) for c in text]
    if not any(right_to_left):
        return False
    mixed = any(stringprep.in_table_d2(c) for c in text)
    return mixed or not (right_to_left[0] and right_to_left[-1])


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """The client's first message. bare: without the GS2 header, as it is signed."""

    gs2_header: bytes
    bare: bytes
    authzid: str
    name: str
    nonce: bytes


def parse_client_first(message: bytes) -> ClientFirst:
    """RFC 5802 §7's client-first-message. Raises ScramError."""
    fields = message.split(b",", 2)
    if len(fields) != 3:
        raise ScramError("malformed SCRAM message")
    binding, authzid, bare = fields
    # "y": the client could bind to the TLS channel and sees that we do not offer it, which is so.
    if binding not in (b"n", b"y"):
        raise ScramError("channel binding is not offered")
    if authzid and not authzid.startswith(b"a="):
        raise ScramError("malformed SCRAM message")
    attributes = bare.split(b",")
    # m= would be a mandatory extension; others may follow the nonce and mean nothing.
    if len(attributes) < 2 or not attributes[0].startswith(b"n="):
        raise ScramError("malformed SCRAM message")
    nonce = attributes[1]
    if not nonce.startswith(b"r=") or len(nonce) < 3 or not _printable(nonce):
        raise ScramError("malformed SCRAM message")
    return ClientFirst(
        binding + b"," + authzid + b",", bare, _name(authzid[2:]), _name(attributes[0][2:]),
        nonce[2:],
    )  # fmt: skip


def _printable(text: bytes) -> bool:
    return all(0x21 <= octet <= 0x7E for octet in text)


def _name(encoded: bytes) -> str:
    """RFC 5802 §5.1: =2C and =3D stand for comma and equals sign."""
    if encoded.replace(b"=2C", b"").replace(b"=3D", b"").count(b"="):
        raise ScramError("malformed SCRAM message")
    try:
        return encoded.replace(b"=2C", b",").replace(b"=3D", b"=").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScramError("not UTF-8") from error


class ScramExchange:
    """The two messages after the client's first.

    secret: the user's, or for nobody a made-up one, which no password fits.
    nonce: the server's part, for tests; printable without commas.
    """

    def __init__(self, first: ClientFirst, secret: Secret, digest: str, nonce: bytes = b"") -> None:
        self._first = first
        self._secret = secret
        self._digest = digest
        self._nonce = first.nonce + (nonce or secrets.token_urlsafe(18).encode())
        salt = base64.b64encode(secret.salt)
        self.challenge = b"r=%b,s=%b,i=%d" % (self._nonce, salt, secret.iterations)

    def finish(self, message: bytes) -> bytes | None:
        """The server's signature ("v=…") where the client's proof is good. Raises ScramError."""
        unsigned, comma, proof = message.rpartition(b",p=")
        attributes = unsigned.split(b",")
        if not comma or len(attributes) < 2:
            raise ScramError("malformed SCRAM message")
        binding = b"c=" + base64.b64encode(self._first.gs2_header)
        if attributes[0] != binding or attributes[1] != b"r=" + self._nonce:
            raise ScramError("SCRAM message of another exchange")
        try:
            claimed = base64.b64decode(proof, validate=True)
        except binascii.Error as error:
            raise ScramError("malformed SCRAM message") from error
        secret, digest = self._secret, self._digest
        signed = b",".join((self._first.bare, self.challenge, unsigned))
        signature = hmac.digest(secret.stored_key, signed, digest)
        if len(claimed) != len(signature):
            return None
        client_key = bytes(a ^ b for a, b in zip(claimed, signature, strict=True))
        if not hmac.compare_digest(hashlib.new(digest, client_key).digest(), secret.stored_key):
            return None
        return b"v=" + base64.b64encode(hmac.digest(secret.server_key, signed, digest))
