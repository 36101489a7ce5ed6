"""A whole relay with its default limits in a process of its own: prints its port, and then serves
until its input ends. What it takes stays in its queue, in the folder that is its argument."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from whole_relay import open_relay

from resel_mta.composition import raise_file_limit
from resel_mta.maillog.sinks import FileSink


async def main(directory: str) -> None:
    raise_file_limit()
    port, composition = await open_relay(
        directory,
        FileSink(f"{directory}/log"),
        mynetworks="10.0.0.0/8",
        # A name server that does not answer is not what is measured.
        smtpd_peername_lookup="no",
        relay_domains="relay.example",
        relayhost="[127.0.0.1]:1",
    )
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await composition.close(5)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
