"""A person at Roundcube, in a real browser, with Toad behind it."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from roundcube import UPDATE, Roundcube
from webdriver import Browser

from demo.machines import free_port
from demo.network import TOAD, USER, Network

LINES = ["Ça marche.", ".", "..deux points"]
SUBJECTS = ("Réunion du bureau", "Facture d'août", "Weekly report")


@pytest.fixture
def submission_port() -> int:
    return free_port([TOAD])


@pytest.fixture
def network(submission_port: int) -> Iterator[Network]:
    with Network({"toad": {"submission_listen": f":{submission_port}"}}) as network:
        network.toad.start()
        yield network


def deliver(network: Network) -> None:
    with network.smtp(network.toad) as client:
        for number, subject in enumerate(SUBJECTS):
            mail = EmailMessage()
            mail["From"] = f"Alice Élève <alice{number}@example.org>"
            mail["To"] = "lcarr@resel.fr"
            mail["Subject"] = subject
            mail.set_content(f"Bonjour à tous, numéro {number}.\n")
            if number == 1:
                mail.add_attachment(
                    b"\0\1" * 5000, "application", "octet-stream", filename="été.bin"
                )
            client.send_message(mail, "alice@example.org", ["lcarr@resel.fr"])


def mails(network: Network, folder: str) -> list[EmailMessage]:
    client = network.imap()
    status, _ = client.select(folder, readonly=True)
    if status != "OK":
        client.logout()
        return []
    _, parts = client.fetch("1:*", "(FLAGS BODY.PEEK[])")
    client.logout()
    return [
        email.message_from_bytes(part[1], policy=email.policy.default)
        for part in parts
        if isinstance(part, tuple)
    ]


def flags(network: Network, folder: str) -> dict[str, str]:
    """Flags by subject."""
    client = network.imap()
    client.select(folder, readonly=True)
    _, parts = client.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    client.logout()
    found = {}
    for part in parts:
        if isinstance(part, tuple):
            subject = str(email.message_from_bytes(part[1], policy=email.policy.default)["Subject"])
            found[subject] = part[0].decode()
    return found


def log_in(browser: Browser, roundcube: Roundcube, password: str) -> None:
    browser.visit(roundcube.url)
    browser.type("#rcmloginuser", USER)
    browser.type("#rcmloginpwd", password)
    browser.click("#rcmloginsubmit")
    browser.until("return typeof rcmail === 'object' && rcmail.env.task === 'mail'", "logged in")


def await_rows(browser: Browser, *subjects: str) -> None:
    """Until the list shows these subjects and no others."""
    browser.until(
        "const shown = [...document.querySelectorAll('#messagelist tbody tr .subject a')]"
        ".filter(a => a.offsetParent).map(a => a.textContent.trim()).sort();"
        f"return JSON.stringify(shown) === JSON.stringify({json.dumps(sorted(subjects))});",
        f"the list {subjects}",
    )


def select(browser: Browser, subject: str) -> int:
    """Mark a message in the list; its UID."""
    return int(
        browser.run(
            "const row = [...document.querySelectorAll('#messagelist tbody tr')]"
            ".find(row => row.textContent.includes(arguments[0]));"
            "rcmail.message_list.select(row.uid);"
            "return row.uid;",
            subject,
        )
    )


def command(browser: Browser, *words: str) -> None:
    """What a button of the page does, and its answer."""
    browser.run("rcmail.command(...arguments)", *words)
    browser.until("return !rcmail.busy && jQuery.active === 0", f"{words} done")


def read_and_sort(browser: Browser, roundcube: Roundcube) -> None:
    """Read, search, flag, move, delete."""
    await_rows(browser, *SUBJECTS)
    uid = select(browser, "Facture")
    browser.visit(f"{roundcube.url}?_task=mail&_action=show&_mbox=INBOX&_uid={uid}")
    shown = browser.until("return document.querySelector('#layout-content')?.innerText")
    assert "Bonjour à tous, numéro 1." in shown
    assert "Facture d'août" in shown
    assert "été.bin" in shown
    browser.visit(f"{roundcube.url}?_task=mail&_mbox=INBOX")
    await_rows(browser, *SUBJECTS)
    browser.run("document.querySelector('#mailsearchform').value = 'réunion'")
    command(browser, "search")
    await_rows(browser, "Réunion du bureau")
    command(browser, "reset-search")
    await_rows(browser, *SUBJECTS)
    select(browser, "Weekly report")
    command(browser, "mark", "flagged")
    select(browser, "Facture")
    command(browser, "move", "Junk")
    await_rows(browser, "Réunion du bureau", "Weekly report")
    select(browser, "Réunion")
    command(browser, "delete")
    await_rows(browser, "Weekly report")


def compose(browser: Browser, roundcube: Roundcube) -> None:
    browser.visit(f"{roundcube.url}?_task=mail&_action=compose&_to=lcarr@resel.fr")
    browser.type("#compose-subject", "Écrit dans un navigateur")
    browser.type("#composebody", "\n".join(LINES))
    browser.click("#toolbar-menu .send, button.send")
    browser.until("return rcmail.env.action !== 'compose'", "sent")


def test_a_person_at_roundcube(
    network: Network, submission_port: int, tmp_path: Path, need: Callable[[str], str]
) -> None:
    for program in ("php", "chromedriver", "chromium", UPDATE):
        need(program)
    deliver(network)
    imap = f"{TOAD}:{network.imap_port}"
    submission = f"{TOAD}:{submission_port}"
    with Roundcube(tmp_path, imap, submission) as roundcube, Browser(tmp_path) as browser:
        log_in(browser, roundcube, network.password)
        read_and_sort(browser, roundcube)
        assert "\\Flagged" in flags(network, "INBOX")["Weekly report"]
        assert list(flags(network, "Junk")) == ["Facture d'août"]
        assert list(flags(network, "Trash")) == ["Réunion du bureau"]
        compose(browser, roundcube)
        network.toad.await_log("status=sent .delivered to maildir")
        browser.visit(f"{roundcube.url}?_task=mail&_mbox=INBOX")
        await_rows(browser, "Weekly report", "Écrit dans un navigateur")
        browser.picture(tmp_path / "list.png")
        for folder in ("INBOX", "Sent"):
            (mail,) = [m for m in mails(network, folder) if "navigateur" in m["Subject"]]
            assert mail.get_content().splitlines() == LINES, folder
        assert "BAD" not in roundcube.answers
        assert roundcube.errors == ""
