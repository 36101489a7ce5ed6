"""resel-map beside postmap: the same answers from the same tables."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resel_mta.commands import map as map_command

TABLES = {
    "keys": 'a one\nB  two words \n# c\n"q k" three\n"x \\\\" y"@example.org four five\nuser@dom x\n@dom.example\n   continued\nc d, e\n',
    "rules": "/^a(b+)/ got $1\n!/x/ nox\nif /q/\n/k/ q-and-k\nendif\n/^(.)x/ ${1}\n",
    "networks": "10.0.0.0/8 ten\n!192.0.2.0/24 not here\n::1 six\n",
}
QUERIES = [
    ("a", "hash:keys"),
    ("A", "hash:keys"),
    ("b", "hash:keys"),
    ("q k", "hash:keys"),
    ('"q k"', "hash:keys"),
    ('"x \\\\" y"@example.org', "hash:keys"),
    ("@DOM.example", "hash:keys"),
    ("c", "texthash:keys"),
    ("nosuch", "hash:keys"),
    ("a", "keys"),
    ("b", "hash:keys", "static:other"),
    ("zz", "hash:keys", "static:other"),
    ("abbb", "regexp:rules"),
    ("yy", "regexp:rules"),
    ("qxk", "regexp:rules"),
    ("rx", "regexp:rules"),
    ("10.1.1.1", "cidr:networks"),
    ("192.0.2.7", "cidr:networks"),
    ("::1", "cidr:networks"),
    ("not an address", "cidr:networks"),
    ("k", "inline:{k=v}"),
    ("root", "unix:passwd.byname"),
    ("a", "pipemap:{inline:{a=b},static:z}"),
    ("a", "unionmap:{static:y,static:z}"),
]


@pytest.fixture
def both(
    tmp_path: Path,
    need: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[tuple[int, str], tuple[int, str]]]:
    """((exit status, output) of postmap, the same of resel-map) in a folder with `TABLES`."""
    postmap = need("postmap")
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "main.cf").write_text("")
    shutil.copy("/etc/postfix/master.cf", tmp_path)
    (tmp_path / "own.cf").write_text(f"role = relay\ndata_directory = {tmp_path}/data\n")
    command = [postmap, "-c", str(tmp_path)]
    subprocess.run([*command, "hash:keys"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[tuple[int, str], tuple[int, str]]:
        theirs = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        status = map_command.main(["-c", "own.cf", *words])
        return (theirs.returncode, theirs.stdout), (status, capsys.readouterr().out)

    return call


@pytest.mark.parametrize("query", QUERIES, ids=" ".join)
def test_map_answers_as_postmap(
    both: Callable[..., tuple[object, object]], query: tuple[str, ...]
) -> None:
    theirs, ours = both("-q", *query)
    assert ours == theirs


def test_map_lists_as_postmap(both: Callable[..., tuple[tuple[int, str], tuple[int, str]]]) -> None:
    theirs, ours = both("-s", "texthash:keys")
    assert ours[0] == theirs[0] == 0
    assert sorted(ours[1].splitlines()) == sorted(theirs[1].splitlines())


def test_map_says_which_file_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.cf").write_text(f"role = relay\ndata_directory = {tmp_path}/data\n")
    base = ["-c", str(tmp_path)]
    for options in (["-q", "a"], ["-s"]):
        assert map_command.main([*base, *options, f"hash:{tmp_path}/none"]) == 69
        assert capsys.readouterr().err == (
            f"resel-map: fatal: {tmp_path}/none: No such file or directory\n"
        )
    (tmp_path / "rules").write_text("/a/ b\n")
    assert map_command.main([*base, "-s", f"regexp:{tmp_path}/rules"]) == 64
