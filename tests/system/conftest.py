"""Whole daemons: ResEl's three machines, with the configurations of conf/."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from resel_lan import ReselLan
from system_helpers import Inbox

from demo.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    """Started, with empty queues and mailboxes."""
    with Network() as network:
        network.start()
        yield network


@pytest.fixture
def inbox(network: Network) -> Inbox:
    return Inbox(network)


@pytest.fixture(scope="session")
def hosts(need: Callable[[str], str]) -> Iterator[ReselLan]:
    """The three machines and a stranger, each a host of its own. Only for root."""
    for program in ("ip", "nsenter", "unshare", "setpriv", "script", "sendmail"):
        need(program)
    with ReselLan(need) as lan:
        yield lan
