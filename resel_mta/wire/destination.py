"""The words of a next hop: ``domain``, ``[host]:port``, ``inet:host:port``, ``unix:/path`` (transport(5))."""

from __future__ import annotations

import socket
from dataclasses import dataclass

KNOWN_PORTS = {"smtp": 25, "lmtp": 24, "submission": 587, "smtps": 465, "submissions": 465}


@dataclass(frozen=True, slots=True)
class Destination:
    """One element of a next hop.

    port: 0 where none was written. use_mx: whether host is a mail domain. path: a unix socket,
    whose host is "".
    """

    host: str
    port: int
    use_mx: bool
    path: str = ""


def port_number(text: str) -> int:
    """A port by number or service name. Raises ValueError."""
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    if text in KNOWN_PORTS:
        return KNOWN_PORTS[text]
    try:
        return socket.getservbyname(text, "tcp")
    except (OSError, UnicodeError):
        raise ValueError(
            f'"{text}" is neither a port from 1 to 65535 nor a known service'
        ) from None


def parse_destination(word: str) -> Destination:
    """Raises ValueError that says what is wrong. Only a bare domain is looked up by its MX."""
    if word.startswith("unix:"):
        return Destination("", 0, False, word.removeprefix("unix:"))
    use_mx = not word.startswith(("inet:", "["))
    rest = word.removeprefix("inet:")
    if rest.startswith("["):
        host, bracket, rest = rest[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f'"{word}": unbalanced []')
        port = rest[1:]
        if host.lower().startswith("ipv6:"):
            host = host[5:]
    elif rest.count(":") > 1:
        host, port = rest, ""
    else:
        host, _, port = rest.partition(":")
        if "[" in host or "]" in host:
            raise ValueError(f'"{word}": unbalanced []')
    host = host.rstrip(".").lower()
    if not host:
        raise ValueError(f'"{word}": no host name')
    return Destination(host, port_number(port) if port else 0, use_mx)
