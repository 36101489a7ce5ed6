"""passwd-file: format, broken lines, re-reading; log-in through it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from resel_mta.mail import TempFail
from resel_mta.users import User, Users
from resel_mta.users import passwd_file as module
from resel_mta.users.passwd_file import PasswdFile, parse, parse_line
from resel_mta.users.user import parse_quota_rule, parse_size

TEXT = """\
# people
lcarr:{PLAIN}secret:1000:1000::/home/lcarr:/bin/sh:userdb_mail=maildir:~/Mail userdb_quota_rule=*:storage=1G

anne@resel.fr:{PLAIN}geheim::::
guest:::::::nopassword
gone:{PLAIN}x::::::nologin
fenced:{PLAIN}x::::::allow_nets=192.0.2.0/24
digest:{DIGEST-MD5}x:1001:1001::/home/scram
bob
"""


def opened(path: Path) -> tuple[Users, list[str]]:
    warnings: list[str] = []
    file = PasswdFile(str(path), warnings.append)
    return Users([file], [file], warnings.append), warnings


def test_fields() -> None:
    table = parse(TEXT, "/etc/users")
    assert table.entries["lcarr"].user == User(
        "lcarr", 1000, 1000, "/home/lcarr", "maildir:~/Mail", 1024**3
    )
    assert table.names == ["lcarr", "anne@resel.fr", "guest", "gone", "fenced", "digest", "bob"]
    assert table.entries["bob"].user == User("bob")
    assert table.decoy == "{PLAIN}secret"


def test_broken_lines_are_named_and_the_others_go_on() -> None:
    table = parse("ok:{PLAIN}x\n:x\na b:x\nbad:x:nosuchuser_\nOK:y\n../x:y\nlast:x", "/f")
    assert table.names == ["ok", "last"]
    assert [p.partition(": ")[0] for p in table.problems] == [
        "/f:2",
        "/f:3",
        "/f:4",
        "/f:5",
        "/f:6",
    ]


def test_a_scheme_we_lack_keeps_the_mailbox() -> None:
    entry = parse_line("u:{DIGEST-MD5}x")
    assert entry.password is None
    assert "DIGEST-MD5" in entry.refused
    assert entry.user == User("u")


@pytest.mark.parametrize(
    ("rule", "octets"),
    [("*:storage=1G", 1024**3), ("*:storage=10", 10240), ("*:bytes=5M", 5 * 1024**2),
     ("*:messages=9:storage=2k", 2048), ("Trash:storage=1G", None), ("*:ignore", None)],
)  # fmt: skip
def test_quota_rules(rule: str, octets: int | None) -> None:
    assert parse_quota_rule(rule) == octets


def test_sizes() -> None:
    assert parse_size("1 GB") == parse_size("1024M") == 1024**3
    with pytest.raises(ValueError, match="not a size"):
        parse_size("much")


async def test_authenticate(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(TEXT)
    users, _ = opened(path)
    assert (await users.authenticate("LCarr", b"secret")) == await users.find("lcarr")
    assert await users.authenticate("lcarr", b"Secret") is None
    assert await users.authenticate("nobody", b"secret") is None
    assert await users.authenticate("guest", b"anything")
    assert await users.authenticate("gone", b"x") is None
    assert await users.authenticate("fenced", b"x") is None
    assert await users.authenticate("bob", b"") is None
    assert await users.authenticate("lcarr", b"x" * 5000) is None
    assert await users.find("nobody") is None
    assert await users.names() == sorted(
        ["lcarr", "anne@resel.fr", "guest", "gone", "fenced", "digest", "bob"]
    )
    users.close()


async def test_success_is_remembered_until_the_password_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "users"
    path.write_text("u:{PLAIN}one\n")
    users, _ = opened(path)
    checks = 0

    async def counted(stored: str, password: bytes, name: str) -> bool:
        nonlocal checks
        checks += 1
        return stored == "{PLAIN}" + password.decode()

    monkeypatch.setattr(users, "_verify", counted)
    for _ in range(3):
        assert await users.authenticate("u", b"one")
    assert checks == 1
    monkeypatch.setattr(module, "_STAT_INTERVAL", 0.0)
    path.write_text("u:{PLAIN}other\n")
    assert await users.authenticate("u", b"one") is None
    assert await users.authenticate("u", b"other")
    assert b"other" not in b"".join(users._cache._until)
    users.close()


async def test_unknown_user_pays_as_much_as_a_wrong_password(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("u:{PBKDF2}$1$abcdefgh$200000$0000000000000000000000000000000000000000\n")
    users, _ = opened(path)

    async def cost(name: str) -> float:
        start = time.perf_counter()
        assert await users.authenticate(name, b"guess") is None
        return time.perf_counter() - start

    await cost("u")
    known = min([await cost("u") for _ in range(3)])
    unknown = min([await cost("nobody") for _ in range(3)])
    assert unknown > known / 3
    users.close()


async def test_reread_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STAT_INTERVAL", 0.0)
    path = tmp_path / "users"
    users, warnings = opened(path)
    with pytest.raises(TempFail):
        await users.find("u")
    assert "No such file" in warnings[-1]
    path.write_text("u:{PLAIN}x\n")
    assert await users.find("u")
    replacement = tmp_path / "new"
    replacement.write_text("v:{PLAIN}x\n:broken\n")
    os.replace(replacement, path)
    gone, new = await asyncio.gather(users.find("u"), users.find("v"))
    assert gone is None
    assert new == User("v")
    assert warnings[-1].startswith(f"{path}:2: ")
    users.close()


async def test_stat_at_most_once_a_second(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("u:{PLAIN}x\n")
    users, _ = opened(path)
    assert await users.find("u")
    path.unlink()
    assert await users.find("u")
    users.close()
