"""`Users`: who has a mailbox, and who may log in."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from resel_mta.config import ConfigError, Settings
from resel_mta.config.problems import Problem
from resel_mta.mail import Reply, TempFail
from resel_mta.maillog import MailLog
from resel_mta.users import schemes
from resel_mta.users.libcrypt import CryptUnavailable
from resel_mta.users.pam import PamFactory, PamFailure, PamLogin, ThreadPam, temporary_failure
from resel_mta.users.passwd_file import Entry, PasswdFile
from resel_mta.users.system import SystemUsers
from resel_mta.users.user import User

#: A longer password is refused unchecked: some schemes cost time in proportion to its length.
MAX_PASSWORD = 1024
#: Seconds for which a successful log-in is remembered, so that a client which opens ten
#: connections pays for one hash.
_CACHE_SECONDS = 60.0
_CACHE_SIZE = 4096
_HASH_THREADS = 2


class Users:
    """The configured passdb and userdb together. Safe for many callers in one event loop."""

    def __init__(
        self,
        userdb: list[PasswdFile | SystemUsers],
        passdb: list[PasswdFile],
        warn: Callable[[str], None],
        pam: dict[str, PamLogin] | None = None,
        make_pam: PamFactory = ThreadPam,
    ) -> None:
        self._userdb = userdb
        self._passdb = passdb
        self._pam = pam if pam is not None else {}
        self._warn = warn
        self._make_pam = make_pam
        self._hashing = ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="hash")
        self._cache_key = os.urandom(32)
        self._cache: dict[bytes, float] = {}

    def reconfigure(self, settings: Settings) -> None:
        """From now on, those that `settings` names. Raises ConfigError, and changes nothing then."""
        self._userdb, self._passdb, services = _open(settings, self._warn)
        for service in self._pam.keys() - services:
            self._pam.pop(service).close()
        for service in services:
            if service not in self._pam:
                self._pam[service] = self._make_pam(service)

    async def find(self, name: str) -> User | None:
        """The user called `name` (case does not count). Raises TempFail."""
        name = name.lower()
        for source in self._userdb:
            if isinstance(source, PasswdFile):
                entry = (await source.table()).entries.get(name)
                user = entry.user if entry else None
            else:
                user = await source.find(name)
            if user is not None:
                return user
        return None

    async def names(self) -> list[str]:
        """All users, sorted. Raises TempFail."""
        found: set[str] = set()
        for source in self._userdb:
            found.update(
                (await source.table()).names
                if isinstance(source, PasswdFile)
                else await source.names()
            )
        return sorted(found)

    async def authenticate(self, name: str, password: bytes) -> User | None:
        """The user, if `password` is his. An unknown user takes as long as a wrong password; the
        caller delays what failed. PAM is asked about those who are in no passwd-file.
        Raises TempFail."""
        entry, decoy = await self._login(name)
        if entry is None and self._pam:
            return await self._by_pam(name, password)
        if len(password) > MAX_PASSWORD or (entry is not None and entry.refused):
            entry = None
        if entry is not None and entry.any_password:
            return await self._mailbox_of(entry)
        stored = entry.password if entry is not None else None
        if stored is None:
            if decoy:
                await self._verify(decoy, password[:MAX_PASSWORD], name)
            return None
        key = self._cache_entry(name.lower(), stored, password)
        if self._cache.get(key, 0.0) < time.monotonic():
            if not await self._verify(stored, password, name):
                return None
            self._remember(key)
        assert entry is not None
        return await self._mailbox_of(entry)

    async def _by_pam(self, name: str, password: bytes) -> User | None:
        if len(password) > MAX_PASSWORD:
            return None
        for login in self._pam.values():
            try:
                accepted = await login.check(name.lower(), password)
            except PamFailure as failure:
                self._warn(f"user {name[:64]!r} cannot be checked: {failure}")
                raise temporary_failure() from failure
            if accepted:
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

    async def _mailbox_of(self, entry: Entry) -> User | None:
        user = await self.find(entry.user.name)
        if user is None:
            self._warn(f"user {entry.user.name} has a password but is not in userdb")
        return user

    async def _verify(self, stored: str, password: bytes, name: str) -> bool:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._hashing, schemes.verify, stored, password)
        except (schemes.SchemeError, CryptUnavailable) as error:
            self._warn(f"password of user {name[:64]} cannot be checked: {error}")
            raise TempFail(Reply(454, "4.7.0", "Temporary authentication failure")) from error

    def _cache_entry(self, name: str, stored: str, password: bytes) -> bytes:
        """Keyed, so that a memory dump is no list of fast hashes to guess from; the stored hash is
        in it, so that a changed password counts at once."""
        text = f"{name}\0{stored}\0".encode("utf-8", "surrogateescape") + password
        return hmac.digest(self._cache_key, text, hashlib.sha256)

    def _remember(self, key: bytes) -> None:
        now = time.monotonic()
        if len(self._cache) >= _CACHE_SIZE:
            self._cache = {known: until for known, until in self._cache.items() if until > now}
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
        self._cache[key] = now + _CACHE_SECONDS

    def close(self) -> None:
        """Stop the threads."""
        self._hashing.shutdown(wait=False, cancel_futures=True)
        for login in self._pam.values():
            login.close()


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

    userdb, passdb, services = _open(settings, warn)
    pam = {service: make_pam(service) for service in services}
    return Users(userdb, passdb, warn, pam, make_pam)


def pam_services(settings: Settings) -> list[str]:
    """The PAM services that `passdb` names."""
    items = settings.text("passdb").replace(",", " ").split()
    return [item[4:] for item in items if item.startswith("pam:") and item[4:]]


def _open(
    settings: Settings, warn: Callable[[str], None]
) -> tuple[list[PasswdFile | SystemUsers], list[PasswdFile], list[str]]:
    """(userdb, passdb, PAM services); a file named in both is read once."""
    files: dict[str, PasswdFile] = {}

    def passwd_file(path: str) -> PasswdFile:
        return files.setdefault(path, PasswdFile(path, warn))

    passdb_items = settings.text("passdb").replace(",", " ").split()
    userdb_items = settings.text("userdb").replace(",", " ").split()
    services = pam_services(settings)
    passdb: list[PasswdFile] = []
    userdb: list[PasswdFile | SystemUsers] = []
    for item in passdb_items:
        kind, _, argument = item.partition(":")
        if kind == "passwd-file" and argument:
            passdb.append(passwd_file(argument))
        elif argument not in services or kind != "pam" or "/" in argument:
            raise _unsupported("passdb", item, "passwd-file:FILE and pam:SERVICE")
    # Postfix's local recipients are the machine's users where nothing else is said; PAM's are too.
    named = [item if item.startswith("passwd-file:") else "system" for item in passdb_items]
    for item in userdb_items or list(dict.fromkeys(named)) or ["system"]:
        kind, _, argument = item.partition(":")
        if kind == "passwd-file" and argument:
            userdb.append(passwd_file(argument))
        elif item == "system":
            userdb.append(SystemUsers())
        else:
            raise _unsupported("userdb", item, "passwd-file:FILE and system")
    return userdb, passdb, services


def _unsupported(parameter: str, item: str, allowed: str) -> ConfigError:
    return ConfigError([Problem("", parameter, f"{item}: only {allowed} can be used")])
