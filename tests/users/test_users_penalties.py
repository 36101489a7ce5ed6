"""Guessing: how long failures take, and how many of one address are looked at together."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from resel_mta.config import Settings
from resel_mta.mail import TempFail
from resel_mta.users import open_users, schemes
from resel_mta.users.penalties import MAX_WAITING, SLOTS, Penalties, network
from resel_mta.users.sasl import Failure, FailureKind, SaslServer, Success


def server(tmp_path: Path, **values: str) -> SaslServer:
    path = tmp_path / "users"
    path.write_text("ann:{PLAIN}right\nbob:{PLAIN}right\n")
    return SaslServer(open_users(Settings.build(passdb=f"passwd-file:{path}", **values)))


async def log_in(sasl: SaslServer, remote: str, name: str = "ann", password: str = "x") -> bool:
    step = await sasl.exchange(remote).start("PLAIN", f"\0{name}\0{password}".encode())
    return isinstance(step, Success)


async def test_a_failure_takes_its_time_and_a_success_none(tmp_path: Path) -> None:
    sasl = server(tmp_path)
    began = time.monotonic()
    assert await log_in(sasl, "192.0.2.1", password="right")
    assert time.monotonic() - began < 1
    assert not await log_in(sasl, "192.0.2.1")
    assert 2 <= time.monotonic() - began < 3


async def test_how_long_the_check_took_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sasl = server(tmp_path, auth_failure_delay="1s")

    async def slow(*args: object) -> bool:
        await asyncio.sleep(0.6)
        return False

    monkeypatch.setattr(sasl._users, "_verify", slow)
    began = time.monotonic()
    assert not await log_in(sasl, "192.0.2.1")
    assert 1 <= time.monotonic() - began < 1.4


async def test_parallel_guesses_of_one_address_wait_for_each_other() -> None:
    penalties = Penalties(0.1)
    looked = 0

    async def guess(remote: str) -> None:
        nonlocal looked
        turn = await penalties.turn(remote, "ann")
        looked += 1
        await asyncio.sleep(turn.failed())

    guesses = [asyncio.create_task(guess("192.0.2.1")) for _ in range(SLOTS * 3)]
    await asyncio.sleep(0.05)
    assert looked == SLOTS
    # Elsewhere nobody waits.
    (await asyncio.wait_for(penalties.turn("192.0.2.2", "ann"), 0.05)).succeeded()
    await asyncio.sleep(0.1)
    assert looked == SLOTS * 2
    await asyncio.gather(*guesses)


async def test_hanging_up_does_not_make_guessing_faster() -> None:
    penalties = Penalties(0.2)
    for _ in range(SLOTS):
        (await penalties.turn("192.0.2.1", "ann")).failed()
    # Those who gave up are gone; the slots are not free.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.1)
    await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.2)


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    penalties = Penalties(0.05)
    for _ in range(SLOTS):
        (await penalties.turn("192.0.2.1", "ann")).failed()
    waiting = [asyncio.create_task(penalties.turn("192.0.2.1", "ann")) for _ in range(SLOTS * 2)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    for _ in range(SLOTS):
        turn = await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.2)
    turn.undecided()
    await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.2)


async def test_known_users_pass_the_queue_once() -> None:
    penalties = Penalties(0.2)
    (await penalties.turn("192.0.2.1", "Ann")).succeeded()
    for _ in range(SLOTS):
        (await penalties.turn("192.0.2.1", "bob")).failed()
    turn = await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.05)
    with pytest.raises(TimeoutError):
        # Not a second at the same time, which could be a guess.
        await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.05)
    turn.succeeded()
    turn = await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.05)
    turn.failed()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(penalties.turn("192.0.2.1", "ann"), 0.05)


async def test_many_failures_take_longer_until_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    penalties = Penalties(0.001)
    now = time.monotonic()
    monkeypatch.setattr("resel_mta.users.penalties.monotonic", lambda: now)
    delays = [(await penalties.turn("192.0.2.1", "ann")).failed() for _ in range(40)]
    assert delays[0] == 0.001
    assert delays[8] == 0.002
    assert delays[-1] == 0.008
    assert delays == sorted(delays)
    now += 601
    assert (await penalties.turn("192.0.2.1", "ann")).failed() == 0.001


async def test_webmail_on_this_machine_is_not_slowed_down_for_one_users_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resel_mta.users.penalties.monotonic", lambda: 1000.0)
    penalties = Penalties(0.001)
    for remote in ("127.0.0.1", "::1"):
        delays = [(await penalties.turn(remote, "ann")).failed() for _ in range(40)]
        assert set(delays) == {0.001}


async def test_equal_log_ins_at_once_are_one_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    verify = schemes.verify

    def counted(stored: str, password: bytes) -> bool:
        made.append(password)
        time.sleep(0.05)
        return verify(stored, password)

    monkeypatch.setattr(schemes, "verify", counted)
    users = server(tmp_path, auth_cache_ttl="0")._users
    tries = [users.authenticate("ann", b"right") for _ in range(5)]
    given_up = asyncio.create_task(users.authenticate("ann", b"right"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert all(await asyncio.gather(*tries))
    assert made == [b"right"]
    # Nothing was remembered.
    assert await users.authenticate("ann", b"right")
    assert len(made) == 2
    users.close()


async def test_too_many_are_turned_away_undecided(tmp_path: Path) -> None:
    sasl = server(tmp_path)
    penalties = sasl._users.penalties
    for _ in range(SLOTS):
        (await penalties.turn("192.0.2.1", "ann")).failed()
    waiting = [asyncio.create_task(penalties.turn("192.0.2.1", "ann")) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(TempFail):
        await penalties.turn("192.0.2.1", "ann")
    step = await sasl.exchange("192.0.2.1").start("PLAIN", b"\0ann\0right")
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.TEMPORARY
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_addresses_are_forgotten_before_memory_is_full() -> None:
    penalties = Penalties(0.0)
    for number in range(9000):
        (await penalties.turn(f"198.{number >> 8}.{number & 255}.1", "ann")).undecided()
    assert len(penalties._addresses) <= 4097


def test_what_counts_as_one_address() -> None:
    assert network("192.0.2.1") == network("::ffff:192.0.2.1") != network("192.0.2.2")
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("fe80::1%eth0") == network("fe80::2%eth0")
    assert network("127.0.0.1") == network("127.9.9.9") != network("::1")
    assert network("") == ""


async def test_success_is_remembered_for_auth_cache_ttl(tmp_path: Path) -> None:
    for ttl, expected in (("60s", 1), ("0", 2)):
        sasl = server(tmp_path, auth_cache_ttl=ttl, auth_failure_delay="0")
        users = sasl._users
        checks = 0
        verify = users._verify

        async def counted(*args: object, verify=verify) -> bool:  # type: ignore[no-untyped-def]
            nonlocal checks
            checks += 1
            return await verify(*args)

        users._verify = counted  # type: ignore[assignment]
        for _ in range(2):
            assert await log_in(sasl, "192.0.2.1", password="right")
        assert checks == expected
        # Failures are looked at each time.
        for _ in range(2):
            assert not await log_in(sasl, "192.0.2.1")
        assert checks == expected + 2
        users.close()


async def test_hashing_is_bounded(tmp_path: Path) -> None:
    sasl = server(tmp_path, auth_failure_delay="0")
    users = sasl._users
    tries = [
        asyncio.create_task(users.authenticate("ann", f"{number}".encode()))
        for number in range(400)
    ]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, TempFail) for result in done) == 400 - 256
    assert await users.authenticate("ann", b"right")
    users.close()
