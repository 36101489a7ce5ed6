"""kill -9 of the whole process group under load, with a next hop that fails in every way.

RESEL_KILL_ROUNDS sets how often (6); run with -s to see the counts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest
from kill_rig import Account, BadNextHop, Load, Relay, back_after_removal

ROUNDS = int(os.environ.get("RESEL_KILL_ROUNDS", "6"))


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def next_hop(account: Account) -> Iterator[BadNextHop]:
    server = BadNextHop(account)
    yield server
    server.close()


@pytest.fixture
def relay(next_hop: BadNextHop) -> Iterator[Relay]:
    relay = Relay(next_hop.port)
    yield relay
    relay.close()


def test_system_kill_9_loses_and_spoils_nothing(
    relay: Relay, next_hop: BadNextHop, account: Account
) -> None:
    chance = random.Random(9)
    relay.start()
    load = Load(relay.port, account)
    try:
        for number in range(ROUNDS):
            # Every fourth time while it starts.
            if number % 4 != 3:
                before, until = len(account.acknowledged), time.monotonic() + 30
                while len(account.acknowledged) < before + 50 and time.monotonic() < until:
                    time.sleep(0.005)
                assert len(account.acknowledged) >= before + 50, relay.output()
            time.sleep(chance.random() * 0.5)
            relay.kill()
            relay.start()
    finally:
        load.end()
    next_hop.kind = True
    until = time.monotonic() + 90
    while (account.lost() or relay.queue() != "Mail queue is empty") and time.monotonic() < until:
        time.sleep(0.2)
    print(
        f"{ROUNDS} kills, {len(account.acknowledged)} acknowledged, {len(account.arrived)} arrived,"
        f" {account.duplicates()} again, {len(account.doubtful)} left in doubt by the next hop"
    )
    assert account.lost() == []
    assert account.corrupt == []
    assert back_after_removal(relay.log()) == []
    # What was in flight: 20 deliveries with at most 4 recipients each.
    assert account.duplicates() <= ROUNDS * 80 + len(account.doubtful)
    assert relay.queue() == "Mail queue is empty"
    assert "corrupt" not in relay.log()
    assert "Traceback" not in relay.output()
    assert not list((relay.directory / "queue" / "corrupt").iterdir())
    assert not list((relay.directory / "queue" / "content").glob("*/*"))
