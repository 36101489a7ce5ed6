"""Lists of networks (mynetworks and its like): is this address in it?

Items are Postfix's: ``192.0.2.1``, ``192.0.2.0/24``, ``[2001:db8::]/32``, ``2001:db8::1``, host
names and ``.domain``, ``/file`` (items of the file), ``cidr:/file``, and ``!`` before any of them. The first
item that matches decides. IPv4-mapped IPv6 addresses are the IPv4 addresses they stand for.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from resel_mta.config.grammar import logical_lines, split_items

_MAPPED = b"\0" * 10 + b"\xff\xff"
_HOST_NAME = re.compile(r"\.?[A-Za-z0-9_]([A-Za-z0-9_-]*\.?)*")
_MAX_FILES = 10


@dataclass(frozen=True, slots=True)
class _Net:
    """An address matches when it has `size` octets and agrees with `value` where `mask` has ones."""

    include: bool
    size: int
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class _Name:
    include: bool
    name: str


@dataclass(frozen=True, slots=True)
class _File:
    include: bool
    path: str
    is_cidr: bool


def parse_network_item(text: str) -> _Net | _Name | _File:
    """Raises ValueError that says what is wrong. Reads no file."""
    bare = text.lstrip("!")
    include = (len(text) - len(bare)) % 2 == 0
    if bare.startswith("/"):
        return _File(include, bare, is_cidr=False)
    if bare.startswith("cidr:/"):
        return _File(include, bare[5:], is_cidr=True)
    if pack(bare.partition("/")[0].strip("[]")) is None and "/" not in bare:
        if not _HOST_NAME.fullmatch(bare) or bare.replace(".", "").isdigit():
            raise ValueError(
                f'"{text}" is not an address, a network such as 192.0.2.0/24, or a name'
            )
        return _Name(include, bare.lower())
    return _Net(include, *parse_network(bare))


def parse_network(text: str) -> tuple[int, int, int]:
    """(octets of an address, value, mask) of an address or network. Raises ValueError."""
    address, slash, bits = text.partition("/")
    if address.startswith("["):
        if not address.endswith("]"):
            # Postfix also takes [2001:db8::/32].
            if not bits.endswith("]"):
                raise ValueError(f'"{text}": "]" is missing')
            address, bits = address + "]", bits[:-1]
        address = address[1:-1]
    packed = pack(address)
    if packed is None:
        raise ValueError(f'"{text}" is not an address or a network such as 192.0.2.0/24')
    written = 32 if ":" not in address else 128
    width = int(bits) if bits.isascii() and bits.isdigit() else -1
    if slash and not 0 <= width <= written:
        raise ValueError(f'"{text}": the number after "/" must be from 0 to {written}')
    size = len(packed) * 8
    # A mapped network counts its bits in 128, the IPv4 address it stands for in 32.
    width = size if not slash else max(0, width - (written - size))
    mask = ((1 << width) - 1) << (size - width)
    value = int.from_bytes(packed)
    if value & ~mask:
        right = ipaddress.ip_network((packed, width), strict=False)
        raise ValueError(f'"{text}" has host bits set; perhaps "{right}" is meant')
    return len(packed), value, mask


def pack(address: str) -> bytes | None:
    """4 or 16 octets; None if it is not an address. The zone of fe80::1%eth0 is left out."""
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


class Networks:
    """A parsed list. ``address in networks`` for addresses; `matches` also takes a client's name.

    items: as `Settings.items` gives them. Files are read now: OSError, and ValueError for a
    bad item (with the file's name).
    """

    __slots__ = ("_names", "_nets")

    def __init__(self, items: Iterable[str]) -> None:
        self._nets: list[_Net] = []
        self._names: list[_Name] = []
        for item in items:
            self._add(item, 0)

    def _add(self, text: str, depth: int, include: bool = True) -> None:
        item = parse_network_item(text)
        if isinstance(item, _Net):
            self._nets.append(_Net(item.include == include, item.size, item.value, item.mask))
        elif isinstance(item, _Name):
            self._names.append(_Name(item.include == include, item.name))
        elif depth >= _MAX_FILES:
            raise ValueError(f'"{item.path}": files within files within files')
        else:
            for where, inner in _file_items(item):
                try:
                    self._add(inner, depth + 1, item.include == include)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None

    def __contains__(self, address: object) -> bool:
        return isinstance(address, str) and self.matches(address)

    def __bool__(self) -> bool:
        return bool(self._nets or self._names)

    def matches(self, address: str, name: str = "") -> bool:
        """name: the client's verified name, or ""."""
        packed = pack(address)
        if packed is not None:
            size = len(packed)
            value = int.from_bytes(packed)
            for net in self._nets:
                if net.size == size and value & net.mask == net.value:
                    return net.include
        if name and self._names:
            name = name.lower()
            for item in self._names:
                if item.name == name or (item.name[0] == "." and name.endswith(item.name)):
                    return item.include
        return False


def _file_items(item: _File) -> Iterable[tuple[str, str]]:
    """(file:line, item) of all items in a file; of a cidr table, the networks whose result is not
    "DUNNO" or "REJECT"."""
    with open(item.path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    for first, _, line in logical_lines(text):
        where = f"{item.path}:{first}"
        if not item.is_cidr:
            for word in split_items(line):
                yield where, word
            continue
        network, _, result = line.strip().partition(" ")
        verdict = result.strip().lower()
        yield where, f"!{network}" if verdict in ("dunno", "reject", "no") else network
