"""From inet_interfaces, inet_protocols and *_listen to the sockets to open."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from resel_mta.config import host
from resel_mta.config.host import Interface
from resel_mta.config.listen import SERVICES, Listener, parse_listen
from resel_mta.config.networks import pack
from resel_mta.config.problems import Problem

# The numeric addresses of a name; OSError if it has none.
Resolver = Callable[[str], list[str]]

_SMTP_SERVICES = ("smtpd", "submission", "submissions", "lmtp")


class _Values(Protocol):
    def items(self, name: str) -> tuple[str, ...]: ...

    def text(self, name: str) -> str: ...


def resolve(name: str) -> list[str]:
    """By the system's resolver (/etc/hosts, DNS). Raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Addresses:
    """Listeners and own addresses of one configuration; problems with them in `problems`."""

    def __init__(self, settings: _Values, resolver: Resolver | None = None) -> None:
        self.problems: list[Problem] = []
        self._resolve = resolver or resolve
        protocols = settings.items("inet_protocols")
        self._families = {
            family
            for family, name in ((4, "ipv4"), (16, "ipv6"))
            if name in protocols or "all" in protocols
        }
        if not host.has_ipv6():
            self._families.discard(16)
        self._machine: list[Interface] | None = None
        self._hosts = self._interface_hosts(settings.items("inet_interfaces"))
        self._settings = settings
        self._sockets: dict[str, tuple[Listener, ...]] | None = None
        self._own: set[tuple[bytes, int]] | None = None

    def listeners(self) -> dict[str, tuple[Listener, ...]]:
        """By service."""
        if self._sockets is None:
            self._sockets = {
                service: self._listeners(service, self._settings.items(f"{service}_listen"))
                for service in SERVICES
            }
        return self._sockets

    def interfaces(self) -> list[Interface]:
        """This machine's addresses, those of the protocols in use; only those in inet_interfaces
        if it does not say all."""
        mine = [each for each in self._all_interfaces() if len(each.address) in self._families]
        if {"0.0.0.0", "::"} & set(self._hosts):
            return mine
        return [each for each in mine if each.text in self._hosts]

    def is_own(self, ip: str, port: int) -> bool:
        """Whether ip, port leads to one of our SMTP listeners."""
        if self._own is None:
            self._own = self._own_addresses()
        packed = pack(ip)
        return packed is not None and (packed, port) in self._own

    def _all_interfaces(self) -> list[Interface]:
        if self._machine is None:
            self._machine = host.interfaces()
        return self._machine

    def _usable(self, address: str) -> bool:
        return (16 if ":" in address else 4) in self._families

    def _interface_hosts(self, items: tuple[str, ...]) -> list[str]:
        hosts: list[str] = []
        for item in items:
            bare = item[1:-1] if item.startswith("[") and item.endswith("]") else item
            if item.lower() == "all":
                hosts += [each for each in ("0.0.0.0", "::") if self._usable(each)]
            elif item.lower() == "loopback-only":
                hosts += [
                    each.text
                    for each in self._all_interfaces()
                    if each.is_loopback and self._usable(each.text)
                ]
            else:
                hosts += self._addresses_of("inet_interfaces", bare)
        if not hosts:
            self.problems.append(
                Problem("", "inet_interfaces", "leaves no address that inet_protocols allows")
            )
        return list(dict.fromkeys(hosts))

    def _addresses_of(self, parameter: str, name: str) -> list[str]:
        if pack(name) is not None:
            found = [name]
        else:
            try:
                found = self._resolve(name)
            except OSError as error:
                reason = error.strerror or error
                self.problems.append(Problem("", parameter, f'host "{name}" not found: {reason}'))
                return []
        return [each for each in found if self._usable(each)]

    def _listeners(self, service: str, items: tuple[str, ...]) -> tuple[Listener, ...]:
        found: list[Listener] = []
        parameter = f"{service}_listen"
        for item in items:
            name, port, path = parse_listen(item)
            if path:
                found.append(Listener(service, "", 0, path))
                continue
            hosts = self._hosts if not name else self._addresses_of(parameter, name)
            if name:
                self._warn_outside(parameter, item, hosts)
            found.extend(Listener(service, each, port) for each in hosts)
        return tuple(dict.fromkeys(found))

    def _warn_outside(self, parameter: str, item: str, hosts: list[str]) -> None:
        for each in hosts:
            everywhere = "::" if ":" in each else "0.0.0.0"
            if each in self._hosts or everywhere in self._hosts:
                continue
            self.problems.append(
                Problem("", parameter, f'"{item}" is outside inet_interfaces', is_error=False)
            )
            return

    def _own_addresses(self) -> set[tuple[bytes, int]]:
        proxies = [
            packed
            for item in self._settings.items("proxy_interfaces")
            for address in self._addresses_of("proxy_interfaces", item.strip("[]"))
            if (packed := pack(address)) is not None
        ]
        own: set[tuple[bytes, int]] = set()
        for service in _SMTP_SERVICES:
            for listener in self.listeners()[service]:
                if not listener.path:
                    reached = self._reached_by(listener.host) + proxies
                    own.update((address, listener.port) for address in reached)
        return own

    def _reached_by(self, address: str) -> list[bytes]:
        """The addresses that lead to a socket bound to this one."""
        packed = pack(address)
        if packed is None:
            return []
        if any(packed):
            return [packed]
        size = 16 if ":" in address else 4
        return [each.address for each in self._all_interfaces() if len(each.address) == size] + [
            packed
        ]
