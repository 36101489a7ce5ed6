"""What commands say of -o options and of folders that are no absolute paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from resel_mta.commands import adm, mta, queue
from resel_mta.commands import map as map_command
from resel_mta.commands.sendmail import main as sendmail

Main = Callable[[Sequence[str]], int]


@pytest.fixture
def main_cf(tmp_path: Path) -> Path:
    (tmp_path / "passwd").write_text("lcarr:{PLAIN}x:::::\n")
    path = tmp_path / "main.cf"
    path.write_text(
        f"myhostname = vm.resel.fr\nqueue_directory = {tmp_path}/queue\n"
        f"data_directory = {tmp_path}/data\npassdb = passwd-file:{tmp_path}/passwd\n"
    )
    return path


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (mta.main, ["status"]),
        (mta.main, ["stop"]),
        (queue.main, ["-p"]),
        (map_command.main, ["-q", "x", "static:y"]),
        (adm.main, ["user", "lcarr"]),
    ],
)
def test_overrides_of_unknown_names_are_told_once(
    main_cf: Path, capsys: pytest.CaptureFixture[str], main: Main, words: list[str]
) -> None:
    main(["-c", str(main_cf), "-o", "relayhots=x", *words])
    said = capsys.readouterr().err
    text = 'command line: warning: relayhots: unknown parameter; did you mean "relayhost"?'
    assert said.count(text) == 1, said
    main(["-c", str(main_cf), "-o", "relayhost=x", *words])
    assert "relayhost" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["queue_directory", "data_directory", "mail_spool_directory"])
def test_folders_are_absolute(main_cf: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    main_cf.write_text(main_cf.read_text() + f"{name} = spool/mail\n")
    line = main_cf.read_text().count("\n")
    for main, words in ((queue.main, ["-p"]), (mta.main, ["check"]), (mta.main, [])):
        assert main(["-c", str(main_cf), *words]) == 78
        said = capsys.readouterr().err
        assert f'{main_cf}:{line}: {name}: "spool/mail" is not an absolute path' in said


@pytest.mark.parametrize("value", ["spool/mail", ""])
def test_sendmail_takes_no_mail_for_such_a_queue(
    main_cf: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    main_cf.write_text(main_cf.read_text() + f"queue_directory = {value}\n")
    for words in (["root"], ["-bs"]):
        assert sendmail(["-C", str(main_cf), *words]) == 78
        assert f"{main_cf}:5: queue_directory: " in capsys.readouterr().err
