"""Which stored passwords can be used with SCRAM, and what strangers are shown instead of one."""

from __future__ import annotations

import contextlib
import hmac
import os

from resel_mta.users import schemes, scram
from resel_mta.users.scram import HASHES, ITERATIONS, SALT, Secret

_NONE: frozenset[str] = frozenset()
_ALL = frozenset(HASHES)
_PLAIN = ("PLAIN", "CLEAR", "CLEARTEXT")


def usable(stored: str) -> frozenset[str]:
    """The SCRAM mechanisms that a stored password allows. Raises schemes.SchemeError."""
    scheme, data = schemes.parse(stored)
    if scheme in _PLAIN:
        return _ALL
    if scheme not in HASHES:
        return _NONE
    try:
        scram.parse_secret(data, HASHES[scheme])
    except scram.ScramError as error:
        raise schemes.SchemeError(str(error)) from error
    return frozenset((scheme,))


class ScramSecrets:
    """Secrets for exchanges, also for users that there are not: the same salt each time, as a real
    one has. key: what salts are made from; None for one that is the machine's own.
    """

    def __init__(self, key: bytes | None = None) -> None:
        # Never told to anybody as it is (machine-id(5)); the same after a restart, since a salt
        # that changes belongs to nobody.
        self._key = key or hmac.digest(_machine_id(), b"resel-mta SCRAM salts", "sha256")

    def secret(self, name: str, stored: str, mechanism: str) -> Secret:
        """Of a stored password that `usable` found good for `mechanism`. Takes milliseconds if it
        is a plain one: for a thread. Raises schemes.SchemeError."""
        scheme, data = schemes.parse(stored)
        digest = HASHES[mechanism]
        if scheme in _PLAIN:
            salt = self._made_up("salt", name, SALT)
            return scram.derive(scram.prepare(data), salt, ITERATIONS, digest)
        try:
            return scram.parse_secret(data, digest)
        except scram.ScramError as error:
            raise schemes.SchemeError(str(error)) from error

    def decoy(self, name: str, sample: str, mechanism: str) -> Secret:
        """For a user who has none: it looks like `sample`, another user's stored password ("" for
        none), takes as long, and no password fits."""
        password = self._made_up("password", name, 32)
        real: Secret | None = None
        if sample and mechanism in usable(sample):
            if schemes.parse(sample)[0] in _PLAIN:
                return self.secret(name, "{PLAIN}" + password.hex(), mechanism)
            real = self.secret(name, sample, mechanism)
        salt = self._made_up("salt", name, len(real.salt) if real else SALT)
        size = len(real.stored_key) if real else 32
        iterations = real.iterations if real else ITERATIONS
        return Secret(iterations, salt, os.urandom(size), os.urandom(size))

    def _made_up(self, what: str, name: str, size: int) -> bytes:
        text = f"{what}\0{name.lower()}".encode("utf-8", "surrogateescape")
        made = b""
        while len(made) < size:
            made += hmac.digest(self._key, text + made, "sha256")
        return made[:size]


def _machine_id() -> bytes:
    with contextlib.suppress(OSError):
        with open("/etc/machine-id", "rb") as file:
            found = file.read(64).strip()
            if len(found) >= 32:
                return found
    return os.urandom(32)
