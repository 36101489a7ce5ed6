"""resel-mta setup: what it starts from, what it changes and what it leaves alone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resel_mta.commands import mta, setup
from resel_mta.commands.setup_plan import shipped
from resel_mta.config.edit import write_text
from resel_mta.disk import Disk

POSTFIX = """\
# See /usr/share/postfix/main.cf.dist for a commented, more complete version
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no

# appending .domain is the MUA's job.
append_dot_mydomain = no
smtp_tls_security_level=may
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated
    # between two lines of a value
    defer_unauth_destination
myhostname = vm.adm.resel.fr
alias_maps = hash:{0}/aliases
alias_database = hash:{0}/aliases
myorigin = {0}/mailname
mydestination = $myhostname, vm, localhost.localdomain, , localhost
relayhost = pegase.adm.resel.fr
mynetworks = 127.0.0.0/8 [::1]/128
mailbox_size_limit = 0
queue_directory = /var/spool/postfix
recipient_delimiter = +
inet_interfaces = loopback-only
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`resel-mta setup` with these options; (exit status, output, errors)."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)

    def write(path: Path, text: str, disk: Disk) -> None:
        """Whatever a test forgets to say, this machine's own files are not written."""
        assert path.is_relative_to(tmp_path), path
        write_text(path, text, disk)

    monkeypatch.setattr(setup, "write_text", write)

    def call(*options: str) -> tuple[int, str, str]:
        status = mta.main(
            [
                "-c",
                str(tmp_path / "own/main.cf"),
                "setup",
                "--postfix",
                str(tmp_path / "main.cf"),
                *options,
            ]
        )
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def postfix(tmp_path: Path) -> str:
    """The main.cf of a satellite system, and its other files."""
    text = POSTFIX.replace("{0}", str(tmp_path))
    (tmp_path / "main.cf").write_text(text)
    (tmp_path / "mailname").write_text("vm.adm.resel.fr\n")
    (tmp_path / "aliases").write_text(
        "# See man 5 aliases\npostmaster:    root\nbackup: ops,\n  dba\n"
    )
    return text


def own(tmp_path: Path, **more: str) -> str:
    """What was written, with settings that let the check pass on any machine."""
    path = tmp_path / "own/main.cf"
    lines = "".join(f"{name} = {value}\n" for name, value in more.items())
    path.write_text(path.read_text() + lines)
    return path.read_text()


def test_setup_starts_from_postfix(run: Run, tmp_path: Path, postfix: str) -> None:
    _, said, _ = run("--yes", "--relayhost", "[pegase.adm.resel.fr]")
    written = (tmp_path / "own/main.cf").read_text()
    changed = postfix.replace("relayhost = pegase", "relayhost = [pegase").replace(
        "fr\nmynet", "fr]\nmynet"
    )
    changed = changed.replace("queue_directory", "#queue_directory")
    assert written == changed + "role = smarthost\n"
    assert (tmp_path / "main.cf").read_text() == postfix
    assert (tmp_path / "aliases").read_text() == (
        "# See man 5 aliases\npostmaster:    root\nbackup: ops,\n  dba\nroot: root@resel.fr\n"
        "resel: root\n"
    )
    assert "+relayhost = [pegase.adm.resel.fr]" in said.splitlines()
    assert "+root: root@resel.fr" in said.splitlines()


def test_setup_a_second_time_changes_nothing(run: Run, tmp_path: Path, postfix: str) -> None:
    run("--yes")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    _, said, _ = run("--yes")
    assert "Nothing to change." in said
    assert before == {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()
    }


def test_setup_dry_run_writes_nothing(run: Run, tmp_path: Path, postfix: str) -> None:
    status, said, _ = run("-n", "--root", "bob@resel.fr")
    assert status == 0
    assert "+root: bob@resel.fr" in said
    assert not (tmp_path / "own").exists()
    assert "bob" not in (tmp_path / "aliases").read_text()


def test_setup_checks_and_makes_the_aliases_live(run: Run, tmp_path: Path, postfix: str) -> None:
    run("--yes")
    (tmp_path / "data").mkdir()
    own(tmp_path, data_directory=str(tmp_path / "data"), mail_owner="nobody")
    status, said, _ = run("--yes", "--root", "alice@resel.fr, bob@resel.fr")
    assert status == 0, said
    assert "the aliases are live" in said
    assert f"{tmp_path}/own/main.cf: role smarthost, no errors" in said
    (live,) = (tmp_path / "data/maps").iterdir()
    assert "root: alice@resel.fr, bob@resel.fr\n" in live.read_text()


def test_setup_says_what_a_start_would_refuse(run: Run, tmp_path: Path, postfix: str) -> None:
    (tmp_path / "main.cf").write_text(
        postfix + "smtpd_milters = inet:localhost:1\nqueue_run_delay = soon\n"
    )
    status, said, _ = run("--yes")
    assert status == 78
    assert "To be mended" in said
    assert f"{tmp_path}/own/main.cf:23: queue_run_delay" in said


@pytest.mark.parametrize(
    ("interfaces", "relayhost", "role"),
    [("loopback-only", "a.example", "smarthost"), ("all", "[a]", "relay"), ("all", "", "server")],
)
def test_setup_knows_what_postfix_was(
    run: Run, tmp_path: Path, interfaces: str, relayhost: str, role: str
) -> None:
    (tmp_path / "main.cf").write_text(
        f"myhostname = a.example\ninet_interfaces = {interfaces}\nrelayhost = {relayhost}\n"
        f"alias_maps = hash:{tmp_path}/aliases\n"
    )
    run("--yes", "--root", "a@b.example")
    assert (tmp_path / "own/main.cf").read_text().endswith(f"\nrole = {role}\n")
    aliases = (tmp_path / "aliases").read_text()
    assert "\nroot: a@b.example\n" in aliases
    # What is not there yet is made from the shipped example.
    assert "\nmailer-daemon: postmaster\n" in aliases


def test_setup_of_a_shipped_example_takes_that_of_the_role(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/main.cf").write_text(str(shipped("smarthost.cf")))
    _, said, _ = run("-n", "--role", "relay", "--root", "", "--relayhost", "resel.fr")
    assert "+role = relay" in said
    assert "+# Pégase (role relay)" in said
    # One that was edited is its administrator's: only the answers change.
    (tmp_path / "own/main.cf").write_text(f"{shipped('smarthost.cf')}# mine\n")
    _, said, _ = run("-n", "--role", "relay", "--root", "")
    assert "Pégase (role relay)" not in said
    assert "+role = relay" in said


def test_setup_after_an_installation_beside_postfix(run: Run, tmp_path: Path, postfix: str) -> None:
    """What the installation put there tells the role; the rest is Postfix's."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/main.cf").write_text(str(shipped("relay.cf")))
    _, said, _ = run("--yes")
    assert said.startswith(f"Starting from Postfix's {tmp_path}/main.cf")
    written = (tmp_path / "own/main.cf").read_text()
    assert written.endswith("inet_interfaces = all\nrole = relay\n")
    assert "smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)" in written


def test_setup_system_mail_name(run: Run, tmp_path: Path, postfix: str) -> None:
    run("--yes", "--mailname", "new.adm.resel.fr")
    assert (tmp_path / "mailname").read_text() == "new.adm.resel.fr\n"
    assert f"myorigin = {tmp_path}/mailname" in (tmp_path / "own/main.cf").read_text()
    (tmp_path / "own/main.cf").write_text("role = relay\nmyhostname = a.example\nrelayhost = x\n")
    run("--yes", "--mailname", "b.example", "--root", "")
    assert "\nmyorigin = b.example\n" in (tmp_path / "own/main.cf").read_text()


def test_setup_says_when_the_alias_of_root_does_not_count(
    run: Run, tmp_path: Path, postfix: str
) -> None:
    run("--yes")
    own(tmp_path, mail_owner="nobody", data_directory=f"{tmp_path}/data")
    said = run("--yes", "--mailname", "elsewhere.example", "--root", "root@resel.fr")[1]
    assert "elsewhere.example is not in mydestination" in said
    assert "mydestination" not in run("--yes", "--root", "root@elsewhere.example")[1]
    said = run("--yes", "--mailname", "VM.adm.resel.fr", "--root", "root@resel.fr")[1]
    assert "is not in mydestination" not in said


def test_setup_takes_what_is_there_as_it_is(run: Run, tmp_path: Path, postfix: str) -> None:
    (tmp_path / "mailname").write_text("vm\n")
    _, said, errors = run("--yes")
    assert errors == ""
    assert (tmp_path / "mailname").read_text() == "vm\n"
    assert "mailname" not in said.replace("/mailname\n", "")


@pytest.mark.parametrize(
    "options",
    [
        ("--mailname", "vm"),
        ("--mailname", "vm..fr"),
        ("--relayhost", "[x"),
        ("--relayhost", "x]"),
        ("--relayhost", "x\ny"),
        ("--root", '"a'),
        ("--root", "|"),
        ("--root", "a\nb: c"),
    ],
)
def test_setup_refuses_answers_that_make_no_sense(
    run: Run, tmp_path: Path, postfix: str, options: tuple[str, ...]
) -> None:
    status, _, errors = run("--yes", *options)
    assert status == 64
    assert errors.startswith(f"resel-mta: fatal: {options[0]}: ")
    assert not (tmp_path / "own").exists()


def test_setup_takes_no_override(run: Run, postfix: str) -> None:
    status, _, errors = run("--yes", "-o", "relayhost=x")
    assert status == 64
    assert errors == "resel-mta: fatal: -o changes no file; resel-conf -e does\n"


def test_setup_without_a_terminal(run: Run, postfix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        assert run()[0] == 64


def converse(tmp_path: Path, answers: str, language: str) -> tuple[int, str]:
    """A person at a terminal; (exit status, all that he sees)."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(tmp_path / "own/main.cf")]
    command += ["setup", "--postfix", str(tmp_path / "main.cf")]
    environment = {**os.environ, "LC_ALL": language, "PYTHONUTF8": "1"}
    with os.fdopen(leader, "wb", buffering=0) as person:
        running = subprocess.Popen(
            command,
            stdin=follower,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        os.close(follower)
        person.write(answers.encode())
        seen, _ = running.communicate(timeout=60)
    return running.returncode, seen.decode()


def test_setup_conversation(tmp_path: Path, postfix: str) -> None:
    status, seen = converse(tmp_path, "9\nrelay\nvm\n\n[x\n-\nbob@resel.fr\nn\n", "C.UTF-8")
    assert status == 0
    assert "That is not one of them." in seen
    assert '"vm" is not a full domain' in seen
    assert "unbalanced []" in seen
    assert "+role = relay" in seen
    assert "+relayhost = \n" in seen
    assert "+inet_interfaces = all" in seen
    assert seen.endswith("Write this? [Y/n] Nothing was written.\n")
    assert not (tmp_path / "own").exists()


def test_setup_conversation_in_french(tmp_path: Path, postfix: str) -> None:
    _, seen = converse(tmp_path, "\n\n\n\no\n", "fr_FR.UTF-8")
    assert "De quel genre de machine s'agit-il ?" in seen
    assert "Adresse qui reçoit le courrier de root" in seen
    assert f"écrit : {tmp_path}/own/main.cf" in seen
    assert "root: root@resel.fr" in (tmp_path / "aliases").read_text()
