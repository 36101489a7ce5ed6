"""Helpers as processes: what they do, and what happens when they do not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from resel_lda import helpers as helpers_module
from resel_lda.by_helper import ByHelper
from resel_lda.errand import Errand
from resel_lda.helpers import ChildDispatch, Helpers
from resel_lda.local import LocalTransport
from resel_mta.config import Settings
from resel_mta.config.target_files import Found
from resel_mta.content import Content
from resel_mta.local_target import LocalTarget, forward_mark
from resel_mta.mail import (
    Bounced,
    Deferred,
    Delivered,
    Envelope,
    Expanded,
    Message,
    Outcome,
    Recipient,
    Reply,
    Route,
)
from resel_mta.maillog import MailLog
from resel_mta.users import User

MAIL = b"Subject: x\r\n\r\nhello\r\nFrom here\r\n"


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += lines

    def reopen(self) -> None: ...


class FakeUsers:
    def __init__(self, home: Path) -> None:
        self._home = home

    async def find(self, name: str) -> User | None:
        if name != "bob":
            return None
        return User("bob", os.getuid(), os.getgid(), str(self._home))


class FakeForwards:
    def __init__(self) -> None:
        self.found: Found = []

    async def forward(
        self, message: Message, recipient: Recipient, user: str, targets: Found
    ) -> Outcome:
        self.found = targets
        return Expanded(Reply(250, "2.0.0", "forwarded as Q2"))

    async def relay_unknown(self, message: Message, recipient: Recipient) -> Outcome | None:
        return None


class House:
    """A local transport whose helper is a child of the test."""

    def __init__(self, path: Path, **values: str) -> None:
        self.home = path / "home"
        self.home.mkdir()
        (path / "spool").mkdir()
        self.settings = Settings.build(
            **{
                "myhostname": "toad.resel.fr",
                "recipient_delimiter": "+",
                "mail_location": "",
                "mail_spool_directory": f"{path}/spool",
                "deliver_lock_attempts": "2",
                **values,
            }
        )
        self.log = Lines()
        log = MailLog(self.log)
        self.dispatch = ChildDispatch(self.settings)
        self.helpers = Helpers(self.settings, self.dispatch, str(path))
        self.forwards = FakeForwards()
        by_helper = ByHelper(self.settings, log, self.helpers, self.forwards)
        users = FakeUsers(self.home)
        self.local = LocalTransport(self.settings, users, log, None, by_helper)  # type: ignore[arg-type]

    async def deliver(self, address: str, *via: str, data: bytes = MAIL) -> Outcome:
        recipient = Recipient(address, via=via)
        content = Content.from_bytes(data)
        message = Message(
            "Q1", 0.0, Envelope("s;x@y.org", [recipient]), len(data), [recipient], content
        )
        outcomes = await self.local.deliver(message, [recipient], Route("local", ""))
        return outcomes[recipient]

    async def to(self, text: str, source: str = "alias", name: str = "list") -> Outcome:
        return await self.deliver("list+ext@resel.fr", LocalTarget(text, source, name).mark())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.helpers.close()


async def test_a_command_gets_message_and_environment(house: House, tmp_path: Path) -> None:
    outcome = await house.to(f"|env > {tmp_path}/env; pwd >> {tmp_path}/env; cat > {tmp_path}/in")
    assert isinstance(outcome, Delivered)
    assert outcome.relay == "local"
    lines = (tmp_path / "env").read_text().splitlines()
    assert {
        "USER=list",
        "LOGNAME=list",
        "LOCAL=list+ext",
        "EXTENSION=ext",
        "DOMAIN=resel.fr",
        "RECIPIENT=list+ext@resel.fr",
        "ORIGINAL_RECIPIENT=list+ext@resel.fr",
        "SENDER=s_x@y.org",
        "PATH=/usr/bin:/bin",
        "/",
    } <= set(lines)
    assert not any(line.startswith(("HOME=", "SHELL=", "PYTHONPATH=")) for line in lines)
    text = (tmp_path / "in").read_text()
    assert text.startswith("From s;x@y.org  ")
    assert text.endswith("Delivered-To: list+ext@resel.fr\nSubject: x\n\nhello\nFrom here\n")
    assert (tmp_path / "in").stat().st_mode & 0o777 == 0o600


async def test_parameters_of_commands(tmp_path: Path) -> None:
    house = House(
        tmp_path,
        command_execution_directory=f"{tmp_path}/$user",
        export_environment="TZ=Europe/Paris {NOTE=two words}",
        command_expansion_filter="abcdefghijklmnopqrstuvwxyz",
        local_command_shell=f"{tmp_path}/shell -x",
        prepend_delivered_header="file",
    )
    (tmp_path / "list").mkdir()
    (tmp_path / "shell").write_text(
        '#!/bin/sh\n{ pwd; env; echo "$# $1 $2"; cat; } > out\n', encoding="ascii"
    )
    (tmp_path / "shell").chmod(0o700)
    assert isinstance(await house.to("|rm -rf $HOME; x"), Delivered)
    text = (tmp_path / "list" / "out").read_text()
    lines = text.splitlines()
    assert lines[0] == f"{tmp_path}/list"
    assert {"TZ=Europe/Paris", "NOTE=two words", "DOMAIN=resel_fr"} <= set(lines)
    assert "2 -x rm -rf $HOME; x" in lines
    assert "Delivered-To" not in text
    await house.helpers.close()


async def test_files_and_restrictions(tmp_path: Path) -> None:
    house = House(tmp_path, allow_mail_to_files="forward", allow_mail_to_commands="")
    outcome = await house.to(f"/{tmp_path}/box")
    assert isinstance(outcome, Bounced)
    assert str(outcome.reply) == "550 5.7.1 mail to file is restricted"
    outcome = await house.to("|/bin/true")
    assert str(outcome.reply) == "550 5.7.1 mail to command is restricted"
    await house.helpers.close()


async def test_a_user_s_mail_goes_to_his_mailbox(house: House, tmp_path: Path) -> None:
    outcome = await house.deliver("bob@resel.fr")
    assert str(outcome.reply) == "250 2.0.0 delivered to mailbox"
    text = (tmp_path / "spool" / "bob").read_text()
    assert "Delivered-To: bob@resel.fr\nSubject: x\n\nhello\n>From here\n\n" in text


async def test_mailbox_command_takes_the_mailbox_s_place(tmp_path: Path) -> None:
    # Debian's own line for procmail: the shell sees $EXTENSION, nothing else replaces it.
    house = House(tmp_path, mailbox_command=f'echo -a "$EXTENSION" > {tmp_path}/out; exit 0')
    outcome = await house.deliver("bob+a@resel.fr")
    assert outcome.reply.text.startswith('delivered to command: echo -a "$EXTENSION" > ')
    assert (tmp_path / "out").read_text() == "-a a\n"
    assert not (tmp_path / "spool" / "bob").exists()
    # Where there is a .forward file, that counts.
    (house.home / ".forward").write_text("c@d.org\n")
    assert isinstance(await house.deliver("bob@resel.fr"), Expanded)
    house.dispatch.serves = lambda user: False  # type: ignore[method-assign]
    outcome = await house.deliver("bob@resel.fr")
    assert (type(outcome), outcome.reply.enhanced) == (Deferred, "4.3.5")
    await house.helpers.close()


async def test_a_forward_file_is_followed_once(house: House, tmp_path: Path) -> None:
    (house.home / ".forward").write_text(f'# all\n\\bob, "|cat > {tmp_path}/out"\nc@d.org\n')
    outcome = await house.deliver("bob+ext@resel.fr")
    assert isinstance(outcome, Expanded)
    assert [(target.text, source) for target, source in house.forwards.found] == [
        ("\\bob", ""),
        (f"|cat > {tmp_path}/out", ""),
        ("c@d.org", ""),
    ]
    mark = forward_mark("bob")
    outcome = await house.deliver("bob@resel.fr", mark)
    assert outcome.reply.text == "delivered to mailbox"
    (house.home / ".forward+ext").write_text("e@f.org")
    await house.deliver("bob+ext@resel.fr")
    assert [target.text for target, _ in house.forwards.found] == ["e@f.org"]
    # The extension names no other folder.
    house.forwards.found = []
    await house.deliver("bob+/../../x@resel.fr")
    assert len(house.forwards.found) == 3


async def test_only_what_the_forward_file_names_is_run(house: House, tmp_path: Path) -> None:
    (house.home / ".forward").write_text(f'"|env > {tmp_path}/out"\n:include:{house.home}/more\n')
    (house.home / "more").write_text("|/bin/true\n")
    outcome = await house.to(f"|env > {tmp_path}/out", "forward", "bob")
    assert isinstance(outcome, Delivered)
    lines = (tmp_path / "out").read_text().splitlines()
    assert {f"HOME={house.home}", "USER=bob", "LOGNAME=bob"} <= set(lines)
    outcome = await house.to("|/bin/true", "forward", "bob")
    assert outcome.reply.text == "mail to command is restricted"
    outcome = await house.to(f"|touch {tmp_path}/never", "forward", "bob")
    assert outcome.reply.text == "delivered to mailbox"
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("kind", ["open", "link", "empty", "fifo", "folder"])
async def test_forward_files_that_do_not_count(house: House, kind: str, tmp_path: Path) -> None:
    path = house.home / ".forward"
    (tmp_path / "elsewhere").write_text("e@vil.org")
    if kind == "open":
        path.write_text("e@vil.org")
        path.chmod(0o666)
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "empty":
        path.write_text("# nothing\n\n")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    outcome = await house.deliver("bob@resel.fr")
    assert outcome.reply.text == "delivered to mailbox"


async def test_a_forward_file_with_an_error_defers(house: House) -> None:
    (house.home / ".forward").write_text('"not closed\n')
    outcome = await house.deliver("bob@resel.fr")
    assert isinstance(outcome, Deferred)
    assert outcome.reply.enhanced == "4.3.5"


async def test_a_helper_that_is_killed_defers_and_is_started_again(
    house: House, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pid")
    running = asyncio.create_task(house.to(f"|echo $PPID > {tmp_path}/pid; sleep 60"))
    pid = await asyncio.to_thread((tmp_path / "pid").read_text)
    os.kill(int(pid), signal.SIGKILL)
    outcome = await running
    assert isinstance(outcome, Deferred)
    assert outcome.reply.text == "the delivery process went away"
    # It may still be dying when the next errand comes.
    outcomes = [await house.to("|/bin/true") for _ in range(5)]
    assert isinstance(outcomes[-1], Delivered)


async def test_a_helper_that_is_stopped_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers_module, "_PATIENCE", 1.0)
    house = House(tmp_path, command_time_limit="1s")
    outcome = await house.to("|kill -STOP $PPID; exit 0")
    assert isinstance(outcome, Deferred)
    assert outcome.reply.text == "the delivery process does not answer"
    monkeypatch.setattr(helpers_module, "_PATIENCE", 20.0)
    assert isinstance(await house.deliver("bob@resel.fr"), Delivered)
    await house.helpers.close()


async def test_hanging_commands_of_one_alias_leave_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers_module, "_AT_ONCE", 2)
    monkeypatch.setattr(helpers_module, "_WAITING", 1)
    monkeypatch.setattr(helpers_module, "_WAIT", 0.2)
    house = House(tmp_path)
    hanging = [asyncio.create_task(house.to("|sleep 60")) for _ in range(5)]
    done, _ = await asyncio.wait(hanging, timeout=5, return_when=asyncio.ALL_COMPLETED)
    assert len(done) == 3
    assert all(isinstance(task.result(), Deferred) for task in done)
    assert isinstance(await house.to("|/bin/true", name="other"), Delivered)
    # The end of the mail system ends them, and they are tried again.
    await house.helpers.close()
    outcomes = await asyncio.gather(*hanging)
    assert all(isinstance(outcome, Deferred) for outcome in outcomes)


async def test_an_answer_may_be_anything(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(errand: Errand, content: Content | None) -> object:
        return answers.pop()

    monkeypatch.setattr(house.helpers, "run", run)
    answers: list[object] = [
        {},
        {"outcome": None},
        {"outcome": {"kind": "relayed", "code": 1}},
        {"targets": [["rm", 1]]},
        {"targets": 7},
        {"warnings": 3, "failure": []},
    ]
    while answers:
        assert isinstance(await house.deliver("bob@resel.fr"), Deferred)


async def test_nonsense_from_a_helper_is_a_failure(house: House) -> None:
    class Nonsense(ChildDispatch):
        async def send(self, errand: Errand, descriptors) -> None:  # type: ignore[no-untyped-def]
            os.write(descriptors[0], b"\xff[")

    helpers = Helpers(house.settings, Nonsense(house.settings), "/tmp")
    house.helpers.run = helpers.run  # type: ignore[method-assign]
    outcome = await house.deliver("bob@resel.fr")
    assert outcome.reply.text == "the delivery process gave no proper answer"
