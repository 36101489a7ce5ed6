"""The French guide: each command line that it says works is run on the machine that it names."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from lan import ACCOUNTS
from resel_lan import PASSWORD, ReselLan

from demo.launcher import CHECKOUT

pytestmark = pytest.mark.usefixtures("namespaces")
GUIDE = (CHECKOUT / "docs/guide-resel.fr.md").read_text()
#: "vm# command", on a line of its own.
LINES = re.findall(r"^(vm|pegase|toad)# (.+)$", GUIDE, re.MULTILINE)
# What a line must show, where an exit code of 0 says little.
SHOWN = {
    "resel-conf relayhost": "relayhost = [pegase.adm.resel.fr]",
    "sendmail -bv root": "root",
    "resel-map -q root hash:/etc/aliases": "lcarr",
    "resel-adm user lcarr": "maildir:/var/vmail/",
    "ls /var/vmail/lcarr": "cur",
    "resel-adm quota get -u lcarr": "Quota name",
    f"resel-adm auth test lcarr {PASSWORD}": "auth succeeded",
    "LANG=fr_FR.UTF-8 resel-mta explain root": "root@resel.fr",
    "mailq": "Mail queue is empty",
    "resel-adm mailbox list -u lcarr": "INBOX",
}


def test_system_guide_has_commands_for_each_machine() -> None:
    assert {name for name, _ in LINES} == {"vm", "pegase", "toad"}
    assert len(LINES) > 25
    assert SHOWN.keys() <= {command for _, command in LINES}


def test_system_guide_commands_work(hosts: ReselLan) -> None:
    hosts.vm.check("/usr/sbin/sendmail", "root", data=b"Subject: first\n\nx\n")
    hosts.toad.await_log(r"to=<lcarr@resel\.fr>.* status=sent")
    for machine in hosts.machines:
        machine.await_empty_queue()
    machines = {"vm": hosts.vm, "pegase": hosts.pegase, "toad": hosts.toad}
    failed = []
    for name, command in LINES:
        done = machines[name].run("sh", "-c", command)
        shown = SHOWN.get(command, "")
        if done.returncode != 0 or "Traceback" in done.stderr or shown not in done.stdout:
            failed.append((name, command, done.returncode, done.stdout, done.stderr))
    assert failed == []


def test_system_guide_sympa(hosts: ReselLan) -> None:
    """The guide's alias_maps on Toad: a list works, and so does one that is made later."""
    (maps,) = re.findall(r"^alias_maps = .*sympa.*$", GUIDE, re.MULTILINE)
    toad = hosts.toad
    main_cf = toad.etc / "resel-mta/main.cf"
    before = main_cf.read_bytes()
    sympa = toad.etc / "mail/sympa"
    sympa.mkdir(parents=True)
    lists = toad.var / "spool/sympa"
    lists.mkdir()
    os.chown(lists, ACCOUNTS["peer"], ACCOUNTS["peer"])
    queue = toad.var / "lib/queue"
    queue.write_text('#!/bin/sh\nid -un >"/var/spool/sympa/$1"\ncat >>"/var/spool/sympa/$1"\n')
    queue.chmod(0o755)
    aliases = sympa / "aliases"
    aliases.write_text('liste: "| /var/lib/queue liste@resel.fr"\n')
    os.chown(aliases, ACCOUNTS["peer"], ACCOUNTS["peer"])
    try:
        toad.check("resel-conf", "-e", maps)
        toad.check("resel-mta", "reload")
        write_to(hosts, "liste", lists)
        with aliases.open("a") as file:
            file.write('nouvelle: "| /var/lib/queue nouvelle@resel.fr"\n')
        write_to(hosts, "nouvelle", lists)
    finally:
        main_cf.write_bytes(before)
        toad.check("resel-mta", "reload")


def write_to(hosts: ReselLan, name: str, lists: Path) -> None:
    """From the VM, until the list has it: the first may come before the alias is live."""
    address = f"{name}@resel.fr"
    until = time.monotonic() + 60
    while not (lists / address).exists():
        assert time.monotonic() < until, hosts.toad.log()[-3000:]
        hosts.vm.check("/usr/sbin/sendmail", address, data=f"Subject: x\n\nà {name}\n".encode())
        time.sleep(1)
    text = (lists / address).read_text()
    # Run as the owner of the alias file.
    assert text.startswith("peer\n")
    assert text.endswith(f"à {name}\n")
