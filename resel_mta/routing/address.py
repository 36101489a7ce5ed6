"""Addresses as routing sees them: completed, split at the delimiter, domains compared.

What `qualify` does is trivial-rewrite(8)'s canonical form, with Postfix's defaults.
"""

from __future__ import annotations

import idna

from resel_mta.config import Settings
from resel_mta.wire.path import split_address, unquote_local


def domain_key(domain: str) -> str:
    """A domain for comparing: lower case, A-labels, without a dot at its end."""
    if not domain.isascii():
        try:
            return idna.encode(domain, uts46=True).decode("ascii").rstrip(".")
        except idna.IDNAError:
            pass  # Not a name that DNS could hold: it is compared as it is.
    return domain.lower().rstrip(".")


def domain_forms(key: str) -> tuple[str, ...]:
    """The ways a table may spell the domain `key` (from `domain_key`): with A- and U-labels."""
    if "xn--" not in key:
        return (key,)
    try:
        return (key, idna.decode(key))
    except idna.IDNAError:
        return (key,)


def address_key(address: str) -> str:
    """An address for comparing: Postfix looks all of it up without case."""
    local, domain = split_address(address)
    return f"{local.lower()}@{domain_key(domain)}" if domain else local.lower()


class AddressRules:
    """How bare and odd addresses are completed, and where a local part is split."""

    def __init__(self, settings: Settings) -> None:
        self.myorigin = settings.text("myorigin")
        self.mydomain = settings.text("mydomain")
        self._append_origin = settings.flag("append_at_myorigin")
        self._append_domain = settings.flag("append_dot_mydomain")
        self._delimiters = settings.text("recipient_delimiter")
        self._owner_request_special = settings.flag("owner_request_special")

    def qualify(self, address: str) -> str:
        """``local@domain.example`` for any of ``local``, ``site!local``, ``local%domain``,
        ``local@host``, ``local@domain.example.``; "" stays the null address."""
        _, at, domain = address.rpartition("@")
        if at and "." in domain and domain[-1] != "." and address[0] != '"':
            return address
        return self._complete(address) if address else ""

    def _complete(self, address: str) -> str:
        local, domain = split_address(address)
        if not domain:
            local, domain = self._implied_domain(local)
        if not domain:
            return local
        if not domain.startswith("["):
            domain = domain.rstrip(".")
            if self._append_domain and "." not in domain:
                domain = f"{domain}.{self.mydomain}"
        return f"{local}@{domain}"

    def _implied_domain(self, local: str) -> tuple[str, str]:
        """The domain that a bang path or a percent sign names, else myorigin."""
        if not local.startswith('"'):
            site, bang, user = local.partition("!")
            if bang and site and user:
                return user, site
            user, percent, host = local.rpartition("%")
            if percent and user and host:
                return user, host
        return local, self.myorigin if self._append_origin else ""

    def split_extension(self, local: str) -> tuple[str, str]:
        """(user, extension with its delimiter) of an unquoted local part; ("bob", "+lists").

        Not split are mailer-daemon, double-bounce, and with "-" as delimiter owner-name and
        name-request (split_addr.c in Postfix)."""
        if not self._delimiters:
            return local, ""
        lower = local.lower()
        if lower in ("mailer-daemon", "double-bounce"):
            return local, ""
        for position, char in enumerate(local):
            if position and char in self._delimiters:
                special = char == "-" and self._owner_request_special
                if special and (lower.startswith("owner-") or lower.endswith("-request")):
                    continue
                return local[:position], local[position:]
        return local, ""


def local_name(address: str) -> str:
    """The local part without quotes."""
    return unquote_local(split_address(address)[0])


def add_extension(address: str, extension: str) -> str:
    """``user+ext@domain`` from ``user@domain``."""
    local, domain = split_address(address)
    if local.startswith('"'):
        local, extension = local[:-1], extension + '"'
    return f"{local}{extension}@{domain}" if domain else local + extension
