"""Commands and files as targets, .forward files as new mail, what becomes of them later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resel_mta.config import Settings
from resel_mta.config.aliases import Target, TargetKind
from resel_mta.content import Content
from resel_mta.local_target import LocalTarget, forward_mark
from resel_mta.mail import (
    Deferred,
    Envelope,
    Expanded,
    Message,
    Origin,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.routing import Expander, RoutingTable
from resel_mta.routing.deferred import ExpandTransport
from resel_mta.routing.forwarding import Forwarder
from resel_mta.users import open_users

SYMPA = """\
#-- robot resel.fr
sympa: "| /usr/lib/sympa/bin/queue sympa@resel.fr"
listmaster: "| /usr/lib/sympa/bin/queue listmaster@resel.fr"
bounce+*: "| /usr/lib/sympa/bin/bouncequeue sympa@resel.fr"
jeux: "| /usr/lib/sympa/bin/queue jeux@resel.fr"
jeux-request: "| /usr/lib/sympa/bin/queue jeux-request@resel.fr"
jeux-owner: "| /usr/lib/sympa/bin/bouncequeue jeux@resel.fr"
"""

Parts = tuple[Settings, RoutingTable, Expander]


class FakeIntake:
    """Notes what is submitted, or refuses it."""

    def __init__(self) -> None:
        self.messages: list[tuple[list[Recipient], bytes]] = []
        self.failing = False

    def sink(self):
        raise AssertionError("the fake's bodies are in memory")

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        if self.failing:
            raise TempFail(Reply(452, "4.3.1", "no room"))
        self.messages.append((envelope.recipients, content.header.raw))
        return f"Q{len(self.messages)}"


class FakeSink:
    def __init__(self) -> None:
        self.data = b""

    async def write(self, block: bytes) -> None:
        self.data += block

    async def finish(self):
        return Content.from_bytes(b"\r\n" + self.data).body

    async def discard(self) -> None: ...


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Parts]:
    def build(aliases: str = "", **values: str) -> Parts:
        (tmp_path / "aliases").write_text(aliases)
        (tmp_path / "users").write_text("bob:{PLAIN}x\nann:{PLAIN}x\n")
        settings = Settings.build(
            **{
                "myhostname": "toad.resel.fr",
                "myorigin": "resel.fr",
                "mydestination": "resel.fr, localhost",
                "recipient_delimiter": "+",
                "alias_maps": f"hash:{tmp_path}/aliases",
                "passdb": f"passwd-file:{tmp_path}/users",
                **values,
            }
        )
        table = RoutingTable(settings, open_users(settings))
        return settings, table, Expander(settings, table)

    return build


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch) -> FakeIntake:
    fake = FakeIntake()
    monkeypatch.setattr(fake, "sink", FakeSink)
    return fake


def message(recipient: Recipient) -> Message:
    content = Content.from_bytes(b"Subject: x\r\n\r\nhello\r\n")
    return Message("Q0", 0.0, Envelope("s@x.org", [recipient]), 20, [recipient], content)


async def test_each_target_is_a_recipient_of_its_own(make: Callable[..., Parts]) -> None:
    _, table, expander = make('log: "|/bin/cat >>/tmp/x, y", /var/tmp/box, ann@a.org, bob\n')
    found, trouble, _ = await expander.expand_all(
        [Recipient("log+ext@resel.fr"), Recipient("log@localhost")], "s@x.org"
    )
    assert not trouble
    assert [(each.address, each.target and each.target.text) for each in found] == [
        ("log+ext@resel.fr", "|/bin/cat >>/tmp/x, y"),
        ("log+ext@resel.fr", "/var/tmp/box"),
        ("ann@a.org", None),
        ("bob@resel.fr", None),
        ("log@localhost", "|/bin/cat >>/tmp/x, y"),
        ("log@localhost", "/var/tmp/box"),
    ]
    command = found[0]
    assert command.target == LocalTarget("|/bin/cat >>/tmp/x, y", "alias", "log")
    route = await table.route(command.address, "s@x.org", command.via)
    assert route == Route("local", "resel.fr")
    # Mail that comes back from the queue is not expanded again.
    again, *_ = await expander.expand_all([command], "s@x.org")
    assert again == [command]


async def test_sympa_s_file_works_as_it_is(make: Callable[..., Parts]) -> None:
    _, _, expander = make(SYMPA)
    for name, command in (
        ("jeux", "|/usr/lib/sympa/bin/queue jeux@resel.fr"),
        ("Jeux-Request", "|/usr/lib/sympa/bin/queue jeux-request@resel.fr"),
        ("jeux-owner", "|/usr/lib/sympa/bin/bouncequeue jeux@resel.fr"),
    ):
        [found], _ = await expander.expand(Recipient(f"{name}@resel.fr"), "s@x.org")
        assert found.target is not None
        assert found.target.text == command
        assert found.address == f"{name}@resel.fr"


async def test_a_command_of_an_included_file_says_where_it_stands(
    make: Callable[..., Parts], tmp_path: Path
) -> None:
    (tmp_path / "list").write_text(f'"|/bin/cat"\n:include:{tmp_path}/more\n')
    (tmp_path / "more").write_text("carl@c.org, /tmp/file\n")
    _, table, expander = make(f"l: :include:{tmp_path}/list\n")
    found, _ = await expander.expand(Recipient("l@resel.fr"), "s@x.org")
    assert [each.target and each.target.source for each in found] == [
        f"{tmp_path}/list",
        None,
        f"{tmp_path}/more",
    ]
    assert found[0].target is not None
    assert await table.names(found[0].target)


async def test_an_alias_that_changed_gets_what_waits(
    make: Callable[..., Parts], intake: FakeIntake
) -> None:
    _, _, expander = make('log: "|/old", ann@a.org\n')
    [old, *_], _ = await expander.expand(Recipient("log@resel.fr"), "s@x.org")
    _, table, expander = make('log: "|/new", ann@a.org\n')
    assert (await table.route(old.address, "", old.via)).transport == "expand"
    transport = ExpandTransport(expander, intake)  # type: ignore[arg-type]
    outcome = (await transport.deliver(message(old), [old], Route("expand", "")))[old]
    assert isinstance(outcome, Expanded)
    [(made, _)] = intake.messages
    assert [each.target.text for each in made if each.target] == ["|/new"]
    assert len(made) == 1
    _, _, expander = make("log: ann@a.org\n")
    transport = ExpandTransport(expander, intake)  # type: ignore[arg-type]
    outcome = (await transport.deliver(message(old), [old], Route("expand", "")))[old]
    assert isinstance(outcome, Deferred)


async def test_forward_file_becomes_mail_of_its_own(
    make: Callable[..., Parts], intake: FakeIntake
) -> None:
    settings, table, expander = make()
    forwarder = Forwarder(settings, table, intake)  # type: ignore[arg-type]
    recipient = Recipient("bob+x@resel.fr", via=("team",))
    targets = [
        (Target(TargetKind.MAILBOX, "bob"), ""),
        (Target(TargetKind.COMMAND, "vacation bob"), ""),
        (Target(TargetKind.ADDRESS, "bob@home.example"), ""),
        (Target(TargetKind.ADDRESS, "ann"), ""),
    ]
    outcome = await forwarder.forward(message(recipient), recipient, "bob", targets)
    assert isinstance(outcome, Expanded)
    assert outcome.reply.text == "forwarded as Q1, Q2"
    (here, plain), (away, marked) = intake.messages
    assert plain == b"Subject: x\r\n"
    assert marked == b"Delivered-To: bob+x@resel.fr\r\nSubject: x\r\n"
    assert [(each.address, each.target and each.target.text) for each in here] == [
        ("bob+x@resel.fr", None),
        ("bob+x@resel.fr", "|vacation bob"),
    ]
    assert [(each.address, each.orig_to) for each in away] == [
        ("bob@home.example", "bob+x@resel.fr"),
        ("ann@resel.fr", "bob+x@resel.fr"),
    ]
    assert all(forward_mark("bob") in each.via for each in (*here, *away))
    # All of it goes where it was meant to, without another look at aliases or .forward.
    kept, trouble, _ = await expander.expand_all(here, "s@x.org")
    assert (kept, trouble) == (here, [])
    for each in here:
        assert (await table.route(each.address, "", each.via)).transport == "local"


async def test_forward_that_cannot_be_queued_is_tried_again(
    make: Callable[..., Parts], intake: FakeIntake
) -> None:
    settings, table, _ = make()
    forwarder = Forwarder(settings, table, intake)  # type: ignore[arg-type]
    intake.failing = True
    recipient = Recipient("bob@resel.fr")
    targets = [(Target(TargetKind.ADDRESS, "x@y.org"), "")]
    outcome = await forwarder.forward(message(recipient), recipient, "bob", targets)
    assert isinstance(outcome, Deferred)
    assert outcome.reply.enhanced == "4.3.1"


async def test_unknown_users_go_to_luser_relay_once(
    make: Callable[..., Parts], intake: FakeIntake
) -> None:
    for value, expected in (
        ("unknown+$extension", "unknown+ext@resel.fr"),
        ("@other.example", "nosuch+ext@other.example"),
        ("$user@other.example", "nosuch@other.example"),
    ):
        settings, table, _ = make(luser_relay=value)
        forwarder = Forwarder(settings, table, intake)  # type: ignore[arg-type]
        recipient = Recipient("nosuch+ext@resel.fr", via=("list",))
        outcome = await forwarder.relay_unknown(message(recipient), recipient)
        assert isinstance(outcome, Expanded)
        [relayed], header = intake.messages[-1]
        assert (relayed.address, relayed.orig_to) == (expected, "nosuch+ext@resel.fr")
        assert header.startswith(b"Delivered-To: nosuch+ext@resel.fr\r\n")
        # Nobody there either: it bounces.
        assert await forwarder.relay_unknown(message(relayed), relayed) is None
    settings, table, _ = make()
    recipient = Recipient("nosuch@resel.fr")
    forwarder = Forwarder(settings, table, intake)  # type: ignore[arg-type]
    assert await forwarder.relay_unknown(message(recipient), recipient) is None


def test_marks_hold_what_commands_hold() -> None:
    target = LocalTarget("|cmd 'a\tb: c'", "forward", "bob")
    assert LocalTarget.last_of(("x", target.mark())) == target
    assert LocalTarget.last_of(("x",)) is None
    with pytest.raises(ValueError, match="control"):
        LocalTarget("|a\nb", "alias", "l").mark()
