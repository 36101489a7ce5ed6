"""What newaliases says of files that are well-formed and lead nowhere."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resel_mta.commands import mta
from resel_mta.config import Settings
from resel_mta.routing.alias_check import check_aliases

ALIASES = """\
# line 1
root: bob
a: b
b: c
c: a, bob
self: self, bob
bob: bob@home.example
missing: nobody-here, ghost@resel.fr, \\phantom, x@elsewhere.example
good: "|/bin/cat -x", /dev/null
bad: "|/no/such/program x", /no/such/folder/file
noexec: "|DIR/aliases x"
shell: "|cat > /dev/null"
members: :include:DIR/members
gone: :include:DIR/gone
ext: bob+lists
"""


def build(path: Path, **values: str) -> Settings:
    (path / "aliases").write_text(ALIASES.replace("DIR", str(path)))
    (path / "more").write_text("unique: bob\nroot: bob\n")
    (path / "members").write_text('# all\nbob, "|/bin/cat"\nstranger\n"open\n')
    (path / "users").write_text("bob:{PLAIN}x\nself:{PLAIN}x\n")
    return Settings.build(
        **{
            "myhostname": "toad.resel.fr",
            "myorigin": "resel.fr",
            "mydestination": "resel.fr",
            "recipient_delimiter": "+",
            "alias_maps": f"hash:{path}/aliases, hash:{path}/more",
            "data_directory": f"{path}/data",
            "passdb": f"passwd-file:{path}/users",
            **values,
        }
    )


def said(settings: Settings, *files: Path) -> list[str]:
    found = asyncio.run(check_aliases(settings, [str(file) for file in files]))
    assert not any(problem.is_error for problem in found)
    return [f"{Path(p.where).name} {p.text}".replace(str(files[0].parent), "DIR") for p in found]


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    settings = build(tmp_path)
    nobody = "there is no such alias and no such user"
    assert said(settings, tmp_path / "aliases", tmp_path / "more") == [
        'aliases:3 "a" leads in a circle: a -> b -> c -> a',
        'aliases:4 "b" leads in a circle: b -> c -> a -> b',
        'aliases:5 "c" leads in a circle: c -> a -> b -> c',
        f'aliases:8 "missing": nobody-here: {nobody}',
        f'aliases:8 "missing": ghost@resel.fr: {nobody}',
        f'aliases:8 "missing": \\phantom: {nobody}',
        'aliases:10 "bad": |/no/such/program x: /no/such/program: No such file or directory',
        'aliases:10 "bad": /no/such/folder/file: /no/such/folder: no such folder',
        'aliases:11 "noexec": |DIR/aliases x: DIR/aliases cannot be executed',
        'aliases:14 "gone": :include:DIR/gone: No such file or directory',
        'members:2 "members": |/bin/cat: allow_mail_to_commands has no include: '
        "mail for it bounces",
        f'members:3 "members": stranger: {nobody}',
        'members:4 a quote is not closed: "open: mail for members waits',
        'more:2 "root" is hidden by DIR/aliases:2',
    ]


def test_included_files_are_read_as_a_delivery_reads_them(tmp_path: Path) -> None:
    """No line of a file elsewhere is shown, and a huge one does not fill the memory."""
    huge, link, fifo, open_to_all = (tmp_path / name for name in ("huge", "link", "fifo", "open"))
    huge.touch()
    os.truncate(huge, 1 << 40)
    link.symlink_to("/etc/passwd")
    os.mkfifo(fifo)
    open_to_all.write_text("nosuch\n")
    open_to_all.chmod(0o666)
    aliases = tmp_path / "mine"
    names = (huge, link, fifo, open_to_all)
    aliases.write_text("root: r@x.example\n" + "".join(f"{n.name}: :include:{n}\n" for n in names))
    settings = build(tmp_path, alias_maps=f"hash:{aliases}")
    found = [line.partition(":include:DIR/")[2] for line in said(settings, aliases)]
    assert found == [
        "huge: is larger than 16777216 octets: it is not followed",
        "link: is a symbolic link: it is not followed",
        "fifo: is not a regular file: it is not followed",
        "open: anyone may write to it: it is not followed",
    ]


def test_a_place_for_unknown_users_makes_all_targets_good(tmp_path: Path) -> None:
    settings = build(tmp_path, luser_relay="bob")
    assert not any("no such user" in line for line in said(settings, tmp_path / "aliases"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be told as whom it will run")
def test_what_the_account_may_not_do(tmp_path: Path) -> None:
    settings = build(tmp_path, alias_maps=f"hash:{tmp_path}/own")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    closed, shared = tmp_path / "closed", tmp_path / "shared"
    closed.mkdir(0o700)
    (closed / "box").touch()
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "own").write_text(
        f'root: "|{program} -x", {closed}/new, {closed}/box, {shared}/new, {shared}/Maildir/\n'
    )
    assert said(settings, tmp_path / "own") == [
        f'own:1 "root": {each}'
        for each in (
            "|DIR/program -x: DIR/program cannot be executed by nobody, as whom it would run",
            "DIR/closed/new: nobody, as whom it would be written, may not write to DIR/closed",
            "DIR/closed/box: nobody, as whom it would be written, may not write to DIR/closed/box",
        )
    ]
    os.chown(tmp_path / "own", 2, 2)
    for path in (program, closed, closed / "box"):
        os.chown(path, 2, 2)
    assert said(settings, tmp_path / "own") == []


def test_root_needs_no_alias_where_its_mail_goes_elsewhere(tmp_path: Path) -> None:
    def lost(**values: str) -> bool:
        settings = build(tmp_path, userdb="system", passdb="", **values)
        return any("no alias for root" in line for line in said(settings, tmp_path / "users"))

    (tmp_path / "empty").write_text("")
    nothing = f"hash:{tmp_path}/empty"
    assert lost(alias_maps=nothing)
    assert not lost(alias_maps="inline:{root=bob@elsewhere.example}")
    assert not lost(alias_maps=nothing, virtual_alias_maps="inline:{root@resel.fr=x@a.example}")
    assert not lost(alias_maps=nothing, mydestination="$myhostname")


@pytest.mark.parametrize("program", ["newaliases", "resel-map"])
def test_commands_say_it_and_make_it_live(tmp_path: Path, program: str) -> None:
    path = tmp_path / "aliases"
    path.write_text("a: b\nb: a\n")
    main_cf = tmp_path / "main.cf"
    main_cf.write_text(
        f"role = smarthost\nalias_maps = hash:{path}\nalias_database = $alias_maps\n"
        f"data_directory = {tmp_path}/data\n"
    )
    (tmp_path / "data").mkdir()
    words = {
        "newaliases": ["resel_mta.commands.sendmail", "-C", str(tmp_path), "-bi"],
        "resel-map": ["resel_mta.commands.map", "-c", str(tmp_path), f"hash:{path}"],
    }[program]

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=os.environ | {"PYTHONWARNINGS": "error"},
        )

    result = call()
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert [line.partition(": ")[2] for line in lines if "circle" in line] == [
        f'{path}:1: warning: "a" leads in a circle: a -> b -> a',
        f'{path}:2: warning: "b" leads in a circle: b -> a -> b',
    ]
    assert f"{path}:1: warning: there is no alias for root: " in result.stderr
    [live] = (tmp_path / "data" / "maps").iterdir()
    assert live.read_text() == "a: b\nb: a\n"
    path.write_text("a: b\nbroken\n")
    result = call()
    assert result.returncode == 65
    assert f"{path}:2" in result.stderr
    assert live.read_text() == "a: b\nb: a\n"


def test_check_says_where_the_mail_of_root_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aliases, main_cf = tmp_path / "aliases", tmp_path / "main.cf"
    main_cf.write_text(
        f"role = smarthost\nmyhostname = vm.resel.fr\nmydestination = $myhostname\n"
        f"alias_maps = hash:{aliases}\nalias_database = $alias_maps\n"
        f"queue_directory = {tmp_path}/queue\ndata_directory = {tmp_path}/data\n"
        "mail_owner = nobody\n"
    )
    for text, wanted in (
        ("postmaster: root\n", "there is no alias for root"),
        ('root: "|/no/such/program"\n', "/no/such/program: No such file or directory"),
        ("root: root@resel.fr\n", ""),
    ):
        aliases.write_text(text)
        assert mta.main(["-c", str(main_cf), "check"]) == 0
        said = capsys.readouterr().err
        assert (f"{aliases}:1: warning: " in said) == bool(wanted)
        assert wanted in said
