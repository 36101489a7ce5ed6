"""resel-conf and resel-map, beside postconf and postmap."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest

from resel_mta.commands import conf, map
from resel_mta.config.edit import edited

POSTCONF = shutil.which("postconf")

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


@pytest.mark.skipif(POSTCONF is None, reason="postfix is not installed")
@pytest.mark.parametrize("name", FILES)
def test_shows_what_postconf_shows(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.cf").write_text(FILES[name])
    shutil.copy("/etc/postfix/master.cf", tmp_path)
    command = [str(POSTCONF), "-c", str(tmp_path), "-n"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert conf.main(["-c", str(tmp_path), "-n"]) == 0
    assert capsys.readouterr().out == theirs


@pytest.mark.skipif(POSTCONF is None, reason="postfix is not installed")
@pytest.mark.parametrize("name", FILES)
def test_edits_as_postconf_does(tmp_path: Path, name: str) -> None:
    changes = ["relayhost=[new]", "myhostname=  other  name ", "biff=yes"]
    (tmp_path / "main.cf").write_text(FILES[name])
    subprocess.run(
        [str(POSTCONF), "-c", str(tmp_path), "-e", *changes], check=True, capture_output=True
    )
    theirs = (tmp_path / "main.cf").read_text()
    # postconf appends new names in no particular order.
    pairs = (change.partition("=") for change in changes)
    values = {name.strip(): value.strip() for name, _, value in pairs}
    ours = edited(FILES[name], values)
    kept = FILES[name].count("\n")
    assert sorted(ours.splitlines()[kept:]) == sorted(theirs.splitlines()[kept:])
    assert ours.splitlines()[:kept] == theirs.splitlines()[:kept]


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
