"""Kept connections: how long, how often, how many."""

from __future__ import annotations

import asyncio

from relay_peers import HELLO
from test_relay_session import ONE


async def eventually(condition) -> None:
    """Give up after two seconds."""
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def hop(server) -> str:
    return f"[127.0.0.1]:{server.port}"


async def test_idle_connection_ends_after_its_time(peer, client):
    server = await peer(HELLO + ONE)
    one = client(connection_cache_time_limit=0)
    await one.send(hop(server))
    await asyncio.wait_for(server.left.wait(), 5)
    assert server.lines[0][-1] == "QUIT"
    await eventually(lambda: len(one.transport._pool) == 0)


async def test_reuse_count_limit(peer, client):
    server = await peer(HELLO + ONE + ONE)
    one = client(connection_reuse_count_limit=2)
    for _ in range(4):
        (outcome,) = await one.send(hop(server))
        assert outcome.status == "sent"
    assert server.sessions == 2


async def test_reuse_time_limit(peer, client):
    server = await peer(HELLO + ONE)
    one = client(connection_reuse_time_limit=0)
    for _ in range(2):
        await one.send(hop(server))
    assert server.sessions == 2


async def test_no_cache_on_demand(peer, client):
    server = await peer(HELLO + ONE)
    one = client(connection_cache_on_demand=False)
    for _ in range(2):
        await one.send(hop(server))
    assert server.sessions == 2
    assert len(one.transport._pool) == 0


async def test_parallel_deliveries_have_their_own_connections(peer, client):
    server = await peer(HELLO + ONE)
    one = client()
    outcomes = await asyncio.gather(*(one.send(hop(server)) for _ in range(5)))
    assert all(o.status == "sent" for (o,) in outcomes)
    assert server.sessions == 5
    assert len(one.transport._pool) == 5


async def test_next_hops_do_not_share(peer, client):
    first, second = await peer(HELLO + ONE), await peer(HELLO + ONE)
    one = client()
    await one.send(hop(first))
    await one.send(hop(second))
    assert (first.sessions, second.sessions) == (1, 1)


async def test_connection_closed_while_idle_is_not_given_out(peer, client):
    server = await peer(HELLO + ONE + "DROP")
    one = client()
    await one.send(hop(server))
    await asyncio.wait_for(server.left.wait(), 5)
    (outcome,) = await one.send(hop(server))
    assert outcome.status == "sent"
    assert server.sessions == 2


async def test_reconfigure_gives_up_kept_connections(peer, client):
    server = await peer(HELLO + ONE)
    one = client()
    await one.send(hop(server))
    one.transport.reconfigure(one.transport._parameters)
    await asyncio.wait_for(server.left.wait(), 5)
    assert server.lines[0][-1] == "QUIT"


async def test_cancelled_delivery_leaves_no_connection(peer, client):
    server = await peer(HELLO + "STALL")
    one = client()
    task = asyncio.create_task(one.send(hop(server)))
    await eventually(lambda: server.lines and len(server.lines[0]) == 4)
    task.cancel()
    await asyncio.wait_for(server.left.wait(), 5)
    assert len(one.transport._pool) == 0
