"""What this machine says of itself: its name, its addresses, and the defaults made from them."""

from __future__ import annotations

import ctypes
import functools
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from resel_mta import __version__


@dataclass(frozen=True, slots=True)
class Interface:
    """An address of a network interface: packed (4 or 16 octets), netmask, as text, loopback."""

    address: bytes
    mask: bytes
    text: str
    is_loopback: bool


class _SockAddr(ctypes.Structure):
    _fields_ = (("family", ctypes.c_ushort), ("data", ctypes.c_ubyte * 26))


class _IfAddrs(ctypes.Structure):
    pass


_IfAddrs._fields_ = (
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(_SockAddr)),
    ("netmask", ctypes.POINTER(_SockAddr)),
    ("broadcast", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
)
_IFF_UP = 1


def interfaces() -> list[Interface]:
    """The addresses of all interfaces that are up (getifaddrs(3)), IPv4 first as Postfix has them.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    head = ctypes.POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(head)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs")
    found: list[Interface] = []
    try:
        entry = head
        while entry:
            item = entry.contents
            if item.flags & _IFF_UP and item.address:
                address = _packed(item.address.contents)
                if address:
                    mask = _packed(item.netmask.contents, len(address)) if item.netmask else b""
                    found.append(_interface(address, mask or b"\xff" * len(address)))
            entry = item.next
    finally:
        libc.freeifaddrs(head)
    return sorted(dict.fromkeys(found), key=lambda each: len(each.address))


def _interface(address: bytes, mask: bytes) -> Interface:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    loopback = address[0] == 127 if len(address) == 4 else address == b"\0" * 15 + b"\1"
    return Interface(address, mask, socket.inet_ntop(family, address), loopback)


def _packed(sockaddr: _SockAddr, size: int = 0) -> bytes:
    """The address in a sockaddr_in or sockaddr_in6; b"" for other families."""
    if sockaddr.family == socket.AF_INET or size == 4:
        return bytes(sockaddr.data[2:6])
    if sockaddr.family == socket.AF_INET6 or size == 16:
        return bytes(sockaddr.data[6:22])
    return b""


@functools.lru_cache(maxsize=1)
def host_name() -> str:
    """gethostname(2); where that is one word, as Debian has it, its full name in /etc/hosts.

    Postfix would say "vm.localdomain" then, unless its package's questions wrote myhostname.
    """
    name = socket.gethostname() or "localhost"
    return name if "." in name else full_name(name)


def full_name(name: str, path: str = "/etc/hosts") -> str:
    """The first name with a dot on the line of a hosts(5) file that has `name`; else `name`."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return name
    for line in text.splitlines():
        names = line.partition("#")[0].split()[1:]
        if name in names and name != "localhost":
            found = next((each for each in names if "." in each), None)
            if found is not None:
                return found
    return name


def default_mydomain(myhostname: str) -> str:
    """All after the first dot; "localdomain" if there is none (as Postfix)."""
    _, dot, domain = myhostname.partition(".")
    return domain if dot and domain else "localdomain"


def default_mynetworks(style: str, addresses: list[Interface]) -> str:
    """mynetworks_style applied to this machine's addresses."""
    networks: list[str] = []
    for each in addresses:
        size = len(each.address)
        bits = size * 8
        if style == "subnet" or (style == "class" and size == 16):
            width = int.from_bytes(each.mask).bit_count()
        elif style == "class":
            width = _class_width(each.address[0])
        else:
            width = bits
        if each.is_loopback and size == 4:
            # The whole of 127.0.0.0/8 is this machine, whatever the style.
            width = 8 if style != "host" else 32
        mask = ((1 << width) - 1) << (bits - width)
        network = (int.from_bytes(each.address) & mask).to_bytes(size)
        family = socket.AF_INET if size == 4 else socket.AF_INET6
        text = socket.inet_ntop(family, network)
        networks.append(f"{text}/{width}" if size == 4 else f"[{text}]/{width}")
    return " ".join(dict.fromkeys(networks))


def _class_width(first: int) -> int:
    if first < 128:
        return 8
    if first < 192:
        return 16
    return 24 if first < 224 else 32


def first_line(path: str) -> str:
    """The first line of a file such as /etc/mailname, "" if it cannot be read."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def version() -> str:
    """This program's version."""
    return __version__


def has_ipv6() -> bool:
    """Whether the kernel knows IPv6."""
    return sys.platform != "linux" or Path("/proc/net/if_inet6").exists()
