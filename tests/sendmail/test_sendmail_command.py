"""resel-sendmail as a process, beside a daemon that only remembers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import socket
import subprocess

import pytest
from sendmail_helpers import NOBODY, Office

from resel_mta.mail import Notify, PermFail, Reply, TempFail
from resel_mta.pickup import server
from resel_mta.pickup.client import hand_over

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
LOGIN = pwd.getpwuid(os.getuid()).pw_name


async def test_sendmail_command_a_cron_mail(office: Office) -> None:
    done = await office.run(
        "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root", data=b"Subject: Cron\n\nh\xc3\xa9\n.\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (taken,) = office.intake.taken
    assert taken.recipients == ["root"]
    assert taken.envelope.reverse_path == LOGIN
    assert taken.envelope.body == "8BITMIME"
    assert taken.origin.uid == os.getuid()
    assert (taken.origin.protocol, taken.origin.service) == ("local", "pickup")
    assert taken.origin.rewrite
    assert taken.data == (
        f"Subject: Cron\r\nFrom: CronDaemon <{LOGIN}>\r\n\r\n".encode() + b"h\xc3\xa9\r\n.\r\n"
    )
    pattern = (
        rb"Received: by vm1\.adm\.resel\.fr \(resel-mta, from userid %d\)\r\n\tid QID1; .*\r\n"
    )
    assert re.fullmatch(pattern % os.getuid(), taken.origin.received)
    assert f"pickup[{os.getpid()}]: QID1: uid={os.getuid()} from=<{LOGIN}>" in office.sink.lines[0]


@needs_root
async def test_sendmail_command_the_kernel_says_who_it_is(office: Office) -> None:
    done = await office.run("-f", "root", "root", uid=NOBODY)
    assert (done.returncode, done.stderr) == (0, "")
    (taken,) = office.intake.taken
    assert taken.origin.uid == NOBODY
    assert b"from userid 65534)" in taken.origin.received
    assert taken.envelope.reverse_path == "root"


async def test_sendmail_command_recipients_from_the_header(office: Office) -> None:
    message = (
        b"To: lcarr, \"D, X\" <dx@example.org>,\n\tFriends: a@example.org, b@example.org;\n"
        b"Cc: (nobody) lcarr\nBcc: hidden@example.org\nX-To: not@example.org\n\nTo: c@example.org\n"
    )  # fmt: skip
    done = await office.run("-t", "also@example.org", data=message)
    assert done.returncode == 0, done.stderr
    assert office.intake.taken[0].recipients == [
        "also@example.org", "lcarr", "dx@example.org", "a@example.org", "b@example.org",
        "hidden@example.org",
    ]  # fmt: skip


async def test_sendmail_command_a_message_that_is_sent_again(office: Office) -> None:
    message = b"To: old\nResent-To: new\nResent-Bcc: hidden\nCc: old2\n\nx\n"
    assert (await office.run("-t", data=message)).returncode == 0
    (taken,) = office.intake.taken
    assert taken.recipients == ["new", "hidden"]
    assert b"\r\nResent-From: " in taken.data


@pytest.mark.parametrize(
    ("arguments", "sender"),
    [
        (("-f", ""), ""),
        (("-f", "<>"), ""),
        (("-f<>",), ""),
        (("-f", "<a@b.fr>"), "a@b.fr"),
        (("-f", '"A B" <a@b.fr>'), "a@b.fr"),
        (("-r", "x"), "x"),
        (("-f", '"x y"@b.fr'), '"x y"@b.fr'),
        (("-fété@b.fr",), "été@b.fr"),
    ],
)
async def test_sendmail_command_senders(
    office: Office, arguments: tuple[str, ...], sender: str
) -> None:
    done = await office.run(*arguments, "root")
    assert (done.returncode, done.stderr) == (0, "")
    assert office.intake.taken[0].envelope.reverse_path == sender
    assert office.intake.taken[0].envelope.smtputf8 == (not sender.isascii())


async def test_sendmail_command_delivery_status(office: Office) -> None:
    done = await office.run("-N", "success,delay", "-Rhdrs", "-V", "a+b", "-G", "root")
    assert done.returncode == 0
    (taken,) = office.intake.taken
    assert taken.envelope.recipients[0].notify == Notify.SUCCESS | Notify.DELAY
    assert (taken.envelope.ret, taken.envelope.envid) == ("HDRS", "a+2Bb")
    assert not taken.origin.rewrite
    assert b"From:" not in taken.data


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 64, r"Recipient addresses must be specified on the command line or via the -t option"),
        (("-t",), 64, r"No recipient addresses found in message header"),
        (("nosuch",), 67, r"<nosuch>: user unknown"),
        (("a..b@@c",), 65, r"(?s)malformed recipient.*No valid recipient"),
        (("-f", "a@@b", "root"), 65, r"Bad address syntax"),
        (("-k", "root"), 64, r"(?s)invalid option.*usage"),
        (("-bt",), 64, r"unsupported: -bt"),
        (("-bd",), 64, r"resel-mta"),
        (("-C", "/nonexistent", "root"), 78, r"/nonexistent"),
    ],
)
async def test_sendmail_command_failures(
    office: Office, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = await office.run(*arguments)
    assert done.returncode == code
    assert re.search(words, done.stderr)
    assert all(line.startswith("sendmail: ") for line in done.stderr.splitlines())
    assert done.stdout == ""
    assert not office.intake.taken


async def test_sendmail_command_some_unknown(office: Office) -> None:
    done = await office.run("-v", "root", "nosuch1", "nosuch2")
    assert done.returncode == 67
    assert done.stderr.count("user unknown; sent to the other recipients") == 2
    assert done.stdout == "queued as QID1\n"
    assert office.intake.taken[0].recipients == ["root"]


async def test_sendmail_command_a_table_that_fails_loses_nothing(office: Office) -> None:
    office.router.failure = TempFail(Reply(451, "4.3.0", "alias table"))
    assert (await office.run("nosuch")).returncode == 0
    assert office.intake.taken[0].recipients == ["nosuch"]


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (TempFail(Reply(452, "4.3.1", "Insufficient system storage")), 75, "Insufficient"),
        (PermFail(Reply(554, "5.7.1", "no viruses")), 69, "no viruses"),
        (RuntimeError("secret"), 75, "log says why"),
    ],
)
async def test_sendmail_command_refusals_of_the_daemon(
    office: Office, failure: Exception, code: int, words: str
) -> None:
    office.intake.failures = [failure]
    done = await office.run("root")
    assert done.returncode == code
    assert words in done.stderr
    assert "secret" not in done.stderr
    assert not list(office.drop.iterdir())


async def test_sendmail_command_too_big(office: Office) -> None:
    office.config.write_text(office.config.read_text() + "message_size_limit = 1000\n")
    done = await office.run("root", data=b"x\n" * 1000)
    assert done.returncode == 69
    assert "Message file too big" in done.stderr
    # The daemon has its own idea: a client with another configuration is told, not obeyed.
    office.taker.size_limit = 100
    done = await office.run("root", data=b"x\n" * 100)
    assert done.returncode == 69
    assert "Message file too big" in done.stderr
    office.config.write_text(office.config.read_text() + "message_size_limit = 0\n")
    assert (await office.run("root", data=b"x\n" * 500_000)).returncode == 69
    assert not office.intake.taken


async def test_sendmail_command_large_mail_streams(office: Office) -> None:
    data = b"Subject: x\n\n" + b"0123456789abcde\n" * 500_000
    done = await office.run("root", data=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert office.intake.taken[0].data.endswith(b"\r\n\r\n" + data[12:].replace(b"\n", b"\r\n"))
    assert office.intake.largest < 1024 * 1024


async def test_sendmail_command_loops_end(office: Office) -> None:
    data = b"Received: by x\n" * 60 + b"\nx\n"
    done = await office.run("root", data=data)
    assert done.returncode == 69
    assert "too many hops" in done.stderr


async def test_sendmail_command_a_large_loop_leaves_nothing(office: Office) -> None:
    """What was on its way to the disk is taken away with the refusal."""
    data = b"Received: by x\n" * 60 + b"\n" + b"0123456789abcde\n" * 50_000
    done = await office.run("root", data=data)
    assert "too many hops" in done.stderr
    assert office.intake.discarded == 1


async def test_sendmail_command_verify(office: Office) -> None:
    done = await office.run("-bv", "root", "nosuch")
    assert done.returncode == 67
    assert done.stdout.splitlines()[0] == "root... deliverable"
    assert "User unknown" in done.stdout.splitlines()[1]
    assert (await office.run("-bv", "root")).returncode == 0
    assert not office.intake.taken


async def test_sendmail_command_help_and_version(office: Office) -> None:
    for word in ("--help", "--version"):
        done = office.run_blocking([])
        words = [each for each in office.words([word]) if each not in ("-C", str(office.config))]
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, env=office.environment()
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert b"sendmail" in out
        assert done.returncode == 64


async def test_sendmail_command_full_names(office: Office) -> None:
    for name, expected in (
        ("Jean Dupont", b"From: Jean Dupont <x>\r\n"),
        ("Dupont, Jean", b'From: "Dupont, Jean" <x>\r\n'),
        ("Zo\u00eb", b"From: =?utf-8?q?Zo=C3=AB?= <x>\r\n"),
        ("a\nBcc: evil@example.org", b'From: "aBcc: evil@example.org" <x>\r\n'),
    ):
        assert (await office.run("-F", name, "-f", "x", "root")).returncode == 0
        assert expected in office.intake.taken[-1].data
    await office.run("-F", "Other", "root", data=b"From: me\nSubject: x\n\n")
    assert office.intake.taken[-1].data.count(b"From:") == 1


def say(office: Office, line: bytes) -> bytes:
    """What the socket answers to these octets."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(office.submit))
        with contextlib.suppress(BrokenPipeError):
            client.sendall(line)
        return client.recv(10_000)


async def test_sendmail_command_what_nobody_should_send(office: Office) -> None:
    """Straight to the socket, past the command's own checks."""
    for content, exit_code in ((b"A: b\r\n\r\nx\rRCPT\n.\n", 65), (b"A: b\n\nx", 0)):
        letter = office.letter(content)
        answer = await asyncio.to_thread(hand_over, office.submit, letter, [content], 5)
        assert answer.exit == exit_code
    assert office.intake.taken[0].data == b"A: b\r\n\r\nx\r\n"
    bad = office.letter(recipients=("a b@c d",))
    answer = await asyncio.to_thread(hand_over, office.submit, bad, [b"x"], 5)
    assert (answer.exit, answer.queue_id) == (65, "")
    for line in (b"{}\n", b"x" * 2_000_000 + b"\n", b"\xff\n"):
        assert b'"exit": 65' in await asyncio.to_thread(say, office, line)


async def test_sendmail_command_a_client_that_goes_away_leaves_nothing(office: Office) -> None:
    content = b"a: b\r\n\r\n" + b"x" * 999_998 + b"\r\n"
    letter = office.letter(content)
    for rest in (b"", content[:-1]):
        _, writer = await asyncio.open_unix_connection(str(office.submit))
        writer.write(letter.encode() + rest)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    await office.server.stop(5)
    assert not office.intake.taken
    assert office.intake.discarded == 1
    assert "octets before the end; nothing was kept" in office.warnings()[1]


async def test_sendmail_command_too_many_at_once_wait_in_the_drop(office: Office) -> None:
    slow = [
        await asyncio.open_unix_connection(str(office.submit)) for _ in range(server.MOST_OF_ONE)
    ]
    done = await office.run("root")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(office.drop.iterdir())) == 1
    assert not office.intake.taken
    for _, writer in slow:
        writer.close()
        await writer.wait_closed()
    assert await office.reader().look() == 1


async def test_sendmail_command_a_daemon_that_stops_finishes(office: Office) -> None:
    office.intake.gate = asyncio.Event()
    running = asyncio.create_task(office.run("root"))
    await office.intake.entered.wait()
    stopping = asyncio.create_task(office.server.stop(10))
    await asyncio.sleep(0)
    office.intake.gate.set()
    await stopping
    assert (await running).returncode == 0
    assert len(office.intake.taken) == 1
    assert not list(office.drop.iterdir())


def test_sendmail_command_without_standard_files(closed: Office) -> None:
    """A daemon that has closed all of them calls it: no other file gets their numbers."""
    for closing in ("exec <&- >&- 2>&-", "exec >&- 2>&-", "exec 2>&-"):
        words = ["sh", "-c", f'{closing}; exec "$@"', "sh", *closed.words(["-v", "root"])]
        done = subprocess.run(
            words, input=b"", env=closed.environment(), cwd="/", timeout=60, check=False
        )
        assert done.returncode == 0, closing
        (path,) = closed.drop.iterdir()
        envelope, _, content = path.read_bytes().partition(b"\n")
        assert json.loads(envelope)["size"] == len(content)
        path.unlink()
