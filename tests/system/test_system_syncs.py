"""What is synced before a client gets its 250, seen from outside: the daemon under strace."""

from __future__ import annotations

import re
import smtplib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kill_rig import Account, BadNextHop, Relay, body_of

CALLS = "mkdir,fsync,fdatasync,rename,renameat,renameat2,write,writev,sendto,sendmsg,pwrite64"
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")


def completed(trace: str) -> list[str]:
    """The calls as "name(arguments", in the order in which they ended; a call that sends is
    where it began: from then on the peer may have it."""
    calls: list[str] = []
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name, rest = match.groups()
        sends = name in ("write", "writev", "sendto", "sendmsg")
        if rest.endswith("<unfinished ...>"):
            if sends:
                calls.append(f"{name}({rest}")
            else:
                begun[thread] = f"{name}({rest}"
        elif "resumed>" in line:
            if not sends:
                calls.append(begun.pop(thread, name))
        else:
            calls.append(f"{name}({rest}")
    return calls


@pytest.fixture
def relay() -> Iterator[Relay]:
    next_hop = BadNextHop(Account())
    next_hop.kind = True
    relay = Relay(next_hop.port)
    yield relay
    relay.close()
    next_hop.close()


def traced(relay: Relay, strace: str, trace: Path, numbers: list[int]) -> list[str]:
    """The calls of a daemon that takes these mails one after the other."""
    relay.start([strace, "-f", "-y", "-s", "40", "-o", str(trace), "-e", f"trace={CALLS}"])
    until = time.monotonic() + 30
    while "daemon started" not in relay.log():
        assert time.monotonic() < until, relay.output()
        time.sleep(0.05)
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=20) as client:
        client.ehlo("client.example.org")
        for number in numbers:
            header = b"X-Number: %d\r\n\r\n" % number
            client.sendmail("a@example.org", ["b@example.net"], header + body_of(number))
    relay.kill()
    return completed(trace.read_text())


def between(calls: list[str], first: str, last: str) -> list[str]:
    """Those after the first call that shows `first`, up to the next that shows `last`."""
    start = next(n for n, call in enumerate(calls) if first in call)
    end = next(n for n, call in enumerate(calls) if n > start and last in call)
    return calls[start + 1 : end]


def position(calls: list[str], pattern: str) -> int:
    """Of the last call that matches."""
    found = [n for n, call in enumerate(calls) if re.search(pattern, call)]
    assert found, f"no {pattern} in {calls}"
    return found[-1]


@pytest.mark.parametrize("large", [False, True])
def test_system_nothing_is_acknowledged_before_it_is_synced(
    need: Callable[[str], str], relay: Relay, large: bool
) -> None:
    strace = need("strace")
    number = next(n for n in range(1, 500) if (len(body_of(n)) > 200_000) == large)
    calls = traced(relay, strace, relay.directory / "trace", [number])
    steps = between(calls, '"354 ', '"250 2.0.0 Ok: queued')
    synced = position(steps, r"^f(data)?sync\(.*queue\.db-wal>")
    written = position(steps, r"^pwrite64\(.*queue\.db-wal>")
    assert written < synced
    if not large:
        assert not any("incoming/" in step for step in steps)
        return
    row = next(n for n, step in enumerate(steps) if re.search(r"^pwrite64\(.*-wal>", step))
    content = position(steps, r"^fsync\(.*/queue/incoming/")
    renamed = position(steps, r"^rename.*/queue/content/")
    directory = position(steps, r"^fsync\(.*/queue/content/[0-9A-F]{2}>")
    assert content < renamed < directory < row < synced
    made = position(steps, r"^mkdir\(.*/queue/content/[0-9A-F]{2}\"")
    parent = position(steps, r"^fsync\(.*/queue/content>")
    assert made < parent < row
