"""Mail through three real daemons: octet by octet, exactly once, in and out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler
from system_helpers import Inbox
from varied_mails import body_of, header_of

from demo.network import Network

COUNT = 200


def test_system_two_hundred_varied_mails_arrive_unchanged_and_once(
    network: Network, inbox: Inbox
) -> None:
    def send(numbers: range) -> None:
        with network.smtp(network.vm) as client:
            client.ehlo()
            for number in numbers:
                client.mail("cron@vm1.adm.resel.fr", ["BODY=8BITMIME", "SMTPUTF8"])
                client.rcpt("root@resel.fr" if number % 2 else "root")
                # smtplib stuffs the dots, as any client does.
                code, text = client.data(header_of(number) + body_of(number))
                assert code == 250, text

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, [range(start, COUNT, 4) for start in range(4)]))
    assert inbox.await_count(COUNT) == COUNT
    bodies = inbox.bodies()
    assert set(bodies) == {str(number) for number in range(COUNT)}
    assert [number for number in range(COUNT) if bodies[str(number)] != [body_of(number)]] == []


class Outside(MessageHandler):
    """A mail server of the outside world."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[tuple[str, list[str], int]] = []

    def handle_message(self, message: object) -> None:
        fields = message.get_all("Received", [])  # type: ignore[attr-defined]
        self.mails.append((message["X-MailFrom"], [message["X-RcptTo"]], len(fields)))  # type: ignore[index]


def test_system_mail_for_the_outside_leaves_by_toad() -> None:
    """VM → Pégase → Toad → the MX of the recipient's domain, which only Toad asks for."""
    outside = Outside()
    zone = {
        ("example.org", "MX"): ["10 mx.example.org."],
        ("mx.example.org", "A"): ["127.0.0.14"],
    }
    with Network(zone=zone) as network:
        controller = Controller(outside, hostname="127.0.0.14", port=network.port)
        controller.start()
        try:
            network.start()
            with network.smtp(network.vm) as client:
                client.sendmail(
                    "root@vm1.adm.resel.fr", ["friend@example.org"], b"Subject: hi\r\n\r\nhello\r\n"
                )
            network.toad.await_log(r"to=<friend@example\.org>.* status=sent")
        finally:
            controller.stop()
        assert outside.mails == [("root@vm1.adm.resel.fr", ["friend@example.org"], 3)]
        asked = {name: server.queries for name, server in network.dns.items()}
        assert ("example.org", "MX") in asked["toad"]
        assert ("example.org", "MX") not in asked["pegase"] + asked["vm"]


def test_system_strangers_reach_mailboxes_and_nobody_else(
    network: Network, need: Callable[[str], str]
) -> None:
    """swaks as the outside: resel.fr is taken, an unknown name and another domain are refused."""
    swaks = need("swaks")
    network.toad.configure({"mynetworks": "192.0.2.0/24"})
    network.toad.stop()
    network.toad.start()

    def talk(recipient: str) -> str:
        server = f"{network.toad.address}:{network.port}"
        words = [swaks, "--server", server, "--to", recipient, "--from", "stranger@example.org"]
        result = network.launcher.run([*words, "--helo", "mail.example.org", "-tls-optional"])
        return result.stdout

    assert " 250 2.0.0 Ok: queued as " in talk("root@resel.fr")
    assert (
        " 550 5.1.1 <nobody.here@resel.fr>: Recipient address rejected: "
        "User unknown in local recipient table"
    ) in talk("nobody.here@resel.fr")
    assert " 554 5.7.1 <someone@example.net>: Relay access denied" in talk("someone@example.net")
    network.toad.await_log(r"to=<lcarr@resel\.fr>, orig_to=<root@resel\.fr>.* status=sent")
