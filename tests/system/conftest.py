"""Whole daemons: ResEl's three machines, with the configurations of conf/."""

from __future__ import annotations

import os
import subprocess
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
def namespaces(need: Callable[[str], str]) -> None:
    """Skips where no namespaces can be made: not root, or root of a container that may not."""
    if os.getuid() != 0:
        pytest.skip("only root can make network namespaces")
    for program in ("ip", "nsenter", "unshare", "setpriv"):
        need(program)
    words = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no namespaces can be made here: {done.stderr.strip()}")


@pytest.fixture(scope="session")
def hosts(namespaces: None, need: Callable[[str], str]) -> Iterator[ReselLan]:
    """The three machines and a stranger, each a host of its own."""
    for program in ("script", "sendmail"):
        need(program)
    with ReselLan(need) as lan:
        yield lan
