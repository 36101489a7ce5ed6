"""What every room's tests share: real peers, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import hypothesis
import pytest

#: Where Debian keeps daemons and administrators' commands, which an ordinary user's PATH leaves out.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")


def find_peer(program: str) -> str:
    """The path of a program that a test talks to; skips the test where it is not installed.

    With RESEL_REQUIRE_PEERS set, as in CI, a missing one fails the test instead.
    """
    path = shutil.which(program, path=SEARCH_PATH)
    if path is not None:
        return path
    reason = f"{program} is not installed"
    if os.environ.get("RESEL_REQUIRE_PEERS"):
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(program, ...): skips, or in CI fails, where a program is not installed"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.needs("mutt")` is for whole tests and modules what `need` is within one."""
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            find_peer(program)


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """`need("swaks")` gives the program's path, or skips (in CI: fails) the test."""
    return find_peer
