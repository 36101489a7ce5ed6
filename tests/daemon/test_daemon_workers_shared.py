"""What workers share: memory, limits per next hop, turns, and one queue out of its parts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from resel_mta.control import ControlError, NotRunning, Row
from resel_mta.mail import Deferred, Outcome, Reply
from resel_mta.queue.door import Entry
from resel_mta.queue.ids import PART, IdSource, format_id, part_of, time_of
from resel_mta.users.penalties import SLOTS, Attempts, Penalties
from resel_mta.workers.board import Board, SharedCounter
from resel_mta.workers.guesses import SharedGuesses
from resel_mta.workers.merging import MergedQueue, Table, remote_table
from resel_mta.workers.sharing import Hub

HOST_DOWN = Deferred(Reply(450, "4.4.1", "no route to host"), host_down=True)


def boards(count: int) -> list[Board]:
    first = Board.make()
    found = [first, *(Board(os.dup(first.descriptor), number) for number in range(1, count))]
    for board in found:
        board.use(count)
    return found


def test_workers_board_counts_each_clients_connections_everywhere() -> None:
    one, two, three = (SharedCounter(board) for board in boards(3))
    for counter in (one, two, two):
        counter.add("192.0.2.1")
    three.add("192.0.2.2")
    assert [counter["192.0.2.1"] for counter in (one, two, three)] == [3, 3, 3]
    two.remove("192.0.2.1")
    two.remove("192.0.2.1")
    assert [counter["192.0.2.1"] for counter in (one, two, three)] == [1, 1, 1]
    assert one["192.0.2.2"] == 1


def test_workers_board_counts_many_clients_and_forgets_them() -> None:
    first, second = boards(2)
    counter = SharedCounter(first)
    addresses = [f"2001:db8::{number:x}" for number in range(2000)]
    for address in addresses:
        counter.add(address)
    assert sum(second.count_elsewhere(address) for address in addresses) > 1990
    for address in addresses:
        counter.remove(address)
    assert not any(second.count_elsewhere(address) for address in addresses)


def test_workers_board_a_dead_workers_connections_are_none() -> None:
    first, second = boards(2)
    SharedCounter(second).add("192.0.2.1")
    assert first.count_elsewhere("192.0.2.1") == 1
    first.wipe(1)
    assert first.count_elsewhere("192.0.2.1") == 0
    assert first.sessions(1) == 0


def test_workers_board_what_was_counted_alone_is_published() -> None:
    first, second = boards(2)
    counter = SharedCounter(first)
    counter.add("192.0.2.1")
    first.use(1)
    counter.remove("192.0.2.1")
    counter.add("192.0.2.2")
    first.use(2)
    counter.publish()
    assert second.count_elsewhere("192.0.2.1") == 0
    assert second.count_elsewhere("192.0.2.2") == 1


def test_workers_board_whoever_has_most_sessions_is_busier() -> None:
    first, second, third = boards(3)
    first.count_session(1)
    assert first.is_busier
    assert not second.is_busier
    second.count_session(1)
    third.count_session(1)
    assert not first.is_busier
    third.leave()
    third.count_session(-1)
    third.leave()
    assert not first.is_busier


def penalties_of(board: Board, delay: float = 0.5) -> Penalties:
    return Penalties(delay, SharedGuesses(board))


async def is_free(penalties: Penalties, address: str) -> bool:
    """Whether an attempt need not wait."""
    attempt = asyncio.ensure_future(penalties.turn(address, "eve"))
    await settle()
    if attempt.done():
        (await attempt).undecided()
        return True
    attempt.cancel()
    await asyncio.wait((attempt,))
    return False


async def test_workers_guesses_have_the_same_slots_everywhere() -> None:
    one, two, three = (penalties_of(board) for board in boards(3))
    turns = [await each.turn("192.0.2.1", "ann") for each in (one, one, two, three)]
    for penalties in (one, two, three):
        assert not await is_free(penalties, "192.0.2.1")
        assert await is_free(penalties, "192.0.2.2")
    # It is told when another one lets go.
    waiting = asyncio.ensure_future(three.turn("192.0.2.1", "ann"))
    await settle()
    turns[0].undecided()
    (await asyncio.wait_for(waiting, 30)).undecided()
    turns[1].undecided()
    assert all([await is_free(each, "192.0.2.1") for each in (one, two, three)])


async def test_workers_guesses_wait_everywhere_for_their_turn() -> None:
    all_penalties = [penalties_of(board) for board in boards(3)]
    under_way = most = done = 0

    async def guess(penalties: Penalties) -> None:
        nonlocal under_way, most, done
        turn = await penalties.turn("192.0.2.1", "ann")
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        turn.undecided()
        done += 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(guess(each) for each in all_penalties for _ in range(20)))
    assert (done, most) == (60, SLOTS)


async def test_workers_guesses_are_counted_together_and_forgotten_with_a_dead_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("resel_mta.users.penalties.monotonic", lambda: now)
    monkeypatch.setattr("resel_mta.workers.guesses.monotonic", lambda: now)
    first, second = boards(2)
    one, two = penalties_of(first, 0.001), penalties_of(second, 0.001)
    delays = [
        (await each.turn("192.0.2.1", "ann")).failed() for _ in range(8) for each in (one, two)
    ]
    assert delays == [0.001] * 8 + [0.002] * 8
    first.wipe(1)
    assert (await one.turn("192.0.2.1", "ann")).failed() == 0.002
    assert (await two.turn("192.0.2.1", "ann")).failed() == 0.004
    now += 601
    assert (await two.turn("192.0.2.1", "ann")).failed() == 0.001


def test_workers_guesses_of_many_addresses_stay_within_their_memory() -> None:
    first, second, _ = boards(3)
    guesses = SharedGuesses(first)
    for number in range(20_000):
        now = time.monotonic()
        guesses.tell(f"2001:db8::{number:x}", Attempts(0, 0, 1, now))
    # The latest are known, and nothing was written where something else lies.
    assert (
        sum(SharedGuesses(second).of(f"2001:db8::{n:x}").failures for n in range(19_900, 20_000))
        > 90
    )
    assert not any(SharedGuesses(first).of(f"2001:db8::{n:x}").failures for n in range(20_000))
    first.wipe(0)
    # Nothing is left but the word that the two others are there.
    assert bytes(second.memory).count(0) == len(second.memory) - 2


class Ear:
    """Implements `queue.peers.Listener`."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.shares = 0

    def told_down(self, site: str, until: float, outcome: Outcome) -> None:
        self.heard.append(("down", site, until, outcome))

    def told_up(self, site: str) -> None:
        self.heard.append(("up", site))

    def shares_changed(self) -> None:
        self.shares += 1


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_workers_hub_divides_limits_among_those_that_have_mail() -> None:
    async def run() -> None:
        hub = Hub()
        peers = [hub.peers(part) for part in range(3)]
        await settle()
        assert [each.share(20) for each in peers] == [7, 7, 6]
        assert [each.share(0) for each in peers] == [0, 0, 0]
        assert not peers[0].take_turns(3, 0)
        assert peers[0].take_turns(2, 0)
        assert peers[0].take_turns(20, 1)
        hub.set_idle(2, idle=True)
        await settle()
        assert [each.share(20) for each in peers[:2]] == [10, 10]
        hub.leave(1)
        await settle()
        assert peers[0].share(20) == 20
        assert not peers[0].take_turns(1, 5)

    asyncio.run(run())


def test_workers_hub_tells_the_others() -> None:
    async def run() -> None:
        hub = Hub()
        peers, ears = [hub.peers(part) for part in range(3)], [Ear() for _ in range(3)]
        for each, ear in zip(peers, ears, strict=True):
            each.listen(ear)
        peers[1].tell_down("smtp:[a]", 99.0, HOST_DOWN)
        peers[2].tell_up("smtp:[a]")
        await settle()
        assert ears[0].heard == [("down", "smtp:[a]", 99.0, HOST_DOWN), ("up", "smtp:[a]")]
        assert ears[1].heard == [("up", "smtp:[a]")]
        assert ears[2].heard == [("down", "smtp:[a]", 99.0, HOST_DOWN)]

    asyncio.run(run())


def test_workers_hub_turns_end_with_whoever_has_them() -> None:
    async def run() -> None:
        hub = Hub()
        peers = [hub.peers(part) for part in range(3)]
        granted: list[int] = []

        def want(part: int, site: str = "smtp:[a]") -> None:
            peers[part].want_turn(site, 1, 0, lambda: granted.append(part))

        for part in range(3):
            want(part)
        await settle()
        assert granted == [0]
        peers[0].end_turn("smtp:[a]", used=True)
        await settle()
        assert granted == [0, 1]
        # It died.
        hub.leave(1)
        await settle()
        assert granted == [0, 1, 2]
        want(0, "smtp:[b]")
        await settle()
        assert granted == [0, 1, 2, 0]

    asyncio.run(run())


def test_workers_hub_keeps_a_distance_after_turns_that_were_used() -> None:
    async def run() -> float:
        hub = Hub()
        one, two = hub.peers(0), hub.peers(1)
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        one.want_turn("smtp:[a]", 1, 1, lambda: first.set_result(None))
        await first
        one.end_turn("smtp:[a]", used=False)
        one.want_turn("smtp:[a]", 1, 1, lambda: None)
        await settle()
        one.end_turn("smtp:[a]", used=True)
        ended = loop.time()
        two.want_turn("smtp:[a]", 1, 1, lambda: second.set_result(None))
        await second
        return loop.time() - ended

    assert asyncio.run(run()) >= 1.0


def test_workers_ids_say_their_part() -> None:
    now = 1_800_000_000.0
    ids = {part: format_id(IdSource(0, lambda: now, part * PART).next()) for part in (0, 1, 9, 63)}
    assert len(set(ids.values())) == 4
    for part, queue_id in ids.items():
        assert part_of(queue_id) == part
        assert abs(time_of(queue_id) - now) < 1
    assert ids[1] == "1" + ids[0]
    assert part_of("nonsense") == 0


def entry(queue_id: str, arrival: float) -> Entry:
    return Entry(queue_id, "deferred", arrival, 1, "", (), 0.0, 0.0)


def listing(*entries: Entry, size: int = 2) -> Table:
    async def walk(args: Mapping[str, Any]) -> AsyncIterator[Row]:
        for start in range(0, len(entries), size):
            yield {"entries": list(entries[start : start + size])}

    return {"queue.walk": walk}


async def walked(parts: Mapping[int, Table]) -> list[str]:
    verbs = MergedQueue(lambda: parts).table()
    rows = [row async for row in verbs["queue.walk"]({})]
    return [each[0] for row in rows for each in row["entries"]]


def test_workers_listings_are_merged_by_arrival() -> None:
    parts = {
        0: listing(*(entry(f"A{n}", n) for n in (1, 4, 5, 9, 12))),
        1: listing(*(entry(f"B{n}", n) for n in (2, 3, 20))),
        2: listing(),
        3: listing(entry("C7", 7), entry("C6", 6)),
    }
    found = asyncio.run(walked(parts))
    assert [int(each[1:]) for each in found] == [1, 2, 3, 4, 5, 6, 7, 9, 12, 20]


def test_workers_what_parts_have_found_is_put_together() -> None:
    def part(**found: object) -> Table:
        async def check(args: Mapping[str, Any]) -> AsyncIterator[Row]:
            yield found

        return {"queue.check": check}

    parts = {0: part(messages=2, problems=["A: gone"]), 1: part(messages=3, problems=["B: short"])}

    async def checked() -> list[Row]:
        return [row async for row in MergedQueue(lambda: parts).table()["queue.check"]({})]

    assert asyncio.run(checked()) == [{"messages": 5, "problems": ["A: gone", "B: short"]}]


def test_workers_a_part_whose_worker_has_just_died_is_waited_for() -> None:
    tries = 0

    async def absent(args: Mapping[str, Any]) -> AsyncIterator[Row]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise NotRunning
        yield {"entries": [entry("B1", 1)]}

    assert asyncio.run(walked({0: listing(), 1: {"queue.walk": absent}})) == ["B1"]


@pytest.mark.parametrize(
    "said", [b"", b'{"row": {"active": 1}}\n', b'{"row": {"active": 1}}\n{"do', b'{"row": {"act']
)
async def test_workers_one_that_dies_in_its_answer_is_asked_again(
    tmp_path: Path, said: bytes
) -> None:
    """It is started again; how many messages there are may be asked twice."""
    answers = [said, b'{"row": {"active": 2}}\n{"done": {}}\n']

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answers.pop(0))
        writer.close()

    async def own(args: Mapping[str, Any]) -> AsyncIterator[Row]:
        yield {"active": 1}

    path = tmp_path / "control.1"
    # Nobody may connect to what is not a socket.
    path.mkdir()
    with pytest.raises(NotRunning):
        await anext(aiter(remote_table(path)["queue.stats"]({})))
    path.rmdir()
    server = await asyncio.start_unix_server(answer, path)
    queue = MergedQueue(lambda: {0: {"queue.stats": own}, 1: remote_table(path)})
    assert [row async for row in queue.table()["queue.stats"]({})] == [{"active": 3}]
    server.close()


def test_workers_a_part_that_does_not_open_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resel_mta.workers.merging._PATIENCE", 0.1)

    async def absent(args: Mapping[str, Any]) -> AsyncIterator[Row]:
        raise NotRunning
        yield {}

    with pytest.raises(ControlError, match="part 1 of the queue is not open"):
        asyncio.run(walked({0: listing(), 1: {"queue.walk": absent}}))
