"""Connections as the listeners make them, before anything is said."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from typing import Protocol, cast

from resel_lda.imap.stream import Stream


class Taker(Protocol):
    """Takes what has connected: `front.LoginService`."""

    def begin(self, stream: Stream) -> None: ...

    def begin_tls(self, connection: socket.socket) -> None: ...


class Accepted(Stream):
    """A stream that reports to the service as soon as it is connected."""

    def __init__(self, service: Taker) -> None:
        super().__init__()
        self._service = service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._service.begin(self)


class Handshake(asyncio.Protocol):
    """A connection whose first octets are the client's handshake.

    They are there already, as a rule, and uvloop's transport reads them before `loop.start_tls`
    can be called; pausing it here does nothing yet. So the socket is taken off the transport.
    """

    def __init__(self, service: Taker) -> None:
        self._service = service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        fd = os.dup(transport.get_extra_info("socket").fileno())
        cast("asyncio.Transport", transport).abort()
        self._service.begin_tls(socket.socket(fileno=fd))


def handshake_failure(error: Exception) -> str:
    """As Dovecot words it, without addresses of C sources. No bracket: fail2ban's filter wants
    the one before the attempts to be the first."""
    if isinstance(error, ssl.SSLError):
        return f"SSL_accept() failed: {(error.reason or 'error').replace('_', ' ').lower()}"
    return "Connection closed"


def address_of(name: object) -> tuple[str, int]:
    """(address, port) of a socket name; ("", 0) for a unix socket."""
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]).removeprefix("::ffff:"), int(name[1])
    return "", 0


def is_gone(transport: asyncio.BaseTransport) -> bool:
    """Whether it is a TCP connection that was reset already: its peer has no address any more, and
    must not be taken for one on a unix socket."""
    return bool(address_of(transport.get_extra_info("sockname"))[0]) and not isinstance(
        transport.get_extra_info("peername"), tuple
    )


def ends_of(connection: socket.socket) -> tuple[str, str]:
    """The addresses of the client and of this side; "" when the client is gone already."""
    try:
        return address_of(connection.getpeername())[0], address_of(connection.getsockname())[0]
    except OSError:
        return "", ""


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        # A unix socket: whoever can reach it is on this machine.
        return address == ""
