"""A daemon whose output goes to a real systemd-journald, as a service's does."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resel_lan import Machine

from demo.launcher import Launcher

pytestmark = pytest.mark.usefixtures("namespaces")
JOURNALD = "/lib/systemd/systemd-journald"


@pytest.fixture
def machine(need: Callable[[str], str]) -> Iterator[Machine]:
    """A VM with a journal, not connected to anything."""
    need("journalctl")
    need("systemd-cat")
    directory = Path(tempfile.mkdtemp(prefix="resel-journal-"))
    directory.chmod(0o755)
    try:
        vm = Machine(directory / "vm", "vm1.adm.resel.fr", "smarthost", [], Launcher(directory))
        (vm.etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (vm.etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        vm.start()
        try:
            vm.check("mkdir", "-p", "/run/systemd/journal", "/run/log/journal")
            with (directory / "journald.log").open("wb") as output:
                vm.spawn(JOURNALD, output=output)
            await_file(vm, "/run/systemd/journal/stdout")
            yield vm
        finally:
            vm.stop()
    finally:
        shutil.rmtree(directory)


def await_file(machine: Machine, path: str) -> None:
    until = time.monotonic() + 60
    while machine.run("test", "-e", path).returncode != 0:
        assert time.monotonic() < until, path
        time.sleep(0.05)


def entries(machine: Machine, *words: str) -> list[dict[str, str]]:
    machine.check("journalctl", "--sync")
    shown = machine.check("journalctl", "-q", "-o", "json", *words)
    return [json.loads(line) for line in shown.splitlines()]


def test_system_journal_has_fields(machine: Machine) -> None:
    # What systemd does for a service: one stream for both outputs, and the variable that names it.
    start = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec resel-mta"
    machine.start_daemon("systemd-cat", "-t", "resel-mta", "sh", "-c", start)
    machine.check("/usr/sbin/sendmail", "root", data=b"Subject: x\n\nx\n")
    until = time.monotonic() + 15
    while not (
        tries := [each for each in entries(machine) if "status=deferred" in each["MESSAGE"]]
    ):
        assert time.monotonic() < until
        time.sleep(0.1)
    queue_id = tries[0]["QUEUE_ID"]
    story = entries(machine, f"QUEUE_ID={queue_id}")
    identifiers = [each["SYSLOG_IDENTIFIER"] for each in story]
    assert identifiers[:3] == ["postfix/pickup", "postfix/cleanup", "postfix/qmgr"]
    # No name server is there: a warning, and what became of the mail.
    assert [each["PRIORITY"] for each in story] == ["6", "6", "6", "4", "6"]
    assert entries(machine, "-t", "postfix/smtp") == story[3:]
    assert f"{queue_id}: to=<root@resel.fr>, orig_to=<root>, relay=none" in story[4]["MESSAGE"]
    # By the network process, which is not root.
    assert {each["_UID"] for each in story} == {"64101"}
    assert machine.stop_daemon() == 0
