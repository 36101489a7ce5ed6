"""Users and log-ins from an LDAP directory: ``ldap:FILE`` (see `ldap_config`).

Needs the package `bonsai` (the extra "ldap"), which is built on the system's libldap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resel_mta.mail import Reply, TempFail
from resel_mta.users import schemes
from resel_mta.users.ldap_config import LdapConfig, fill, filter_for
from resel_mta.users.libcrypt import CryptUnavailable
from resel_mta.users.pam import PamFailure
from resel_mta.users.user import User, parse_quota_rule, parse_size

if TYPE_CHECKING:
    from bonsai.asyncio import AIOLDAPConnection

#: Seconds for a connection and for an answer.
_PATIENCE = 10.0
_MAX_NAME = 256
# Entries of one answer (RFC 2696): directories give no more than 500 or 1,000 at a time.
_PAGE = 500


class LdapDirectory:
    """One directory. Implements `pam.PamLogin` too. One connection searches; log-ins have their
    own, since each is a bind."""

    def __init__(self, config: LdapConfig, warn: Callable[[str], None]) -> None:
        self._config = config
        self._warn = warn
        self._connection: AIOLDAPConnection | None = None
        self._searching = asyncio.Lock()

    async def find(self, name: str) -> User | None:
        """Raises TempFail."""
        found = await self._one(self._config.user_filter, name, self._config.attributes())
        if found is None:
            return None
        try:
            return _user(name, self._config, found)
        except ValueError as error:
            raise self._failure(f"user {name[:64]}: {error}") from error

    async def names(self) -> list[str]:
        """All users. Raises TempFail."""
        attribute = self._config.list_attribute
        rows = await self._search(self._config.list_filter, [attribute], paged=True)
        return [name for row in rows if (name := _values(row).get(attribute.lower()))]

    async def check(self, name: str, password: bytes) -> bool:
        """Whether a bind as the user's entry with the password succeeds, or it is one of those that
        the entry has. Raises PamFailure."""
        # A bind without a password is one as nobody, and succeeds (RFC 4513 §5.1.2).
        if not password or b"\0" in password:
            return False
        try:
            rows = await self._rows(
                self._config.login_filter, name, [self._config.password_attribute or "1.1"]
            )
            if not rows:
                return False
            if self._config.password_attribute:
                return await self._matches(name, rows[0], password)
            return await self._bind(str(rows[0].dn), password.decode("utf-8"))
        except UnicodeDecodeError:
            return False
        except TempFail as failure:
            raise PamFailure(failure.reply.text) from failure

    async def _matches(self, name: str, row: Any, password: bytes) -> bool:
        """Raises PamFailure."""
        for value in row.get(self._config.password_attribute, ()):
            stored = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            if not stored.startswith("{"):
                stored = f"{{{self._config.default_scheme}}}{stored}"
            try:
                if await asyncio.to_thread(schemes.verify, stored, password):
                    return True
            except (schemes.SchemeError, CryptUnavailable) as error:
                raise PamFailure(f"password of user {name[:64]}: {error}") from error
        return False

    async def _bind(self, dn: str, password: str) -> bool:
        """Raises TempFail."""
        import bonsai

        try:
            connection = await self._connect(dn, password)
        except (bonsai.AuthenticationError, bonsai.errors.PasswordPolicyError):
            return False
        connection.close()
        return True

    async def _one(
        self, template: str, name: str, attributes: Sequence[str]
    ) -> dict[str, str] | None:
        """The attributes of the only entry that a filter finds, None for none. Raises TempFail."""
        rows = await self._rows(template, name, attributes)
        return _values(rows[0]) if rows else None

    async def _rows(self, template: str, name: str, attributes: Sequence[str]) -> list[Any]:
        """At most one. Raises TempFail."""
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or "/" in name:
            return []
        rows = await self._search(filter_for(template, name), attributes or ["1.1"])
        if len(rows) > 1:
            raise self._failure(f"{len(rows)} entries for user {name[:64]}")
        return rows

    async def _search(
        self, filter_: str, attributes: Sequence[str], paged: bool = False
    ) -> list[Any]:
        """Raises TempFail."""
        import bonsai

        for attempt in (1, 2):
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await self._search_once(filter_, list(attributes), paged)
            except TimeoutError:
                raise self._failure("the directory does not answer") from None
            except bonsai.LDAPError as error:
                # The server may have closed a connection that lay idle.
                if attempt == 2 or not isinstance(error, bonsai.ConnectionError):
                    raise self._failure(str(error)) from error
        raise AssertionError

    async def _search_once(self, filter_: str, attributes: list[str], paged: bool) -> list[Any]:
        """Raises bonsai.LDAPError, TempFail."""
        config = self._config
        # bonsai waits for one answer at a time on a connection.
        async with self._searching:
            try:
                connection = await self._searcher()
                if paged:
                    pages = await connection.paged_search(
                        config.base, config.scope, filter_, attributes, page_size=_PAGE
                    )
                    return [row async for row in pages]
                found = await connection.search(config.base, config.scope, filter_, attributes)
            except BaseException:
                # Whatever is still to come on it is no answer to the next question.
                self.close()
                raise
            return list(found)

    async def _searcher(self) -> AIOLDAPConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect(self._config.dn, self._config.password)
        return self._connection

    async def _connect(self, dn: str, password: str) -> AIOLDAPConnection:
        """To the first server that is there. Raises bonsai.LDAPError, TempFail."""
        import bonsai

        last: Exception | None = None
        for uri in self._config.uris:
            client = bonsai.LDAPClient(uri, self._config.starttls)
            client.set_cert_policy("demand" if self._config.verify else "never")
            if self._config.ca_file:
                client.set_ca_cert(self._config.ca_file)
            if dn:
                client.set_credentials("SIMPLE", user=dn, password=password)
            try:
                async with asyncio.timeout(_PATIENCE):
                    connection: AIOLDAPConnection = await client.connect(is_async=True)
                    return connection
            except (bonsai.ConnectionError, bonsai.TimeoutError, TimeoutError) as error:
                last = error
        raise self._failure(f"no directory server can be reached: {last}")

    def _failure(self, text: str) -> TempFail:
        """Why is for the log, and not for a peer."""
        self._warn(f"ldap: {text}")
        return TempFail(Reply(451, "4.3.0", "Temporary user lookup failure"))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _values(row: Any) -> dict[str, str]:
    """The first value of each attribute, by its name in lower case; "dn" is the entry's own."""
    found = {"dn": str(row.dn)}
    for name in row:
        values = row[name]
        if name.lower() != "dn" and values:
            found[str(name).lower()] = str(values[0])
    return found


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
