"""The story of `make demo`, step by step. Each step checks what it tells, or raises."""

from __future__ import annotations

import email
import email.policy
import re
import time
from email.message import EmailMessage

from demo.machines import Machine, MachineError
from demo.network import USER, Network

TIME_LIMIT = 10.0

CRON_MAIL = """\
From: root (Cron Daemon)
To: root
Subject: Cron <root@vm1> test -x /usr/sbin/backup && backup
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit
X-Cron-Env: <SHELL=/bin/sh>
X-Cron-Env: <LOGNAME=root>

{body}
"""


# What Debian's cron runs for each job that has something to say.
CRON_COMMAND = ("-i", "-FCronDaemon", "-B8BITMIME", "root")


class StepFailed(Exception):
    """What did not happen, and the log lines that tell more."""

    def __init__(self, text: str, log: list[str] | None = None) -> None:
        super().__init__(text)
        self.log = log or []


class Story:
    """Tells and checks. `step` is what is being done, for the message when it fails."""

    def __init__(self, network: Network, colour: bool) -> None:
        self.network = network
        self.step = "preparing"
        self._colour = colour
        self._count = 0

    def tell(self) -> None:
        """All of it. Raises StepFailed, MachineError, OSError, smtplib and imaplib errors."""
        self.start_machines()
        body = (
            "Sauvegarde terminée : 3 volumes, 0 erreur.\n.\nA line of a single dot is part of it."
        )
        self.send_as_cron(body)
        self.show_hops()
        self.show_dns()
        self.read_mail(1, body)
        body = "Toad était arrêté ; ce mail a attendu."
        self.send_while_toad_is_down(body)
        self.flush_when_toad_is_back()
        self.read_mail(2, body)
        self.stop_machines()

    # How it looks

    def heading(self, text: str) -> None:
        self.step = text
        self._count += 1
        line = f"{self._count}. {text}"
        print(f"\n\033[1m{line}\033[0m" if self._colour else f"\n{line}", flush=True)

    def say(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def quote(self, lines: list[str]) -> None:
        """Lines that a program wrote, indented and dimmed."""
        for line in lines:
            print(f"   \033[2m| {line}\033[0m" if self._colour else f"   | {line}", flush=True)

    # The steps

    def start_machines(self) -> None:
        self.heading("Three machines, three daemons")
        network = self.network
        words = {
            "vm": "VM      takes mail from its own programs",
            "pegase": "Pégase  relays for the machines",
            "toad": "Toad    is the MX of resel.fr: mailboxes and IMAP",
        }
        for machine in network.machines:
            machine.start()
            self.say(
                f"{words[machine.name]:<52} resel-mta --role {machine.role:<9} "
                f"on {machine.address}:{network.port}"
            )
        self.say("Configured by the files of conf/; only ports, folders and the DNS server differ.")
        if network.launcher.account is not None:
            self.say("Started by root, they run as nobody.")

    def send_as_cron(self, body: str) -> None:
        self.heading("On the VM, cron writes to root")
        self.say("with the words that Debian's cron uses, and nothing but the daemon's socket:")
        self._hand_in(body)
        self.quote([f"resel-sendmail {' '.join(CRON_COMMAND)} < mail"])

    def _hand_in(self, body: str) -> None:
        result = self.network.vm.sendmail(CRON_COMMAND, CRON_MAIL.format(body=body))
        if result.returncode != 0 or result.stderr:
            raise StepFailed(
                f"resel-sendmail ended with {result.returncode}: {result.stderr.strip()}",
                self.network.vm.log(),
            )

    def show_hops(self) -> None:
        self.heading("Hop by hop, as each machine logged it")
        network = self.network
        hops = (
            (network.vm, "root@resel.fr", "pegase.adm.resel.fr", "root becomes root@resel.fr"),
            (network.pegase, "root@resel.fr", "toad.resel.fr", "by the MX of resel.fr"),
            (
                network.toad,
                "lcarr@resel.fr",
                "local|lmtp|virtual",
                "root is lcarr, into the Maildir",
            ),
        )
        for machine, recipient, relay, what in hops:
            match = machine.await_log(
                rf"\b([0-9A-Za-z]+): to=<{recipient}>.* relay=({relay}).* status=sent", TIME_LIMIT
            )
            machine.await_log(rf"\b{match[1]}: removed", TIME_LIMIT)
            self.say(f"{machine.name}: {what}")
            self.quote(_lines_of(machine, match[1]))

    def show_dns(self) -> None:
        self.heading("What each machine asked the DNS")
        network = self.network
        asked = {
            name: [query for query in dict.fromkeys(server.queries) if query[1] != "PTR"]
            for name, server in network.dns.items()
        }
        for name in ("vm", "pegase"):
            self.say(f"{name}: relayhost = {_setting(network, name, 'relayhost')}")
            self.quote(
                [
                    f"{host} {kind} → {network.dns[name].answer(host, kind)}"
                    for host, kind in asked[name]
                ]
            )
        if any(kind == "MX" for _, kind in asked["vm"]):
            raise StepFailed("the VM asked for an MX, in spite of the brackets")
        if ("pegase.adm.resel.fr", "A") not in asked["vm"]:
            raise StepFailed("the VM did not ask for the address of pegase.adm.resel.fr")
        if ("resel.fr", "MX") not in asked["pegase"]:
            raise StepFailed("Pégase did not ask for the MX of resel.fr")
        self.say("In brackets: no MX question. Without: one.")

    def read_mail(self, count: int, body: str) -> None:
        self.heading(f"{USER} reads it over IMAP" if count == 1 else f"{USER} reads that one too")
        message = self._fetch(count)
        if count == 1:
            self.say("The way it came, from the last hop to the first:")
            self.quote([" ".join(str(line).split()) for line in message.get_all("Received", [])])
            self.say("The mail:")
        hops = len(message.get_all("Received", []))
        if hops != 3:
            raise StepFailed(f"3 Received fields were expected, {hops} are there")
        text = message.get_content().replace("\r\n", "\n").rstrip("\n")
        if text != body:
            raise StepFailed(f"the text is not the one that was sent: {text!r}")
        raw = dict(message.raw_items())
        self.quote([f"{name}: {raw.get(name)}" for name in ("From", "To", "Subject", "Date")])
        self.quote(["", *text.split("\n")])

    def _fetch(self, count: int) -> EmailMessage:
        """The newest of `count` messages in INBOX."""
        client = self.network.imap()
        try:
            _, answer = client.select("INBOX")
            if answer != [str(count).encode()]:
                raise StepFailed(f"{count} mails were expected in INBOX: {answer!r}")
            _, parts = client.fetch(str(count), "(BODY.PEEK[])")
        finally:
            client.logout()
        part = parts[0]
        if not isinstance(part, tuple):
            raise StepFailed(f"IMAP did not give the mail: {part!r}")
        message = email.message_from_bytes(part[1], policy=email.policy.default)
        if not isinstance(message, EmailMessage):
            raise StepFailed("IMAP gave something that is no mail")
        return message

    def send_while_toad_is_down(self, body: str) -> None:
        network = self.network
        before = len(network.pegase.log())
        self.heading("Toad is stopped, and cron writes again")
        network.toad.stop()
        self._hand_in(body)
        match = network.pegase.await_log(
            r"\b([0-9A-Za-z]+): to=<root@resel\.fr>.* status=deferred", TIME_LIMIT, before
        )
        self.say("Pégase cannot reach Toad and keeps the mail. On Pégase, resel-queue -p:")
        listing = self._queue("-p")
        self.quote(listing.splitlines())
        if match[1] not in listing or "root@resel.fr" not in listing:
            raise StepFailed(f"{match[1]} for root@resel.fr is not in that list", [match.string])

    def flush_when_toad_is_back(self) -> None:
        network = self.network
        self.heading("Toad is back, and an administrator flushes the queue")
        network.toad.start()
        before = len(network.pegase.log())
        self._queue("-f")
        match = network.pegase.await_log(
            r"\b([0-9A-Za-z]+): to=<root@resel\.fr>.* status=sent", TIME_LIMIT, before
        )
        self.say("On Pégase, resel-queue -f, and then:")
        self.quote([_unstamped(match.string)])
        until = time.monotonic() + TIME_LIMIT
        listing = self._queue("-p").strip()
        while listing != "Mail queue is empty" and time.monotonic() < until:
            time.sleep(0.05)
            listing = self._queue("-p").strip()
        self.say("resel-queue -p:")
        self.quote([listing])
        if listing != "Mail queue is empty":
            raise StepFailed("the queue is not empty")
        network.toad.await_log(r"to=<lcarr@resel\.fr>.* status=sent.*", TIME_LIMIT, 0)
        self._await_messages(2)

    def _await_messages(self, count: int) -> None:
        until = time.monotonic() + TIME_LIMIT
        while True:
            client = self.network.imap()
            _, answer = client.select("INBOX", readonly=True)
            client.logout()
            if answer == [str(count).encode()] or time.monotonic() > until:
                return
            time.sleep(0.05)

    def stop_machines(self) -> None:
        self.heading("The daemons stop by themselves")
        for machine in self.network.machines:
            machine.stop()
        self.say("Exit code 0, all three.")

    def _queue(self, letter: str) -> str:
        result = self.network.pegase.command("resel-queue", letter)
        if result.returncode != 0:
            raise StepFailed(
                f"resel-queue {letter} ended with {result.returncode}: {result.stderr.strip()}"
            )
        return result.stdout


def _lines_of(machine: Machine, queue_id: str) -> list[str]:
    """The log lines of one message, without time and host."""
    return [_unstamped(line) for line in machine.log() if f"]: {queue_id}: " in line]


def _unstamped(line: str) -> str:
    match = re.search(r"\S+/\w+\[\d+\]: .*", line)
    return match[0] if match else line


def _setting(network: Network, name: str, parameter: str) -> str:
    """The value as that machine's own command gives it."""
    machine = {"vm": network.vm, "pegase": network.pegase}[name]
    result = machine.command("resel-conf", "-h", parameter)
    if result.returncode != 0:
        raise MachineError(f"resel-conf -h {parameter} failed: {result.stderr.strip()}")
    return result.stdout.strip()
