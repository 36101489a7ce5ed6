"""Whose rights the supervisor gives: what a network process that was taken over can ask for."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from resel_lda import errand as errands
from resel_lda.errand import Errand
from resel_lda.job import Job
from resel_mta.config import Settings
from resel_mta.privileges import Account
from resel_mta.rights import Identity, Refused, Rights
from resel_mta.users import User

GAMES = pwd.getpwnam("games")
NEWS = pwd.getpwnam("news")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Rights]:
    def build(**values: str) -> Rights:
        (tmp_path / "spool").mkdir(exist_ok=True)
        (tmp_path / "aliases").write_text('log: "|/bin/cat", /var/log/box\nl: :include:/list\n')
        (tmp_path / "users").write_text(
            f"lcarr:x:{NEWS.pw_uid}:{NEWS.pw_gid}::/home/lcarr::\nrt:x:0:0::/root::\nnone:x\n"
            f"odd:x:{NEWS.pw_uid}:0::/::\nresel:x:7777:7777::/::\n"
        )
        settings = Settings.build(
            **{
                "alias_maps": f"hash:{tmp_path}/aliases",
                "userdb": f"passwd-file:{tmp_path}/users",
                "default_privs": "games",
                "mail_spool_directory": f"{tmp_path}/spool",
                **values,
            }
        )
        return Rights(settings, Account("resel", 7777, 7777))

    return build


def ask(do: str, argument: str = "", **values: object) -> Errand:
    user = User(str(values.pop("user", "")), 0, 0, "/root")
    job = Job(user, "x@resel.fr", "x@resel.fr", "s@x.org", "Q", 1, "local")
    return Errand(do, job, argument, **values)  # type: ignore[arg-type]


@needs_root
def test_commands_of_root_s_aliases_run_as_default_privs(make: Callable[..., Rights]) -> None:
    rights = make()
    errand, identity = rights.grant(ask(errands.COMMAND, "/bin/cat", alias="log", is_user=True))
    assert identity == Identity(GAMES.pw_uid, GAMES.pw_gid)
    assert (errand.job.user.name, errand.is_user) == ("games", False)
    rights.grant(ask(errands.FILE, "/var/log/box", alias="log"))


@needs_root
def test_included_files_are_read_by_their_owner(
    make: Callable[..., Rights], tmp_path: Path
) -> None:
    path = tmp_path / "list"
    path.write_text("bob\n")
    rights = make()
    (tmp_path / "aliases").write_text(f"l: :include:{path}\n")
    for uid, expected in ((NEWS.pw_uid, NEWS), (0, GAMES)):
        os.chown(path, uid, 0)
        _, identity = rights.grant(ask(errands.INCLUDE, str(path), alias="l"))
        assert identity == Identity(expected.pw_uid, expected.pw_gid)
    path.unlink()
    with pytest.raises(Refused, match=r"^No such file"):
        rights.grant(ask(errands.INCLUDE, str(path), alias="l"))


@needs_root
def test_aliases_of_others_run_as_theirs(make: Callable[..., Rights], tmp_path: Path) -> None:
    rights = make()
    os.chown(tmp_path / "aliases", NEWS.pw_uid, 0)
    _, identity = rights.grant(ask(errands.COMMAND, "/bin/cat", alias="log"))
    assert identity == Identity(NEWS.pw_uid, NEWS.pw_gid)
    os.chown(tmp_path / "aliases", 7777, 0)
    os.utime(tmp_path / "aliases", (1, 1))
    with pytest.raises(Refused, match="no account"):
        rights.grant(ask(errands.COMMAND, "/bin/cat", alias="log"))


@pytest.mark.parametrize(
    "errand",
    [
        ask(errands.COMMAND, "/bin/sh", alias="log"),
        ask(errands.COMMAND, "/bin/cat", alias="other"),
        ask(errands.COMMAND, "/bin/cat", alias=""),
        ask(errands.FILE, "/etc/passwd", alias="log"),
        ask(errands.FILE, "/bin/cat", alias="log"),
        ask(errands.INCLUDE, "/etc/shadow", alias="l"),
        ask(errands.COMMAND, "/bin/cat", alias="log", source="/home/x/file"),
        ask(errands.COMMAND, "x", source="forward", user="nosuch"),
        ask(errands.COMMAND, "x", source="forward", user="rt"),
        ask(errands.DELIVER, user="rt"),
        ask(errands.DELIVER, user="root"),
        ask(errands.DELIVER, user="none"),
        ask(errands.DELIVER, user="odd"),
        ask(errands.DELIVER, user="resel"),
        ask(errands.SPOOL, user="rt"),
        ask("shell", "/bin/sh", user="lcarr"),
    ],
)
def test_what_no_file_names_is_refused(make: Callable[..., Rights], errand: Errand) -> None:
    with pytest.raises(Refused):
        make().grant(errand)


def test_a_user_is_who_the_userdb_says(make: Callable[..., Rights]) -> None:
    errand, identity = make().grant(ask(errands.DELIVER, user="LCarr"))
    assert errand.job.user == User("lcarr", NEWS.pw_uid, NEWS.pw_gid, "/home/lcarr")
    assert errand.is_user
    assert identity == Identity(NEWS.pw_uid, NEWS.pw_gid)


def test_default_privs_is_neither_root_nor_the_mail_system(make: Callable[..., Rights]) -> None:
    if os.getuid() != 0:
        pytest.skip("the alias file must be root's")
    for name in ("root", "nosuchaccount"):
        with pytest.raises(Refused):
            make(default_privs=name).grant(ask(errands.COMMAND, "/bin/cat", alias="log"))
    rights = make()
    taken = Rights(rights._settings, Account("games", GAMES.pw_uid, GAMES.pw_gid))
    with pytest.raises(Refused, match="default_privs another account"):
        taken.grant(ask(errands.COMMAND, "/bin/cat", alias="log"))


def test_a_file_that_anyone_may_write_names_no_commands(
    make: Callable[..., Rights], tmp_path: Path
) -> None:
    rights = make()
    (tmp_path / "aliases").chmod(0o666)
    with pytest.raises(Refused, match="anyone may write"):
        rights.grant(ask(errands.COMMAND, "/bin/cat", alias="log"))


@needs_root
def test_mailboxes_in_a_closed_spool_get_its_group(
    make: Callable[..., Rights], tmp_path: Path
) -> None:
    rights = make()
    spool = tmp_path / "spool"
    os.chown(spool, 0, GAMES.pw_gid)
    for mode, gid in ((0o2775, GAMES.pw_gid), (0o1777, NEWS.pw_gid), (0o755, NEWS.pw_gid)):
        spool.chmod(mode)
        _, identity = rights.grant(ask(errands.SPOOL, user="lcarr"))
        assert identity == Identity(NEWS.pw_uid, gid)
    # Nothing else gets it: no command, and no .forward file is read with it.
    spool.chmod(0o2775)
    for do in (errands.DELIVER, errands.MAILBOX):
        assert rights.grant(ask(do, user="lcarr"))[1].gid == NEWS.pw_gid


def test_an_edit_counts_at_once(make: Callable[..., Rights], tmp_path: Path) -> None:
    rights = make(default_privs="games")
    (tmp_path / "aliases").write_text('new: "|/bin/date"\nbroken\n')
    with pytest.raises(Refused, match="no alias log any more"):
        rights.grant(ask(errands.COMMAND, "/bin/cat", alias="log"))
    errand, _ = rights.grant(ask(errands.COMMAND, "/bin/date", alias="new"))
    assert errand.argument == "/bin/date"
