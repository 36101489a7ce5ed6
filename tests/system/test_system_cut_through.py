"""`relay_cut_through` on a whole relay: the 250 comes from the next hop, or from the queue."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from system_helpers import Inbox, await_empty_queue
from test_system_ledger import Clients, audit

from demo.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(extra={"pegase": {"relay_cut_through": "yes"}}) as network:
        network.start()
        yield network


def test_system_cut_through_and_its_queue(network: Network, inbox: Inbox) -> None:
    pegase = network.pegase
    clients = Clients(network, pegase)
    clients.run(3, 10)
    # Each 250 came after Toad's.
    assert inbox.await_count(30, timeout=5) == 30
    assert pegase.command("resel-queue", "-p").stdout == "Mail queue is empty\n"
    network.toad.stop()
    started = time.monotonic()
    clients.run(1, 3)
    assert time.monotonic() - started < 10
    listing = pegase.command("resel-queue", "-j").stdout.splitlines()
    assert len(listing) == 3
    assert "Connection refused" in json.loads(listing[0])["recipients"][0]["delay_reason"]
    found = audit(pegase)
    assert (found["counts"]["accepted"], found["counts"]["relayed"]) == (33, 30)
    network.toad.start()
    await_empty_queue(pegase)
    await_empty_queue(network.toad)
    assert inbox.copies() == Counter(map(str, clients.messages))


def test_system_cut_through_kill_9_loses_nothing_acknowledged(
    network: Network, inbox: Inbox
) -> None:
    clients = Clients(network, network.pegase)
    load = threading.Thread(target=clients.run, args=(4, 60))
    load.start()
    for _ in range(2):
        load.join(0.4)
        network.pegase.kill()
        network.pegase.start()
        load.join(0.3)
        network.toad.kill()
        network.toad.start()
    load.join()
    await_empty_queue(network.pegase)
    await_empty_queue(network.toad)
    assert {int(number) for number in inbox.copies()} >= set(clients.messages)
    audit(network.pegase)
