"""Users and log-ins from an LDAP directory: ``ldap:FILE`` (see `ldap_config`).

`LdapClient` blocks; `LdapDirectory` asks one in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from resel_mta.mail import Reply, TempFail
from resel_mta.users import schemes
from resel_mta.users.ldap_config import LdapConfig, fill, filter_for
from resel_mta.users.libcrypt import CryptUnavailable
from resel_mta.users.libldap import UNREACHABLE, Connection, Entry, LdapError, LdapUnavailable
from resel_mta.users.pam import PamFailure
from resel_mta.users.user import User, parse_quota_rule, parse_size

#: Seconds for a connection and for an answer.
PATIENCE = 5.0
_THREADS = 4
# Seconds for which a server that does not answer is not asked again: nobody waits for it meanwhile.
_AVOIDED = 10.0
_MAX_NAME = 256
# Entries of one answer (RFC 2696): directories give no more than 500 or 1,000 at a time.
_PAGE = 500

_T = TypeVar("_T")


class DirectoryError(Exception):
    """The directory could not be asked, or gave no good answer. The text is for the log."""


class LdapClient:
    """Keeps the connections that it has searched with. For many threads."""

    def __init__(self, config: LdapConfig, patience: float = PATIENCE) -> None:
        self._config = config
        self._patience = patience
        self._idle: deque[Connection] = deque()
        self._avoided: dict[str, float] = {}
        self._closed = False

    def find(self, name: str) -> User | None:
        """Raises DirectoryError."""
        config = self._config
        found = self._one(config.user_filter, name, config.attributes())
        if found is None:
            return None
        values = {
            key: texts[0].decode("utf-8", "replace") for key, texts in found.attributes.items()
        }
        try:
            return _user(name, config, values)
        except ValueError as error:
            raise DirectoryError(f"user {name[:64]}: {error}") from error

    def names(self) -> list[str]:
        """All users. Raises DirectoryError."""
        attribute = self._config.list_attribute
        found = self._search(self._config.list_filter, [attribute], _PAGE)
        names = (entry.attributes.get(attribute.lower()) for entry in found)
        return [texts[0].decode("utf-8", "replace") for texts in names if texts]

    def check(self, name: str, password: bytes) -> bool:
        """Whether a bind as the user's entry with the password succeeds, or it is one of those that
        the entry has. Raises DirectoryError."""
        # A bind without a password is one as nobody, and succeeds (RFC 4513 §5.1.2).
        if not password or b"\0" in password:
            return False
        attribute = self._config.password_attribute
        found = self._one(self._config.login_filter, name, [attribute or "1.1"])
        if found is None:
            return False
        if attribute:
            return self._matches(name, found.attributes.get(attribute.lower(), []), password)
        try:
            connection = self._connect(found.dn, password)
        except _WrongPassword:
            return False
        connection.close()
        return True

    def _matches(self, name: str, stored: list[bytes], password: bytes) -> bool:
        for value in stored:
            text = value.decode("utf-8", "replace")
            if not text.startswith("{"):
                text = f"{{{self._config.default_scheme}}}{text}"
            try:
                if schemes.verify(text, password):
                    return True
            except (schemes.SchemeError, CryptUnavailable) as error:
                raise DirectoryError(f"password of user {name[:64]}: {error}") from error
        return False

    def _one(self, template: str, name: str, attributes: Sequence[str]) -> Entry | None:
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or "/" in name:
            return None
        found = self._search(filter_for(template, name), attributes or ["1.1"])
        if len(found) > 1:
            raise DirectoryError(f"{len(found)} entries for user {name[:64]}")
        return found[0] if found else None

    def _search(self, filter_: str, attributes: Sequence[str], page: int = 0) -> list[Entry]:
        config = self._config
        while True:
            kept = bool(self._idle)
            try:
                connection = self._idle.pop() if kept else self._connect(config.dn, config.password)
            except _WrongPassword:
                raise DirectoryError(f"dnpass is not the password of {config.dn}") from None
            try:
                found = list(
                    connection.search(config.base, config.scope, filter_, attributes, page)
                )
            except LdapError as error:
                connection.close()
                # The server may have closed a connection that lay idle.
                if kept and error.code == -1:
                    continue
                raise DirectoryError(str(error)) from error
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)
            return found

    def _connect(self, dn: str, password: str | bytes) -> Connection:
        """To the first server that is there. Raises DirectoryError, _WrongPassword."""
        config = self._config
        secret = password.encode() if isinstance(password, str) else password
        last = ""
        for uri in config.uris:
            began = time.monotonic()
            if self._avoided.get(uri, 0.0) > began:
                last = f"{uri}: did not answer a moment ago"
                continue
            try:
                connection = Connection(uri, config.ca_file, config.verify, self._patience)
            except (LdapError, LdapUnavailable) as error:
                raise DirectoryError(f"{uri}: {error}") from error
            try:
                if config.starttls:
                    connection.start_tls()
                if dn and not connection.bind(dn, secret):
                    connection.close()
                    raise _WrongPassword
                return connection
            except LdapError as error:
                connection.close()
                last = f"{uri}: {error}"
                now = time.monotonic()
                if now - began > self._patience / 2:
                    self._avoided[uri] = now + _AVOIDED
                if error.code not in UNREACHABLE:
                    break
        raise DirectoryError(last)

    def close(self) -> None:
        """Close what is kept, and do not keep what is in use."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _WrongPassword(Exception):
    pass


class LdapDirectory:
    """One directory. Implements `pam.PamLogin` too."""

    def __init__(self, config: LdapConfig, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._client = LdapClient(config, PATIENCE)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ldap")

    async def find(self, name: str) -> User | None:
        """Raises TempFail."""
        return await self._ask(lambda: self._client.find(name))

    async def names(self) -> list[str]:
        """All users. Raises TempFail."""
        return await self._ask(self._client.names, patience=60.0)

    async def check(self, name: str, password: bytes) -> bool:
        """Raises PamFailure."""
        try:
            return await self._ask(lambda: self._client.check(name, password))
        except TempFail as failure:
            raise PamFailure(failure.reply.text) from failure

    async def _ask(self, question: Callable[[], _T], patience: float = 0.0) -> _T:
        """Why it failed is for the log, and not for a peer. Raises TempFail."""
        try:
            async with asyncio.timeout(patience or 4 * PATIENCE):
                return await asyncio.get_running_loop().run_in_executor(self._threads, question)
        except TimeoutError:
            text = "the directory does not answer"
        except DirectoryError as error:
            text = str(error)
        self._warn(f"ldap: {text}")
        raise TempFail(Reply(451, "4.3.0", "Temporary user lookup failure"))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()


def _user(name: str, config: LdapConfig, attributes: Mapping[str, str]) -> User:
    """Raises ValueError."""
    fields = {key: fill(text, name, attributes) for key, text in config.fields.items()}
    quota: int | None = None
    if fields.get("quota_storage_size"):
        quota = parse_size(fields["quota_storage_size"])
    elif fields.get("quota_rule"):
        quota = parse_quota_rule(fields["quota_rule"])
    return User(
        name,
        int(fields["uid"]) if fields.get("uid") else None,
        int(fields["gid"]) if fields.get("gid") else None,
        fields.get("home", ""),
        fields.get("mail", ""),
        quota,
    )
