"""Makes stored passwords: ``{SCHEME}hash``, as ``doveadm pw`` does. `schemes` checks them."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.kdf.argon2 import Argon2i, Argon2id

from resel_mta.users import scram
from resel_mta.users.libcrypt import crypt
from resel_mta.users.md5_state import cram_md5
from resel_mta.users.schemes import SchemeError

_SALT_LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#: As `doveadm pw` without -s: bcrypt under the name that every crypt(3) reads.
DEFAULT_SCHEME = "CRYPT"
_PBKDF2_ROUNDS = 5000
_SALT = 16

# (password, rounds or 0) → hash
Maker = Callable[[bytes, int], str]


def _salt(length: int) -> str:
    return "".join(secrets.choice(_SALT_LETTERS) for _ in range(length))


def _crypted(password: bytes, setting: str) -> str:
    hashed = crypt(password, setting.encode("ascii"))
    if hashed is None:
        raise SchemeError("libcrypt does not know this method, or refuses the password")
    return hashed.decode("ascii")


def _bcrypt(password: bytes, rounds: int) -> str:
    if rounds and not 4 <= rounds <= 31:
        raise SchemeError("rounds must be 4 to 31")
    # The last of the 22 letters holds two bits only.
    return _crypted(password, f"$2y${rounds or 5:02d}${_salt(21)}{secrets.choice('.Oeu')}")


def _sha_crypt(number: int) -> Maker:
    def make(password: bytes, rounds: int) -> str:
        said = f"rounds={min(max(rounds, 1000), 999_999_999)}$" if rounds else ""
        return _crypted(password, f"${number}${said}{_salt(_SALT)}$")

    return make


def _md5_crypt(password: bytes, rounds: int) -> str:
    return _crypted(password, f"$1${_salt(8)}$")


def _des_crypt(password: bytes, rounds: int) -> str:
    return _crypted(password, _salt(2))


def _yescrypt(password: bytes, rounds: int) -> str:
    """Debian's own way of keeping passwords, at its cost."""
    # crypt(5): 22 letters are 16 octets, so that the last holds two bits only.
    return _crypted(password, f"$y$j9T${_salt(21)}{secrets.choice('./01')}")


def _cram_md5(password: bytes, rounds: int) -> str:
    return cram_md5(password).hex()


def _scram(digest: str) -> Maker:
    def make(password: bytes, rounds: int) -> str:
        salt = os.urandom(scram.SALT)
        prepared = scram.prepare(password)
        return scram.derive(prepared, salt, rounds or scram.ITERATIONS, digest).format()

    return make


def _plain(password: bytes, rounds: int) -> str:
    return password.decode("utf-8", "surrogateescape")


def _digest(name: str) -> Maker:
    def make(password: bytes, rounds: int) -> str:
        return base64.b64encode(hashlib.new(name, password).digest()).decode("ascii")

    return make


def _plain_md5(password: bytes, rounds: int) -> str:
    return hashlib.md5(password, usedforsecurity=False).hexdigest()


def _salted(name: str) -> Maker:
    def make(password: bytes, rounds: int) -> str:
        salt = os.urandom(4)
        digest = hashlib.new(name, password + salt).digest()
        return base64.b64encode(digest + salt).decode("ascii")

    return make


def _pbkdf2(password: bytes, rounds: int) -> str:
    rounds = rounds or _PBKDF2_ROUNDS
    salt = _salt(_SALT)
    digest = hashlib.pbkdf2_hmac("sha1", password, salt.encode("ascii"), rounds, 20)
    return f"$1${salt}${rounds}${digest.hex()}"


def _argon2(kind: type[Argon2i] | type[Argon2id]) -> Maker:
    """With libsodium's "interactive" costs, as Dovecot."""

    def make(password: bytes, rounds: int) -> str:
        made = kind(
            salt=os.urandom(_SALT), length=32, iterations=rounds or 3, lanes=1, memory_cost=65536
        )
        return made.derive_phc_encoded(password)

    return make


_MAKERS: Mapping[str, Maker] = {
    "ARGON2I": _argon2(Argon2i),
    "ARGON2ID": _argon2(Argon2id),
    "BLF-CRYPT": _bcrypt,
    "CLEAR": _plain,
    "CLEARTEXT": _plain,
    "CRAM-MD5": _cram_md5,
    "CRYPT": _bcrypt,
    "DES-CRYPT": _des_crypt,
    "HMAC-MD5": _cram_md5,
    "LDAP-MD5": _digest("md5"),
    "MD5": _md5_crypt,
    "MD5-CRYPT": _md5_crypt,
    "PBKDF2": _pbkdf2,
    "PLAIN": _plain,
    "PLAIN-MD5": _plain_md5,
    "SCRAM-SHA-1": _scram("sha1"),
    "SCRAM-SHA-256": _scram("sha256"),
    "SHA": _digest("sha1"),
    "SHA1": _digest("sha1"),
    "SHA256": _digest("sha256"),
    "SHA256-CRYPT": _sha_crypt(5),
    "SHA512": _digest("sha512"),
    "SHA512-CRYPT": _sha_crypt(6),
    "SMD5": _salted("md5"),
    "SSHA": _salted("sha1"),
    "SSHA256": _salted("sha256"),
    "SSHA512": _salted("sha512"),
    "YESCRYPT": _yescrypt,
}

SCHEMES = tuple(_MAKERS)


def make_password(scheme: str, password: bytes, rounds: int = 0) -> str:
    """``{SCHEME}hash`` with a fresh salt. rounds: 0 for the scheme's usual cost. Blocks for as
    long as the scheme wants. Raises SchemeError, CryptUnavailable."""
    maker = _MAKERS.get(scheme.upper())
    if maker is None:
        raise SchemeError(f"Unknown scheme: {scheme}")
    # Dovecot has no name for yescrypt: it is one of crypt(3)'s methods.
    name = "CRYPT" if scheme.upper() == "YESCRYPT" else scheme.upper()
    return f"{{{name}}}{maker(password, rounds)}"
