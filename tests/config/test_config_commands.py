"""resel-conf and resel-map, beside postconf and postmap."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.commands import conf, map
from resel_mta.config.edit import edited
from resel_mta.config.grammar import parse_main_cf

POSTCONF = "/usr/sbin/postconf"

FILES = {
    "layout": (
        "# c\nmyhostname = foo.example\n\nrelay_domains = a,\n    b\n  # in between\n  ,  c\n"
        "mynetworks =\n   127.0.0.0/8\n\t10.0.0.0/8\nmydestination=x   y\n"
    ),
    "references": (
        "site = example.org\nmyorigin = $site\nunused = 1\n"
        "smtpd_restriction_classes = cls\ncls = permit_mynetworks, reject\n"
        "smtpd_recipient_restrictions = cls\nbounce_size_limit = ${{1} == {1} ? {2}:{3}}\n"
    ),
    "twice": "relayhost = [a]\nbiff = no\nrelayhost = [b]\nreadme_directory =no\n",
}


@pytest.mark.needs(POSTCONF)
@pytest.mark.parametrize("name", FILES)
def test_shows_what_postconf_shows(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.cf").write_text(FILES[name])
    shutil.copy("/etc/postfix/master.cf", tmp_path)
    command = [POSTCONF, "-c", str(tmp_path), "-n"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert conf.main(["-c", str(tmp_path), "-n"]) == 0
    assert capsys.readouterr().out == theirs


def postconf(directory: Path, *arguments: str) -> int:
    """The real one's exit status; it changes main.cf in the directory."""
    command = [POSTCONF, "-c", str(directory), *arguments]
    return subprocess.run(command, check=False, capture_output=True).returncode


EDITS = {
    "set": ("-e", "relayhost=[new]", "myhostname=  other  name ", "biff=yes"),
    "empty": ("-e", "relayhost=", "mynetworks ="),
    "without -e": ("relayhost=[new]",),
    "comment out": ("-#", "relay_domains", "mynetworks", "relayhost", "site", "nosuch"),
    "remove": ("-X", "relay_domains", "mynetworks", "relayhost", "biff", "nosuch"),
}


@pytest.mark.needs(POSTCONF)
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", FILES)
def test_edits_as_postconf_does(tmp_path: Path, name: str, edit: str) -> None:
    path = tmp_path / "main.cf"
    path.write_text(FILES[name])
    assert postconf(tmp_path, *EDITS[edit]) == 0
    theirs = path.read_text().splitlines()
    path.write_text(FILES[name])
    assert conf.main(["-c", str(path), *EDITS[edit]]) == 0
    ours = path.read_text().splitlines()
    # postconf appends new names in no particular order.
    kept = FILES[name].count("\n") if EDITS[edit][0] not in ("-#", "-X") else len(theirs)
    assert ours[:kept] == theirs[:kept]
    assert sorted(ours[kept:]) == sorted(theirs[kept:])


@pytest.mark.needs(POSTCONF)
@pytest.mark.parametrize(
    "arguments",
    [
        ("-e",),
        ("-e", "biff"),
        ("-e", "=yes"),
        ("-e", "#biff=yes"),
        ("-e", "a b=c"),
        ("-#", "biff=yes"),
        ("-#",),
        ("-X",),
        ("-e", "-#", "biff"),
        ("-e", "a=b\nc=d"),
    ],
)
def test_edit_refuses_what_postconf_refuses(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "main.cf"
    path.write_text(FILES["twice"])
    assert postconf(tmp_path, *arguments) == 1
    assert conf.main(["-c", str(path), *arguments]) == 64
    assert path.read_text() == FILES["twice"]


@given(
    st.lists(st.sampled_from(["a = 1", "b=", "  c", "# d", "", " ", "\t# e", "c = x", "a = 2"])),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "new", "x, y"]), min_size=1),
)
def test_edit_touches_nothing_else(lines: list[str], values: dict[str, str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    after = edited(text, values)
    found = {each.name: each.value for each in parse_main_cf(after, "")[0]}
    before = {each.name: each.value for each in parse_main_cf(text, "")[0]}
    assert found == {**before, **values}
    comments = [line for line in lines if line.lstrip().startswith("#")]
    assert [line for line in after.split("\n") if line.lstrip().startswith("#")] == comments
    assert edited(after, values) == after


def test_edit_at_the_same_time_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_text("role = relay\n")
    command = [sys.executable, "-m", "resel_mta.commands.conf", "-c", str(path), "-e"]
    names = ["relayhost", "biff", "myhostname", "mydomain", "soft_bounce"]
    running = [subprocess.Popen([*command, f"{name}=yes"]) for name in names]
    assert [each.wait(30) for each in running] == [0] * len(names)
    lines = path.read_text().splitlines()
    assert sorted(lines[1:]) == sorted(f"{name} = yes" for name in names)


def test_edit_says_what_is_wrong_with_the_new_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "main.cf"
    path.write_text("queue_run_delay = soon\nrelayhost = a\nrelayhost = b\n")
    assert conf.main(["-c", str(path), "-e", "relayhost=[x]", "myhostnme=a", "biff=maybe"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f'resel-conf: warning: {path}: multiple entries for "relayhost"'
    assert [line for line in lines if "queue_run_delay" in line] == []
    assert any('did you mean "myhostname"?' in line for line in lines)


def test_edit_goes_to_the_file_that_a_link_names(tmp_path: Path) -> None:
    real = tmp_path / "real.cf"
    real.write_text("biff = no\n")
    (tmp_path / "main.cf").symlink_to("real.cf")
    assert conf.main(["-c", str(tmp_path), "-e", "biff=yes"]) == 0
    assert (tmp_path / "main.cf").is_symlink()
    assert real.read_text() == "biff = yes\n"


def test_edit_keeps_comments_mode_and_refuses_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_text("# first\nmyhostname = a.example\n# last\n")
    path.chmod(0o640)
    assert conf.main(["-c", str(path), "-e", "myhostname = b.example"]) == 0
    assert path.read_text() == "# first\nmyhostname = b.example\n# last\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert conf.main(["-c", str(path), "-e", "nonsense"]) == 64
    assert conf.main(["-c", str(path), "-e", "a=b\nc=d"]) == 64
    assert [each.name for each in tmp_path.iterdir()] == ["main.cf"]
    assert conf.main(["-c", f"{tmp_path}/none.cf", "-e", "a=b"]) == 78


def test_names_values_and_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "main.cf"
    path.write_text("role = relay\nmyhostname = a.example\nqueue_run_delay = soon\n")
    base = ["-c", str(path)]
    assert conf.main([*base, "-h", "myhostname", "nosuch"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "a.example\n"
    assert "resel-conf: warning: nosuch: unknown parameter" in captured.err
    assert "queue_run_delay" in captured.err
    assert conf.main([*base, "-x", "mydestination"]) == 0
    assert capsys.readouterr().out == "mydestination = a.example, localhost.example, localhost\n"
    assert conf.main([*base, "-n", "-x", "-o", "soft_bounce=yes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"myhostname = a.example  # {path}:2" in lines
    assert "smtpd_listen = :25  # role relay" in lines
    assert "soft_bounce = yes  # command line" in lines
    assert conf.main([*base, "-d", "myhostname", "biff"]) == 0
    assert "biff = yes" in capsys.readouterr().out


def test_map_types_and_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert conf.main(["-m"]) == 0
    assert "hash" in capsys.readouterr().out.splitlines()
    assert conf.main(["-c", "/nonexistent/x.cf"]) == 78
    assert capsys.readouterr().err.startswith(
        "resel-conf: fatal: /nonexistent/x.cf: cannot be read"
    )


def test_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "main.cf"
    config.write_text(f"data_directory = {tmp_path}/data\n")
    table = tmp_path / "t"
    table.write_text("a one\nb two\n")
    base = ["-c", str(config)]
    spec = f"hash:{table}"
    assert map.main([*base, "-q", "a", spec]) == 0
    assert capsys.readouterr().out == "one\n"
    assert map.main([*base, "-q", "zz", spec]) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("b\nzz\na\n"))
    assert map.main([*base, "-q", "-", spec]) == 0
    assert capsys.readouterr().out == "b\ttwo\na\tone\n"
    assert map.main([*base, spec]) == 0
    table.write_text("a\n")
    assert map.main([*base, spec]) == 65
    assert f"resel-map: fatal: {table}:1:" in capsys.readouterr().err
    assert map.main([*base, "-q", "a", spec]) == 0
    assert capsys.readouterr().out == "one\n"
    assert map.main([*base, "mysql:/x"]) == 64
    assert map.main([*base, f"hash:{tmp_path}/none"]) == 78
