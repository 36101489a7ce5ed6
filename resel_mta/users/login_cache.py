"""Successful log-ins, remembered for a short while: a client that opens ten connections pays for
one hash. Failures are not remembered."""

from __future__ import annotations

import hashlib
import hmac
import os
import time

_SIZE = 4096


class LoginCache:
    """ttl: seconds for which a success counts; 0 remembers nothing."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self._secret = os.urandom(32)
        self._until: dict[bytes, float] = {}

    def key(self, name: str, stored: str, password: bytes) -> bytes:
        """Keyed, so that a memory dump is no list of fast hashes to guess from. stored: what the
        password was checked against, so that a changed one counts at once."""
        text = f"{name.lower()}\0{stored}\0".encode("utf-8", "surrogateescape") + password
        return hmac.digest(self._secret, text, hashlib.sha256)

    def knows(self, key: bytes) -> bool:
        """Whether this very log-in succeeded within the last `ttl` seconds."""
        return self._until.get(key, 0.0) > time.monotonic()

    def remember(self, key: bytes) -> None:
        """It succeeded just now."""
        if self.ttl <= 0:
            return
        now = time.monotonic()
        if len(self._until) >= _SIZE:
            self._until = {known: until for known, until in self._until.items() if until > now}
            if len(self._until) >= _SIZE:
                self._until.clear()
        self._until[key] = now + self.ttl

    def clear(self) -> None:
        """Forget all."""
        self._until.clear()
