"""sendmail -bs while no daemon runs: what it says 250 to is in the drop folder, and is mail later."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable

import pytest
from sendmail_helpers import NOBODY, Office

from resel_mta.disk import Disk
from resel_mta.pickup.drop import MOST_LETTERS, leave

MAIL = "MAIL FROM:<{}>|RCPT TO:<{}>|DATA|Subject: x||{}|.|"


def dialog(*lines: str, end: str = "\n") -> bytes:
    return "".join(lines).replace("|", end).encode()


def codes(said: str) -> list[str]:
    """The last lines of the replies."""
    return [line for line in said.splitlines() if re.match(r"\d{3} ", line)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_sendmail_offline_mail_is_taken_and_delivered_later(closed: Office, end: str) -> None:
    done = await closed.run(
        "-bs",
        data=dialog(
            "EHLO x|",
            MAIL.format("ann@x.example", "root", "..one|.two"),
            "NOOP|MAIL FROM:<> BODY=8BITMIME|RCPT TO:<a@x.example>|RCPT TO:<b@x.example>|RCPT TO:<a@x.example>|"
            "DATA|Subject: y||second|.|",
            "QUIT|",
            end=end,
        ),
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = codes(done.stdout)
    assert said[0].startswith("220 vm1.adm.resel.fr ESMTP")
    assert "250-SIZE 10240000" in done.stdout
    assert [line.split()[0] for line in said[1:]] == (
        ["250", "250", "250", "354", "250", "250", "250", "250", "250", "250", "354", "250", "221"]
    )
    names = re.findall(r"^250 2\.0\.0 Ok: queued as ([0-9a-f]{32})\r$", done.stdout, re.MULTILINE)
    assert sorted(os.listdir(closed.drop)) == sorted(names)
    assert {path.stat().st_mode & 0o777 for path in closed.drop.iterdir()} == {0o600}
    assert await closed.reader().look() == 2
    by_sender = {taken.envelope.reverse_path: taken for taken in closed.intake.taken}
    first, second = by_sender["ann@x.example"], by_sender[""]
    assert first.recipients == ["root"]
    assert first.data == b"Subject: x\r\n\r\n.one\r\ntwo\r\n"
    assert first.origin.uid == os.getuid()
    assert second.recipients == ["a@x.example", "b@x.example"]
    assert second.envelope.body == "8BITMIME"
    assert os.listdir(closed.drop) == []
    assert closed.warnings() == []


async def test_sendmail_offline_is_as_strict_as_the_daemon(closed: Office) -> None:
    closed.config.write_text(
        f"{closed.config.read_text()}message_size_limit = 400000\nsmtpd_recipient_limit = 2\n"
        "hopcount_limit = 3\n"
    )
    to = "MAIL FROM:<a@x.example>|RCPT TO:<b@x.example>|DATA|"
    done = await closed.run(
        "-bs",
        data=dialog(
            "RCPT TO:<a@x.example>|DATA|MAIL FROM:<a@x.example> SIZE=400001|MAIL nonsense|FOO|",
            "MAIL FROM:<a@x.example>|MAIL FROM:<a@x.example>|DATA|RCPT TO:<>|RCPT TO:<a@x.example> NOTIFY=NEVER|",
            "RCPT TO:<1@x.example>|RCPT TO:<2@x.example>|RCPT TO:<3@x.example>|RSET|",
            to,
            "Subject: big||" + ("x" * 99 + "|") * 5000 + ".|",
            to,
            "Received: by a|" * 3 + "Subject: loops||.|",
            to,
            "Subject: bare||a\rb|.|",
            f"HELP|{'NOOP ' * 1000}|STARTTLS|AUTH PLAIN|BDAT 4|abcd",
        ),
    )
    said = [line[:9] for line in codes(done.stdout)[1:]]
    assert said == [
        *("503 5.5.1", "503 5.5.1", "552 5.3.4", "501 5.5.4", "500 5.5.2"),
        *("250 2.1.0", "503 5.5.1", "554 5.5.1", "501 5.1.3", "555 5.5.4"),
        *("250 2.1.5", "250 2.1.5", "452 4.5.3", "250 2.0.0"),
        *("250 2.1.0", "250 2.1.5", "354 End d", "552 5.3.4"),
        *("250 2.1.0", "250 2.1.5", "354 End d", "554 5.4.6"),
        *("250 2.1.0", "250 2.1.5", "354 End d", "550 5.5.2"),
        *("502 5.5.1", "500 5.5.2", "502 5.5.1", "502 5.5.1", "521 5.5.4"),
    ]
    assert done.returncode == 0
    assert os.listdir(closed.drop) == []


async def test_sendmail_offline_large_mail_with_long_lines(closed: Office) -> None:
    lines = ["x" * 65_535, "x" * 65_536, "." + "y" * 200_000, "z" * 131_071, ""]
    body = "|".join(f".{line}" if line.startswith(".") else line for line in lines)
    text = dialog(MAIL.format("a@x.example", "root", body), end="\r\n")
    done = await closed.run("-bs", data=text)
    assert done.returncode == 0
    assert codes(done.stdout)[-1].startswith("250 2.0.0 Ok: queued")
    assert await closed.reader().look() == 1
    (taken,) = closed.intake.taken
    assert taken.data == ("Subject: x\r\n\r\n" + "\r\n".join(lines) + "\r\n").encode()


@pytest.mark.parametrize("rest", ["", "Subject: x||hi", "Subject: x||hi|", "Subject: x||hi|."])
async def test_sendmail_offline_half_a_message_is_none(closed: Office, rest: str) -> None:
    head = "MAIL FROM:<a@x.example>|RCPT TO:<b@x.example>|DATA|"
    done = await closed.run("-bs", data=dialog(head, rest))
    assert done.returncode == 65
    assert "end of input within the message: it was not sent" in done.stderr
    assert os.listdir(closed.drop) == []


async def test_sendmail_offline_a_full_share_is_told_and_nothing_is_promised(
    closed: Office,
) -> None:
    letter = closed.letter()
    path = leave(closed.drop, letter, [b"Subject: x\r\n\r\nhi\r\n"], Disk())
    for number in range(MOST_LETTERS):
        os.link(path, closed.drop / f"{number:032x}")
    done = await closed.run("-bs", data=dialog(MAIL.format("a@x.example", "root", "hi")))
    assert codes(done.stdout)[-1].startswith("452 4.3.1 Error: 1001 messages")


@pytest.mark.skipif(os.getuid() != 0, reason="root may write anywhere, and become another user")
async def test_sendmail_offline_without_a_folder_to_write_to(closed: Office) -> None:
    os.chmod(closed.directory, 0o755)
    closed.config.chmod(0o644)
    done = await closed.run("-bs", data=b"EHLO x\n", uid=NOBODY)
    assert done.stdout.startswith("220 ")
    closed.drop.chmod(0o700)
    done = await closed.run("-bs", data=b"EHLO x\n", uid=NOBODY)
    assert (done.returncode, done.stdout[:9]) == (75, "421 4.3.2")
    assert "no daemon: " in done.stderr


def test_sendmail_offline_says_250_when_it_is_safe(
    closed: Office, need: Callable[[str], str]
) -> None:
    trace = closed.directory / "trace"
    words = [need("strace"), "-f", "-o", str(trace), "-e", "trace=openat,fsync,rename,write"]
    subprocess.run(
        [*words, *closed.words(["-bs"])],
        input=dialog(MAIL.format("a@x.example", "root", "hi")),
        env=closed.environment(), stdout=subprocess.PIPE, check=True, timeout=120, cwd="/",
    )  # fmt: skip
    (token,) = os.listdir(closed.drop)
    calls = [line.partition(" ")[2].strip() for line in trace.read_text().splitlines()]

    def place(pattern: str, start: int = 0) -> int:
        return next(n for n in range(start, len(calls)) if re.match(pattern, calls[n]))

    opened = place(rf'openat\(.*/drop/\.{token}"')
    descriptor = calls[opened].rpartition("= ")[2]
    synced = place(rf"fsync\({descriptor}\)", opened)
    renamed = place(r"rename\(", synced)
    folder = place(rf'openat\(.*{re.escape(str(closed.drop))}", ', renamed)
    descriptor = calls[folder].rpartition("= ")[2]
    safe = place(rf"fsync\({descriptor}\)", folder)
    assert place(r'write\(1, "250 2\.0\.0 Ok: queued') > safe
