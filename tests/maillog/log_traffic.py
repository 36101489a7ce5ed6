"""The same traffic for a real Postfix and for us, so that their logs can be compared."""

from __future__ import annotations

import contextlib
import re
import shutil
import smtplib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from aiosmtpd.controller import Controller

from benchmarks.servers import MASTER_CF
from demo.launcher import Launcher
from demo.machines import Machine, free_port

#: Not in mynetworks: a stranger.
STRANGER = "127.0.0.2"
ALIASES = "list: one@good.example, two@good.example\nmixed: one@good.example, x@refuse.example\n"
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
"""


class Peer:
    """The next hop of all domains: takes mail, or not, by the recipient's domain."""

    def __init__(self) -> None:
        self.recipients: list[str] = []
        self.greylists = True

    async def handle_RCPT(self, server, session, envelope, address, options):  # type: ignore[no-untyped-def]
        domain = address.partition("@")[2]
        if domain == "refuse.example":
            return "550 5.1.1 User unknown"
        if domain == "later.example" and self.greylists:
            return "451 4.7.1 Greylisted, come back later"
        envelope.rcpt_tos.append(address)
        self.recipients.append(address)
        return "250 2.1.5 OK"


def settings(directory: Path, next_hop: int, closed: int) -> dict[str, str]:
    """What both are configured with."""
    hop = f"smtp:[127.0.0.1]:{next_hop}"
    (directory / "transport").write_text(
        f"good.example {hop}\nrefuse.example {hop}\nlater.example {hop}\n"
        f"down.example smtp:[127.0.0.1]:{closed}\n"
    )
    (directory / "alias-list").write_text(ALIASES)
    return {
        "myhostname": "mta.local.example",
        "mydomain": "local.example",
        "myorigin": "$mydomain",
        "mydestination": "local.example",
        "mynetworks": "127.0.0.1/32",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "relayhost": "",
        "alias_maps": f"hash:{directory}/alias-list",
        "alias_database": "",
        "local_recipient_maps": "$alias_maps",
        "transport_maps": f"texthash:{directory}/transport",
        "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
        "smtpd_recipient_restrictions": "",
        "smtpd_peername_lookup": "no",
        "smtp_tls_security_level": "none",
        "smtp_host_lookup": "native",
        "message_size_limit": "100000",
    }


class Postfix:
    """A Postfix of our own. Needs root."""

    def __init__(self, directory: Path, values: dict[str, str], program: str) -> None:
        self.port = free_port(["127.0.0.1"])
        self.log_path = directory / "log"
        self._config = directory / "etc"
        self._program = program
        for part in ("etc", "spool", "data"):
            (directory / part).mkdir()
        shutil.chown(directory / "data", "postfix")
        lines = [f"{name} = {value}\n" for name, value in values.items()]
        (self._config / "main.cf").write_text(MAIN_CF.format(directory=directory) + "".join(lines))
        (self._config / "master.cf").write_text(MASTER_CF.format(port=self.port))
        self._run("start")

    def flush(self) -> None:
        self._run("flush")

    def _run(self, verb: str) -> None:
        words = [self._program, "-c", str(self._config), verb]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self._run("stop")


def traffic(port: int) -> None:
    """What both servers get, in the same order, with time to answer in between."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.good.example") as client:
        for number in range(5):
            send(client, "alice@good.example", ["one@good.example"], 300 * number)
        send(client, "bob@good.example", ["one@good.example", "two@good.example"], 5000)
        send(client, "bob@good.example", ["list@local.example"], 100)
        send(client, "alice@good.example", ["x@refuse.example"], 100)
        send(client, "alice@good.example", ["x@later.example", "one@good.example"], 100)
        send(client, "alice@good.example", ["x@down.example"], 100)
        send(client, "bob@good.example", ["mixed@local.example"], 100)
        send(client, "", ["x@refuse.example"], 100)
        refused(client, "alice@good.example", "nosuchuser@local.example")
    with smtplib.SMTP("127.0.0.1", port, source_address=(STRANGER, 0)) as client:
        client.ehlo("stranger.example.org")
        send(client, "stranger@example.org", ["list@local.example"], 100)
        refused(client, "stranger@example.org", "one@elsewhere.example")
        refused(client, "stranger@example.org", "nosuchuser@local.example")
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("big.example.org")
        code, _ = client.docmd("MAIL FROM:<big@example.org> SIZE=999999")
        assert code == 552
    lost = smtplib.SMTP("127.0.0.1", port)
    lost.ehlo("lost.example.org")
    lost.mail("lost@example.org")
    lost.close()


def send(client: smtplib.SMTP, sender: str, recipients: list[str], size: int) -> None:
    body = ("x" * 78 + "\r\n") * (size // 80)
    client.sendmail(
        sender,
        recipients,
        "From: someone@good.example\r\nDate: Mon, 24 Nov 2025 10:00:00 +0000\r\n"
        f"Message-ID: <{size}.{len(recipients)}@good.example>\r\nSubject: x\r\n\r\n{body}",
    )


def refused(client: smtplib.SMTP, sender: str, recipient: str) -> None:
    client.mail(sender)
    assert client.rcpt(recipient)[0] // 100 == 5
    client.rset()


@contextlib.contextmanager
def both_logs(directory: Path, postfix: str) -> Iterator[tuple[Path, Path]]:
    """(Postfix's log, ours), each of the same traffic, come to rest."""
    closed = free_port(["127.0.0.1"])
    behaviour = Peer()
    peer = Controller(behaviour, hostname="127.0.0.1", port=free_port(["127.0.0.1"]))
    peer.start()
    with contextlib.ExitStack() as stack:
        stack.callback(peer.stop)
        values = settings(directory, peer.port, closed)
        subprocess.run(["postalias", f"hash:{directory}/alias-list"], check=True, timeout=20)
        (directory / "postfix").mkdir()
        theirs = Postfix(directory / "postfix", values, postfix)
        stack.callback(theirs.stop)
        port = free_port(["127.0.0.1"])
        ours = Machine(
            "mta", "relay", "127.0.0.1", directory / "ours", Launcher(directory),
            values | {"smtpd_listen": f":{port}", "smtp_bind_address": ""},
        )  # fmt: skip
        ours.start()
        stack.callback(ours.kill)
        for each in (theirs.port, port):
            traffic(each)
        logs = (theirs.log_path, ours.log_path)
        for log in logs:
            await_rest(log, 2, 2)
        behaviour.greylists = False
        theirs.flush()
        assert ours.command("resel-queue", "-f").returncode == 0
        for log in logs:
            await_rest(log, 1, 3)
        yield theirs.log_path, ours.log_path


def await_rest(log: Path, left: int, deferrals: int, timeout: float = 20) -> None:
    """Until all messages are removed but so many, after so many deferrals."""
    until = time.monotonic() + timeout
    while True:
        text = log.read_text()
        active = set(re.findall(r"qmgr\[\d+\]: (\w+): from=", text))
        removed = set(re.findall(r"qmgr\[\d+\]: (\w+): removed", text))
        if len(active - removed) == left and text.count("status=deferred") == deferrals:
            return
        assert time.monotonic() < until, text
        time.sleep(0.1)
