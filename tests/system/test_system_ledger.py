"""`resel-queue audit` against what is counted outside: clients' 250s, and what arrived."""

from __future__ import annotations

import json
import smtplib
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
from system_helpers import Inbox, await_empty_queue

from demo.machines import Machine
from demo.network import Network

NOBODY = "nobody.here@resel.fr"


def audit(machine: Machine, code: int = 0) -> dict[str, Any]:
    result = machine.command("resel-queue", "audit", "-j")
    assert result.returncode == code, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["balanced"] is (code == 0)
    return found


class Clients:
    """Sessions in threads; what was answered 250 at the end of DATA, and RCPTs of that."""

    def __init__(self, network: Network, machine: Machine) -> None:
        self._network = network
        self._machine = machine
        self._lock = threading.Lock()
        self.messages: list[int] = []
        self.recipients: Counter[str] = Counter()

    def run(self, sessions: int, each: int, *more: str) -> None:
        threads = [
            threading.Thread(target=self._session, args=(10_000 * n, each, more))
            for n in range(1, sessions + 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _session(self, first: int, each: int, more: tuple[str, ...]) -> None:
        number, last = first, first + each
        while number < last:
            try:
                with self._network.smtp(self._machine) as client:
                    client.ehlo()
                    while number < last:
                        number += 1
                        self._send(client, number, more)
            except (OSError, smtplib.SMTPException):
                continue

    def _send(self, client: smtplib.SMTP, number: int, more: tuple[str, ...]) -> None:
        client.mail("root@resel.fr")
        named = ["root@resel.fr", *(more if number % 3 == 0 else ())]
        taken = [name for name in named if client.rcpt(name)[0] == 250]
        code, _ = client.data(f"X-Number: {number}\r\n\r\nx\r\n".encode())
        if code == 250:
            with self._lock:
                self.messages.append(number)
                self.recipients.update(taken)


def test_system_audit_is_what_clients_and_mailboxes_say(network: Network, inbox: Inbox) -> None:
    clients = Clients(network, network.pegase)
    # On Toad, root and lcarr are one person, who gets one copy; nobody.here bounces.
    clients.run(4, 30, "lcarr@resel.fr", NOBODY)
    await_empty_queue(network.pegase)
    await_empty_queue(network.toad)
    relay, server = audit(network.pegase), audit(network.toad)
    bounces = clients.recipients[NOBODY]
    assert bounces == 40
    assert relay["counts"]["accepted"] == clients.recipients.total()
    assert relay["counts"]["bounced"] == relay["counts"]["generated"] == bounces
    assert relay["counts"]["relayed"] == clients.recipients.total() - bounces + bounces
    assert server["counts"]["accepted"] == relay["counts"]["relayed"]
    assert server["counts"]["merged"] == clients.recipients["lcarr@resel.fr"]
    copies = inbox.copies()
    notices = copies.pop("None", 0)
    assert sorted(map(int, copies)) == sorted(clients.messages)
    assert server["counts"]["delivered"] == copies.total() + notices
    for found in (relay, server):
        assert (found["queued"], found["held"], found["difference"]) == (0, 0, 0)


def test_system_audit_balances_after_kill_9(network: Network, inbox: Inbox) -> None:
    clients = Clients(network, network.pegase)
    load = threading.Thread(target=clients.run, args=(4, 60, "lcarr@resel.fr"))
    load.start()
    kills = 0
    while load.is_alive() and kills < 3:
        load.join(0.3)
        network.pegase.kill()
        network.pegase.start()
        kills += 1
    load.join()
    await_empty_queue(network.pegase)
    await_empty_queue(network.toad)
    relay, server = audit(network.pegase), audit(network.toad)
    assert relay["counts"]["accepted"] >= clients.recipients.total()
    # What was in flight at a kill: taken, and the 250 never seen; or relayed, and not recorded.
    assert relay["counts"]["accepted"] - clients.recipients.total() <= kills * 4 * 2
    assert server["counts"]["accepted"] >= relay["counts"]["relayed"]
    assert {int(number) for number in inbox.copies()} >= set(clients.messages)


def test_system_audit_names_a_row_removed_by_hand(network: Network) -> None:
    network.toad.stop()
    clients = Clients(network, network.pegase)
    clients.run(2, 5)
    network.pegase.await_log(r"status=deferred")
    listing = network.pegase.command("resel-queue", "-j").stdout.splitlines()
    victim = json.loads(listing[3])["queue_id"]
    network.pegase.stop()
    remove_by_hand(network.pegase.directory / "spool/queue.db", victim)
    found = audit(network.pegase, code=65)
    assert found["missing"] == [victim]
    assert found["difference"] == 1
    assert found["queued"] == 9
    network.pegase.start()
    text = network.pegase.command("resel-queue", "audit").stdout
    assert "It does NOT balance: 1 recipient is missing." in text
    assert f"{victim} of " in text


def remove_by_hand(path: Path, queue_id: str) -> None:
    db = apsw.Connection(str(path))
    for table, column in (("message", "id"), ("content", "id"), ("recipient", "message")):
        db.execute(f"DELETE FROM {table} WHERE {column} = ?", (int(queue_id, 16),))
    db.close()
