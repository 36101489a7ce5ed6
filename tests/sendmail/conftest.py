"""A daemon's side of resel-sendmail, in a folder that every user can reach."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sendmail_daemon import Daemon
from sendmail_helpers import Office


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """pytest's own tmp_path is closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix="resel-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def closed(open_folder: Path) -> Office:
    """No daemon runs."""
    return Office(open_folder)


@pytest.fixture
async def office(closed: Office) -> AsyncIterator[Office]:
    """Served."""
    await closed.server.start()
    yield closed
    await closed.server.stop(1)


@pytest.fixture
def daemon(open_folder: Path) -> Iterator[Daemon]:
    """Not started."""
    made = Daemon(open_folder)
    yield made
    made.stop()
    assert not made.log.exists() or "Traceback" not in made.log.read_text()
