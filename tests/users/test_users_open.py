"""`passdb` and `userdb`: which back ends they name."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from resel_mta.config import ConfigError, Settings
from resel_mta.users import open_users


async def test_the_machines_users_where_nothing_is_said() -> None:
    users = open_users(Settings.build())
    me = pwd.getpwuid(os.getuid())
    found = await users.find(me.pw_name)
    assert found is not None
    assert (found.uid, found.home) == (me.pw_uid, me.pw_dir)
    assert await users.find("no such user") is None
    assert await users.find(f"{me.pw_name}@example.org") is None
    assert me.pw_name in await users.names()
    assert await users.authenticate(me.pw_name, b"x") is None
    users.close()


async def test_userdb_defaults_to_passdb_and_reload(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("ann:{PLAIN}x\n")
    two.write_text("bob:{PLAIN}x\n")
    users = open_users(Settings.build(passdb=f"passwd-file:{one}"))
    assert await users.find("ann")
    with pytest.raises(ConfigError):
        users.reconfigure(Settings.build(passdb="shadow:imap"))
    assert await users.authenticate("ann", b"x")
    users.reconfigure(Settings.build(passdb=f"passwd-file:{one}", userdb=f"passwd-file:{two}"))
    assert await users.names() == ["bob"]
    assert await users.authenticate("ann", b"x") is None
    users.close()
