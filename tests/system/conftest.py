"""Whole daemons: ResEl's three machines, with the configurations of conf/."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
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
