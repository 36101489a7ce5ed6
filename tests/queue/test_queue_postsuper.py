"""resel-queue's changes beside the real postsuper's, on the same mail: what is said, and listed."""

from __future__ import annotations

import asyncio
import os
import re
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_fakes import make_message

from benchmarks.servers import PostfixServer
from demo.machines import free_port
from resel_mta.commands import queue
from resel_mta.mail import Deferred, Reply
from resel_mta.queue.door import Result, Retry
from resel_mta.queue.sqlite import SQLiteStore

pytestmark = [
    pytest.mark.needs("postfix", "postsuper", "postqueue"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix's master needs root"),
]
NAMES = ("a", "b", "c")


class Theirs:
    """A private Postfix with deferred mail: its next hop is away."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self._server = PostfixServer(directory, free_port(["127.0.0.1"]))
        self._config = str(directory / "postfix/etc")
        with smtplib.SMTP("127.0.0.1", self._server.port) as client:
            for name in NAMES:
                client.sendmail(
                    "ann@example.org", [f"{name}@example.net"], b"Subject: x\r\n\r\nx\r\n"
                )
        self._server.await_deferred(len(NAMES), 20)
        listed = self.run("postqueue", "-j")
        self.ids = {
            name: found[1]
            for name in NAMES
            if (found := re.search(rf'"queue_id": "(\w+)".*"{name}@example.net"', listed))
        }

    def run(self, program: str, *words: str) -> str:
        """Both outputs of postsuper or postqueue."""
        command = [program, "-c", self._config, *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return result.stdout + result.stderr

    def stop(self) -> None:
        self._server.stop()


async def _fill(directory: Path) -> dict[str, str]:
    refused = Reply(451, "4.4.1", "connect to 127.0.0.1[127.0.0.1]:25: Connection refused")
    store = await SQLiteStore.open(directory)
    made = {name: make_message(store, f"{name}@example.net") for name in NAMES}
    for message in made.values():
        await store.enter(message, claim_for="me")
        retry = Retry(message.recipients[0], message.arrival + 6e8, Deferred(refused))
        await store.apply("me", [Result(message, retries=[retry], release=True)])
    await store.close()
    return {name: message.queue_id for name, message in made.items()}


class Ours:
    """A queue that no daemon holds."""

    def __init__(self, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._config, self._capfd = directory / "main.cf", capfd
        (directory / "data").mkdir()
        self._config.write_text(
            f"queue_directory = {directory}/queue\ndata_directory = {directory}/data\n"
            f"role = relay\nrelayhost = [127.0.0.1]\nmaillog_file = {directory}/log\n"
        )
        self.ids = asyncio.run(_fill(directory / "queue"))

    def run(self, program: str, *words: str) -> str:
        queue.main(["-c", str(self._config), *words])
        out, err = self._capfd.readouterr()
        return out + err


@pytest.fixture
def both(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[tuple[Theirs, Ours]]:
    # Not in tmp_path, into which only root can look.
    with tempfile.TemporaryDirectory(prefix="resel-test-") as name:
        theirs = Theirs(Path(name))
        try:
            yield theirs, Ours(tmp_path, capfd)
        finally:
            theirs.stop()


def normal(text: str, ids: dict[str, str]) -> list[str]:
    """Lines with names for ids, and for both programs."""
    for name, queue_id in ids.items():
        text = text.replace(queue_id, name)
    return sorted(re.sub(r"^resel-queue: ", "postsuper: ", text, flags=re.M).splitlines())


def marks(text: str, ids: dict[str, str]) -> dict[str, str]:
    """What `-p` puts behind each id."""
    found = {}
    for name, queue_id in ids.items():
        match = re.search(rf"^{queue_id}([*!#]*) ", text, re.M)
        found[name] = match[1] if match else "not there"
    return found


@pytest.mark.parametrize(
    "steps",
    [
        ["-h a", "-e a", "-e b", "-e ALL", "-e ALL"],
        ["-h a -h b", "-H a", "-r c", "-H ALL"],
        ["-e b -h c", "-h ALL", "-e ALL hold"],
        ["-d a", "-d ALL deferred", "-d ALL"],
        ["-h b", "-f b", "-e c", "-f ALL"],
    ],
)
def test_the_same_is_said_and_done(both: tuple[Theirs, Ours], steps: list[str]) -> None:
    ours = both[1]
    for step in steps:
        said, listed = [], []
        for side in both:
            words = [side.ids.get(word, word) for word in step.split()]
            if side is ours:
                words = ["--force-expire" if word == "-f" else word for word in words]
            said.append(normal(side.run("postsuper", *words), side.ids))
            if "-r" not in words:  # theirs is on its way to another id, and to its next attempt
                listed.append(marks(side.run("postqueue", "-p"), side.ids))
        assert said[0] == said[1], step
        assert len(listed) < 2 or listed[0] == listed[1], step
