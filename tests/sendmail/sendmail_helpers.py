"""A daemon's side of resel-sendmail that only remembers, and the command as a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resel_mta.config import Settings
from resel_mta.content import Body, Content, MemoryBody
from resel_mta.disk import Disk
from resel_mta.mail import AddressClass, Envelope, Message, Origin, Reply, Route
from resel_mta.maillog import MailLog
from resel_mta.pickup.drop import drop_directory, submit_path
from resel_mta.pickup.letter import Letter
from resel_mta.pickup.reader import DropReader
from resel_mta.pickup.server import SubmitServer
from resel_mta.pickup.taker import Taker

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
RUN = (
    "import sys; name = sys.argv.pop(1); sys.argv[0] = '/usr/sbin/' + name; "
    "from resel_mta.commands.sendmail import main; sys.exit(main())"
)


@dataclass
class Taken:
    """One submitted message."""

    envelope: Envelope
    data: bytes
    origin: Origin
    queue_id: str

    @property
    def recipients(self) -> list[str]:
        return [recipient.address for recipient in self.envelope.recipients]


class MemorySink:
    def __init__(self, intake: FakeIntake) -> None:
        self._intake = intake
        self._blocks: list[bytes] = []

    async def write(self, block: bytes) -> None:
        self._intake.largest = max(self._intake.largest, len(block))
        self._blocks.append(block)

    async def finish(self) -> Body:
        return MemoryBody(b"".join(self._blocks))

    async def discard(self) -> None:
        self._intake.discarded += 1


@dataclass
class FakeIntake:
    """Remembers messages. failure: raised by submit, once for each in the list."""

    taken: list[Taken] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    discarded: int = 0
    largest: int = 0
    ids: int = 0

    def new_id(self) -> str:
        self.ids += 1
        return f"QID{self.ids}"

    def sink(self) -> MemorySink:
        return MemorySink(self)

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        data = content.header.raw + b"\r\n" + content.body.read(0, content.body.size)
        self.taken.append(Taken(envelope, data, origin, queue_id))
        return queue_id

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        raise AssertionError("local submission commits nothing itself")

    # What the reader asks of the queue.

    async def knows_token(self, token: str) -> bool:
        return any(taken.origin.token == token for taken in self.taken)

    async def forget_tokens(self, before: float) -> None:
        """All are younger."""


@dataclass
class FakeRouter:
    """Everybody exists but those whose name begins with "nosuch"."""

    failure: Exception | None = None

    async def classify(self, address: str) -> AddressClass:
        return AddressClass.LOCAL

    async def check_recipient(self, address: str) -> Reply | None:
        if self.failure is not None:
            raise self.failure
        if not address.startswith("nosuch"):
            return None
        text = f"<{address}>: Recipient address rejected: User unknown in local recipient table"
        return Reply(550, "5.1.1", text)

    async def route(self, address: str, reverse_path: str = "", via: Collection[str] = ()) -> Route:
        raise AssertionError("local submission routes nothing")


class Lines:
    """Remembers the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += lines

    def reopen(self) -> None:
        """Nothing to reopen."""


class Office:
    """A queue directory, and what serves it while `serving`."""

    def __init__(self, directory: Path, **values: str) -> None:
        self.directory = directory
        queue = directory / "spool"
        for folder, mode in ((queue, 0o755), (queue / "public", 0o755), (queue / "drop", 0o1777)):
            folder.mkdir()
            folder.chmod(mode)
        self.config = directory / "main.cf"
        self.values = {
            "myhostname": "vm1.adm.resel.fr",
            "queue_directory": str(queue),
            "data_directory": str(directory / "data"),
        } | values
        self.config.write_text("".join(f"{k} = {v}\n" for k, v in self.values.items()))
        self.settings = Settings.build(**self.values)
        self.drop = drop_directory(str(queue))
        self.aside = queue / "aside"
        self.submit = submit_path(str(queue))
        self.intake = FakeIntake()
        self.router = FakeRouter()
        self.sink = Lines()
        self.log = MailLog(self.sink, stamped=False)
        self.taker = Taker(self.settings, self.intake, self.router, self.log)
        self.server = SubmitServer(self.submit, self.taker, self.log, patience=5)

    def reader(self, opener: Callable[[str], object] | None = None) -> DropReader:
        from resel_mta.pickup.service import _open

        async def plain(name: str) -> int:
            return await _open(str(self.drop), name)

        return DropReader(
            self.drop, opener or plain, self.taker, self.intake, self.log, Disk()  # type: ignore[arg-type]
        )  # fmt: skip

    def warnings(self) -> list[str]:
        self.log.flush()
        return [line for line in self.sink.lines if "warning: " in line]

    def letter(self, content: bytes = b"Subject: x\r\n\r\nhi\r\n", **values: object) -> Letter:
        token = os.urandom(16).hex()
        fields = {"token": token, "sender": "root", "recipients": ("root",), "size": len(content)}
        return Letter(**(fields | values))  # type: ignore[arg-type]

    def put(self, name: str, data: bytes, mode: int = 0o600) -> Path:
        path = self.drop / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def put_letter(self, content: bytes = b"Subject: x\r\n\r\nhi\r\n", **values: object) -> Path:
        letter = self.letter(content, **values)
        return self.put(letter.token, letter.encode() + content)

    # -- the command --------------------------------------------------------------------------

    def words(self, arguments: Sequence[str], name: str = "sendmail") -> list[str]:
        return [sys.executable, "-P", "-c", RUN, name, "-C", str(self.config), *arguments]

    @staticmethod
    def environment() -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("NAME",)}
        return kept | {"PYTHONPATH": str(ROOT)}

    async def run(
        self,
        *arguments: str,
        data: bytes = b"Subject: x\n\nhi\n",
        name: str = "sendmail",
        uid: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The command, in a process of its own."""
        return await asyncio.to_thread(self.run_blocking, arguments, data, name, uid)

    def run_blocking(
        self,
        arguments: Sequence[str],
        data: bytes = b"Subject: x\n\nhi\n",
        name: str = "sendmail",
        uid: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(arguments, name),
            input=data,
            capture_output=True,
            env=self.environment(),
            cwd="/",
            timeout=60,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
