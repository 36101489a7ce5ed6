"""`worker_processes`: several processes that take and deliver mail, and one queue to look at."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from workers_rig import NextHop, Relay, make_relay, until

from resel_mta.queue.ids import part_of
from resel_mta.queue.lock import QueueLocked, lock_queue

Make = Callable[..., Relay]
#: Octets of a page of the database.
PAGE = 4096


@pytest.fixture
def next_hop() -> Iterator[NextHop]:
    hop = NextHop()
    hop.open()
    yield hop
    hop.close()


@pytest.fixture
def make(next_hop: NextHop) -> Iterator[Make]:
    """make(workers, more settings) starts a relay."""
    relays: list[Relay] = []
    # Not tmp_path: the daemon's account must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="resel-workers-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)

        def started(workers: int, more: str = "") -> Relay:
            relay = make_relay(Path(name), workers, next_hop, more)
            relays.append(relay)
            relay.start()
            return relay

        yield started
        for relay in relays:
            relay.kill()
            until(lambda relay=relay: not relay.processes())


def test_workers_all_take_and_deliver_mail(make: Make, next_hop: NextHop) -> None:
    relay = make(3)
    pids = relay.workers()
    assert sorted(pids) == [0, 1, 2]
    ids = relay.send_to_all(3)
    assert sorted(ids) == [0, 1, 2]
    until(lambda: len(next_hop.taken) >= 3 and not relay.entries())
    log = relay.log()
    for part, queue_id in ids.items():
        assert f"qmgr[{pids[part]}]: {queue_id}: removed" in log
    assert "It balances" in relay.queue("audit")
    assert relay.stop() == 0
    assert relay.processes() == []
    assert "It balances" in relay.queue("audit")


@contextmanager
def load(relay: Relay) -> Iterator[set[str]]:
    """Clients that send mail all the time: the numbers of what was accepted."""
    accepted: set[str] = set()
    stop = threading.Event()

    def send(name: int) -> None:
        number = 0
        while not stop.is_set():
            with suppress(smtplib.SMTPException, OSError), relay.client() as client:
                for _ in range(20):
                    number += 1
                    relay.send(client, f"{name}.{number}")
                    accepted.add(f"{name}.{number}")
                    if stop.is_set():
                        return

    threads = [threading.Thread(target=send, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield accepted
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def drained(relay: Relay) -> bool:
    relay.queue("-f")
    return not relay.entries()


def test_workers_a_killed_one_loses_nothing(make: Make, next_hop: NextHop) -> None:
    relay = make(3)
    with load(relay) as accepted:
        for victim in (1, 2, 1):
            time.sleep(0.7)
            pid = until(lambda victim=victim: relay.workers().get(victim))
            os.kill(pid, signal.SIGKILL)
            until(lambda victim=victim, pid=pid: relay.workers().get(victim) not in (None, pid))
        until(lambda: len(accepted) > 100)
    until(lambda: drained(relay))
    assert accepted <= set(next_hop.numbers())
    assert "It balances" in relay.queue("audit")
    assert relay.stop() == 0


def test_workers_a_part_is_delivered_while_its_worker_takes_long_to_start(
    make: Make, next_hop: NextHop
) -> None:
    next_hop.close()
    relay = make(2)
    ids, more = relay.send_to_all(2), relay.send_to_all(2)
    until(lambda: {each["queue_name"] for each in relay.entries().values()} == {"deferred"})
    relay.queue("-h", more[1])
    main, victim = (relay.workers()[number] for number in (0, 1))
    relay.gate.touch()
    os.kill(victim, signal.SIGKILL)
    until(lambda: relay.worker(1)["adopted"])
    assert relay.worker(1)["state"] == "starting"
    status = relay.run("resel-mta", "status").stdout
    assert f"1: is being started; its part of the queue is delivered by pid {main}" in status
    assert set(relay.entries()) >= {*ids.values(), *more.values()}
    next_hop.open()
    relay.queue("-f")
    until(lambda: list(relay.entries()) == [more[1]])
    assert f"qmgr[{main}]: {ids[1]}: removed" in relay.log()
    # Whoever else wants it now does not get it.
    with pytest.raises(QueueLocked, match=f"in use by process {main}"):
        lock_queue(str(relay.directory / "queue" / "parts" / "1"))
    relay.gate.unlink()
    worker = until(lambda: relay.workers().get(1))
    assert not relay.worker(1)["adopted"]
    relay.queue("-H", more[1])
    until(lambda: not relay.entries())
    assert f"qmgr[{worker}]: {more[1]}: removed" in relay.log()
    assert "It balances" in relay.queue("audit")
    assert relay.stop() == 0


def test_workers_parts_go_to_and_fro_under_load(make: Make, next_hop: NextHop) -> None:
    next_hop.pause = 0.01
    relay = make(3)
    with load(relay) as accepted:
        for victim in (1, 2):
            pid = until(lambda victim=victim: relay.workers().get(victim))
            relay.gate.touch()
            os.kill(pid, signal.SIGKILL)
            until(lambda victim=victim: relay.worker(victim)["adopted"])
            relay.gate.unlink()
            until(lambda victim=victim: relay.worker(victim)["state"] == "running")
    until(lambda: drained(relay))
    assert accepted <= set(next_hop.numbers())
    assert "It balances" in relay.queue("audit")
    assert relay.stop() == 0


def test_workers_a_surplus_part_is_adopted_when_its_worker_is_killed(
    make: Make, next_hop: NextHop
) -> None:
    next_hop.pause = 100.0
    relay = make(2, "shutdown_timeout = 100s\n")
    ids = relay.send_to_all(2)
    victim = relay.workers()[1]
    until(lambda: next_hop.connections >= 2)
    relay.configure(1)
    assert relay.run("resel-mta", "reload").returncode == 0
    # It would finish what is under way.
    os.kill(victim, signal.SIGKILL)
    until(lambda: relay.worker(1)["state"] == "adopted")
    next_hop.hurry.set()
    until(lambda: drained(relay))
    assert f"qmgr[{relay.workers()[0]}]: {ids[1]}: removed" in relay.log()
    assert relay.stop() == 0


def test_workers_commands_see_one_queue(make: Make, next_hop: NextHop) -> None:
    next_hop.close()
    relay = make(3)
    ids = relay.send_to_all(3)
    one, two, three = (ids[part] for part in range(3))
    until(lambda: {each["queue_name"] for each in relay.entries().values()} == {"deferred"})

    def check() -> None:
        assert set(relay.entries()) == {one, two, three}
        listing = relay.queue("-p")
        assert all(queue_id in listing for queue_id in ids.values())
        assert "in 3 Requests" in listing
        assert "Placed on hold: 3 messages" in relay.queue("-h", "ALL")
        assert "Released from hold: 1 message" in relay.queue("-H", two)
        assert [each["queue_name"] for _, each in sorted(relay.entries().items())].count(
            "hold"
        ) == 2
        assert "Released from hold: 2 messages" in relay.queue("-H", "ALL")
        assert "Requeued: 2 messages" in relay.queue("-r", one, "-r", three)
        assert "X-Number:" in relay.queue("-b", three)

    check()
    relay.queue("-r", "ALL")
    until(lambda: {each["queue_name"] for each in relay.entries().values()} == {"deferred"})
    told = relay.queue("why", three)
    assert "2 other messages wait" in told
    assert one in told
    assert two in told
    assert "It balances" in relay.queue("audit")
    assert relay.stop() == 0
    check()
    assert "Deleted: 1 message" in relay.queue("-d", two)
    assert "It balances" in relay.queue("audit")
    next_hop.open()
    relay.start()
    until(lambda: len(next_hop.taken) == 2 and not relay.entries())
    assert "Restored: 1 message" in relay.queue("--undelete", two)
    until(lambda: len(next_hop.taken) == 3)
    assert relay.stop() == 0


def test_workers_parts_of_more_workers_are_delivered_by_fewer(
    make: Make, next_hop: NextHop
) -> None:
    next_hop.close()
    relay = make(3)
    ids = relay.send_to_all(3)
    assert relay.stop() == 0
    relay.configure(1)
    relay.start()
    assert set(relay.entries()) == set(ids.values())
    next_hop.open()
    relay.queue("-f")
    until(lambda: len(next_hop.taken) >= 3 and not relay.entries())
    assert [each["state"] for each in relay.status()["workers"]] == [
        "running",
        "adopted",
        "adopted",
    ]
    status = relay.run("resel-mta", "status").stdout
    assert "2: none; its part of the queue is delivered by pid" in status
    # By a reload they get their workers back, and lose them again.
    relay.configure(3)
    assert relay.run("resel-mta", "reload").returncode == 0
    until(relay.all_run)
    assert sorted(relay.workers()) == [0, 1, 2]
    next_hop.close()
    more = relay.send_to_all(3)
    assert not set(more.values()) & set(ids.values())
    relay.configure(2)
    assert relay.run("resel-mta", "reload").returncode == 0
    reloaded = time.monotonic()
    until(lambda: [each["state"] for each in relay.status()["workers"]][2] == "adopted")
    assert time.monotonic() - reloaded < 15
    assert more[2] in relay.entries()
    next_hop.open()
    relay.queue("-f")
    until(lambda: len(next_hop.taken) >= 6 and not relay.entries())
    assert relay.stop() == 0


def test_workers_share_the_limit_of_a_clients_connections(make: Make) -> None:
    exceptions = "smtpd_client_event_limit_exceptions =\n"
    relay = make(3, f"smtpd_client_connection_count_limit = 6\n{exceptions}")
    with ExitStack() as stack:
        clients = [stack.enter_context(relay.client()) for _ in range(6)]
        assert all(client.noop()[0] == 250 for client in clients)
        for _ in range(3):
            with pytest.raises(smtplib.SMTPConnectError) as refused, relay.client():
                pass
            assert refused.value.smtp_code == 421
        # Whoever is killed has none any more.
        os.kill(relay.workers()[1], signal.SIGKILL)

        def admitted() -> bool:
            with suppress(smtplib.SMTPException, OSError):
                clients.append(stack.enter_context(relay.client()))
                return True
            return False

        until(admitted)
    assert relay.stop() == 0


def test_workers_give_no_more_tries_at_a_password_than_one(make: Make, next_hop: NextHop) -> None:
    relay = make(
        3,
        "passdb = passwd-file:{directory}/users\nsmtpd_sasl_auth_enable = yes\n"
        "smtpd_tls_auth_only = no\nauth_failure_delay = 1s\n",
    )
    (relay.directory / "users").write_text("ann:{PLAIN}secret\n")
    assert relay.run("resel-mta", "reload").returncode == 0
    with ExitStack() as stack:
        clients = [stack.enter_context(relay.client()) for _ in range(12)]
        for client in clients:
            client.ehlo()

        def guess(client: smtplib.SMTP) -> None:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("ann", "wrong")

        began = time.monotonic()
        with ThreadPoolExecutor(len(clients)) as pool:
            list(pool.map(guess, clients))
        # Four at a time, for a second each.
        assert time.monotonic() - began >= 2.9
    assert relay.stop() == 0


def test_workers_share_what_they_know_of_a_dead_host(make: Make, next_hop: NextHop) -> None:
    next_hop.close()
    relay = make(3, "minimal_backoff_time = 60s\n")
    with relay.client() as client:
        first = [relay.send(client, number) for number in range(8)]
    found = part_of(first[0])
    until(lambda: relay.log().count("status=deferred") == 8)
    assert "delivery temporarily suspended" in relay.log()
    ids = relay.send_to_all(3)
    until(lambda: {each["queue_name"] for each in relay.entries().values()} == {"deferred"})
    # The others put it off without a look of their own.
    for part, queue_id in ids.items():
        [line] = [each for each in relay.log().splitlines() if f"{queue_id}: to=" in each]
        assert "postfix/error[" in line, (part, found)
    # And back: what one finds out is everybody's.
    next_hop.open()
    relay.queue("-i", ids[found])
    until(lambda: not relay.entries(), 20)
    assert relay.stop() == 0


def test_workers_take_turns_where_a_limit_is_low(make: Make, next_hop: NextHop) -> None:
    next_hop.pause = 0.1
    relay = make(3, "default_destination_concurrency_limit = 1\n")
    for _ in range(2):
        relay.send_to_all(3)
    until(lambda: not relay.entries())
    assert next_hop.most == 1
    assert relay.stop() == 0


def test_workers_keep_the_distance_in_time_together(make: Make, next_hop: NextHop) -> None:
    relay = make(3, "default_destination_rate_delay = 1s\n")
    relay.send_to_all(3)
    until(lambda: not relay.entries())
    times = sorted(when for _, when in next_hop.taken)
    assert len(times) >= 3
    assert min(after - before for before, after in pairwise(times)) > 0.95
    assert relay.stop() == 0


def test_workers_reload(make: Make) -> None:
    relay = make(3)

    def banners() -> set[bytes]:
        found = set()
        with ExitStack() as stack:
            for _ in range(9):
                found.add(stack.enter_context(relay.client()).ehlo()[1].splitlines()[0])
        return found

    assert banners() == {b"relay.example.org"}
    relay.configure(3, "message_size_limit = nonsense\nmyhostname = new.example.org\n")
    assert relay.run("resel-mta", "reload").returncode == 78
    assert banners() == {b"relay.example.org"}
    relay.configure(3, "myhostname = new.example.org\n")
    assert relay.run("resel-mta", "reload").returncode == 0
    assert banners() == {b"new.example.org"}
    assert sorted(relay.workers()) == [0, 1, 2]
    assert relay.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_worker_0(make: Make, how: signal.Signals) -> None:
    relay = make(3)
    assert len(relay.processes()) == 3
    with relay.client() as client:
        client.ehlo()
        assert relay.process is not None
        relay.process.send_signal(how)
        assert relay.process.wait(60) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        until(lambda: not relay.processes(), 20)
    # The ports and the queue are free again.
    relay.start()
    ids = relay.send_to_all(3)
    assert len(ids) == 3
    assert relay.stop() == 0


def test_workers_a_damaged_part_is_set_aside_and_all_else_goes_on(
    make: Make, next_hop: NextHop
) -> None:
    next_hop.close()
    relay = make(3)
    ids = relay.send_to_all(3)
    until(lambda: {each["queue_name"] for each in relay.entries().values()} == {"deferred"})
    assert relay.stop() == 0
    parts = relay.directory / "queue" / "parts"

    def set_aside(part: int) -> list[str]:
        return [each.name for each in (parts / str(part)).glob("corrupt/queue.db.*")]

    # The page with the schema: a command makes a new database of what is left.
    with (parts / "1" / "queue.db").open("r+b") as file:
        file.write(b"\xa5" * PAGE)
    assert set(relay.entries()) == set(ids.values())
    assert len(set_aside(1)) == 1
    # And the daemon, where all messages of a part are lost.
    for part in (1, 2):
        size = (parts / str(part) / "queue.db").stat().st_size if part == 2 else PAGE
        with (parts / str(part) / "queue.db").open("r+b") as file:
            file.write(b"\xa5" * size)
    relay.start()
    assert relay.workers().keys() == {0, 1, 2}
    assert (len(set_aside(1)), len(set_aside(2))) == (2, 1)
    status = relay.told()
    for part in (1, 2):
        text = f"damaged database set aside as {parts}/{part}/corrupt/queue.db."
        assert text in relay.log()
        assert text in status
    assert relay.entries().keys() == {ids[0], ids[1]}
    assert all(queue_id in relay.queue("-p") for queue_id in (ids[0], ids[1]))
    next_hop.open()
    more = relay.send_to_all(3)
    until(lambda: drained(relay))
    for queue_id in (ids[0], ids[1], *more.values()):
        assert f"{queue_id}: removed" in relay.log()
    assert relay.stop() == 0


def test_workers_a_damaged_message_of_a_part_is_shown(make: Make, next_hop: NextHop) -> None:
    next_hop.close()
    relay = make(2)
    # So large that its text is a file.
    lost = relay.send_to_all(2, more=(b"x" * 70 + b"\r\n") * 3000)[1]
    until(lambda: {each["queue_name"] for each in relay.entries().values()} == {"deferred"})
    (content,) = (relay.directory / "queue" / "parts" / "1" / "content").glob(f"*/{lost}")
    content.unlink()
    next_hop.open()
    relay.queue("-f")
    until(lambda: [each["queue_name"] for each in relay.entries().values()] == ["corrupt"])
    assert lost in relay.queue("-p", "corrupt")
    until(lambda: f"worker 1: qmgr: {lost}: corrupt message set aside" in relay.told())
    told = relay.run("resel-queue", "why", lost)
    assert "damaged" in told.stdout, told
    # And it is still known when its worker is not there any more.
    os.kill(relay.workers()[1], signal.SIGKILL)
    until(lambda: "worker 1 pid" in relay.told())
    assert f"worker 1: qmgr: {lost}: corrupt message set aside" in relay.told()
    assert relay.stop() == 0


def test_workers_one_that_cannot_start_leaves_its_part_to_worker_0(
    make: Make, next_hop: NextHop
) -> None:
    next_hop.close()
    relay = make(2)
    ids = relay.send_to_all(2)
    assert relay.stop() == 0
    # Its admin socket cannot be made.
    (relay.directory / "data" / "control.1").mkdir()
    next_hop.open()
    relay.start()
    until(lambda: relay.status()["workers"][1]["state"] == "adopted")
    relay.queue("-f")
    until(lambda: not relay.entries())
    assert len(next_hop.taken) == 2
    assert f"{ids[1]}: removed" in relay.log()
    assert json.loads(relay.queue("audit", "-j"))["balanced"]
    assert relay.stop() == 0
