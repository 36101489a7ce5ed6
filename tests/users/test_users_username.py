"""`auth_username_format`."""

from __future__ import annotations

from pathlib import Path

import pytest

from resel_mta.config import ConfigError, Settings
from resel_mta.users import open_users
from resel_mta.users.sasl import Challenge, Failure, SaslServer, Success
from resel_mta.users.username import UsernameFormat


@pytest.mark.parametrize(
    ("format", "name", "user"),
    [
        ("", "Zoe@Resel.fr", "Zoe@Resel.fr"),
        ("%u", "Zoe@Resel.fr", "Zoe@Resel.fr"),
        ("%Lu", "Zoe@Resel.fr", "zoe@resel.fr"),
        ("%n", "Zoe@Resel.fr", "Zoe"),
        ("%Ln", "Zoe", "zoe"),
        ("%Ln@%Ld", "Zoe@Resel.FR", "zoe@resel.fr"),
        ("%Un", "Zoe@resel.fr", "ZOE"),
        ("%n@example.org", "zoe", "zoe@example.org"),
        ("%d%%%n", "zoe@resel.fr", "resel.fr%zoe"),
        ("%{user}", "Zoe@resel.fr", "Zoe@resel.fr"),
        ("%{username | lower}", "Zoe@resel.fr", "zoe"),
        ("%{domain|upper|lower}", "zoe@Resel.fr", "resel.fr"),
        ("%n", "a@b@c", "a"),
        ("%n", "@resel.fr", ""),
        ("%n", "%u@resel.fr", "%u"),
    ],
)
def test_username_format(format: str, name: str, user: str) -> None:
    assert UsernameFormat(format)(name) == user


@pytest.mark.parametrize("format", ["zoe", "%%", "%x", "%n%", "100%n%l", "%{nothing}", "%{user"])
def test_username_format_that_is_none(format: str) -> None:
    with pytest.raises(ValueError, match="%n"):
        UsernameFormat(format)


def settings(tmp_path: Path, format: str, secret: str = "{PLAIN}x") -> Settings:
    path = tmp_path / "users"
    path.write_text(f"zoe:{secret}\n")
    return Settings.build(
        passdb=f"passwd-file:{path}", auth_username_format=format, auth_failure_delay="0"
    )


async def test_log_in_with_the_address(tmp_path: Path) -> None:
    users = open_users(settings(tmp_path, "%Ln"))
    for name in ("zoe", "Zoe@resel.fr"):
        step = await SaslServer(users).exchange().start("PLAIN", f"\0{name}\0x".encode())
        assert isinstance(step, Success), name
        assert step.user.name == "zoe"
    step = await SaslServer(users).exchange().start("PLAIN", b"\0zoe@resel.fr\0y")
    assert isinstance(step, Failure)
    # What was typed is what the log shows.
    assert step.username == "zoe@resel.fr"
    # Mail is for those that the routing names, whatever is typed at a log-in.
    assert await users.find("zoe@resel.fr") is None
    users.close()


async def test_log_in_with_the_address_by_scram(tmp_path: Path) -> None:
    users = open_users(settings(tmp_path, "%Ln"))
    for name in ("zoe", "zoe@resel.fr"):
        _, entry = await users.scram_secret(name, "SCRAM-SHA-256")
        assert entry is not None
        assert entry.user.name == "zoe"
    step = await SaslServer(users).exchange().start("SCRAM-SHA-256", b"n,,n=zoe@resel.fr,r=abc")
    assert isinstance(step, Challenge)
    users.close()


async def test_by_default_a_domain_belongs_to_the_name(tmp_path: Path) -> None:
    users = open_users(settings(tmp_path, "%Lu"))
    assert await users.authenticate("ZOE", b"x")
    assert await users.authenticate("zoe@resel.fr", b"x") is None
    users.close()


async def test_reload_takes_the_format_or_refuses_it(tmp_path: Path) -> None:
    users = open_users(settings(tmp_path, "%Lu"))
    with pytest.raises(ConfigError, match="auth_username_format"):
        users.reconfigure(settings(tmp_path, "%q"))
    assert await users.authenticate("zoe", b"x")
    users.reconfigure(settings(tmp_path, "%n"))
    assert await users.authenticate("zoe@resel.fr", b"x")
    users.close()
    with pytest.raises(ConfigError, match="auth_username_format"):
        open_users(settings(tmp_path, "zoe"))
