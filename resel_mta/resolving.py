"""The daemon's name server look-ups, as the settings want them."""

from __future__ import annotations

from collections.abc import Awaitable

from resel_mta.config import Settings
from resel_mta.mail import Reply, TempFail
from resel_mta.smtpd import NameFinder
from resel_relay.dns import DnsError, Resolver, TryAgain


def configure_resolver(resolver: Resolver, settings: Settings) -> None:
    """Whom it asks, and for which families."""
    protocols = settings.items("inet_protocols")
    resolver.use(
        settings.items("dns_nameservers"),
        families=("ipv4", "ipv6") if "all" in protocols else protocols,
        native="native" in settings.items("smtp_host_lookup"),
    )


def name_finder(resolver: Resolver) -> NameFinder:
    """Names of SMTP clients by the daemon's own resolver."""

    async def found(look_up: Awaitable[list[str]]) -> list[str]:
        try:
            return await look_up
        except TryAgain as error:
            raise TempFail(Reply(450, "4.7.1", str(error))) from error
        except DnsError:
            return []

    return NameFinder(
        lambda address: found(resolver.pointers(address)),
        lambda name: found(resolver.addresses(name)),
    )
