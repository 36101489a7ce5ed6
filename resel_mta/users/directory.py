"""`Users`: who has a mailbox, and who may log in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from resel_mta.config import ConfigError, Settings
from resel_mta.config.problems import Problem
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog
from resel_mta.users import schemes
from resel_mta.users.ldap import LdapDirectory
from resel_mta.users.ldap_config import parse_ldap_config
from resel_mta.users.libcrypt import CryptUnavailable
from resel_mta.users.libldap import LdapUnavailable, library
from resel_mta.users.login_cache import LoginCache
from resel_mta.users.pam import PamFactory, PamFailure, PamLogin, ThreadPam, temporary_failure
from resel_mta.users.passwd_file import Entry, PasswdFile
from resel_mta.users.penalties import Penalties
from resel_mta.users.scram import HASHES, Secret
from resel_mta.users.scram_secrets import ScramSecrets, usable
from resel_mta.users.system import SystemUsers
from resel_mta.users.user import User
from resel_mta.users.username import UsernameFormat

#: A longer password is refused unchecked: some schemes cost time in proportion to its length.
MAX_PASSWORD = 1024
_HASH_THREADS = 2
#: Passwords that wait for a thread; with more, whoever comes is told to try again later.
_MAX_HASHING = 256
CACHE_SECONDS = 60.0
FAILURE_DELAY = 2.0
MECHANISMS = ("PLAIN", "LOGIN")

_P = ParamSpec("_P")
_T = TypeVar("_T")


class UserSource(Protocol):
    """A userdb."""

    async def find(self, name: str) -> User | None:
        """Raises TempFail."""
        ...

    async def names(self) -> list[str]:
        """Raises TempFail."""
        ...


class Users:
    """The configured passdb and userdb together. Safe for many callers in one event loop."""

    def __init__(
        self,
        userdb: list[UserSource],
        passdb: list[PasswdFile],
        warn: Callable[[str], None],
        logins: Sequence[PamLogin] = (),
        make_pam: PamFactory = ThreadPam,
    ) -> None:
        self.penalties = Penalties(FAILURE_DELAY)
        self._userdb = userdb
        self._passdb = passdb
        self._logins = tuple(logins)
        self._warn = warn
        self._make_pam = make_pam
        self._hashing = ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="hash")
        self._hashed = 0
        self._cache = LoginCache(CACHE_SECONDS)
        self._verifying: dict[bytes, asyncio.Future[bool]] = {}
        self._scram = ScramSecrets()
        self._mechanisms: tuple[str, ...] = MECHANISMS
        self.known_as = UsernameFormat("")

    def reconfigure(self, settings: Settings) -> None:
        """From now on, those that `settings` names. Raises ConfigError, and changes nothing then."""
        _username_format(settings)
        userdb, passdb, logins = _open(settings, self._warn, self._make_pam)
        before = (*self._logins, *self._userdb)
        self._userdb, self._passdb, self._logins = userdb, passdb, logins
        self._cache.clear()
        self.tune(settings)
        _close(before)

    def tune(self, settings: Settings) -> None:
        """Take the times, and what a name at log-in means, from `settings`. Raises ConfigError."""
        self.known_as = _username_format(settings)
        self.penalties.delay = settings.seconds("auth_failure_delay")
        self._cache.ttl = settings.seconds("auth_cache_ttl")
        self._mechanisms = tuple(name.upper() for name in settings.items("auth_mechanisms"))

    async def find(self, name: str) -> User | None:
        """The user called `name` (case does not count). Raises TempFail."""
        name = name.lower()
        for source in self._userdb:
            user = await source.find(name)
            if user is not None:
                return user
        return None

    async def names(self) -> list[str]:
        """All users, sorted. Raises TempFail."""
        found: set[str] = set()
        for source in self._userdb:
            found.update(await source.names())
        return sorted(found)

    async def authenticate(self, name: str, password: bytes) -> User | None:
        """The user, if `password` is his. An unknown user takes as long as a wrong password; the
        caller delays what failed. PAM and LDAP are asked about those who are in no passwd-file.
        Raises TempFail."""
        name = self.known_as(name)
        entry, decoy = await self._login(name)
        if entry is None and self._logins:
            return await self._by_login(name, password)
        if len(password) > MAX_PASSWORD or (entry is not None and entry.refused):
            entry = None
        if entry is not None and entry.any_password:
            return await self.mailbox_of(entry)
        stored = entry.password if entry is not None else None
        if stored is None:
            if decoy:
                await self._verify(decoy, password[:MAX_PASSWORD], name)
            return None
        if not await self._matches(stored, password, name):
            return None
        assert entry is not None
        return await self.mailbox_of(entry)

    def mechanisms(self) -> tuple[str, ...]:
        """What clients can be offered now: SCRAM only where everybody who may log in has a secret
        for it, since a client takes the strongest and does not try another."""
        possible = frozenset(HASHES) if self._passdb and not self._logins else frozenset()
        for source in self._passdb:
            table = source.glance()
            possible &= table.scram if table is not None else frozenset()
        return tuple(name for name in self._mechanisms if name not in HASHES or name in possible)

    async def prepare(self) -> None:
        """Read the files, so that `mechanisms` is right from the first client on. A file that
        cannot be read is in the log."""
        for source in self._passdb:
            with contextlib.suppress(TempFail):
                await source.table()

    async def scram_secret(self, name: str, mechanism: str) -> tuple[Secret, Entry | None]:
        """What to prove a password against; with no entry, a made-up one that none fits. Takes as
        long for an unknown user as for others. Raises TempFail."""
        name = self.known_as(name)
        entry, decoy = await self._login(name)
        stored = None if entry is None or entry.refused else entry.password
        if stored is None or mechanism not in usable(stored):
            return await self._hash(self._scram.decoy, name, decoy, mechanism), None
        return await self._hash(self._scram.secret, name, stored, mechanism), entry

    async def mailbox_of(self, entry: Entry) -> User | None:
        """Who has proved to be the one of `entry`, None if no userdb has him. Raises TempFail."""
        user = await self.find(entry.user.name)
        if user is None:
            self._warn(f"user {entry.user.name} has a password but is not in userdb")
        return user

    async def _by_login(self, name: str, password: bytes) -> User | None:
        if len(password) > MAX_PASSWORD:
            return None
        for number, login in enumerate(self._logins):
            # Who has changed his password there can use the old one for as long as the cache says.
            key = self._cache.key(name, f"{number}", password)
            try:
                accepted = self._cache.knows(key) or await login.check(name.lower(), password)
            except PamFailure as failure:
                self._warn(f"user {name[:64]!r} cannot be checked: {failure}")
                raise temporary_failure() from failure
            if accepted:
                self._cache.remember(key)
                user = await self.find(name)
                if user is None:
                    self._warn(f"user {name[:64]!r} has a password but is not in userdb")
                return user
        return None

    async def _login(self, name: str) -> tuple[Entry | None, str]:
        """(the first passdb's entry for `name`, a hash to spend time on when there is none)."""
        decoy = ""
        for source in self._passdb:
            table = await source.table()
            entry = table.entries.get(name.lower())
            if entry is not None:
                return entry, table.decoy
            decoy = decoy or table.decoy
        return None, decoy

    async def _matches(self, stored: str, password: bytes, name: str) -> bool:
        """Whether it is the password; by the cache, if that knows. Raises TempFail."""
        key = self._cache.key(name, stored, password)
        if self._cache.knows(key):
            return True
        # A client that opens five connections at once pays for one hash as well.
        running = self._verifying.get(key)
        if running is None:
            running = asyncio.ensure_future(self._verify(stored, password, name))
            self._verifying[key] = running
            running.add_done_callback(lambda task: self._verified(key, task))
        return await asyncio.shield(running)

    def _verified(self, key: bytes, task: asyncio.Future[bool]) -> None:
        del self._verifying[key]
        if not task.cancelled() and task.exception() is None and task.result():
            self._cache.remember(key)

    async def _verify(self, stored: str, password: bytes, name: str) -> bool:
        try:
            return await self._hash(schemes.verify, stored, password)
        except (schemes.SchemeError, CryptUnavailable) as error:
            self._warn(f"password of user {name[:64]} cannot be checked: {error}")
            raise temporary_failure() from error

    async def _hash(self, work: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """In a thread. Raises TempFail where too much waits already."""
        if self._hashed >= _MAX_HASHING:
            raise temporary_failure()
        self._hashed += 1
        try:
            call = functools.partial(work, *args, **named)
            return await asyncio.get_running_loop().run_in_executor(self._hashing, call)
        finally:
            self._hashed -= 1

    def close(self) -> None:
        """Stop the threads."""
        self._hashing.shutdown(wait=False, cancel_futures=True)
        _close((*self._logins, *self._userdb))


def open_users(
    settings: Settings, log: MailLog | None = None, make_pam: PamFactory = ThreadPam
) -> Users:
    """The users that `passdb` and `userdb` name (userdb empty: passdb; both, or PAM alone:
    `system`). Files are read when first asked for. make_pam: whoever may ask PAM.

    Raises ConfigError for a back end that is not there.
    """

    def warn(text: str) -> None:
        if log is not None:
            log.warning("auth", text)

    userdb, passdb, logins = _open(settings, warn, make_pam)
    users = Users(userdb, passdb, warn, logins, make_pam)
    users.tune(settings)
    return users


def _username_format(settings: Settings) -> UsernameFormat:
    """Raises ConfigError."""
    try:
        return UsernameFormat(settings.text("auth_username_format"))
    except ValueError as error:
        raise ConfigError([Problem("", "auth_username_format", str(error))]) from error


def _close(sources: Iterable[object]) -> None:
    for source in sources:
        if isinstance(source, PamLogin):
            source.close()


def pam_services(settings: Settings) -> list[str]:
    """The PAM services that `passdb` names."""
    items = settings.text("passdb").replace(",", " ").split()
    return [item[4:] for item in items if item.startswith("pam:") and item[4:]]


def _open(
    settings: Settings, warn: Callable[[str], None], make_pam: PamFactory
) -> tuple[list[UserSource], list[PasswdFile], tuple[PamLogin, ...]]:
    """(userdb, passdb's files, its other log-ins); a file named in both is read once."""
    files: dict[str, PasswdFile] = {}

    def passwd_file(path: str) -> PasswdFile:
        return files.setdefault(path, PasswdFile(path, warn))

    directories: dict[str, LdapDirectory] = {}

    def ldap(parameter: str, path: str) -> LdapDirectory:
        if path not in directories:
            directories[path] = _open_ldap(parameter, path, warn)
        return directories[path]

    passdb_items = settings.text("passdb").replace(",", " ").split()
    userdb_items = settings.text("userdb").replace(",", " ").split()
    passdb: list[PasswdFile] = []
    logins: list[PamLogin] = []
    userdb: list[UserSource] = []
    for item in passdb_items:
        kind, _, argument = item.partition(":")
        if kind == "passwd-file" and argument:
            passdb.append(passwd_file(argument))
        elif kind == "ldap" and argument:
            logins.append(ldap("passdb", argument))
        elif kind == "pam" and argument and "/" not in argument:
            logins.append(make_pam(argument))
        else:
            raise _unsupported("passdb", item, "passwd-file:FILE, pam:SERVICE and ldap:FILE")
    # Postfix's local recipients are the machine's users where nothing else is said; PAM's are too.
    named = ["system" if item.startswith("pam:") else item for item in passdb_items]
    for item in userdb_items or list(dict.fromkeys(named)) or ["system"]:
        kind, _, argument = item.partition(":")
        if kind == "passwd-file" and argument:
            userdb.append(passwd_file(argument))
        elif kind == "ldap" and argument:
            userdb.append(ldap("userdb", argument))
        elif item == "system":
            userdb.append(SystemUsers())
        else:
            raise _unsupported("userdb", item, "passwd-file:FILE, ldap:FILE and system")
    return userdb, passdb, tuple(logins)


def _open_ldap(parameter: str, path: str, warn: Callable[[str], None]) -> LdapDirectory:
    """Raises ConfigError."""
    try:
        library()
    except LdapUnavailable as error:
        raise ConfigError([Problem("", parameter, str(error))]) from error
    try:
        text = Path(path).read_text(encoding="utf-8")
        return LdapDirectory(parse_ldap_config(text, path), warn)
    except OSError as error:
        raise ConfigError([Problem(path, parameter, error.strerror or str(error))]) from error
    except ValueError as error:
        raise ConfigError([Problem("", parameter, str(error))]) from error


def _unsupported(parameter: str, item: str, allowed: str) -> ConfigError:
    return ConfigError([Problem("", parameter, f"{item}: only {allowed} can be used")])
