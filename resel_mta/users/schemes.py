"""Dovecot's password schemes: ``{SCHEME}hash``, ``{SCHEME.b64}…``, ``{SCHEME.hex}…``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2i, Argon2id

from resel_mta.users import scram
from resel_mta.users.libcrypt import crypt
from resel_mta.users.md5_state import cram_md5

_PREFIX = re.compile(r"\{([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9]+))?\}")
_HEX = re.compile(r"[0-9A-Fa-f]+")


class SchemeError(Exception):
    """A stored password that cannot be checked: unknown scheme or malformed hash. Its text never
    holds the hash."""


def _plain(password: bytes, stored: bytes) -> bool:
    return hmac.compare_digest(password, stored)


def _crypt(password: bytes, stored: bytes) -> bool:
    hashed = crypt(password, stored)
    return hashed is not None and hmac.compare_digest(hashed, stored)


def _digest(name: str) -> Callable[[bytes, bytes], bool]:
    """SHA, SHA256 …: the digest alone."""

    def check(password: bytes, stored: bytes) -> bool:
        return hmac.compare_digest(hashlib.new(name, password).digest(), stored)

    return check


def _salted(name: str) -> Callable[[bytes, bytes], bool]:
    """SSHA, SSHA256 …: digest of password and salt, then the salt."""
    size = hashlib.new(name).digest_size

    def check(password: bytes, stored: bytes) -> bool:
        if len(stored) <= size:
            raise SchemeError("a salted hash without salt")
        digest = hashlib.new(name, password + stored[size:]).digest()
        return hmac.compare_digest(digest, stored[:size])

    return check


def _pbkdf2(password: bytes, stored: bytes) -> bool:
    """``$1$salt$rounds$hex of 20 octets``, PBKDF2 with HMAC-SHA1."""
    fields = stored.split(b"$")
    if len(fields) != 5 or fields[0] or fields[1] != b"1" or not fields[3].isdigit():
        raise SchemeError("a malformed PBKDF2 hash")
    rounds = int(fields[3])
    if not 1 <= rounds <= 10_000_000:
        raise SchemeError("a PBKDF2 hash with an impossible number of rounds")
    digest = hashlib.pbkdf2_hmac("sha1", password, fields[2], rounds, 20)
    return hmac.compare_digest(digest.hex().encode(), fields[4].lower())


def _argon2(kind: type[Argon2i] | type[Argon2id]) -> Callable[[bytes, bytes], bool]:
    def check(password: bytes, stored: bytes) -> bool:
        if not stored.startswith(b"$argon2"):
            raise SchemeError("a malformed Argon2 hash")
        try:
            kind.verify_phc_encoded(password, stored.decode("ascii"))
        except InvalidKey:
            return False
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SchemeError("a malformed Argon2 hash") from error
        return True

    return check


def _md5(password: bytes, stored: bytes) -> bool:
    """MD5: crypt's, or a plain digest in hexadecimal."""
    if stored.startswith(b"$1$"):
        return _crypt(password, stored)
    digest = hashlib.md5(password, usedforsecurity=False).hexdigest()
    return hmac.compare_digest(digest.encode(), stored.lower())


def _cram_md5(password: bytes, stored: bytes) -> bool:
    if len(stored) != 32:
        raise SchemeError("a malformed CRAM-MD5 secret")
    return hmac.compare_digest(cram_md5(password), stored)


def _scram(digest: str) -> Callable[[bytes, bytes], bool]:
    def check(password: bytes, stored: bytes) -> bool:
        try:
            secret = scram.parse_secret(stored, digest)
        except scram.ScramError as error:
            raise SchemeError(str(error)) from error
        return scram.matches(secret, password, digest)

    return check


#: Scheme -> (check, encoding when none is written).
_SCHEMES: dict[str, tuple[Callable[[bytes, bytes], bool], str]] = {
    "PLAIN": (_plain, "none"),
    "CLEAR": (_plain, "none"),
    "CLEARTEXT": (_plain, "none"),
    "CRYPT": (_crypt, "none"),
    "DES-CRYPT": (_crypt, "none"),
    "MD5": (_md5, "none"),
    "MD5-CRYPT": (_md5, "none"),
    "SHA256-CRYPT": (_crypt, "none"),
    "SHA512-CRYPT": (_crypt, "none"),
    "BLF-CRYPT": (_crypt, "none"),
    "PLAIN-MD5": (_digest("md5"), "hex"),
    "LDAP-MD5": (_digest("md5"), "base64"),
    "SMD5": (_salted("md5"), "base64"),
    "CRAM-MD5": (_cram_md5, "hex"),
    "HMAC-MD5": (_cram_md5, "hex"),
    "SHA": (_digest("sha1"), "base64"),
    "SHA1": (_digest("sha1"), "base64"),
    "SHA256": (_digest("sha256"), "base64"),
    "SHA512": (_digest("sha512"), "base64"),
    "SSHA": (_salted("sha1"), "base64"),
    "SSHA256": (_salted("sha256"), "base64"),
    "SSHA512": (_salted("sha512"), "base64"),
    "PBKDF2": (_pbkdf2, "none"),
    "ARGON2I": (_argon2(Argon2i), "none"),
    "ARGON2ID": (_argon2(Argon2id), "none"),
    "SCRAM-SHA-1": (_scram("sha1"), "none"),
    "SCRAM-SHA-256": (_scram("sha256"), "none"),
}

SCHEMES = frozenset(_SCHEMES)
_DIGEST_SIZES = {
    "PLAIN-MD5": 16, "LDAP-MD5": 16, "SHA": 20, "SHA1": 20, "SHA256": 32, "SHA512": 64,
}  # fmt: skip


def parse(stored: str) -> tuple[str, bytes]:
    """(scheme, decoded hash) of a stored password; CRYPT where no scheme is written.

    Raises SchemeError.
    """
    match = _PREFIX.match(stored)
    if match is None:
        return "CRYPT", stored.encode("utf-8", "surrogateescape")
    scheme = match[1].upper()
    if scheme not in _SCHEMES:
        raise SchemeError(f"unknown password scheme {scheme}")
    encoding = (match[2] or "").lower() or _SCHEMES[scheme][1]
    text = stored[match.end() :]
    size = _DIGEST_SIZES.get(scheme)
    if match[2] is None and size is not None:
        # Dovecot takes an unsalted digest in either form, recognised by its length.
        is_hex = len(text) == 2 * size and _HEX.fullmatch(text)
        encoding = "hex" if is_hex else "base64"
    return scheme, _decode(text, encoding)


def _decode(text: str, encoding: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    try:
        if encoding == "none":
            return data
        if encoding in ("b64", "base64"):
            return base64.b64decode(data, validate=True)
        if encoding == "hex":
            return bytes.fromhex(text)
    except (binascii.Error, ValueError) as error:
        raise SchemeError(f"a hash that is not {encoding}") from error
    raise SchemeError(f"unknown password encoding {encoding[:16]}")


def verify(stored: str, password: bytes) -> bool:
    """Whether `password` is the one that `stored` was made from. Blocks for as long as the scheme
    wants (1 to 500 ms): for a thread. Raises SchemeError, CryptUnavailable."""
    scheme, data = parse(stored)
    return _SCHEMES[scheme][0](password, data)
