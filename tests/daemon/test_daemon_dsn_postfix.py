"""Mail that asks for notices, to aliases, lists and .forward files, beside a private Postfix: who is
told what, and what goes on to the next hop (RFC 3461 §5.2.7)."""

from __future__ import annotations

import json
import os
import pwd
import smtplib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dsn_rig import Sink

from benchmarks.servers import MASTER_CF

if os.getuid() != 0:
    pytest.skip("only root can start Postfix", allow_module_level=True)

ALIASES = """\
one: a@far.test
chain: team
team: a@far.test, b@far.test
deep: team, c@far.test
list: a@far.test, b@far.test
owner-list: boss@far.test
tolist: list
mixed: list, c@far.test
"""
TARGETS = dict(
    line.split(": ", 1) for line in ALIASES.splitlines() if not line.startswith("owner-")
)
VIRTUAL = "v1@v.test a@far.test\nv2@v.test a@far.test, b@far.test\n"
#: forward_path leads there, not to the homes.
FORWARD = {"news": "f@far.test\n", "backup": "\\backup, f@far.test\n"}
COMMON = """
queue_directory = {path}/queue
data_directory = {path}/data
myhostname = pf.test
mydestination = pf.test
alias_maps = hash:{path}/aliases
virtual_alias_maps = {kind}:{path}/virtual
virtual_alias_domains = v.test
mail_spool_directory = {path}/spool
forward_path = {path}/forward/$user
relayhost = [127.0.0.1]:{sink}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
"""
SMTPD = "in unix n - n - - smtpd\n"
AUTHOR = "from=<author@far.test>"


def to(member: str, alias: str, notify: str = "FAILURE") -> str:
    """What the next hop is told of a recipient, by an alias whose sender asked for everything."""
    where = "" if "@" in alias else "@pf.test"
    words = f"NOTIFY={notify} ORCPT=rfc822;{alias}{where}"
    return f"to=<{member}@far.test> {words} {AUTHOR} ENVID={alias} RET=HDRS"


def told(action: str, alias: str) -> str:
    address = alias if "@" in alias else f"{alias}@pf.test"
    return f"{action} {address} ({address})"


def member(name: str) -> str:
    return f"to=<{name}@far.test> from=<owner-list@pf.test>"


def leaked(name: str, alias: str) -> str:
    address = f"{name}@far.test"
    asked = f"NOTIFY=FAILURE ORCPT=rfc822;{address} from=<owner-list@pf.test>"
    return f"to=<{address}> {asked} ENVID={alias} RET=HDRS"


#: By the alias: what both do.
SAME = {
    "team": [to("a", "team"), to("b", "team"), told("expanded", "team")],
    "deep": [to("a", "deep"), to("b", "deep"), to("c", "deep"), told("expanded", "deep")],
    "v2@v.test": [to("a", "v2@v.test"), to("b", "v2@v.test"), told("expanded", "v2@v.test")],
    "backup": [to("f", "backup"), told("expanded", "backup")],
}
#: RFC 3461: nobody is told of one address in the place of another, and the request goes on
#: (§5.2.7.2); no request goes on to the members of a list (§5.2.7.1).
ALL = "SUCCESS,FAILURE"
OURS = {
    "one": [to("a", "one", ALL)],
    "v1@v.test": [to("a", "v1@v.test", ALL)],
    "news": [to("f", "news", ALL)],
    "chain": [to("a", "chain"), to("b", "chain"), told("expanded", "chain")],
    "list": [member("a"), member("b"), told("delivered", "list")],
    "tolist": [member("a"), member("b"), told("delivered", "tolist")],
    "mixed": [member("a"), member("b"), to("c", "mixed"), told("expanded", "mixed")],
}
THEIRS = {
    "one": [to("a", "one"), told("expanded", "one")],
    "v1@v.test": [to("a", "v1@v.test"), told("expanded", "v1@v.test")],
    "news": [to("f", "news"), told("expanded", "news")],
    "chain": [to("a", "chain"), to("b", "chain"), told("expanded", "chain")],
    "list": [leaked("a", "list"), leaked("b", "list"), told("delivered", "list")],
    "tolist": [leaked("a", "tolist"), leaked("b", "tolist"), told("expanded", "tolist")],
    "mixed": [
        leaked("a", "mixed"),
        leaked("b", "mixed"),
        to("c", "mixed"),
        told("expanded", "mixed"),
    ],
}


def prepare(path: Path) -> None:
    path.chmod(0o755)
    for name, mode in (("forward", 0o755), ("spool", 0o2775)):
        (path / name).mkdir()
        (path / name).chmod(mode)
    os.chown(path / "spool", 0, 8)
    for name, text in FORWARD.items():
        (path / "forward" / name).write_text(text)
        os.chown(path / "forward" / name, pwd.getpwnam(name).pw_uid, -1)
    (path / "aliases").write_text(ALIASES)
    (path / "virtual").write_text(VIRTUAL)


class Client(smtplib.LMTP):
    """LMTP's class is the one that can speak to a unix socket; with SMTP's greeting."""

    ehlo_msg = "ehlo"


def send(path: Path, names: list[str]) -> None:
    until = time.monotonic() + 100
    while True:
        try:
            client = Client(str(path), timeout=60)
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    with client:
        for name in names:
            address = name if "@" in name else f"{name}@pf.test"
            client.sendmail(
                "author@far.test",
                [address],
                f"Subject: {name}\r\n\r\nx\r\n",
                mail_options=["RET=HDRS", f"ENVID={name}"],
                rcpt_options=[f"NOTIFY={ALL}", f"ORCPT=rfc822;{address}"],
            )


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="resel-dsn-", dir="/tmp") as name:
        prepare(Path(name))
        yield Path(name)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server
        server.shutdown()


def seen(sink: Sink, expected: dict[str, list[str]]) -> Callable[[], None]:
    """Waits for what is expected; the check is for when nothing more can come."""
    sink.await_count(sum(map(len, expected.values())), timeout=100)
    return lambda: assert_same(sink, expected)


def assert_same(sink: Sink, expected: dict[str, list[str]]) -> None:
    assert set(sink.events) == set(expected)
    for name, lines in expected.items():
        assert sink.events[name] == Counter(lines), name


def test_dsn_of_postfix(folder: Path, sink: Sink, need: Callable[[str], str]) -> None:
    """What the other test has beside it."""
    command = need("postfix")
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir()
    subprocess.run(["chown", "postfix", folder / "data"], check=True)
    (folder / "etc" / "master.cf").write_text(SMTPD + "\n".join(MASTER_CF.splitlines()[1:]) + "\n")
    (folder / "etc" / "main.cf").write_text(
        COMMON.format(path=folder, kind="texthash", sink=sink.port)
        + f"compatibility_level = 3.6\nmaillog_file = {folder}/log\nmaillog_file_prefixes = /tmp\n"
    )
    etc = folder / "etc"
    subprocess.run([need("postalias"), "-c", etc, f"hash:{folder}/aliases"], check=True)
    subprocess.run([command, "-c", etc, "start"], check=True, capture_output=True)
    expected = SAME | THEIRS
    try:
        send(folder / "queue/public/in", list(expected))
        check = seen(sink, expected)
    finally:
        subprocess.run([command, "-c", etc, "stop"], check=True, capture_output=True)
    check()


def queue(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "resel_mta.commands.queue", "-c", folder, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def waiting(folder: Path) -> set[str]:
    """The aliases that wait to be expanded."""
    listing = [json.loads(line) for line in queue(folder, "-j").splitlines()]
    names = {
        each["address"].removesuffix("@pf.test") for row in listing for each in row["recipients"]
    }
    return names & set(TARGETS)


@pytest.mark.parametrize("late", [False, True], ids=["as mail comes", "later"])
def test_dsn_beside_postfix(folder: Path, sink: Sink, late: bool) -> None:
    """late: what the aliases name could not be read when the mail came."""
    if late:
        (folder / "aliases").write_text(
            "owner-list: boss\n"
            + "".join(f"{name}: :include:{folder}/{name}\n" for name in TARGETS)
        )
    (folder / "main.cf").write_text(
        COMMON.format(path=folder, kind="texthash", sink=sink.port)
        + "role = server\nimap_listen =\nimaps_listen =\nsubmission_listen =\n"
        f"submissions_listen =\nmail_owner = games\nsmtpd_listen = unix:{folder}/smtp\n"
    )
    expected = SAME | OURS
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "resel_mta.commands.mta", "-c", folder], stdout=log, stderr=log
        )
    try:
        send(folder / "smtp", list(expected))
        if late:
            assert waiting(folder) == set(TARGETS)
            for name, text in TARGETS.items():
                (folder / name).write_text(f"{text}\n")
            until = time.monotonic() + 100
            while waiting(folder) and time.monotonic() < until:
                queue(folder, "-f")
        check = seen(sink, expected)
        # Whatever is under way: it exits 0 if it balances.
        queue(folder, "audit")
    finally:
        process.terminate()
        process.wait(60)
    check()
    assert "Traceback" not in (folder / "log").read_text()
