"""Users from a passwd-file in Dovecot's format.

    user:password:uid:gid:gecos:home:shell:extra_fields

Only the user's name is needed. Extra fields are separated by spaces; those that begin with
``userdb_`` say something of the mailbox, the others of the log-in.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from resel_mta.mail import Reply, TempFail
from resel_mta.users import schemes
from resel_mta.users.scram_secrets import usable
from resel_mta.users.user import User, parse_quota_rule, parse_size

#: Log-in rules of Dovecot that we cannot honour: whoever has one cannot log in.
_UNSUPPORTED = ("allow_nets", "proxy", "proxy_maybe", "host", "allow_real_nets")
#: Seconds between two looks at the file's stamp.
_STAT_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A line. password: with its scheme, None where the line has none; any: `nopassword`.

    refused: why nobody may log in as this user, "" where somebody may.
    """

    user: User
    password: str | None = None
    any_password: bool = False
    refused: str = ""


@dataclass(slots=True)
class Table:
    """A file as read. names: users in the file's order, entries by name in lower case.

    decoy: a stored password like most. scram: mechanisms that all who may log in can use.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    decoy: str = ""
    scram: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        return [entry.user.name for entry in self.entries.values()]


def parse(text: str, path: str) -> Table:
    """Every good line; each broken one is a line in `problems`, as "file:line: what". Later lines
    of a user named twice do not count, as in Dovecot."""
    table = Table()
    used: Counter[str] = Counter()
    scram: Counter[str] = Counter()
    able = 0
    samples: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            entry = parse_line(line)
            if entry.user.name.lower() in table.entries:
                raise ValueError(f"user {entry.user.name} is already there")
        except ValueError as error:
            table.problems.append(f"{path}:{number}: {error}")
            continue
        if entry.refused:
            table.problems.append(
                f"{path}:{number}: user {entry.user.name} may not log in: {entry.refused}"
            )
        table.entries[entry.user.name.lower()] = entry
        if not entry.refused and (entry.password is not None or entry.any_password):
            able += 1
        if entry.password is not None:
            if not entry.refused:
                scram.update(usable(entry.password))
            scheme = schemes.parse(entry.password)[0]
            used[scheme] += 1
            samples.setdefault(scheme, entry.password)
    if used:
        table.decoy = samples[used.most_common(1)[0][0]]
    table.scram = frozenset(name for name, count in scram.items() if count == able)
    return table


def parse_line(line: str) -> Entry:
    """One line. Raises ValueError, whose text holds no password."""
    fields = line.rstrip("\r").split(":", 7)
    fields += [""] * (8 - len(fields))
    name, password, uid, gid, _gecos, home, _shell, extra = fields
    name = name.strip()
    if not name or any(c.isspace() or not c.isprintable() for c in name):
        raise ValueError("no user name, or one with spaces")
    if "/" in name or name in (".", ".."):
        raise ValueError("a user name may not hold a slash")
    options = _options(extra)
    user = User(
        name=name,
        uid=_number(uid, "uid", lambda text: pwd.getpwnam(text).pw_uid),
        gid=_number(gid, "gid", lambda text: grp.getgrnam(text).gr_gid),
        home=options.get("userdb_home", home),
        mail_location=options.get("userdb_mail", ""),
        quota_storage_size=_quota(options),
    )
    if "nopassword" in options:
        # Dovecot demands an empty password field beside it; anything else is a slip of the pen.
        return Entry(user, None, not password, _refusal(options))
    if not password or password[0] in "*!" or password == "x":
        return Entry(user, None, False, _refusal(options))
    try:
        usable(password)
    except schemes.SchemeError as error:
        # The mailbox goes on receiving mail.
        return Entry(user, None, False, str(error))
    return Entry(user, password, False, _refusal(options))


def _options(extra: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in extra.split():
        name, equals, value = word.partition("=")
        options[name] = value if equals else "yes"
    return options


def _number(text: str, what: str, by_name: Callable[[str], int]) -> int | None:
    if not text:
        return None
    try:
        return int(text) if text.isdecimal() else by_name(text)
    except KeyError:
        raise ValueError(f"{what} {text[:40]} does not exist") from None


def _quota(options: dict[str, str]) -> int | None:
    for name in ("userdb_quota_storage_size", "quota_storage_size"):
        if name in options:
            text = options[name]
            return 0 if text == "unlimited" else parse_size(text)
    for name in ("userdb_quota_rule", "userdb_quota_rule2", "userdb_quota_rule3"):
        size = parse_quota_rule(options[name]) if name in options else None
        if size is not None:
            return size
    return None


def _refusal(options: dict[str, str]) -> str:
    if options.get("nologin", "no") not in ("no", "n", "false"):
        return "nologin"
    for name in _UNSUPPORTED:
        if name in options:
            return f"{name} is not supported"
    return ""


class PasswdFile:
    """A passwd-file that is read again when it changes, looked at no more than once a second."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn
        self._table: Table | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._looked = 0.0
        self._reading: asyncio.Task[Table] | None = None

    async def find(self, name: str) -> User | None:
        """The user of that name, in lower case. Raises TempFail."""
        entry = (await self.table()).entries.get(name)
        return entry.user if entry is not None else None

    async def names(self) -> list[str]:
        """All users. Raises TempFail."""
        return (await self.table()).names

    async def table(self) -> Table:
        """The file as it is now. Raises TempFail when it cannot be read."""
        table = self._table
        if table is not None and time.monotonic() - self._looked < _STAT_INTERVAL:
            return table
        if self._reading is None or self._reading.done():
            # One look for all who ask meanwhile; shielded, so that one who gives up ends none.
            self._reading = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._reading)

    def glance(self) -> Table | None:
        """The file as it was read last, None if it never was. A look that is due is begun, not
        waited for."""
        due = self._table is None or time.monotonic() - self._looked >= _STAT_INTERVAL
        if due and (self._reading is None or self._reading.done()):
            self._reading = asyncio.ensure_future(self._look())
            # Nobody may come to ask how it went; the log has been told.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._table

    async def _look(self) -> Table:
        try:
            stamp, table = await asyncio.to_thread(self._read)
        except (OSError, UnicodeDecodeError) as error:
            self._table = None
            self._stamp = None
            self._warn(f"{self.path}: {_reason(error)}")
            raise TempFail(Reply(451, "4.3.0", "Temporary user lookup failure")) from error
        if table is not None:
            self._table = table
            self._stamp = stamp
            for problem in table.problems:
                self._warn(problem)
        self._looked = time.monotonic()
        if self._table is None:
            raise TempFail(Reply(451, "4.3.0", "Temporary user lookup failure"))
        return self._table

    def _read(self) -> tuple[tuple[int, int, int], Table | None]:
        """The file's stamp, and its content if it changed; in a thread."""
        status = os.stat(self.path)
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return stamp, None
        with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
            return stamp, parse(file.read(), self.path)


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
