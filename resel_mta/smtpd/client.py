"""Who is at the other end of a session: what the log, the access rules and Received say of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from resel_mta.smtpd.names import ClientNames

#: Commands in the order of Postfix's "disconnect from" line.
_ORDER = (
    "HELO", "EHLO", "LHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY",
    "ETRN", "QUIT", "HELP", "UNKNOWN",
)  # fmt: skip


@dataclass(slots=True)
class Client:
    """One connected client.

    name, names: "unknown" unless its address's name was looked up and verified.
    own: it connected from one of this host's own addresses. trusted: it is in mynetworks.
    pipelining: it has sent commands ahead of a reply that it must wait for (RFC 2920 §3.1).
    helo: as it said; esmtp: it said EHLO. tls: "TLSv1.3 with cipher …", "" without TLS.
    """

    name: str
    address: str
    port: int
    own: bool
    trusted: bool
    names: ClientNames = field(default_factory=ClientNames)
    pipelining: bool = False
    helo: str = ""
    esmtp: bool = False
    tls: str = ""
    sasl_method: str = ""
    sasl_username: str = ""
    counts: dict[str, list[int]] = field(default_factory=dict)

    @property
    def loopback(self) -> bool:
        return is_loopback(self.address)

    def label(self, *, with_port: bool = False) -> str:
        """Postfix's name[address]."""
        port = f":{self.port}" if with_port else ""
        return f"{self.name}[{self.address}]{port}"

    def received(self) -> str:
        """As it stands in a Received field: the address literal of RFC 5321 §4.1.3."""
        literal = f"IPv6:{self.address}" if ":" in self.address else self.address
        return f"{self.name} [{literal}]"

    def count(self, command: str, *, ok: bool) -> None:
        """Count a command for `summary`."""
        pair = self.counts.get(command)
        if pair is None:
            pair = self.counts[command] = [0, 0]
        pair[1] += 1
        if ok:
            pair[0] += 1

    def summary(self) -> str:
        """Postfix's " ehlo=1 mail=1 rcpt=0/1 commands=2/3"."""
        words = []
        good = total = 0
        for name in _ORDER:
            pair = self.counts.get(name)
            if pair is not None:
                words.append(f" {name.lower()}={_share(*pair)}")
                good += pair[0]
                total += pair[1]
        return "".join(words) + f" commands={_share(good, total) if total else '0/0'}"


def _share(good: int, total: int) -> str:
    return str(total) if good == total else f"{good}/{total}"


def is_loopback(address: str) -> bool:
    """Whether it is this host's loopback. address: as `peer_address` gives it."""
    return address == "::1" or address.startswith("127.")


def peer_address(peername: object) -> tuple[str, int]:
    """(address, port) of a transport's peername; a client on a unix socket is this host."""
    if isinstance(peername, tuple) and len(peername) >= 2:
        address = str(peername[0]).partition("%")[0]
        if address.startswith("::ffff:") and "." in address:
            address = address[7:]
        return address, int(peername[1])
    return "127.0.0.1", 0
