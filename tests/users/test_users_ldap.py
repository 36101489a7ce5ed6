"""Users from an LDAP directory, with a private slapd."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.config import ConfigError, Settings
from resel_mta.mail import TempFail
from resel_mta.users import User, open_users
from resel_mta.users.ldap_config import filter_for, parse_ldap_config

SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "dc=resel,dc=fr"
rootdn "cn=admin,dc=resel,dc=fr"
rootpw adminsecret
directory DIR/db
access to attrs=userPassword by anonymous auth by * none
access to * by dn="cn=admin,dc=resel,dc=fr" read by * none
"""
PERSON = """
dn: uid={0},ou=people,dc=resel,dc=fr
objectClass: account
objectClass: posixAccount
uid: {0}
cn: {0}
uidNumber: {1}
gidNumber: 100
homeDirectory: /home/{0}
userPassword: {0}secret
description: 2G
"""
LDIF = """\
dn: dc=resel,dc=fr
objectClass: dcObject
objectClass: organization
o: ResEl
dc: resel

dn: ou=people,dc=resel,dc=fr
objectClass: organizationalUnit
ou: people
"""
CONFIG = """\
# As Dovecot has it.
uris = ldap://127.0.0.1:{port}
dn = cn=admin,dc=resel,dc=fr
dnpass = adminsecret
auth_bind = yes
ldap_version = 3
base = dc=resel,dc=fr
user_filter = (&(objectClass=posixAccount)(uid=%n))
user_attrs = homeDirectory=home, =mail=maildir:/var/vmail/%{{ldap:uid}}, description=quota_storage_size
"""


class Directory:
    """A slapd, and the file that tells how to ask it."""

    def __init__(self, path: Path, slapd: str) -> None:
        self.path = path
        self.slapd = slapd
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.file = path / "ldap.conf"
        self.file.write_text(CONFIG.format(port=self.port))
        self.start()

    def start(self) -> None:
        words = [self.slapd, "-f", self.path / "slapd.conf", "-d", "0"]
        self.process = subprocess.Popen(
            [*words, "-h", f"ldap://127.0.0.1:{self.port}"], stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("slapd does not listen")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def directory(tmp_path: Path, need: Callable[[str], str]) -> Iterator[Directory]:
    pytest.importorskip("bonsai", reason='the extra "ldap" is not installed')
    slapd, slapadd = need("slapd"), need("slapadd")
    (tmp_path / "db").mkdir()
    (tmp_path / "slapd.conf").write_text(SLAPD.replace("DIR", str(tmp_path)))
    people = "".join(PERSON.format(name, 2000 + n) for n, name in enumerate(("ann", "bob")))
    (tmp_path / "ldif").write_text(LDIF + people)
    subprocess.run(
        [slapadd, "-f", tmp_path / "slapd.conf", "-l", tmp_path / "ldif"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    running = Directory(tmp_path, slapd)
    yield running
    running.stop()


async def test_users_and_logins(directory: Directory) -> None:
    users = open_users(Settings.build(passdb=f"ldap:{directory.file}"))
    ann = User("ann", None, None, "/home/ann", "maildir:/var/vmail/ann", 2 << 30)
    assert await users.find("Ann") == ann
    assert await users.names() == ["ann", "bob"]
    assert await users.find("carl") is None
    assert await users.find("*") is None
    assert await users.find("ann)(uid=bob") is None
    assert await users.authenticate("ann", b"annsecret") == ann
    # An empty password binds as nobody, which succeeds: it must not count.
    for name, password in (("ann", b"bobsecret"), ("ann", b""), ("*", b"annsecret"), ("", b"x")):
        assert await users.authenticate(name, password) is None
    found = await asyncio.gather(*(users.find("bob") for _ in range(50)))
    assert all(user is not None and user.name == "bob" for user in found)
    users.close()


async def test_a_directory_that_is_down_defers_and_comes_back(directory: Directory) -> None:
    users = open_users(Settings.build(passdb=f"ldap:{directory.file}"))
    assert await users.find("ann")
    directory.stop()
    with pytest.raises(TempFail, match=r"4\.3\.0 Temporary user lookup failure$"):
        await users.find("ann")
    with pytest.raises(TempFail):
        await users.authenticate("ann", b"annsecret")
    directory.start()
    assert await users.find("ann")
    assert await users.authenticate("ann", b"annsecret")
    users.close()


async def test_two_entries_are_none(directory: Directory) -> None:
    text = directory.file.read_text().replace("(uid=%n)", "(cn=*)")
    directory.file.write_text(text)
    users = open_users(Settings.build(userdb=f"ldap:{directory.file}"))
    with pytest.raises(TempFail):
        await users.find("ann")
    users.close()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("auth_bind = no", "auth_bind = yes is needed"),
        ("sasl_bind = yes", "ldap.conf:10: sasl_bind is not supported"),
        ("scope = all", "scope = all: allowed are"),
        ("nonsense", 'ldap.conf:10: "name = value" was expected'),
        ("user_attrs = uid=shell", "fields are uid, gid"),
        ("base =", "uris (or hosts) and base are needed"),
    ],
)
def test_what_is_not_understood_is_an_error(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "ldap.conf"
    path.write_text(CONFIG.format(port=1) + line + "\n")
    pytest.importorskip("bonsai", reason='the extra "ldap" is not installed')
    with pytest.raises(ConfigError) as error:
        open_users(Settings.build(passdb=f"ldap:{path}"))
    assert words in str(error.value)
    assert "adminsecret" not in str(error.value)


def test_the_password_is_never_shown() -> None:
    config = parse_ldap_config(CONFIG.format(port=1), "x")
    assert config.password == "adminsecret"
    assert "adminsecret" not in repr(config)


@given(st.text(min_size=1, max_size=20))
def test_names_break_no_filter(name: str) -> None:
    text = filter_for("(uid=%u)", name)
    inside = text[len("(uid=") : -1]
    assert not set(inside) & set("()*\0")
    assert inside.replace("\\", "").isprintable() or not name.isprintable()
