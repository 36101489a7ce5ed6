"""The workers behind a whole daemon that runs without root: whose users are whose, what a death or
a large command of one user costs the others, and what is there while a client idles."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import smtplib
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from benchmarks.imap_client import Client
from benchmarks.imap_mail import message
from benchmarks.imap_servers import HOST, PASSWORD, ReselMailServer
from benchmarks.load import BenchmarkError
from benchmarks.meter import process_tree, pss_bytes
from demo.machines import free_port
from resel_lda.worker_pool import WorkerPool, worker_count
from resel_mta.config import Settings
from resel_mta.maillog import MailLog, StreamSink

USERS = 50
MAIL = b"From: a@example.org\r\nSubject: new\r\n\r\nnew\r\n"


@pytest.fixture
def server() -> Iterator[ReselMailServer]:
    """With two workers, and IMAP under TLS on `imaps`."""
    # As root the daemon runs as nobody, who must reach it: pytest's own folders are closed to him.
    root = Path(tempfile.mkdtemp(prefix="resel-workers-"))
    root.chmod(0o755)
    pem = root / "pem"
    trustme.CA().issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(pem))
    pem.chmod(0o644)
    port = free_port(["127.0.0.1"])
    more = {
        "mailbox_processes": "2",
        "imaps_listen": f":{port}",
        "smtpd_tls_cert_file": str(pem),
        "smtpd_tls_key_file": str(pem),
    }
    made = ReselMailServer(root / "server", USERS, more)
    made.imaps = port
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(root)


def two_workers() -> WorkerPool:
    """Not started."""
    settings = Settings.build("server", mailbox_processes="2")
    return WorkerPool(settings, MailLog(StreamSink(2)))


def users_of(worker: int) -> Iterator[str]:
    pool = two_workers()
    return (user for user in (f"u{n}" for n in range(USERS)) if pool.owner(user) == worker)


def session(server: ReselMailServer, user: str) -> Client:
    client = Client(server.port)
    try:
        client.login(user, PASSWORD)
        client.command(b"SELECT INBOX")
    except BaseException:
        client.abandon()
        raise
    return client


def worker_pids(server: ReselMailServer) -> list[int]:
    return [
        pid
        for pid in process_tree(server.pid)
        if b"resel_lda.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_imap_workers_own_users_evenly_and_for_good() -> None:
    pool = two_workers()
    owners = [pool.owner(f"user{number}") for number in range(1000)]
    assert 400 < sum(owners) < 600
    # Not by this process's hash seed, which is another after each start.
    assert [pool.owner(name) for name in ("lcarr", "zoe", "étienne", "u0", "u1")] == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(("asked", "cores", "count"), [(0, 2, 2), (0, 64, 16), (40, 2, 40)])
def test_imap_workers_are_not_too_many(
    monkeypatch: pytest.MonkeyPatch, asked: int, cores: int, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert worker_count(Settings.build("server", mailbox_processes=str(asked))) == count


def test_imap_workers_one_dies_and_the_others_users_do_not_notice(server: ReselMailServer) -> None:
    first, second = next(users_of(0)), next(users_of(1))
    clients = {user: session(server, user) for user in (first, second)}
    workers = worker_pids(server)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    alive = []
    for user, client in clients.items():
        with contextlib.suppress(BenchmarkError, OSError):
            client.command(b"NOOP")
            alive.append(user)
    assert len(alive) == 1, "each worker has one of the two users"
    # No lock is left that delays anyone: those would take ten seconds or more.
    started = time.perf_counter()
    for user in (first, second):
        session(server, user).close()
    assert time.perf_counter() - started < 8
    assert len(worker_pids(server)) == 2
    for client in clients.values():
        client.abandon()


def fill(server: ReselMailServer, user: str, count: int, octets: int) -> None:
    """A mailbox that the server has not seen."""
    maildir = server.mail / user
    for name in ("", "cur", "new", "tmp"):
        (maildir / name).mkdir(mode=0o700, exist_ok=True)
        server.give(maildir / name)
    rng = random.Random(3)
    for number in range(count):
        path = maildir / "cur" / f"{1_700_000_000 + number}.M{number}P1.bench:2,S"
        path.write_bytes(message(rng, number, octets))
        server.give(path)


def slowest_noop(client: Client, until: threading.Event) -> tuple[int, float]:
    """(how many were answered, seconds that the slowest took) until something has happened."""
    waits = [0.0]
    while not until.is_set():
        started = time.perf_counter()
        client.command(b"NOOP")
        waits.append(time.perf_counter() - started)
    return len(waits) - 1, max(waits)


@pytest.mark.parametrize("command", [b"SEARCH BODY qz", b"SEARCH TEXT qqzz"])
def test_imap_workers_a_long_search_delays_nobody(server: ReselMailServer, command: bytes) -> None:
    """Of the same worker's users; those of the other are in another process anyway."""
    searcher, neighbour, *_ = users_of(0)
    fill(server, searcher, 3000, 20_000)
    big, small = session(server, searcher), session(server, neighbour)
    done = threading.Event()
    took = 0.0

    def search() -> None:
        nonlocal took
        started = time.perf_counter()
        assert big.command(command).startswith(b"* SEARCH\r\n")
        took = time.perf_counter() - started
        done.set()

    thread = threading.Thread(target=search)
    thread.start()
    answered, slowest = slowest_noop(small, done)
    thread.join()
    assert answered > 10
    assert slowest < max(0.1, took / 4)
    big.close()
    small.close()


def drop(server: ReselMailServer, user: str, number: int) -> None:
    path = server.mail / user / "tmp" / f"{1_800_000_000 + number}.M{number}P2.bench"
    path.write_bytes(MAIL)
    server.give(path)
    path.rename(path.parent.parent / "new" / path.name)


def by_lmtp(server: ReselMailServer, user: str, number: int) -> None:
    with contextlib.closing(smtplib.LMTP("127.0.0.1", server.lmtp, HOST)) as lmtp:
        lmtp.sendmail("a@example.org", [f"{user}@{HOST}"], MAIL)


@pytest.mark.parametrize(("arrive", "limit"), [(by_lmtp, 0.04), (drop, 0.1)])
def test_imap_workers_a_client_that_idles_is_told_at_once(
    server: ReselMailServer, arrive: Callable[[ReselMailServer, str, int], None], limit: float
) -> None:
    client = session(server, "u1")
    client.idle()
    waits = []
    for number in range(9):
        arrive(server, "u1", number)
        started = time.perf_counter()
        client.await_exists()
        waits.append(time.perf_counter() - started)
    client.done()
    client.close()
    # The quickest ones: on a busy machine some of them wait for their turn.
    assert statistics.quantiles(waits, n=4)[0] < limit


class Idler:
    """A connection that has logged in, selected INBOX and idles."""

    def __init__(self, port: int, user: str, context: ssl.SSLContext | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=90)
        try:
            if context is not None:
                self.socket = context.wrap_socket(self.socket)
            self.read_to(b"\r\n")
            for command, end in (
                (f"a LOGIN {user} {PASSWORD}", b"a OK"),
                ("b SELECT INBOX", b"b OK"),
                ("c IDLE", b"+ "),
            ):
                self.socket.sendall(f"{command}\r\n".encode())
                self.read_to(end)
        except BaseException:
            self.socket.close()
            raise

    def read_to(self, word: bytes) -> None:
        seen = b""
        while word not in seen:
            block = self.socket.recv(4096)
            assert block, seen
            seen += block


@pytest.mark.timeout(300)
@pytest.mark.parametrize("under_tls", [False, True])
def test_imap_workers_2000_clients_idle(server: ReselMailServer, under_tls: bool) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 4096:
        pytest.skip(f"only {most} open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port, context = server.port, None
    if under_tls:
        port, context = server.imaps, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.ExitStack() as stack:

        def idle(user: str) -> Idler:
            one = Idler(port, user, context)
            stack.callback(one.socket.close)
            return one

        idlers = [idle(f"u{number}") for number in range(USERS)]
        before = pss_bytes(server.pid)
        idlers += [idle(f"u{number % USERS}") for number in range(2000 - USERS)]
        each = (pss_bytes(server.pid) - before) / (2000 - USERS)
        assert each < 100_000, f"{each:.0f} octets a connection"
        by_lmtp(server, "u1", 0)
        for one in idlers[1::USERS]:
            one.read_to(b"* 1 EXISTS")
