"""``transport:nexthop`` values and the order in which transport_maps is searched (transport(5))."""

from __future__ import annotations

from collections.abc import Iterator

from resel_mta.routing.address import AddressRules
from resel_mta.wire.path import split_address


def parse_transport(value: str) -> tuple[str, str]:
    """("smtp", "[host]:25") of "smtp:[host]:25"; either may be ""."""
    transport, _, nexthop = value.strip().partition(":")
    return transport.strip(), nexthop.strip()


def transport_keys(address: str, rules: AddressRules, *, bare_parents: bool) -> Iterator[str]:
    """user+ext@domain, user@domain, domain, .parent …, "*".

    bare_parents: parents are looked up without the dot before them (transport_maps is in
    parent_domain_matches_subdomains).
    """
    local, domain = split_address(address)
    domain = domain.lower()
    yield f"{local.lower()}@{domain}"
    base, extension = rules.split_extension(local)
    if extension:
        yield f"{base.lower()}@{domain}"
    yield domain
    if not domain.startswith("["):
        _, dot, parent = domain.partition(".")
        while dot:
            yield parent if bare_parents else f".{parent}"
            _, dot, parent = parent.partition(".")
    yield "*"
