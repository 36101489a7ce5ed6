"""A daemon whose queue was damaged while it was down."""

from __future__ import annotations

from system_helpers import Inbox

from demo.network import Network

PAGE = 4096
COUNT = 60


def test_system_starts_on_a_damaged_queue(network: Network, inbox: Inbox) -> None:
    network.toad.stop()
    pegase = network.pegase
    with network.smtp(pegase) as client:
        for number in range(COUNT):
            message = f"Subject: x\r\nX-Number: {number}\r\n\r\n{'x' * 2000}\r\n".encode()
            client.sendmail("root@vm1.adm.resel.fr", ["root@resel.fr"], message)
    pegase.await_log(r"status=deferred")
    pegase.stop()
    with (pegase.directory / "spool" / "queue.db").open("r+b") as file:
        # The schema, the pointer map, and the root of the table of envelopes.
        file.write(b"\xa5" * 3 * PAGE)
    listing = pegase.command("resel-queue", "-p")
    assert listing.returncode == 0, listing.stderr
    with (pegase.directory / "spool" / "queue.db").open("r+b") as file:
        file.seek(2 * PAGE)
        file.write(b"\xa5" * PAGE)

    pegase.start()
    pegase.await_log(r"damaged database set aside as .*/corrupt/queue\.db\.")
    network.toad.start()
    assert pegase.command("resel-queue", "-f").returncode == 0
    assert inbox.await_count(COUNT) == COUNT
    assert all(copies == 1 for copies in inbox.copies().values())
