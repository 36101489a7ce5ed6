"""The client against Postfix's smtp-sink, on the event loop that the daemon uses."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__)

PROGRAM = """
import asyncio, sys
import uvloop
sys.path[:0] = {paths!r}
from relay_peers import Client, message
from resel_relay.dns import Resolver
from resel_relay.parameters import Parameters

async def main():
    parameters = Parameters(protocol={protocol!r}, myhostname="me.test", helo_name="me.test")
    client = Client(parameters, Resolver(["127.0.0.1:9"]))
    big = b"Subject: x\\r\\n\\r\\n" + b".a line of a large message\\r\\n" * 40_000
    mails = [message("a@x.org", "b@x.org", data=big if n % 10 == 0 else b"Subject: y\\r\\n\\r\\n.\\r\\n")
             for n in range({count})]
    results = await asyncio.gather(*(client.send("[127.0.0.1]:{port}", mail=m) for m in mails))
    for outcomes in results:
        for outcome in outcomes:
            print(outcome.status, outcome.reply)
    await client.transport.close()

uvloop.run(main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def sink(need: Callable[[str], str]) -> Iterator[Callable[..., int]]:
    """sink(*options) starts one and gives its port."""
    program = need("smtp-sink")
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> int:
        port = free_port()
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        command = [program, *user, *options, f"127.0.0.1:{port}", "100"]
        running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait()


async def run(port: int, count: int = 30, protocol: str = "smtp") -> list[str]:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        except OSError:
            await asyncio.sleep(0.02)
    paths = [str(HERE.parents[2]), str(HERE.parent)]
    program = PROGRAM.format(paths=paths, port=port, count=count, protocol=protocol)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    lines = out.decode().splitlines()
    assert len(lines) == 2 * count
    return lines


async def test_messages_in_parallel(sink):
    lines = await run(sink())
    assert {line.split()[0] for line in lines} == {"sent"}


async def test_sink_without_pipelining(sink):
    lines = await run(sink("-p"))
    assert {line.split()[0] for line in lines} == {"sent"}


async def test_sink_without_esmtp(sink):
    lines = await run(sink("-e"))
    assert {line.split()[0] for line in lines} == {"sent"}


async def test_lmtp_sink(sink):
    lines = await run(sink("-L"), protocol="lmtp")
    assert {line.split()[0] for line in lines} == {"sent"}


@pytest.mark.parametrize(
    ("command", "words"),
    [("rcpt", "RCPT TO"), ("data", "DATA"), (".", "end of DATA"), ("mail", "MAIL FROM")],
)
@pytest.mark.parametrize(("option", "status"), [("-r", "deferred"), ("-f", "bounced")])
async def test_refusing_sink(sink, option, status, command, words):
    lines = await run(sink(option, command), count=3)
    assert {line.split()[0] for line in lines} == {status}
    assert all(f"(in reply to {words} command)" in line for line in lines)


@pytest.mark.parametrize("command", ["connect", "ehlo", "mail", "rcpt", "data", "."])
async def test_sink_that_disconnects(sink, command):
    """-q drops the connection after the command instead of answering."""
    lines = await run(sink("-q", command), count=3)
    assert {line.split()[0] for line in lines} == {"deferred"}
