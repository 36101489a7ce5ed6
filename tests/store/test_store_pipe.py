"""Commands as local(8) runs them. The expected words are those of Postfix 3.7.11, seen there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from resel_lda.pipe import Command, arguments, run_command, safe_value
from resel_mta.mail import Bounced, Deferred, Delivered, Outcome

MAIL = [b"From s@x.org  Tue Nov 24 07:03:53 2026\n", b"Subject: x\n\nhello\n"]
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def run(line: str, message: list[bytes] | None = None, **values: object) -> Outcome:
    command = Command(line, ENVIRONMENT, **{"time_limit": 20.0, **values})  # type: ignore[arg-type]
    return run_command(command, MAIL if message is None else message)


@pytest.mark.parametrize(
    ("line", "enhanced", "text"),
    [
        ("/bin/true", "2.0.0", "delivered to command: /bin/true"),
        ("/bin/false", "5.3.0", 'Command died with status 1: "/bin/false"'),
        (
            "echo hello; echo second; exit 3",
            "5.3.0",
            'Command died with status 3: "echo hello; echo second; exit 3". '
            "Command output: hello second",
        ),
        ("exit 67", "5.1.1", "user unknown"),
        ("echo boo; exit 69", "5.3.0", "service unavailable. Command output: boo"),
        ("exit 75", "4.3.0", "temporary failure"),
        ("exit 77", "5.7.0", "permission denied"),
        ("exit 78", "5.3.5", "local configuration error"),
        ("exit 99", "5.3.0", 'Command died with status 99: "exit 99"'),
        ("echo 5.7.1 go away; exit 1", "5.7.1", "go away"),
        ("echo 4.7.1 wait; exit 1", "4.7.1", "wait"),
        ("kill -9 $$", "4.3.0", 'Command died with signal 9: "kill -9 $$"'),
        ("exec <&-; exit 0", "2.0.0", "delivered to command: exec <&-; exit 0"),
        (
            "/no/such/cmd",
            "4.3.0",
            "temporary failure. Command output: local: fatal: execvp /no/such/cmd: "
            "No such file or directory",
        ),
    ],
)
def test_exit_status_means_what_it_means_to_postfix(line: str, enhanced: str, text: str) -> None:
    outcome = run(line)
    assert (outcome.reply.enhanced, outcome.reply.text) == (enhanced, text)
    kind = {"2": Delivered, "4": Deferred, "5": Bounced}[enhanced[0]]
    assert isinstance(outcome, kind)


def test_the_message_is_standard_input(tmp_path: Path) -> None:
    assert isinstance(run(f"cat > {tmp_path}/copy"), Delivered)
    assert (tmp_path / "copy").read_bytes() == b"".join(MAIL)


def test_words_are_split_and_marks_go_to_the_shell() -> None:
    def argv(line: str, shell: str = "") -> list[str]:
        return arguments(Command(line, {}, shell=shell))

    assert argv("/usr/lib/sympa/bin/queue  list@resel.fr") == [
        "/usr/lib/sympa/bin/queue",
        "list@resel.fr",
    ]
    assert argv("cat >x") == ["/bin/sh", "-c", "cat >x"]
    assert argv("a b", "/bin/smrsh -c") == ["/bin/smrsh", "-c", "a b"]


def test_a_large_message_that_is_not_read_is_no_failure() -> None:
    assert isinstance(run("exec /bin/true", [b"x" * 70000] * 100), Delivered)
    assert isinstance(run("head -c 10; exit 0", [b"x" * 70000] * 100), Delivered)


def test_output_without_end_is_cut() -> None:
    outcome = run("yes | head -c 5000000; exit 1")
    assert isinstance(outcome, Bounced)
    assert len(outcome.reply.text) < 2500


def test_strange_output_disturbs_no_terminal() -> None:
    outcome = run(r"printf 'a\033[2Jb\377\r\nc'; exit 1")
    assert outcome.reply.text.endswith("Command output: a?[2Jb\ufffd? c")


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("line", ["trap '' TERM; sleep 100; exit 0", "sleep 100 & wait"])
def test_time_limit_kills_all_of_it(line: str, tmp_path: Path) -> None:
    start = time.monotonic()
    outcome = run(f"echo $$ > {tmp_path}/pid; {line}", time_limit=0.3)
    assert time.monotonic() - start < 5
    assert isinstance(outcome, Bounced)
    assert outcome.reply.text.startswith("Command time limit exceeded: ")
    group = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while is_alive(group) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(group)


def test_what_stays_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    start = time.monotonic()
    outcome = run(f"(sleep 30; echo late) & echo $! > {tmp_path}/pid; exit 0")
    assert isinstance(outcome, Delivered)
    assert time.monotonic() - start < 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_end_of_the_mail_system_kills_and_defers() -> None:
    readable, end = os.pipe()
    os.close(end)
    outcome = run_command(Command("sleep 100", ENVIRONMENT), MAIL, readable)
    os.close(readable)
    assert isinstance(outcome, Deferred)


def test_values_of_strangers_are_made_harmless() -> None:
    assert safe_value('a;b$(x) "@c.org\n', "abcxorg@.") == "a_b__x___@c.org_"
