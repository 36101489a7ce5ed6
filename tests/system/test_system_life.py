"""A daemon's life: reload, kill, stop, and what commands say when it is down."""

from __future__ import annotations

import smtplib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from system_helpers import Inbox, await_empty_queue

from benchmarks.meter import pss_bytes
from demo.machines import Machine
from demo.network import Network


def send(network: Network, machine: Machine, number: int) -> None:
    with network.smtp(machine) as client:
        message = f"Subject: {number}\r\nX-Number: {number}\r\n\r\ntext {number}\r\n".encode()
        client.sendmail("root@vm1.adm.resel.fr", ["root@resel.fr"], message)


def test_system_reload_with_a_bad_file_keeps_running(network: Network, inbox: Inbox) -> None:
    machine = network.pegase
    path = machine.directory / "main.cf"
    good = path.read_text()
    path.write_text(good + "relay_domians = x\nmynetworks = not/a/network\nsmtpd_timeout = soon\n")
    with network.smtp(machine) as client:
        client.ehlo()
        machine.hang_up()
        machine.await_log("old configuration stays in force")
        assert client.noop()[0] == 250
    text = "\n".join(machine.log())
    assert "mynetworks" in text
    assert "smtpd_timeout" in text
    send(network, machine, 1)
    assert inbox.await_count(1) == 1

    path.write_text(good + "message_size_limit = 12345678\n")
    machine.hang_up()
    machine.await_log(r"reload -- ")
    with network.smtp(machine) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "12345678"


def test_system_kill_9_under_load_loses_nothing_acknowledged(
    network: Network, inbox: Inbox
) -> None:
    acknowledged: list[int] = []
    ended = threading.Event()

    def load(first: int) -> None:
        number = first
        while not ended.is_set():
            try:
                with network.smtp(network.pegase) as client:
                    while not ended.is_set():
                        number += 1
                        client.ehlo_or_helo_if_needed()
                        client.mail("root@vm1.adm.resel.fr")
                        client.rcpt("root@resel.fr")
                        code, _ = client.data(f"X-Number: {number}\r\n\r\nx\r\n".encode())
                        if code == 250:
                            acknowledged.append(number)
            except (OSError, smtplib.SMTPException):
                ended.wait(0.02)

    threads = [threading.Thread(target=load, args=(100_000 * n,)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = len(acknowledged)
            until = time.monotonic() + 60
            while len(acknowledged) < before + 60 and time.monotonic() < until:
                time.sleep(0.005)
            assert len(acknowledged) >= before + 60, "no load"
            network.pegase.kill()
            network.pegase.start()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    await_empty_queue(network.pegase)
    await_empty_queue(network.toad)
    copies = inbox.copies()
    lost = [number for number in acknowledged if str(number) not in copies]
    assert lost == []
    # Only what was in flight at a kill may come twice: at most one per connection and kill.
    again = sum(count - 1 for count in copies.values())
    assert again <= 3 * 20


def test_system_big_mails_do_not_stop_the_others(need: Callable[[str], str]) -> None:
    """Ten clients with 20 MB each: another client's NOOP is answered, memory stays small."""
    source = need("smtp-source")
    with Network(extra={"pegase": {"message_size_limit": "50000000"}}) as network:
        network.pegase.start()
        words = [source, "-s", "10", "-m", "10", "-l", "20000000", "-f", "a@vm1.adm.resel.fr"]
        words += ["-t", "root@resel.fr", f"inet:{network.pegase.address}:{network.port}"]
        failures: list[str] = []

        def load() -> None:
            result = network.launcher.run(words, timeout=60)
            failures.append(result.stderr)

        thread = threading.Thread(target=load)
        waits: list[float] = []
        peak = 0
        with network.smtp(network.pegase) as client:
            client.ehlo()
            thread.start()
            while thread.is_alive():
                started = time.monotonic()
                assert client.noop()[0] == 250
                waits.append(time.monotonic() - started)
                peak = max(peak, pss_bytes(network.pegase.pid))
                time.sleep(0.02)
        thread.join()
        assert failures == [""]
        waits.sort()
        print(f"NOOP: {waits[-1] * 1000:.0f} ms at most, {peak / 1e6:.0f} MB")
        assert peak < 150e6
        assert waits[len(waits) * 95 // 100] < 0.1, waits[-10:]
        # A busy machine may hold up one of them; a NOOP that is made to wait takes a second.
        assert waits[-1] < 0.8, waits[-10:]


def test_system_stop_leaves_mail_queued_and_commands_work_while_down(network: Network) -> None:
    network.toad.stop()
    send(network, network.vm, 7)
    network.pegase.await_log(r"to=<root@resel\.fr>.* status=deferred")
    network.pegase.stop()
    listing = network.pegase.command("resel-queue", "-p")
    assert listing.returncode == 0
    assert "root@resel.fr" in listing.stdout
    assert listing.stdout.rstrip().endswith("in 1 Request.")
    flush = network.pegase.command("resel-queue", "-f")
    assert flush.returncode == 69
    assert flush.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["resel-mta", "-c", "/nonexistent/main.cf"], 78),
        (["resel-mta", "-c", "/nonexistent/main.cf", "check"], 78),
        (["resel-mta", "--role", "postman"], 64),
        (["resel-queue", "-c", "/nonexistent/main.cf", "-p"], 78),
        (["resel-queue", "--no-such-option"], 64),
        (["resel-conf", "-c", "/nonexistent/main.cf", "-n"], 78),
        (["resel-map", "-c", "/nonexistent/main.cf", "-q", "key", "nonsense"], 78),
    ],
)
def test_system_commands_say_what_is_wrong(words: list[str], code: int, tmp_path: Path) -> None:
    with Network() as network:
        result = network.launcher.run([*network.launcher.command(words[0]), *words[1:]])
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("usage:", " "))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{words[0]}: fatal: ")


@pytest.mark.parametrize("verb", ["reload", "stop", "status"])
def test_system_daemon_down_is_said(verb: str) -> None:
    with Network() as network:
        result = network.vm.command("resel-mta", verb)
    assert result.returncode == 69, (result.stdout, result.stderr)
    assert (result.stdout + result.stderr).count("\n") == 1
