"""A user, as all back ends give it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIZE = re.compile(r"(\d+)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


@dataclass(frozen=True, slots=True)
class User:
    """A person with a mailbox.

    uid, gid: None where the userdb gives none (mail_uid, or the daemon's own).
    home: "" where there is none.
    mail_location: the user's own (Dovecot's `userdb_mail`), "" for the configured one.
    quota_storage_size: octets; 0 is unlimited; None for the configured one.
    """

    name: str
    uid: int | None = None
    gid: int | None = None
    home: str = ""
    mail_location: str = ""
    quota_storage_size: int | None = None


def parse_size(text: str, default_unit: str = "b") -> int:
    """Octets of "500", "10M", "1 GB". Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text[:40]}")
    return int(match[1]) * _UNITS[(match[2] or default_unit).lower()]


def parse_quota_rule(rule: str) -> int | None:
    """Octets of storage in Dovecot's ``*:storage=1G:messages=1000``, None if it limits none.

    `storage` counts in KiB where no unit is written, `bytes` in octets. Raises ValueError.
    """
    folder, _, limits = rule.partition(":")
    if folder not in ("*", "?"):
        return None
    for limit in limits.split(":"):
        name, _, value = limit.partition("=")
        if name == "storage":
            return parse_size(value, "k")
        if name == "bytes":
            return parse_size(value)
    return None
