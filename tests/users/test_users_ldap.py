"""Users from an LDAP directory, with a private slapd."""

from __future__ import annotations

import asyncio
import imaplib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.network import TOAD, Network
from resel_mta.config import ConfigError, Settings
from resel_mta.mail import TempFail
from resel_mta.users import User, open_users
from resel_mta.users.accounts import Accounts
from resel_mta.users.ldap_config import filter_for, parse_ldap_config
from resel_mta.users.making import make_password

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
access to attrs=userPassword by anonymous auth by dn="uid=reader,dc=resel,dc=fr" read by * none
access to * by dn="uid=reader,dc=resel,dc=fr" read by * none
limits dn="uid=reader,dc=resel,dc=fr" size.soft=500 size.hard=500 size.prtotal=unlimited
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

dn: uid=reader,dc=resel,dc=fr
objectClass: account
objectClass: simpleSecurityObject
uid: reader
userPassword: adminsecret
"""
CONFIG = """\
# As Dovecot has it.
uris = ldap://127.0.0.1:{port}
dn = uid=reader,dc=resel,dc=fr
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
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("slapd does not listen")

    def pause(self) -> None:
        """No thread of it runs any more when this returns; SIGCONT ends it."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def directory(tmp_path: Path, need: Callable[[str], str]) -> Iterator[Directory]:
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


def change(directory: Directory, ldif: str) -> None:
    admin = ["-D", "cn=admin,dc=resel,dc=fr", "-w", "adminsecret", "-x"]
    subprocess.run(
        ["ldapmodify", "-H", f"ldap://127.0.0.1:{directory.port}", *admin],
        input=ldif, text=True, check=True, capture_output=True, timeout=60,
    )  # fmt: skip


async def test_more_users_than_one_answer_holds(
    directory: Directory, need: Callable[[str], str]
) -> None:
    need("ldapmodify")
    people = (PERSON.format(f"u{n}", 3000 + n) for n in range(1200))
    add = "".join(
        p.replace("objectClass: account", "changetype: add\nobjectClass: account", 1)
        for p in people
    )
    change(directory, add.lstrip())
    users = open_users(Settings.build(passdb=f"ldap:{directory.file}"))
    assert len(await users.names()) == 1202
    users.close()


async def test_the_second_server_when_the_first_is_down(directory: Directory) -> None:
    with socket.socket() as taken:
        # Bound and not listening: refused at once.
        taken.bind(("127.0.0.1", 0))
        text = directory.file.read_text()
        first = f"uris = ldap://127.0.0.1:{taken.getsockname()[1]}"
        directory.file.write_text(text.replace("uris =", first))
        users = open_users(Settings.build(passdb=f"ldap:{directory.file}"))
        assert await users.authenticate("ann", b"annsecret")
        assert await users.authenticate("ann", b"no") is None
        users.close()


async def test_passwords_read_from_the_directory(
    directory: Directory, need: Callable[[str], str]
) -> None:
    need("ldapmodify")
    text = directory.file.read_text().replace("auth_bind = yes", "auth_bind = no")
    directory.file.write_text(f"{text}default_pass_scheme = PLAIN\n")
    sha512 = make_password("SHA512-CRYPT", b"second")
    change(
        directory,
        "dn: uid=bob,ou=people,dc=resel,dc=fr\nchangetype: modify\nreplace: userPassword\n"
        f"userPassword: {make_password('SSHA', b'first')}\n"
        f"userPassword: {sha512.replace('SHA512-CRYPT', 'CRYPT')}\n",
    )
    users = open_users(Settings.build(passdb=f"ldap:{directory.file}", auth_cache_ttl="0"))
    for name, password, right in (
        ("ann", b"annsecret", True), ("ann", b"bobsecret", False), ("bob", b"first", True),
        ("bob", b"second", True), ("bob", b"third", False), ("carl", b"x", False), ("ann", b"", False),
    ):  # fmt: skip
        assert (await users.authenticate(name, password) is not None) is right
    change(
        directory,
        "dn: uid=bob,ou=people,dc=resel,dc=fr\nchangetype: modify\nreplace: userPassword\n"
        "userPassword: {NOPE}x\n",
    )
    with pytest.raises(TempFail, match="Temporary authentication failure"):
        await users.authenticate("bob", b"x")
    users.close()


async def test_what_is_remembered_of_a_directory(
    directory: Directory, need: Callable[[str], str]
) -> None:
    need("ldapmodify")
    new = (
        "dn: uid=ann,ou=people,dc=resel,dc=fr\nchangetype: modify\nreplace: userPassword\n"
        "userPassword: changed\n"
    )
    settings = Settings.build(passdb=f"ldap:{directory.file}", auth_cache_ttl="1s")
    users = open_users(settings)
    assert await users.authenticate("ann", b"annsecret")
    change(directory, new)
    # The new one counts at once, the old one no longer than auth_cache_ttl.
    assert await users.authenticate("ann", b"changed")
    await asyncio.sleep(1.1)
    assert await users.authenticate("ann", b"annsecret") is None
    users.close()


async def test_a_hanging_directory_is_a_temporary_failure(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resel_mta.users.ldap.PATIENCE", 0.5)
    monkeypatch.setattr("resel_mta.users.ldap._AVOIDED", 1.0)
    users = open_users(Settings.build(passdb=f"ldap:{directory.file}"))
    assert await users.find("ann")
    directory.pause()
    try:
        with pytest.raises(TempFail):
            await users.find("ann")
        with pytest.raises(TempFail):
            await users.authenticate("ann", b"annsecret")
        began = time.monotonic()
        with pytest.raises(TempFail):
            await users.find("ann")
        assert time.monotonic() - began < 0.3, "it waited again"
    finally:
        directory.process.send_signal(signal.SIGCONT)
    await asyncio.sleep(1.1)
    assert await users.find("ann")
    users.close()


@pytest.mark.parametrize("uri", ["ldap://127.0.0.1", "ldaps://127.0.0.1"])
async def test_a_server_that_says_nothing_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    """Not in a TLS handshake either, where libldap keeps no timeout."""
    monkeypatch.setattr("resel_mta.users.ldap.PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = tmp_path / "ldap.conf"
        file.write_text(f"uris = {uri}:{silent.getsockname()[1]}\nbase = dc=x\nauth_bind = yes\n")
        users = open_users(Settings.build(passdb=f"ldap:{file}"))
        asked = [asyncio.create_task(users.find("ann")) for _ in range(3)]
        began = time.monotonic()
        ticks = 0
        while not all(task.done() for task in asked):
            await asyncio.sleep(0.01)
            ticks += 1
        assert all(isinstance(task.exception(), TempFail) for task in asked)
        assert 0.4 < time.monotonic() - began < 3
        assert ticks > 20
        users.close()


async def test_waiting_for_a_slow_directory_is_no_work(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resel_mta.users.ldap.PATIENCE", 1.0)
    users = open_users(Settings.build(passdb=f"ldap:{directory.file}"))
    assert await users.find("ann")
    directory.pause()
    used = time.process_time()
    try:
        with pytest.raises(TempFail):
            await users.find("ann")
        assert time.process_time() - used < 0.5
    finally:
        directory.process.send_signal(signal.SIGCONT)
    users.close()


def test_a_whole_daemon_with_a_directory(directory: Directory) -> None:
    with Network({"toad": {"mydestination": "resel.fr", "alias_maps": ""}}) as network:
        toad = network.toad
        file = toad.directory / "ldap.conf"
        file.write_text(
            CONFIG.format(port=directory.port).replace("/var/vmail", str(toad.directory / "mail"))
        )
        network.launcher.give(file)
        source = f"ldap:{file}"
        toad.configure({"passdb": source, "userdb": source, "auth_failure_delay": "0"})
        toad.start()
        with network.smtp(toad) as client:
            client.sendmail("ann@resel.fr", ["bob@resel.fr"], b"Subject: hello\r\n\r\ntext\r\n")
            client.mail("ann@resel.fr")
            assert client.rcpt("carl@resel.fr")[0] == 550
        until = time.monotonic() + 10
        while not list(toad.directory.glob("mail/bob/new/*")):
            assert time.monotonic() < until, toad.log()
            time.sleep(0.05)
        with imaplib.IMAP4(TOAD, network.imap_port, timeout=20) as imap:
            assert "SCRAM" not in str(imap.capabilities)
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                imap.login("bob", "annsecret")
            imap.login("bob", "bobsecret")
            assert imap.select()[1] == [b"1"]
        directory.stop()
        with network.smtp(toad) as client:
            client.ehlo()
            client.mail("ann@resel.fr")
            assert client.rcpt("ann@resel.fr")[0] == 451
        with imaplib.IMAP4(TOAD, network.imap_port, timeout=20) as imap:
            with pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"):
                imap.login("bob", "other")
        directory.start()
        with network.smtp(toad) as client:
            client.ehlo()
            client.mail("ann@resel.fr")
            assert client.rcpt("bob@resel.fr")[0] == 250
        toad.stop()


def test_the_supervisor_asks_for_itself(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resel_mta.users.accounts._PATIENCE", 0.5)
    with directory.file.open("a") as file:
        file.write("user_attrs = homeDirectory=home,uidNumber=uid,gidNumber=gid\n")
    settings = Settings.build(userdb=f"ldap:{directory.file}")
    accounts = Accounts(settings)
    assert accounts.find("ann") == User("ann", 2000, 100, "/home/ann")
    assert accounts.find("nobody") is None
    directory.pause()
    try:
        assert accounts.find("ann") == User("ann", 2000, 100, "/home/ann")
        with pytest.raises(OSError, match="does not answer"):
            accounts.find("bob")
    finally:
        directory.process.send_signal(signal.SIGCONT)
    directory.stop()
    with pytest.raises(OSError, match="does not answer"):
        Accounts(settings).find("ann")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("auth_bind = maybe", "auth_bind = maybe: allowed are yes and no"),
        ("pass_attrs = uid=user,net=allow_nets", "pass_attrs: net=allow_nets is not supported"),
        ("default_pass_scheme = ROT13", "ROT13: there is no such scheme"),
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
