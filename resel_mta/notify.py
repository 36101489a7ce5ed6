"""sd_notify(3): tell systemd, or whoever set NOTIFY_SOCKET, what state the daemon is in."""

from __future__ import annotations

import os
import socket
import time


def notify(*assignments: str) -> bool:
    """Send lines such as "READY=1"; whether anybody listens.

    A supervisor that went away must not stop the mail: errors are answered with False.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(assignments).encode(), address)
        except OSError:
            return False
    return True


def notify_reloading() -> bool:
    """Type=notify-reload wants the monotonic clock with it (systemd.service(5))."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
