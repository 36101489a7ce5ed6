"""resel-mta explain: every rule with its place, and the same decision as routing's own."""

from __future__ import annotations

import json
import os
import pwd
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.nameserver import NameServer
from resel_mta.commands import mta
from resel_mta.commands.explain_follow import Follower
from resel_mta.commands.explain_judge import judge_of
from resel_mta.config import Settings, load
from resel_mta.config.live import live_file
from resel_mta.config.mapspec import parse_map
from resel_mta.config.tables import parse_table
from resel_mta.config.where import line_of
from resel_mta.mail import Recipient
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.routing import Expander, RoutingTable
from resel_mta.routing.canonical import Canonical
from resel_mta.users import open_users

ALIASES = """\
# who reads what
root: root@resel.fr
www: root
team: ann, bob,
    carol@elsewhere.example
owner-team: ann
list: :include:{0}/list
loop: loop2
loop2: loop
tickets: "|/usr/bin/rt --queue x"
archive: {0}/archive
"""
MAIN = """\
role = {role}
myhostname = vm.resel.fr
mydestination = $myhostname, localhost
alias_maps = hash:{0}/aliases
alias_database = $alias_maps
virtual_alias_maps = hash:{0}/virtual
virtual_alias_domains = club.example
transport_maps = regexp:{0}/transport
canonical_maps = hash:{0}/canonical
relayhost = [127.0.0.1]:2525
recipient_delimiter = +
data_directory = {0}/data
queue_directory = {0}/queue
userdb = passwd-file:{0}/users
passdb = passwd-file:{0}/users
mail_location = maildir:{0}/mail/%n
mail_uid = 65534
mail_gid = 65534
mail_owner = nobody
"""
TABLES = {
    "aliases": ALIASES,
    "virtual": "president@club.example ann@vm.resel.fr\n@club.example team@vm.resel.fr\n",
    "transport": (
        "# slow ones\nif /slow/\n/^slow1/ smtp:[127.0.0.2]:26\n/@slow\\.example$/\n   smtp:[127.0.0.3]\n"
        "endif\n/@dead\\.example$/ error:5.1.2 no such domain any more\n/@gone\\.example$/ discard:\n"
    ),
    "canonical": "old@resel.fr new@resel.fr\n",
    "list": "ann\ndave@elsewhere.example\n",
    "users": "ann:{{PLAIN}}x:::::\nbob:{{PLAIN}}x:::::\n",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        (tmp_path / name).write_text(
            text.replace("{0}", str(tmp_path)).replace("{{", "{").replace("}}", "}")
        )
    path = tmp_path / "main.cf"
    path.write_text(MAIN.replace("{0}", str(tmp_path)).replace("{role}", "server"))
    return path


class Say:
    """The lines of `resel-mta explain`, the test's folder left out of paths; `status` is its exit
    status."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys
        self.status = 0

    def __call__(self, *arguments: str) -> list[str]:
        self.status = mta.main(["-c", str(self._config), "explain", *arguments])
        said = self._capsys.readouterr().out
        return said.replace(f"{self._config.parent}/", "/").splitlines()


@pytest.fixture
def say(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")

    return Say(config, capsys)


def test_explain_an_alias_to_the_next_hop(say: Say) -> None:
    assert say("www") == [
        "Mail for www is accepted.",
        "  1. www has no full domain: it is www@vm.resel.fr",
        "       myorigin (default)",
        "  2. vm.resel.fr is this machine itself",
        "       mydestination (/main.cf:3)",
        "  3. www@vm.resel.fr is an alias for root",
        "       /aliases:3 (alias_maps, set at /main.cf:4)",
        "  4. root@vm.resel.fr is an alias for root@resel.fr",
        "       /aliases:2 (alias_maps, set at /main.cf:4)",
        "  5. resel.fr belongs to other machines",
        "  6. mail for resel.fr goes by way of [127.0.0.1]:2525",
        "       relayhost (/main.cf:10)",
        "  7. the transport for resel.fr is smtp",
        "       default_transport (default)",
        "  => root@resel.fr: by SMTP to [127.0.0.1]:2525 (this host itself, no MX look-up)",
        "         127.0.0.1[127.0.0.1]:2525",
        "The daemon does not run: mail waits until it does.",
    ]
    assert say.status == 0


@pytest.mark.parametrize("address", ["", "@", "ann@", "a\nb@vm.resel.fr"])
def test_explain_what_is_no_address(
    say: Say, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say("--", address) == []
    assert say.status == 65


def test_explain_in_french(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_MESSAGES", "fr_FR.UTF-8")
    lines = say("www")
    assert lines[0] == "Le courrier pour www est accepté."
    assert "  3. www@vm.resel.fr est un alias pour root" in lines
    assert "       /aliases:3 (alias_maps, défini dans /main.cf:4)" in lines
    assert "       myorigin (valeur par défaut)" in lines
    assert any(line.startswith("  => root@resel.fr : par SMTP à ") for line in lines)
    assert lines[-1] == "Le démon ne tourne pas : le courrier attend qu'il tourne."


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("ann", "  => ann@vm.resel.fr: into the mailbox /mail/ann"),
        ("ann+x", "  => ann+x@vm.resel.fr: into the mailbox /mail/ann"),
        ("president@club.example", "       /virtual:1 (virtual_alias_maps, set at /main.cf:6)"),
        ("other@club.example", "       /virtual:2 (virtual_alias_maps, set at /main.cf:6)"),
        ("slow1@a.example", "       /transport:3 (transport_maps, set at /main.cf:8)"),
        ("x@slow.example", "       /transport:4 (transport_maps, set at /main.cf:8)"),
        ("x@slow.example", "         127.0.0.3[127.0.0.3]:25"),
        ("x@dead.example", "       550 5.1.2 no such domain any more"),
        ("x@gone.example", "  => x@gone.example: thrown away"),
        ("old@resel.fr", "       /canonical:1 (canonical_maps, set at /main.cf:9)"),
        ("team", "       failures are reported to owner-team@vm.resel.fr"),
        ("list", "  => dave@elsewhere.example: by SMTP to [127.0.0.1]:2525 (this host itself, no MX look-up)"),
        ("loop", "       550 5.4.6 alias database loop for loop@vm.resel.fr"),
    ],
)  # fmt: skip
def test_explain_rules(say: Say, address: str, wanted: str) -> None:
    assert wanted in say(address)


def test_explain_who_may_name_an_address_of_others(say: Say, config: Path) -> None:
    lines = say("x@far.example")
    assert lines[0].endswith("from clients that may relay: smtpd_relay_restrictions (default).")
    config.write_text(f"{config.read_text()}smtpd_relay_restrictions = permit_mynetworks, reject\n")
    assert say("x@far.example")[0].endswith("smtpd_relay_restrictions (/main.cf:20).")
    assert json.loads(say("-j", "x@far.example")[0])["relayed"] is True
    assert json.loads(say("-j", "ann")[0])["relayed"] is False


def test_explain_does_not_say_what_it_may_not_know(say: Say, config: Path) -> None:
    """Who may not ask the daemon is not told that it is down."""
    data = config.parent / "data"
    data.mkdir()
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(data / "control"))
        control.listen()
        control_thread = threading.Thread(target=refuse, args=(control,))
        control_thread.start()
        lines = say("ann")
        control_thread.join(10)
    assert lines[-1].startswith("       ") or lines[-1].startswith("  =>")


def refuse(control: socket.socket) -> None:
    """As the daemon answers those who are neither root nor its owner."""
    client, _ = control.accept()
    with client:
        client.recv(1000)
        client.sendall(b'{"error": {"exit": 77, "text": "permission denied"}}\n')


def test_explain_who_is_unknown(say: Say) -> None:
    lines = say("nosuch@vm.resel.fr")
    assert lines[0].startswith(
        "Mail for nosuch@vm.resel.fr is refused: 550 5.1.1 <nosuch@vm.resel.fr>"
    )
    assert '       550 5.1.1 unknown user: "nosuch"' in lines
    assert say.status == 67


def test_explain_commands_and_files_are_not_run(say: Say, config: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("who runs a command is decided by root")
    owner = pwd.getpwnam("daemon")
    for path in (config.parent / "aliases",):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    lines = say("tickets")
    assert "  => tickets@vm.resel.fr: to the command /usr/bin/rt --queue x" in lines
    assert "       with the rights of daemon" in lines
    lines = say("archive")
    assert "  => archive@vm.resel.fr: appended to the file /archive" in lines
    assert not (config.parent / "archive").exists()
    assert not (config.parent / "data").exists()


def test_explain_an_included_file_that_cannot_be_read(say: Say, config: Path) -> None:
    (config.parent / "list").unlink()
    said = say("list")
    assert [line for line in said if "is an alias for" in line] == [
        "  3. list@vm.resel.fr is an alias for :include:/list"
    ]
    (end,) = (line for line in said if "=>" in line)
    assert end == "  => list@vm.resel.fr: waits in the queue, for now"


def test_explain_a_forward_file(say: Say, config: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("deliveries with the rights of a user need root")
    home = config.parent / "home"
    home.mkdir()
    user = pwd.getpwnam("daemon")
    (config.parent / "users").write_text(f"ann:{{PLAIN}}x:{user.pw_uid}:{user.pw_gid}::{home}::\n")
    (home / ".forward").write_text("\\ann, ann.smith@work.example\n")
    lines = say("ann")
    assert "  => ann@vm.resel.fr: forwarded as /home/.forward says" in lines
    assert "       => ann@vm.resel.fr: into the mailbox /mail/ann" in lines
    assert any(line.startswith("       => ann.smith@work.example: by SMTP to") for line in lines)


def test_explain_json(say: Say) -> None:
    row = json.loads(say("-j", "team")[0])
    assert row["accepted"] is True
    assert {end["address"]: end["kind"] for end in row["destinations"]} == {
        "ann@vm.resel.fr": "maildir",
        "bob@vm.resel.fr": "maildir",
        "carol@elsewhere.example": "smtp",
    }
    alias = next(step for step in row["steps"] if step["kind"] == "alias")
    assert alias["line"] == "/aliases:4"
    assert row["destinations"][2]["hosts"][0]["port"] == 2525


def test_explain_exchangers_in_their_order(say: Say) -> None:
    zone = {
        ("far.example", "MX"): ["20 b.far.example.", "10 a.far.example."],
        ("a.far.example", "A"): ["198.51.100.1"],
        ("b.far.example", "A"): ["198.51.100.2"],
    }
    with NameServer(zone) as server:
        options = ("-o", f"dns_nameservers={server.address}", "-o", "relayhost=")
        lines = say("x@far.example", *options)
        start = lines.index("       tried in this order:")
        assert lines[start + 1 : start + 3] == [
            "         a.far.example[198.51.100.1]:25  preference 10",
            "         b.far.example[198.51.100.2]:25  preference 20",
        ]
        lines = say("x@nowhere.example", *options)
        assert any(line.startswith("       cannot be found now: 550 5.4.4") for line in lines)


def test_explain_says_what_is_not_live_yet(say: Say, config: Path) -> None:
    settings = Settings.build(data_directory=str(config.parent / "data"))
    file = live_file(settings, parse_map(f"hash:{config.parent}/canonical"))
    file.live.parent.mkdir(parents=True)
    file.live.write_text("# a line more\nold@resel.fr older@resel.fr\n")
    lines = say("old@resel.fr")
    assert "  2. old@resel.fr is rewritten to older@resel.fr" in lines
    assert "       /canonical:2 (canonical_maps, set at /main.cf:9)" in lines


ADDRESSES = [
    *("ann", "team", "list", "www", "loop", "tickets", "archive", "nosuch", "ann+x", "postmaster"),
    *(
        "president@club.example",
        "x@club.example",
        "x@slow.example",
        "x@dead.example",
        "a@b.example",
    ),
    *("old@resel.fr", "root@[127.0.0.1]", "x%y@vm.resel.fr", '"a b"@vm.resel.fr'),
]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_explain_decides_as_routing_does(config: Path, address: str) -> None:
    settings = load(str(config))
    users = open_users(settings)
    judge = judge_of(settings, None)
    followed = await Follower(settings, users, MailLog(StreamSink(1)), judge).follow(address)
    table = RoutingTable(settings, users)
    start = await Canonical(settings, table).rewrite(
        table.rules.qualify(address), "envelope_recipient"
    )
    made, trouble, _ = await Expander(settings, table).expand_all([Recipient(start)], "")
    assert followed.explanation.refusal == await table.check_recipient(address)
    assert followed.explanation.trouble == trouble
    assert [
        (end.destination.recipient.address, end.destination.recipient.via, end.destination.route)
        for end in followed.ends
    ] == [(each.address, each.via, await table.route(each.address, "", each.via)) for each in made]


KEYS = st.sampled_from(["a", "b", "ab", "c"])
LINES = st.one_of(
    KEYS.map(lambda key: f"/{key}/ x"),
    KEYS.map(lambda key: f"!/{key}/ x"),
    KEYS.map(lambda key: f"if /{key}/"),
    st.sampled_from(["endif", "# c", "", "/b/\n  y"]),
)


@given(st.lists(LINES, max_size=12), KEYS)
def test_explain_finds_the_line_of_a_rule(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], key: str
) -> None:
    """Each rule's result made its own line number: the table itself says which one answered."""
    numbered, number, depth = [], 0, 0
    for line in lines:
        if line == "endif" and not depth:
            continue
        depth += {"endif": -1}.get(line, 1 if line.startswith("if") else 0)
        numbered.append((number + 1, line))
        number += line.count("\n") + 1
    numbered += [(number + 1 + i, "endif") for i in range(depth)]
    text = "\n".join(line for _, line in numbered)
    told = "\n".join(
        line.replace(" x", f" {at}").replace("\n  y", f" {at}\n") for at, line in numbered
    )
    path = tmp_path_factory.mktemp("rules") / "table"
    path.write_text(text)
    spec = parse_map(f"regexp:{path}")
    file = live_file(Settings.build(data_directory=str(path.parent)), spec)
    answer = parse_table(spec, told, "")[0].get(key)
    assert line_of(file, key) == int(answer or 0)
