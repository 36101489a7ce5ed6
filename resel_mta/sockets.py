"""Bind what a role listens on, before root is given up. Knows nothing of the protocols."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resel_mta.config import Listener

BACKLOG = 1024
# sun_path of unix(7) holds 108 octets with the final NUL.
SUN_PATH_MAX = 107


class BindError(Exception):
    """A listener that cannot be had; the text says which, why, and what to do."""


@dataclass(slots=True)
class Bound:
    """A listening socket and the listener it is for."""

    listener: Listener
    socket: socket.socket


@contextlib.contextmanager
def unix_address(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name for a unix socket that fits sun_path however deep its folder lies."""
    target = Path(path)
    if len(os.fsencode(target)) <= SUN_PATH_MAX:
        yield str(target)
        return
    folder = os.open(target.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{target.name}"
    finally:
        os.close(folder)


def bind_unix(path: str | os.PathLike[str], mode: int) -> socket.socket:
    """A listening unix socket; one left by a dead process is replaced, a live one is an error."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with unix_address(path) as address:
            _clear_stale(path, address)
            listening.bind(address)
            os.chmod(path, mode)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _clear_stale(path: str | os.PathLike[str], address: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "exists and is not a socket", os.fspath(path))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another process listens there", os.fspath(path))


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket; an IPv6 one takes IPv6 only, as each family has its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def bind(listener: Listener) -> Bound:
    """Raises BindError."""
    try:
        if listener.path:
            listening = bind_unix(listener.path, 0o666)
        else:
            listening = bind_tcp(listener.host, listener.port)
    except OSError as error:
        raise BindError(_explain(listener, error)) from error
    listening.setblocking(False)
    return Bound(listener, listening)


def describe(listener: Listener) -> str:
    """As written in main.cf: "127.0.0.1:25", "[::1]:25", "unix:/path"."""
    if listener.path:
        return f"unix:{listener.path}"
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    return f"{host}:{listener.port}"


def _explain(listener: Listener, error: OSError) -> str:
    where = describe(listener)
    text = f"cannot listen on {where} for {listener.service}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EADDRINUSE:
        return f"{text}; stop the program that has it (ss -ltnp shows it: Postfix, Exim, Dovecot?)"
    if error.errno == errno.EACCES:
        return f"{text}; ports below 1024 need root (or systemd's AmbientCapabilities=CAP_NET_BIND_SERVICE)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{text}; no interface of this machine has that address (see inet_interfaces)"
    return text
