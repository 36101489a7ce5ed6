"""Values that name hosts, ports and transports. ValueError says what is allowed."""

from __future__ import annotations

import ipaddress
import re

from resel_mta.config.grammar import split_items
from resel_mta.config.parameters import TRANSPORTS, Parameter
from resel_mta.wire.destination import parse_destination, port_number

#: What a transport map or `default_transport` may name.
KNOWN_TRANSPORTS = (*TRANSPORTS, "discard")


_LABEL = re.compile(r"\w(?:[\w-]{0,61}\w)?")
_MAX_HOST_NAME = 255


def hostname(parameter: Parameter, text: str) -> str:
    """The name of a machine or domain (Postfix's valid_hostname: underscores are allowed)."""
    labels = text.split(".")
    is_number = not text.strip("0123456789.")
    if is_number or len(text) > _MAX_HOST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f'"{text}" is not a host name')
    return text


def nexthops(parameter: Parameter, text: str) -> str:
    """Next hops, the first one tried first."""
    for word in split_items(text):
        parse_destination(word)
    return text


def nexthop_list(parameter: Parameter, text: str) -> tuple[str, ...]:
    """As `nexthops`, as items."""
    return tuple(split_items(nexthops(parameter, text)))


def transport(parameter: Parameter, text: str) -> str:
    """``transport`` or ``transport:nexthop``."""
    name, _, nexthop = text.partition(":")
    name = name.strip()
    if name not in KNOWN_TRANSPORTS:
        raise ValueError(
            f'"{name}" is not a transport; transports are: {", ".join(KNOWN_TRANSPORTS)}'
        )
    if name in ("smtp", "relay", "lmtp"):
        nexthops(parameter, nexthop)
    return text


def port(parameter: Parameter, text: str) -> str:
    """A port to connect to, by number or name."""
    port_number(text)
    return text


def ip(parameter: Parameter, text: str) -> str:
    """An address of the family that `words` names, or nothing."""
    if text:
        wrong = f'"{text}" is not an {" or ".join(parameter.words)} address'
        try:
            version = ipaddress.ip_address(text).version
        except ValueError:
            raise ValueError(wrong) from None
        if f"ipv{version}" not in parameter.words:
            raise ValueError(wrong)
    return text


def nameservers(parameter: Parameter, text: str) -> tuple[str, ...]:
    """Addresses of name servers, each perhaps with a port."""
    items = tuple(split_items(text))
    for item in items:
        host, number = item, ""
        if item.startswith("["):
            host, _, rest = item[1:].partition("]")
            number = rest.removeprefix(":")
        elif item.count(":") == 1:
            host, _, number = item.partition(":")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f'"{item}" is not address, address:port or [v6]:port') from None
        if number:
            port_number(number)
    return items
