"""A command that has the queue while no daemon runs: the start waits for it. Another daemon: it does
not."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from workers_rig import NextHop, Relay, free_port, make_relay, until

from resel_mta.queue.lock import lock_queue


@pytest.fixture
def relay() -> Iterator[Relay]:
    # Not tmp_path: the daemon's account must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="resel-in-use-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        relay = make_relay(Path(name), 1, NextHop())
        yield relay
        relay.kill()
        until(lambda: not relay.processes())


def test_daemon_start_waits_for_a_command_that_has_the_queue(relay: Relay) -> None:
    relay.start()
    assert relay.stop() == 0
    command = lock_queue(str(relay.directory / "queue"))
    starting = threading.Thread(target=relay.start)
    starting.start()
    try:
        until(lambda: "waiting for it" in relay.log())
        assert f"is in use by process {os.getpid()}" in relay.log()
    finally:
        os.close(command)
    starting.join(60)
    assert relay.all_run()
    assert relay.stop() == 0


def test_daemon_of_the_same_queue_is_no_reason_to_wait(relay: Relay) -> None:
    relay.start()
    other = relay.directory / "other.cf"
    text = (relay.directory / "main.cf").read_text()
    text = text.replace(f":{relay.port}\n", f":{free_port()}\n")
    other.write_text(text.replace(f"{relay.directory}/data", f"{relay.directory}/other"))
    done = relay.run("resel-mta", "-c", str(other))
    assert done.returncode == 69, done.stderr
    assert "another resel-mta runs" in done.stderr
