"""LDAP under TLS, with a private slapd."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from resel_mta.config import Settings
from resel_mta.mail import TempFail
from resel_mta.users import open_users

SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile DIR/chain.pem
TLSCertificateKeyFile DIR/key.pem
security simple_bind=128
database mdb
suffix "dc=resel,dc=fr"
directory DIR/db
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""
LDIF = """\
dn: dc=resel,dc=fr
objectClass: dcObject
objectClass: organization
o: ResEl
dc: resel

dn: uid=ann,dc=resel,dc=fr
objectClass: account
objectClass: posixAccount
uid: ann
cn: ann
uidNumber: 2000
gidNumber: 100
homeDirectory: /home/ann
userPassword: annsecret
"""
CONFIG = """\
auth_bind = yes
base = dc=resel,dc=fr
user_filter = (uid=%n)
pass_filter = (uid=%n)
"""


class Server:
    def __init__(self, path: Path, plain: int, secure: int) -> None:
        self.path = path
        self.plain = f"ldap://127.0.0.1:{plain}"
        self.secure = f"ldaps://127.0.0.1:{secure}"

    def users(self, *lines: str):  # type: ignore[no-untyped-def]
        file = self.path / "ldap.conf"
        file.write_text(CONFIG + "\n".join(lines) + "\n")
        return open_users(Settings.build(passdb=f"ldap:{file}"))


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], str]
) -> Iterator[Server]:
    slapd, slapadd = need("slapd"), need("slapadd")
    path = tmp_path_factory.mktemp("slapd")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(path / "other-ca.pem"))
    certificate.private_key_pem.write_to_path(str(path / "key.pem"))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(path / "chain.pem"), append=number > 0)
    (path / "db").mkdir()
    (path / "slapd.conf").write_text(SLAPD.replace("DIR", str(path)))
    (path / "ldif").write_text(LDIF)
    words = [slapadd, "-f", path / "slapd.conf", "-l", path / "ldif"]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    ports = []
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for probe in probes:
        ports.append(probe.getsockname()[1])
        probe.close()
    running = Server(path, *ports)
    process = subprocess.Popen(
        [slapd, "-f", path / "slapd.conf", "-d", "0", "-h", f"{running.plain} {running.secure}"],
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    for port in ports:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until, "slapd does not listen"
            time.sleep(0.02)
    yield running
    process.terminate()
    process.wait(20)


async def test_starttls_and_ldaps(server: Server) -> None:
    ca = f"tls_ca_cert_file = {server.path}/ca.pem"
    for lines in ((f"uris = {server.plain}", "tls = yes", ca), (f"uris = {server.secure}", ca)):
        users = server.users(*lines)
        assert await users.authenticate("ann", b"annsecret")
        assert await users.authenticate("ann", b"no") is None
        assert await users.names() == ["ann"]
        users.close()


async def test_a_certificate_of_a_stranger_is_a_temporary_failure(server: Server) -> None:
    ca = f"tls_ca_cert_file = {server.path}/other-ca.pem"
    for lines in ((f"uris = {server.plain}", "tls = yes", ca), (f"uris = {server.secure}", ca)):
        users = server.users(*lines)
        with pytest.raises(TempFail):
            await users.find("ann")
        with pytest.raises(TempFail):
            await users.authenticate("ann", b"annsecret")
        users.close()
    users = server.users(f"uris = {server.secure}", ca, "tls_require_cert = never")
    assert await users.authenticate("ann", b"annsecret")
    users.close()


async def test_no_password_in_the_clear_where_the_directory_forbids_it(server: Server) -> None:
    users = server.users(f"uris = {server.plain}")
    assert await users.find("ann")
    with pytest.raises(TempFail):
        await users.authenticate("ann", b"annsecret")
    users.close()
