"""resel-queue as typed, on a queue that no daemon holds."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from queue_fakes import make_log, make_message
from queue_house import House

from resel_mta.commands import queue
from resel_mta.commands.cli import Failure
from resel_mta.commands.queue_options import Task, parse_since, read_options
from resel_mta.control import ControlServer, control_path
from resel_mta.mail import Deferred, Reply
from resel_mta.queue.door import Result, Retry
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.verbs import QueueVerbs

REFUSED = Reply(451, "4.4.1", "connect to mx.example.net[192.0.2.1]:25: Connection refused")
FULL = Reply(452, "4.2.2", "host mx.example.org[192.0.2.9] said: 452 4.2.2 Mailbox full")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    """A queue: name → id. "cron" and "news" are deferred, "big" is on hold, "new" is due."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "main.cf").write_text(
        f"queue_directory = {tmp_path}/queue\ndata_directory = {data}\nmydestination =\n"
        "role = relay\nrelayhost = [mx.example.net]\ninet_interfaces = loopback-only\n"
        f"maillog_file = {data}/mail.log\n"
    )
    return asyncio.run(_fill(tmp_path / "queue"))


async def _fill(directory: Path) -> dict[str, str]:
    store = await SQLiteStore.open(directory)
    made = {
        "cron": make_message(
            store, "root@example.com", sender="cron@vm1.example.com",
            header=b"Subject: Cron <x@vm1>\r\n",
        ),
        "news": make_message(
            store, "a@example.org", "b@example.com", header=b"Subject: =?utf-8?q?caf=C3=A9?=\r\n"
        ),
        "big": make_message(store, "c@example.org", body=b"x" * 5000),
        "new": make_message(store, "d@example.org", sender=""),
    }  # fmt: skip
    for message in made.values():
        message.arrival = time.time() - 7200
        await store.enter(message, claim_for="me")
    soon = time.time() + 600
    for name in ("cron", "news"):
        retries = [
            Retry(r, soon, Deferred(FULL if r.address[0] == "a" else REFUSED, relay="none"))
            for r in made[name].recipients
        ]
        await store.apply("me", [Result(made[name], retries=retries, release=True)])
    await store.unclaim("me")
    await store.hold([made["big"].queue_id])
    await store.close()
    return {name: message.queue_id for name, message in made.items()}


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = queue.main(["-c", str(tmp_path), *words])
        out, err = capfd.readouterr()
        return status, out, err

    return call


def ids(output: str) -> list[str]:
    return [json.loads(line)["queue_id"] for line in output.splitlines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ["cron", "news", "big", "new"]),
        (["deferred"], ["cron", "news"]),
        (["hold", "incoming"], ["big", "new"]),
        (["--from", "cron@"], ["cron"]),
        (["--from", "<>"], ["new"]),
        (["--to", "@example.org"], ["news", "big", "new"]),
        (["--to", "@example.org", "deferred"], ["news"]),
        (["--subject", "CAFÉ"], ["news"]),
        (["--error", "mailbox full"], ["news"]),
        (["--error", "mailbox full", "--to", "b@"], []),
        (["--host", "mx.example.org"], ["news"]),
        (["--host", "mx.example.net"], ["cron", "news", "big", "new"]),
        (["--host", "192.0.2.1"], ["cron", "news"]),
        (["--older", "1h"], ["cron", "news", "big", "new"]),
        (["--older", "3h"], []),
        (["--size", "4k"], ["big"]),
        (["--size", "-4k", "--from", "sender@example.org"], ["news"]),
    ],
)
def test_selection(run: Run, names: dict[str, str], words: list[str], found: list[str]) -> None:
    status, out, err = run("-j", *words)
    assert (status, err) == (0, "")
    assert ids(out) == [names[name] for name in found]


def test_postsupers_lines(run: Run, names: dict[str, str]) -> None:
    cron = names["cron"]
    assert run("-h", cron) == (
        0,
        "",
        f"resel-queue: {cron}: placed on hold\nresel-queue: Placed on hold: 1 message\n",
    )
    assert run("-H", "ALL") == (0, "", "resel-queue: Released from hold: 2 messages\n")
    assert run("-h", "ALL", "active") == (0, "", "resel-queue: Placed on hold: 0 messages\n")
    assert run("-r", "ALL", "-v")[2].count(": requeued\n") == 4
    status, _, err = run("-d", "-", stdin=f"{cron}\n\nF00\n")
    assert status == 0
    assert err.splitlines() == [
        f"resel-queue: {cron}: removed",
        "resel-queue: Deleted: 1 message",
        "resel-queue: warning: F00: no such message in the queue",
    ]
    assert run("-d", "ALL", "-h", "ALL")[2].splitlines() == [
        "resel-queue: Deleted: 3 messages",
        "resel-queue: Placed on hold: 0 messages",
    ]


def test_giving_up(run: Run, names: dict[str, str]) -> None:
    cron, big = names["cron"], names["big"]
    assert run("-e", cron, "-n")[2].endswith(
        "Would be force-expired: 1 message; nothing was changed\n"
    )
    assert run("-e", cron, "-e", big)[2].splitlines() == [
        f"resel-queue: {cron}: expired",
        f"resel-queue: {big}: expired",
        "resel-queue: Force-expired: 2 messages",
    ]
    listed = [json.loads(line) for line in run("-j")[1].splitlines()]
    assert [each["queue_id"] for each in listed if each["forced_expire"]] == [cron, big]
    out = run("-p")[1]
    assert f"\n{cron}# " in out
    assert f"\n{big}!# " in out
    status, _, err = run("-e", cron)
    assert (status, "or expired already" in err) == (65, True)
    assert run("--force-expire", big) == (
        0,
        "",
        "resel-queue: Force-expired: 0 messages\n"
        f"resel-queue: {big}: released from hold\nresel-queue: Released from hold: 1 message\n",
    )
    assert run("-e", "ALL", "deferred")[2] == "resel-queue: Force-expired: 1 message\n"
    assert "An administrator gave it up" in run("why", cron)[1]


def test_ids_that_name_nothing(run: Run, names: dict[str, str]) -> None:
    status, _, err = run("-d", "F00", "-h", "no/id")
    assert status == 65
    assert "resel-queue: warning: F00: no such message in the queue" in err
    assert "resel-queue: warning: invalid mail queue id: no/id" in err
    for words in (("why", "F00"), ("-b", "F00")):
        status, out, err = run(*words)
        assert (status, out) == (65, "")
        assert err.startswith("resel-queue: fatal: no message F00 in the queue")
        assert err.count("\n") == 1


def test_control_characters_of_an_argument_do_not_reach_the_terminal(
    run: Run, names: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = "\x1b[31mF00\x07"
    assert "invalid mail queue id: ?[31mF00?\n" in run("-d", bad)[2]
    assert "no message ?[31mF00? in the queue" in run("why", bad)[2]
    with pytest.raises(SystemExit):
        run("-p", f"--x={bad}")
    assert "unrecognized arguments: --x=?[31mF00?\n" in capfd.readouterr().err


def test_dry_run_changes_nothing(run: Run, names: dict[str, str]) -> None:
    before = run("-j")
    for letter in ("-d", "-h", "-r"):
        status, out, err = run(letter, "--to", "@example.org", "deferred", "-n")
        assert status == 0
        assert names["news"] in out
        assert err.endswith(": 1 message; nothing was changed\n")
    assert ids(run("-H", "--dry-run", "ALL", "-j")[1]) == [names["big"]]
    assert run("-d", "F00", "-n")[0] == 65
    assert run("-j") == before


def test_changes_are_logged(run: Run, names: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    assert run("-p", "-o", f"maillog_file={log}")[0] == 0
    assert not log.exists()
    assert run("-d", "ALL", "hold", "-o", f"maillog_file={log}")[0] == 0
    assert run("-h", names["cron"], "-o", f"maillog_file={log}")[0] == 0
    lines = [line.partition(" postfix/")[2] for line in log.read_text().splitlines()]
    pid = os.getpid()
    assert lines == [
        f"postsuper[{pid}]: {names['big']}: removed",
        f"postsuper[{pid}]: {names['cron']}: placed on hold",
    ]


def test_trash(run: Run, names: dict[str, str]) -> None:
    assert run("-d", "ALL", "hold")[2] == "resel-queue: Deleted: 1 message\n"
    _, out, _ = run("-j", "trash")
    assert ids(out) == [names["big"]]
    assert abs(json.loads(out)["deleted_time"] - time.time()) < 60
    assert "can be brought back until" in run("why", names["big"])[1]
    assert run("--undelete", names["cron"])[0] == 65
    assert run("--undelete", "--size", "4k")[2] == "resel-queue: Restored: 1 message\n"
    assert ids(run("-j", "hold")[1]) == [names["big"]]
    run("-d", names["big"])
    assert run("-d", names["big"], "trash")[2].endswith("Deleted: 1 message\n")
    assert run("-p", "trash")[1] == "No message in the queue fits this selection\n"
    assert run("-d", names["new"], "-o", "queue_trash_time=0")[0] == 0
    assert run("-p", "trash")[1] == "No message in the queue fits this selection\n"


def test_why(run: Run, names: dict[str, str], tmp_path: Path) -> None:
    status, out, err = run("why", names["news"])
    assert (status, err) == (0, "")
    text = " ".join(out.split())
    assert "The mail system is down" in text
    assert "Subject: café" in text
    assert "The recipient's mailbox is full" in text
    assert "no mail server listens on that port" in text
    assert "1 other message waits for" in text
    assert f"resel-queue -c {tmp_path} -r {names['news']}" in text
    facts = json.loads(run("why", names["news"], "-j")[1])
    assert facts["queue"] == "deferred"
    assert [each["nexthop"] for each in facts["recipients"]] == ["[mx.example.net]"] * 2
    assert facts["expires"] > time.time()


def test_changes_as_json(run: Run, names: dict[str, str]) -> None:
    _, out, err = run("-h", "-j", "--to", "root@")
    assert json.loads(out) == {"queue_id": names["cron"], "action": "placed on hold"}
    assert err == "resel-queue: Placed on hold: 1 message\n"


def test_audit(run: Run, names: dict[str, str]) -> None:
    run("-d", names["cron"])
    status, out, err = run("audit")
    assert (status, err) == (0, "")
    assert "           1  deleted, or discarded by a rule\n" in out
    assert out.endswith("It balances: nothing is missing.\n")
    found = json.loads(run("audit", "--since", "1h", "-j")[1])
    assert found["balanced"]
    assert (found["counts"]["accepted"], found["queued"], found["held"]) == (5, 3, 1)


def test_nothing_can_be_flushed(run: Run, names: dict[str, str]) -> None:
    for words in (("-f",), ("-i", names["cron"]), ("-s", "example.net")):
        status, out, err = run(*words)
        assert (status, out) == (69, "")
        assert err.startswith("resel-queue: fatal: the mail system is down")
        assert err.count("\n") == 1


async def test_a_site_for_which_nothing_waits_is_told(
    run: Run, names: dict[str, str], house: House, tmp_path: Path
) -> None:
    house.smtp.answer = lambda message, recipient, route: Deferred(REFUSED)
    await house.scheduler.start()
    await house.enter("a@one.net")
    await house.idle()
    verbs = QueueVerbs(house.store, house.scheduler, None).table()
    control = ControlServer(control_path(str(tmp_path / "data")), verbs, make_log()[0])
    await control.start()
    try:
        found = await asyncio.to_thread(run, "-s", "two.net", "-j")
        said = "resel-queue: No deferred message waits for two.net\n"
        assert found == (0, '{"flushed": 0}\n', said)
        assert await asyncio.to_thread(run, "-s", "one.net") == (0, "", "")
    finally:
        await control.stop()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-d"], "-d needs an ID, -, ALL, or a selection"),
        (["--undelete"], "--undelete needs an ID"),
        (["-d", "", "--from", "x"], "what follows -d is empty"),
        (["-d", "--from="], "--from is empty"),
        (["-s", ""], "what follows -s is empty"),
        (["-s", "a@example.org"], "'a@example.org' is neither"),
        (["-s", "[]"], "'[]' is neither"),
        (["-d", "ALL", "nosuch"], "unknown queue 'nosuch'"),
        (["-p", "-f"], "one of -p -b -f -i -s at a time"),
        (["-d", "ALL", "-f"], "not with -d -e -h -H -r"),
        (["-v"], "is needed"),
        (["-f", "deferred"], "-f tries all deferred mail, and takes no other word"),
        (["-f", "1F7A"], "--force-expire ID returns it to its sender"),
        (["-i", "1F7A", "deferred"], "a queue's name goes with"),
        (["-f", "--to", "x"], "--from, --to and so on go with"),
        (["-p", "-n"], "--dry-run goes with"),
        (["-p", "--since", "1d"], "--since goes with audit"),
        (["why"], "why takes one queue id"),
        (["why", "A", "B"], "why takes one queue id"),
        (["audit", "A"], "audit takes no other words"),
        (["-b", "A", "-j"], "-b shows the message as it is"),
        (["-p", "--older", "3 days"], "'3 days' is not an age"),
        (["-p", "--size", "huge"], "'huge' is not a size"),
        (["audit", "--since", "yesterday"], "--since 'yesterday' is neither"),
        (["audit", "--since", "9999-12-31"], "--since '9999-12-31' is in the future"),
        (["audit", "--since", "0001-01-01"], "--since '0001-01-01' is neither"),
    ],
)
def test_what_makes_no_sense(words: list[str], text: str) -> None:
    with pytest.raises(Failure) as caught:
        read_options(words)
    assert caught.value.exit_code == 64
    assert text in caught.value.text
    assert "\n" not in caught.value.text


def test_what_is_read_of_the_words() -> None:
    options = read_options(["-c", "x", "-d", "A", "-d", "-", "-h", "hold", "deferred", "hold"])
    assert options.task is Task.CHANGE
    assert options.changes == {"d": ["A", "-"], "h": ["hold"]}
    assert options.queues == ("deferred", "hold")
    assert options.command == "resel-queue -c x"
    assert read_options(["audit", "--since", "2026-11-24"]).since > 0
    assert read_options(["-j"]).task is Task.LIST


def test_moments() -> None:
    now = 1_800_000_000.0
    assert parse_since("1d12h", now) == now - 129600
    at = parse_since("2026-11-24 18:30", now)
    assert time.strftime("%F %H:%M", time.localtime(at)) == "2026-11-24 18:30"


def test_no_queue_yet(run: Run, names: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text(
        f"queue_directory = {tmp_path}/none\ndata_directory = {tmp_path}\n"
    )
    for words in (["-p"], ["audit"], ["-d", "ALL"]):
        status, out, err = run(*words)
        assert (status, out) == (69, "")
        assert err.endswith("/none does not exist yet\n")
        assert err.count("\n") == 1
