"""Fifty clients at once, each in a mailbox of its own that the server has not seen before."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from benchmarks.imap_client import Client
from benchmarks.imap_rows import MEMORY, Times, exists, expect, fetched, literals, numbers
from benchmarks.imap_servers import PASSWORD, MailServer
from benchmarks.meter import PeakMemory

CLIENTS = 50
TIME = "50 clients, mixed session"
ROWS = (TIME, MEMORY)
_LOOKED_AT = 20


def measure(server: MailServer, times: Times, users: Sequence[str], count: int) -> None:
    """Until the last has done its work; the sessions stay open for as long, and memory is measured
    with all of them open. Raises BenchmarkError."""
    clients: list[Client | None] = [None] * len(users)
    failures: list[Exception] = []

    def run(number: int) -> None:
        try:
            clients[number] = _session(server.port, users[number], count)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(users))]
    with PeakMemory(server.pid) as memory:
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - started
    if failures:
        raise failures[0]
    times.note(TIME, took * 1000)
    times.note(MEMORY, memory.bytes / 1024 / 1024)
    for client in clients:
        if client is not None:
            client.close()


def _session(port: int, user: str, count: int) -> Client:
    """What a mail program does when it is started: the list, what is new, a few messages."""
    client = Client(port)
    client.login(user, PASSWORD)
    client.command(b'LIST "" "*"')
    expect(exists(client.command(b"SELECT INBOX")), count)
    expect(fetched(client.command(b"FETCH 1:* (UID FLAGS)"), b"FLAGS ("), count)
    first = max(1, count - _LOOKED_AT + 1)
    looked_at = count - first + 1
    answer = client.command(b"FETCH %d:* (UID ENVELOPE BODYSTRUCTURE RFC822.SIZE)" % first)
    expect(fetched(answer, b"BODYSTRUCTURE ("), looked_at)
    expect(len(numbers(client.command(b"SEARCH FLAGGED"))), 0)
    for number in range(first, count + 1):
        expect(literals(client.command(b"FETCH %d (BODY.PEEK[])" % number))[0], 1)
    for number in range(first, min(first + 5, count + 1)):
        client.command(b"STORE %d +FLAGS (\\Answered)" % number)
    client.command(b"STATUS INBOX (MESSAGES UNSEEN)")
    client.command(b"NOOP")
    return client
