"""SASL as a client: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195).

Credentials come from `smtp_sasl_password_maps`: ``user:password`` by next hop or host name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


class PasswordMaps(Protocol):
    """What is needed of `resel_mta.config.maps.MapSet`."""

    async def lookup(self, key: str) -> str | None:
        """Raises TempFail."""
        ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password for one server; the password does not show in repr()."""

    username: str
    password: str = field(repr=False)


async def find_credentials(maps: PasswordMaps, nexthop: str, host: str) -> Credentials | None:
    """Those of the host, else of the next hop as configured. Raises TempFail."""
    for key in (host, nexthop):
        value = await maps.lookup(key)
        if value:
            username, _, password = value.partition(":")
            return Credentials(username, password)
    return None


def choose_mechanism(offered: Sequence[str], options: Sequence[str]) -> str:
    """The mechanism to use, or "" if none is allowed by these security options."""
    for mechanism in ("CRAM-MD5", "PLAIN", "LOGIN"):
        plaintext = mechanism != "CRAM-MD5"
        if mechanism in offered and not (plaintext and "noplaintext" in options):
            return mechanism
    return ""


class SaslClient:
    """One authentication: `start` gives the AUTH command, `step` the answer to each 334."""

    def __init__(self, mechanism: str, credentials: Credentials) -> None:
        self._mechanism = mechanism
        self._username = credentials.username.encode()
        self._password = credentials.password.encode()
        self._steps = 0

    def start(self) -> bytes:
        """The whole AUTH command line."""
        if self._mechanism == "PLAIN":
            initial = b"\0" + self._username + b"\0" + self._password
            return b"AUTH PLAIN " + base64.b64encode(initial) + b"\r\n"
        return f"AUTH {self._mechanism}\r\n".encode()

    def step(self, challenge: str) -> bytes:
        """The response line; "*" (cancel) where the server asks for something odd."""
        self._steps += 1
        if self._mechanism == "CRAM-MD5" and self._steps == 1:
            try:
                nonce = base64.b64decode(challenge, validate=True)
            except (binascii.Error, ValueError):
                return b"*\r\n"
            digest = hmac.new(self._password, nonce, hashlib.md5).hexdigest()
            return base64.b64encode(self._username + b" " + digest.encode()) + b"\r\n"
        if self._mechanism == "LOGIN" and self._steps <= 2:
            answer = self._username if self._steps == 1 else self._password
            return base64.b64encode(answer) + b"\r\n"
        return b"*\r\n"
