"""What the tests of whole daemons look at."""

from __future__ import annotations

import email
import time
from collections import Counter

from demo.machines import Machine
from demo.network import Network


class Inbox:
    """What has arrived for lcarr."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def await_count(self, count: int, timeout: float = 30) -> int:
        """Wait for at least so many messages; how many there are then."""
        until = time.monotonic() + timeout
        while True:
            client = self._network.imap()
            _, answer = client.select("INBOX", readonly=True)
            client.logout()
            found = int(answer[0] or 0)
            if found >= count or time.monotonic() > until:
                return found
            time.sleep(0.1)

    def bodies(self) -> dict[str, list[bytes]]:
        """Body octets by the X-Number field, one entry per copy."""
        client = self._network.imap()
        client.select("INBOX", readonly=True)
        _, parts = client.fetch("1:*", "(BODY.PEEK[])")
        client.logout()
        found: dict[str, list[bytes]] = {}
        for part in parts:
            if isinstance(part, tuple):
                header, _, body = part[1].partition(b"\r\n\r\n")
                number = email.message_from_bytes(header)["X-Number"]
                found.setdefault(str(number), []).append(body)
        return found

    def copies(self) -> Counter[str]:
        """How often each X-Number is there."""
        return Counter({number: len(bodies) for number, bodies in self.bodies().items()})


def await_empty_queue(machine: Machine, timeout: float = 30) -> None:
    """Flushes, and waits until nothing is queued."""
    until = time.monotonic() + timeout
    while True:
        assert machine.command("resel-queue", "-f").returncode == 0
        listing = machine.command("resel-queue", "-p")
        assert listing.returncode == 0, listing.stderr
        if listing.stdout.strip() == "Mail queue is empty":
            return
        assert time.monotonic() < until, listing.stdout
        time.sleep(0.2)
