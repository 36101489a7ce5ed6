"""A whole relay, in the process that opens it."""

from __future__ import annotations

from pathlib import Path

from demo.machines import free_port
from resel_mta.config import Settings
from resel_mta.daemon import bind_all
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.maillog.sinks import Sink
from resel_mta.main_composition import MainComposition
from resel_mta.privileges import current_account, prepare_directories


async def open_relay(
    directory: Path | str, sink: Sink, **parameters: str
) -> tuple[int, MainComposition]:
    """The port that it listens on; its queue is `directory`/queue."""
    port = free_port(["127.0.0.1"])
    given = {
        "myhostname": "relay.example.org",
        "mydestination": "",
        "alias_maps": "",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "smtpd_listen": f":{port}",
        "queue_directory": f"{directory}/queue",
        "data_directory": f"{directory}/data",
    }
    settings = Settings.build("relay", **(given | parameters))
    prepare_directories(settings, current_account(), Disk())
    composition = MainComposition(settings, MailLog(sink))
    await composition.open(bind_all(settings))
    return port, composition
