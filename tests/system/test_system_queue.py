"""resel-queue beside a running daemon."""

from __future__ import annotations

import json

from system_helpers import Inbox

from demo.machines import Machine
from demo.network import Network


def queued(machine: Machine, *words: str) -> dict[str, str]:
    """Subject's number → id."""
    listing = machine.command("resel-queue", "-j", *words)
    assert listing.returncode == 0, listing.stderr
    ids = [json.loads(line)["queue_id"] for line in listing.stdout.splitlines()]
    found = {}
    for name in ids:
        why = json.loads(machine.command("resel-queue", "why", name, "-j").stdout)
        found[why["subject"]] = name
    return found


def test_system_queue_commands_while_mail_waits(network: Network, inbox: Inbox) -> None:
    network.toad.stop()
    pegase = network.pegase
    for number in "1234":
        with network.smtp(pegase) as client:
            message = f"Subject: {number}\r\nX-Number: {number}\r\n\r\nx\r\n".encode()
            client.sendmail("root@vm1.adm.resel.fr", ["root@resel.fr"], message)
    pegase.await_log(r"status=deferred")
    ids = queued(pegase)
    assert sorted(ids) == ["1", "2", "3", "4"]

    why = " ".join(pegase.command("resel-queue", "why", ids["1"]).stdout.split())
    assert "no mail server listens on that port" in why
    assert "resel.fr counts as down; it is looked for again in" in why
    assert "3 other messages wait for resel.fr" in why

    assert pegase.command("resel-queue", "-h", ids["2"]).returncode == 0
    deleted = pegase.command("resel-queue", "-d", "--subject", "3")
    assert deleted.stderr == "resel-queue: Deleted: 1 message\n"
    refused = pegase.command("resel-queue", "-i", ids["2"])
    assert (refused.returncode, refused.stderr.count("\n")) == (65, 1)

    # Toad counts as down for minutes; what is requeued, restored or released goes all the same.
    network.toad.start()
    assert pegase.command("resel-queue", "-r", ids["1"]).returncode == 0
    pegase.await_log(rf"{ids['1']}: removed")
    assert pegase.command("resel-queue", "--undelete", "ALL").returncode == 0
    assert pegase.command("resel-queue", "-H", ids["2"]).returncode == 0
    for number in "234":
        pegase.await_log(rf"{ids[number]}: removed")
    assert inbox.await_count(4) == 4
    assert sorted(inbox.copies()) == ["1", "2", "3", "4"]
    assert queued(pegase) == {}
    assert pegase.command("resel-queue", "audit").returncode == 0
