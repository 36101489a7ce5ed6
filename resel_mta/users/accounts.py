"""The userdb as the supervisor asks it: one name at a time, without an event loop."""

from __future__ import annotations

import errno
import os
import pwd
import time
from dataclasses import replace

from resel_mta.config import Settings
from resel_mta.users.ldap import DirectoryError, LdapClient
from resel_mta.users.ldap_config import parse_ldap_config
from resel_mta.users.passwd_file import Entry, parse
from resel_mta.users.user import User

# Seconds that the supervisor waits for a directory, and for which it believes an answer.
_PATIENCE = 3.0
_KEPT = 60.0
_MAX_ASKED = 10_000


class Accounts:
    """Finds users who have a uid of their own. Blocks."""

    def __init__(self, settings: Settings) -> None:
        self._sources = (
            (settings.text("userdb") or settings.text("passdb") or "system")
            .replace(",", " ")
            .split()
        )
        self._asked: dict[tuple[str, str], tuple[float, User]] = {}
        self._read: dict[str, tuple[tuple[int, int, int], dict[str, Entry]]] = {}

    def find(self, name: str) -> User | None:
        """The user with uid, gid and home, None if there is none. Raises OSError."""
        for source in self._sources:
            kind, _, path = source.partition(":")
            if kind == "ldap":
                user = self._in_directory(path, name)
            elif kind == "passwd-file":
                user = self._in_file(path, name)
            else:
                user = _in_system(name)
            if user is not None:
                return user
        return None

    def _in_directory(self, path: str, name: str) -> User | None:
        """A directory that hangs holds up the supervisor: it is asked rarely, and not for long. The
        network process has found the user there just now."""
        key, now = (path, name.lower()), time.monotonic()
        known = self._asked.get(key)
        if known is not None and known[0] > now:
            return known[1]
        with open(path, encoding="utf-8") as file:
            text = file.read()

        try:
            client = LdapClient(parse_ldap_config(text, path), _PATIENCE)
            try:
                user = client.find(name)
            finally:
                client.close()
        except (DirectoryError, ValueError) as error:
            raise OSError(errno.EAGAIN, f"the directory does not answer: {error}", path) from error
        if len(self._asked) >= _MAX_ASKED:
            self._asked.clear()
        if user is not None:
            user = user if user.uid is None or user.gid is not None else _with_group(user, user.uid)
            self._asked[key] = (now + _KEPT, user)
        return user

    def _in_file(self, path: str, name: str) -> User | None:
        status = os.stat(path)
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                known = self._read[path] = (stamp, parse(file.read(), path).entries)
        entry = known[1].get(name.lower())
        if entry is None:
            return None
        user = entry.user
        return user if user.uid is None or user.gid is not None else _with_group(user, user.uid)


def _with_group(user: User, uid: int) -> User:
    """A line that names a uid and no gid: the account's own group."""
    try:
        return replace(user, gid=pwd.getpwuid(uid).pw_gid)
    except KeyError:
        return user


def _in_system(name: str) -> User | None:
    if not name or "\0" in name or "@" in name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)
