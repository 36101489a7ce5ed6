"""The bare loop that relays are measured against moves every message, and syncs before its 250."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import Case, send
from benchmarks.relay import Contender, contenders
from benchmarks.servers import BareServer

CASES = (
    Case("kept", messages=60),
    Case("large", size=51200, messages=20),
    Case("one", sessions=1, messages=10),
    Case("many recipients", recipients=50, messages=10),
    Case("a connection each", keep=False, messages=30),
    Case("away", messages=40, backlog=True),
)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[tuple[Contender, BareServer]]:
    tmp_path.chmod(0o755)
    with contenders(tmp_path, [BareServer]) as (contender,):
        assert isinstance(contender.server, BareServer)
        yield contender, contender.server


@pytest.mark.needs("smtp-source", "smtp-sink")
def test_everything_arrives_in_all_cases(bare: tuple[Contender, BareServer]) -> None:
    contender, _ = bare
    total = 0
    for case in CASES:
        # That as many arrive as were sent is what `measure` looks at.
        contender.measure(case, case.messages)
        total += case.messages
    assert contender.sink.count() == total


@pytest.mark.needs("smtp-source", "smtp-sink")
def test_a_sink_that_refuses_is_tried_again(bare: tuple[Contender, BareServer]) -> None:
    contender, server = bare
    contender.sink.away()
    send(Case("refused"), server.port, 30, 20)
    contender.sink.back()
    contender.sink.await_count(30, 20)


@pytest.mark.needs("smtp-source", "smtp-sink")
def test_one_client_alone_waits_for_a_sync_each_time(bare: tuple[Contender, BareServer]) -> None:
    contender, server = bare
    before = server.syncs()
    contender.measure(Case("one", sessions=1), 20)
    assert server.syncs() - before >= 20


@pytest.mark.needs("smtp-source", "smtp-sink")
def test_it_writes_as_much_as_it_is_told(bare: tuple[Contender, BareServer]) -> None:
    contender, server = bare
    server.pad(40_000, 0)
    run = contender.measure(Case("padded"), 50)
    if run.written_kb == 0:
        pytest.skip("the file system of the test's directory does not count what is written")
    assert 40 <= run.written_kb < 60
