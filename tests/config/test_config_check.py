"""`check`: files, accounts and tables, also beside values that are wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resel_mta.commands.mta import main
from resel_mta.config import ConfigError, Problem, load
from resel_mta.config.check import check
from resel_mta.config.load import read

ALIASES = "root: root@resel.fr\n"


def errors(tmp_path: Path, *overrides: str) -> list[str]:
    """The errors of a main.cf with these settings, its own aliases and no role."""
    (tmp_path / "aliases").write_text(ALIASES)
    path = tmp_path / "main.cf"
    path.write_text(
        f"myhostname = vm.resel.fr\nalias_maps = hash:{tmp_path}/aliases\n"
        f"alias_database = $alias_maps\nmail_owner = nobody\ndata_directory = {tmp_path}\n"
        "inet_interfaces = loopback-only\n"
    )
    settings, problems = read(str(path), overrides)
    problems += check(settings, problems)
    return [f"{each.parameter}: {each.text}" for each in problems if each.is_error]


def test_a_good_one(tmp_path: Path) -> None:
    assert errors(tmp_path) == []


@pytest.mark.parametrize("name", ["", "a b", "vm.resel.fr.", "10.0.0.1", "-x.fr", "x..fr"])
def test_a_host_name_is_one(tmp_path: Path, name: str) -> None:
    assert f'myhostname: "{name}" is not a host name' in errors(tmp_path, f"myhostname={name}")


@pytest.mark.parametrize("name", ["vm", "my_vm.resel.fr", "a-b.x", "été.fr"])
def test_host_names_that_postfix_takes(tmp_path: Path, name: str) -> None:
    assert errors(tmp_path, f"myhostname={name}") == []


def test_notices_that_there_are_not(tmp_path: Path) -> None:
    given = "notify_classes=bounce, policy, nonsense"
    assert errors(tmp_path, given) == [
        'notify_classes: "nonsense" is not one of: 2bounce, bounce, data, delay, policy, protocol,'
        " resource, software"
    ]
    settings, _ = read(str(tmp_path / "main.cf"), [given])
    assert [each.text for each in check(settings) if not each.is_error] == []
    settings, _ = read(str(tmp_path / "main.cf"), [])
    assert check(settings) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")
@pytest.mark.parametrize("parameter", ["mail_owner", "default_privs"])
def test_accounts(tmp_path: Path, parameter: str) -> None:
    assert errors(tmp_path, f"{parameter}=root") == [f'{parameter}: "root" has the rights of root']
    assert errors(tmp_path, f"{parameter}=no-such") == [
        f'{parameter}: there is no account "no-such"'
    ]


def test_a_mailbox_holds_a_message(tmp_path: Path) -> None:
    found = errors(tmp_path, "mailbox_size_limit=100", "message_size_limit=101")
    assert found == [
        'mailbox_size_limit: "100" is smaller than message_size_limit (101); 0 is no limit'
    ]
    assert errors(tmp_path, "mailbox_size_limit=100", "message_size_limit=0") != []
    assert errors(tmp_path, "mailbox_size_limit=0", "message_size_limit=0") == []


def test_a_certificate_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("not a certificate\n")
    errors(tmp_path)
    assert main(["-c", str(tmp_path), "check", "-o", f"smtpd_tls_cert_file={certificate}"]) == 78
    assert f"smtpd_tls_cert_file: cannot use {certificate}" in capsys.readouterr().err


def test_files_are_looked_at_beside_bad_values(tmp_path: Path) -> None:
    """All problems at once: a bad value hides neither a missing file nor a bad table."""
    (tmp_path / "map").write_text("lonely\n")
    found = errors(
        tmp_path,
        "soft_bounce=maybe",
        "alias_maps=nosuchtype:/x",
        "alias_database=",
        f"smtp_tls_CAfile={tmp_path}/no-such",
        f"virtual_alias_maps=texthash:{tmp_path}/map",
    )
    assert [each.partition(":")[0] for each in found] == [
        "alias_maps",
        "soft_bounce",
        "smtp_tls_CAfile",
        "virtual_alias_maps",
    ]


@pytest.mark.parametrize("wrong", ["inline:{x.fr=smtp:y z}", "inline:x", "unionmap:{inline:{a}}"])
def test_a_table_in_main_cf_itself(tmp_path: Path, wrong: str) -> None:
    (found,) = errors(tmp_path, f"transport_maps={wrong}")
    assert found.startswith("transport_maps: ")
    assert "inline:" in found


def test_networks_are_named_once(tmp_path: Path) -> None:
    """Other lists have mynetworks in them by default."""
    assert errors(tmp_path, f"mynetworks={tmp_path}/no-such") == [
        f"mynetworks: {tmp_path}/no-such: No such file or directory"
    ]


def test_the_command_lists_them_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "main.cf"
    path.write_text(
        "smtp_tls_CAfile = /no-such\nsoft_bounce = maybe\nbiif = no\nmydestination\n"
        "message_size_limit = 10M\n"
    )
    assert main(["-c", str(path), "check"]) == 78
    lines = capsys.readouterr().err.splitlines()
    numbers = [line.split("main.cf:")[1].split(":")[0] for line in lines if "main.cf:" in line]
    assert numbers == ["1", "2", "3", "4", "5"]


def test_a_start_lists_them_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_text("soft_bounce = maybe\nbiif = no\nsmtpd_milters = inet:x\nmydestination\n")
    with pytest.raises(ConfigError) as failure:
        load(str(path))
    assert [each.where.rpartition(":")[2] for each in failure.value.problems] == list("1234")


def test_a_problem_in_a_log_is_called_a_warning_once() -> None:
    problem = Problem("main.cf:3", "biif", "unknown parameter", is_error=False)
    assert str(problem) == "main.cf:3: warning: biif: unknown parameter"
    assert problem.plain() == "main.cf:3: biif: unknown parameter"


def test_every_file_of_users_is_looked_at(tmp_path: Path) -> None:
    here, missing = tmp_path / "users", tmp_path / "missing"
    here.touch()
    assert (
        errors(tmp_path, f"passdb=passwd-file:{here}, pam:x", f"userdb=passwd-file:{here},system")
        == []
    )
    found = errors(tmp_path, f"passdb=passwd-file:{here} passwd-file:{missing}", "userdb=system")
    assert found == [f"passdb: {missing}: No such file or directory"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("passdb = sql:/etc/x", "sql:/etc/x: only passwd-file:FILE"),
        ("mail_location = mbox:/var/mail/%u", "must be maildir:PATH, not mbox:/var/mail/%u"),
        ("mail_location = maildir:mail/%u", "path is not absolute"),
    ],
)
def test_users_and_mailboxes_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    path = tmp_path / "main.cf"
    path.write_text(
        f"role = server\nmail_owner = nobody\nalias_maps =\ninet_interfaces = 127.0.0.1\n"
        f"smtpd_listen = :0\nsubmission_listen =\nsubmissions_listen =\nimap_listen =\n"
        f"imaps_listen =\nqueue_directory = {tmp_path}/q\ndata_directory = {tmp_path}/d\n{line}\n"
    )
    assert main(["-c", str(path), "check"]) == 78
    (said,) = [each for each in capsys.readouterr().err.splitlines() if "fatal: " in each]
    assert f"main.cf:12: {line.partition(' ')[0]}: " in said
    assert words in said
