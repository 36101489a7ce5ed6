"""Tables, alias files, what is live, lists of networks and domains."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.config import Settings
from resel_mta.config.aliases import Target, TargetKind, parse_aliases, parse_targets
from resel_mta.config.check import check
from resel_mta.config.live import live_files, publish_maps
from resel_mta.config.maps import MapSet, MatchList, open_maps
from resel_mta.config.mapspec import MapSpec, parse_map
from resel_mta.config.networks import Networks
from resel_mta.config.watched import WatchedMaps
from resel_mta.mail import TempFail

POSTMAP = "/usr/sbin/postmap"


def settings(tmp_path: Path, **values: str) -> Settings:
    return Settings.build(
        role="relay", data_directory=str(tmp_path / "data"), mail_owner="nobody", **values
    )


def fresh(maps: MapSet) -> None:
    """As if a while had gone by."""
    maps._recheck = 0.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("root@example.org", [Target(TargetKind.ADDRESS, "root@example.org")]),
        (
            'a, b@x.y ,"|/bin/cmd -a, b"',
            [
                Target(TargetKind.ADDRESS, "a"),
                Target(TargetKind.ADDRESS, "b@x.y"),
                Target(TargetKind.COMMAND, "/bin/cmd -a, b"),
            ],
        ),
        ("|/bin/cmd", [Target(TargetKind.COMMAND, "/bin/cmd")]),
        ("/var/mail/x", [Target(TargetKind.FILE, "/var/mail/x")]),
        (":include:/etc/list", [Target(TargetKind.INCLUDE, "/etc/list")]),
        ('":include:/etc/a list"', [Target(TargetKind.INCLUDE, "/etc/a list")]),
        ("Joe (the admin) <joe@x.org>", [Target(TargetKind.ADDRESS, "joe@x.org")]),
        ('"joe"@x.org', [Target(TargetKind.ADDRESS, "joe@x.org")]),
        ('"a b"@x.org', [Target(TargetKind.ADDRESS, '"a b"@x.org')]),
        ("\\root", [Target(TargetKind.ADDRESS, "root")]),
        ("a (c, d), , b", [Target(TargetKind.ADDRESS, "a"), Target(TargetKind.ADDRESS, "b")]),
    ],
)
def test_targets(value: str, expected: list[Target]) -> None:
    assert parse_targets(value) == expected


@pytest.mark.parametrize("value", ['"open', "a (b", "|", ":include:x", "<a@b", "@"])
def test_bad_targets(value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_targets(value)


@given(st.text(st.sampled_from('ab@",:<>()\\/| \t'), max_size=20))
def test_targets_never_surprise(value: str) -> None:
    try:
        targets = parse_targets(value)
    except ValueError:
        return
    assert all(target.value for target in targets)


def test_alias_file_reports_every_line() -> None:
    text = (
        '# c\nRoot: a@b.c,\n  d@e.f\n"Quoted Name": x\npostmaster: root\n'
        'postmaster: other\nbad\nuser@dom: x\nempty:\nq: "open\n'
    )
    found, problems = parse_aliases(text, "al")
    assert found == {"root": "a@b.c,  d@e.f", "quoted name": "x", "postmaster": "root"}
    assert [(p.where, p.is_error) for p in problems] == [
        ("al:6", False),
        ("al:7", True),
        ("al:8", True),
        ("al:9", True),
        ("al:10", True),
    ]


async def test_an_edit_counts_when_it_is_made_live(tmp_path: Path) -> None:
    source = tmp_path / "aliases"
    source.write_text("root: one\n")
    conf = settings(tmp_path, alias_maps=f"hash:{source}", alias_database="")
    assert publish_maps(conf) == []
    maps = open_maps(conf, "alias_maps")
    source.write_text("root: second\n")
    fresh(maps)
    assert await maps.lookup("root") == "one"
    assert await open_maps(conf, "alias_maps").lookup("root") == "one"
    assert ["newer than what is live" in p.text for p in check(conf)] == [True]
    assert publish_maps(conf) == []
    fresh(maps)
    assert await maps.lookup("ROOT") == "second"
    assert check(conf) == []


async def test_a_broken_edit_keeps_the_last_good_copy(tmp_path: Path) -> None:
    source = tmp_path / "aliases"
    source.write_text("root: one\n")
    conf = settings(tmp_path, alias_maps=f"hash:{source}", alias_database="")
    publish_maps(conf)
    source.write_text("root one\n")
    (problem,) = publish_maps(conf)
    assert not problem.is_error
    assert "last good copy" in problem.text
    assert problem.where == f"{source}:1"
    assert await open_maps(conf, "alias_maps").lookup("root") == "one"


async def test_broken_from_the_start_fails_for_now(tmp_path: Path) -> None:
    source = tmp_path / "aliases"
    source.write_text("root one\n")
    conf = settings(tmp_path, alias_maps=f"hash:{source}", alias_database="")
    assert publish_maps(conf)[0].is_error
    with pytest.raises(TempFail):
        await open_maps(conf, "alias_maps").lookup("root")


async def test_without_a_writable_directory_the_source_is_read(tmp_path: Path) -> None:
    source = tmp_path / "t"
    source.write_text("example.org smtp:[x]\n")
    blocked = tmp_path / "file"
    blocked.write_text("")
    conf = Settings.build(
        role="relay", data_directory=str(blocked), transport_maps=f"hash:{source}", alias_maps=""
    )
    assert publish_maps(conf) == []
    assert await open_maps(conf, "transport_maps").lookup("example.org") == "smtp:[x]"


def test_a_database_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "t.db").write_bytes(b"x")
    conf = settings(tmp_path, transport_maps=f"hash:{tmp_path}/t", alias_maps="", alias_database="")
    assert any("t.db" in p.text and p.is_error for p in check(conf))


def test_secrets_stay_secret(tmp_path: Path) -> None:
    source = tmp_path / "sasl"
    source.write_text("x user:pass\n")
    source.chmod(0o600)
    conf = settings(tmp_path, smtp_sasl_password_maps=f"hash:{source}")
    publish_maps(conf)
    (live,) = [f.live for name, f in live_files(conf) if name == "smtp_sasl_password_maps"]
    assert os.stat(live).st_mode & 0o077 == 0


TABLES = {
    "hash": ("Key value  with space\nb\n  cont\nb again\n", ["key", "KEY", "b", "x"]),
    "texthash": ("a b\n# c\nd e\n", ["a", "d", "A"]),
    "regexp": (
        "/^a(.*)z$/ got $1 ${1} $(1) $$\n/^A/ none\n!/q/  notq\nif /q/\n/no/ NO\nendif\n",
        ["ABCZ", "abcq", "b", "q no", "q"],
    ),
    "cidr": (
        "10.0.0.0/8 ten\n192.0.2.1 one\n2001:db8::/32 six\nif 1.0.0.0/8\n1.2.3.4 yes\nendif\n",
        ["10.1.1.1", "192.0.2.1", "192.0.2.2", "2001:db8::7", "1.2.3.4", "1.2.3.5"],
    ),
}


@pytest.mark.needs(POSTMAP)
@pytest.mark.parametrize("kind", TABLES)
def test_tables_answer_as_postmap_does(tmp_path: Path, kind: str) -> None:
    text, keys = TABLES[kind]
    source = tmp_path / "table"
    source.write_text(text)
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    base = [POSTMAP, "-c", str(tmp_path)]
    spec = f"{kind}:{source}"
    if kind == "hash":
        subprocess.run([*base, spec], check=True, stderr=subprocess.DEVNULL)
    query = [*base, "-q", "-", spec]
    done = subprocess.run(query, capture_output=True, text=True, input="\n".join([*keys, ""]))
    theirs = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert theirs
    maps = MapSet("", [parse_map(spec)], settings(tmp_path))
    for key in keys:
        assert asyncio.run(maps.lookup(key)) == theirs.get(key), key


async def test_tables_without_files(tmp_path: Path) -> None:
    conf = settings(
        tmp_path,
        transport_maps="inline:{a=b, {c = d e}} proxy:unix:passwd.byname "
        "pipemap:{inline:{p=q},inline:{q=r}} unionmap:{inline:{u=1},inline:{u=2}}",
    )
    maps = open_maps(conf, "transport_maps")
    assert await maps.lookup("C") == "d e"
    assert str(await maps.lookup("root")).startswith("root:x:0:0:")
    assert await maps.lookup("p") == "r"
    assert await maps.find("u") == ("1,2", "unionmap:{inline:{u=1},inline:{u=2}}")
    assert await maps.lookup("nobody-has-this") is None
    failing = MapSet("", [parse_map("fail:now"), parse_map("static:x")], conf)
    with pytest.raises(TempFail):
        await failing.lookup("k")


async def test_match_lists(tmp_path: Path) -> None:
    listed = tmp_path / "domains"
    listed.write_text("in.file other.file\n# c\n")
    conf = settings(
        tmp_path,
        mydestination=f"example.org, {listed}, !no.example, inline:{{t.example=x}}, static:all",
        relay_domains="relayed.example, !not.sub.example, sub.example",
    )
    here = MatchList(conf, "mydestination")
    assert await here.matches("Example.ORG")
    assert await here.matches("other.file")
    assert await here.matches("t.example")
    assert not await here.matches("no.example")
    plain = MatchList(settings(tmp_path, mydestination="a.example b.example"), "mydestination")
    assert await plain.matches("B.example")
    assert not await plain.matches("x.a.example")
    relayed = MatchList(conf, "relay_domains")
    assert await relayed.matches("deep.sub.example")
    assert not await relayed.matches("not.sub.example")
    strict = settings(tmp_path, relay_domains="a.x .b.x", parent_domain_matches_subdomains="")
    exact = MatchList(strict, "relay_domains")
    assert [await exact.matches(d) for d in ("a.x", "s.a.x", "b.x", "s.b.x")] == [
        True,
        False,
        False,
        True,
    ]


async def test_an_unreadable_list_fails_for_now(tmp_path: Path) -> None:
    conf = settings(tmp_path, mydestination=f"a.example {tmp_path}/missing")
    domains = MatchList(conf, "mydestination")
    assert await domains.matches("a.example")
    with pytest.raises(TempFail):
        await domains.matches("b.example")
    assert any("missing" in str(p) for p in check(conf))


def test_networks(tmp_path: Path) -> None:
    listed = tmp_path / "nets"
    listed.write_text("198.51.100.0/24\n")
    nets = Networks(
        f"127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128 !10.1.0.0/16 10.0.0.0/8 "
        f"[2001:db8::]/32 {listed} host.example .sub.example".split()
    )
    inside = ("127.9.9.9", "::1", "10.2.0.1", "2001:db8::5", "198.51.100.7", "::ffff:10.2.0.1")
    outside = ("10.1.2.3", "192.0.2.1", "2001:db9::", "198.51.101.0", "", "name")
    assert [each in nets for each in inside] == [True] * len(inside)
    assert [each in nets for each in outside] == [False] * len(outside)
    assert nets.matches("192.0.2.1", "a.sub.example")
    assert not nets.matches("192.0.2.1", "sub.example")


@pytest.mark.parametrize("item", ["10.0.0.1/8", "10.0.0.0/33", "[::1", "!", "a b", "10.0.0.0/x"])
def test_bad_networks(item: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Networks([item])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("maillog_file", "/nonexistent/mail.log", "no such directory"),
        ("inet_interfaces", "192.0.2.77", "no interface of this machine"),
        ("mail_uid", "no-such-account", "no account"),
    ],
)
def test_what_this_machine_lacks_is_found(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    (problem,) = check(settings(tmp_path, **{name: value}))
    assert problem.is_error
    assert problem.parameter == name
    assert words in problem.text


async def test_watched_tables_are_live_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "sympa"
    path.write_text("old: x@x.org\n")
    marked = settings(tmp_path, alias_maps=f"watch:hash:{path}", alias_database="")
    (tmp_path / "data").mkdir()
    publish_maps(marked)
    notes: list[str] = []
    warnings: list[str] = []
    watched = WatchedMaps(marked, notes.append, warnings.append)
    maps = open_maps(marked, "alias_maps")
    looking = asyncio.create_task(watched.keep_looking())
    start = time.monotonic()
    path.write_text("new: y@y.org\n")
    while await maps.lookup("new") is None:
        assert time.monotonic() - start < 5
        await asyncio.sleep(0.01)
    assert time.monotonic() - start < 1.0
    assert await maps.lookup("old") is None
    # What is broken, or gone, leaves what is live in force.
    path.write_text("new: z@z.org\nbroken\n")
    while not warnings:
        assert time.monotonic() - start < 9
        await asyncio.sleep(0.01)
    path.unlink()
    await asyncio.sleep(0.5)
    assert await maps.lookup("new") == "y@y.org"
    looking.cancel()
    assert notes == [f"{path} has changed and is live"]
    assert warnings[-1] == f"{path}: the last good copy stays in use"


def test_only_files_can_be_watched() -> None:
    assert parse_map("watch:hash:/x") == MapSpec("hash", "/x", watched=True)
    assert str(parse_map("watch:hash:/x")) == "hash:/x"
    with pytest.raises(ValueError, match="can be watched"):
        parse_map("watch:static:x")


async def test_a_failing_map_says_why_to_the_log_only() -> None:
    settings = Settings.build(transport_maps="fail:now", relay_domains="/no-such-list")
    with pytest.raises(TempFail) as failure:
        await open_maps(settings, "transport_maps").lookup("x.fr")
    assert str(failure.value.reply) == "451 4.3.0 Temporary lookup failure"
    assert failure.value.why.startswith('transport_maps: fail:now lookup error for "x.fr": ')
    with pytest.raises(TempFail) as failure:
        await MatchList(settings, "relay_domains").matches("x.fr")
    assert failure.value.why == "relay_domains: /no-such-list: No such file or directory"
