"""A whole relay with its default limits in a process of its own: prints its port, and then serves
until its input ends. What it takes stays in its queue, in the folder that is its argument."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from demo.machines import free_port
from resel_mta.composition import raise_file_limit
from resel_mta.config import Settings
from resel_mta.daemon import bind_all
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.maillog.sinks import FileSink
from resel_mta.main_composition import MainComposition
from resel_mta.privileges import current_account, prepare_directories


async def main(directory: str) -> None:
    raise_file_limit()
    port = free_port(["127.0.0.1"])
    settings = Settings.build(
        "relay",
        myhostname="relay.example.org",
        mydestination="",
        alias_maps="",
        inet_interfaces="127.0.0.1",
        inet_protocols="ipv4",
        mynetworks="10.0.0.0/8",
        smtpd_listen=f":{port}",
        # A name server that does not answer is not what is measured.
        smtpd_peername_lookup="no",
        relay_domains="relay.example",
        relayhost="[127.0.0.1]:1",
        queue_directory=f"{directory}/queue",
        data_directory=f"{directory}/data",
    )
    prepare_directories(settings, current_account(), Disk())
    composition = MainComposition(settings, MailLog(FileSink(f"{directory}/log")))
    await composition.open(bind_all(settings))
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await composition.close(5)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
