"""The syntax of ``*_listen``: ``host:port``, ``[v6]:port``, ``:port``, ``unix:/path``."""

from __future__ import annotations

from dataclasses import dataclass

SERVICES = (
    "smtpd",
    "submission",
    "submissions",
    "lmtp",
    "imap",
    "imaps",
    "pop3",
    "pop3s",
    "http",
)


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket to listen on.

    host: a numeric address, "0.0.0.0" and "::" for all; "" with `path`.
    port: 0 lets the system choose. path: of a unix socket, or "".
    """

    service: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{self.service} unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.service} {host}:{self.port}"


def parse_listen(text: str) -> tuple[str, int, str]:
    """(host, port, path): host "" means the hosts of inet_interfaces. Raises ValueError."""
    if text.startswith("unix:"):
        path = text[5:]
        if not path.startswith("/"):
            raise ValueError(f'"{text}": the path of a socket must be absolute')
        return "", 0, path
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not host:
            raise ValueError(f'"{text}": no address between the brackets')
    elif ":" in host:
        raise ValueError(f'"{text}": an IPv6 address belongs in brackets, as in [::1]:25')
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(
            f'"{text}" is not host:port, [v6]:port, :port or unix:/path with a port up to 65535'
        )
    return host, int(port), ""
