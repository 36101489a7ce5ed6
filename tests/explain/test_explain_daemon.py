"""resel-mta explain and status beside daemons that run: what they say is what happens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from demo.machines import Machine
from demo.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        network.start()
        yield network


def explained(machine: Machine, address: str) -> dict[str, object]:
    done = machine.command("resel-mta", "explain", "-j", address)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def only_end(machine: Machine, address: str) -> dict[str, object]:
    (end,) = explained(machine, address)["destinations"]  # type: ignore[misc]
    assert isinstance(end, dict)
    return end


def test_explain_is_what_happens(network: Network) -> None:
    vm, pegase, toad = network.machines
    ends = [
        only_end(vm, "root"),
        only_end(pegase, "root@resel.fr"),
        only_end(toad, "root@resel.fr"),
    ]
    assert vm.sendmail(["root"], "Subject: x\n\nx\n").returncode == 0
    toad.await_log(r"status=sent \(delivered")
    for machine, end, address in zip(
        network.machines, ends, ("root", "root@resel.fr", "root@resel.fr"), strict=True
    ):
        line = machine.await_log(r"to=<[^>]*>, .*status=sent").string
        assert f"to=<{end['address']}>" in line, address
        hosts = end["hosts"]
        assert isinstance(hosts, list)
        if end["kind"] == "smtp":
            relay = f"{hosts[0]['host']}[{hosts[0]['address']}]:{hosts[0]['port']}"
            assert f"relay={relay}" in line
    assert ends[2]["kind"] == "maildir"
    client = network.imap()
    assert client.select("INBOX")[1] == [b"1"]
    client.logout()
    # Asking left nothing behind and sent nothing.
    assert len(re.findall("status=sent", "\n".join(toad.log()))) == 1


def test_explain_and_status_say_what_the_daemon_does_not_know_yet(network: Network) -> None:
    vm = network.vm
    said = vm.command("resel-mta", "status").stdout
    assert "runs: role smarthost, pid" in said
    assert "configuration on disk: no problem" in said
    assert "queue: empty" in said
    row = json.loads(vm.command("resel-mta", "status", "-j").stdout)
    assert row["problems"] == []
    assert row["listeners"][0]["service"] == "smtpd"
    aliases = vm.directory / "aliases"
    aliases.write_text("root: nobody@resel.fr\n")
    vm.configure({"delay_warning_time": "2h"})
    said = vm.command("resel-mta", "status").stdout
    assert f"{vm.directory}/main.cf: warning: changed at " in said
    assert re.search(
        rf"{aliases}: warning: alias_\w+: is newer than what is live; newaliases", said
    )
    done = vm.command("resel-mta", "explain", "root")
    assert "root@vm1.adm.resel.fr is an alias for root@resel.fr" in done.stdout
    assert "is newer than what is live" in done.stdout
    assert vm.command("resel-mta", "reload").returncode == 0
    assert "no problem, and nothing newer" in vm.command("resel-mta", "status").stdout
    assert "is an alias for nobody@resel.fr" in vm.command("resel-mta", "explain", "root").stdout


def test_status_shows_the_last_warnings_and_when_nothing_runs(network: Network) -> None:
    vm = network.vm
    network.pegase.stop()
    vm.configure({"relayhost": "[nowhere.invalid]", "dns_nameservers": "127.0.0.1:1"})
    assert vm.command("resel-mta", "reload").returncode == 0
    assert vm.sendmail(["root"], "Subject: x\n\nx\n").returncode == 0
    vm.await_log("status=deferred")
    said = vm.command("resel-mta", "status").stdout
    assert "queue: 1 deferred" in said
    assert "last warnings:" in said
    assert "relayhost: " in said.partition("last warnings:")[2]
    vm.configure({"queue_run_delay": "soon"})
    done = vm.command("resel-mta", "reload")
    assert done.returncode == 78
    assert "a running daemon keeps its old configuration" in done.stderr
    # What runs can be seen all the same, and why the file does not count.
    done = vm.command("resel-mta", "status")
    assert done.returncode == 0, done.stderr
    assert "queue: 1 deferred" in done.stdout
    assert 'queue_run_delay: "soon" is not' in done.stdout.partition("configuration on disk:")[2]
    vm.configure({"queue_run_delay": "300s"})
    vm.stop()
    done = vm.command("resel-mta", "status")
    assert done.returncode == 69
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
