"""SCRAM: the RFCs' own exchanges, hostile messages, and what a stranger can find out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.config import Settings
from resel_mta.users import open_users, scram
from resel_mta.users.making import make_password
from resel_mta.users.sasl import Challenge, Failure, FailureKind, SaslServer, Step, Success
from resel_mta.users.scram_secrets import ScramSecrets

RFC_7677 = {
    "digest": "sha256",
    "salt": "W22ZaJ0SNY7soEsUEjb6gQ==",
    "first": b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    "nonce": b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    "final": b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    "signature": b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
}
RFC_5802 = {
    "digest": "sha1",
    "salt": "QSXCR+Q6sek8bf92",
    "first": b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    "nonce": b"3rfcNHYJY1ZVvWVs7j",
    "final": b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    "signature": b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
}


@pytest.mark.parametrize("vector", [RFC_7677, RFC_5802], ids=["RFC 7677", "RFC 5802"])
def test_the_exchange_of_the_rfc(vector: dict[str, bytes]) -> None:
    digest = str(vector["digest"])
    secret = scram.derive(b"pencil", base64.b64decode(vector["salt"]), 4096, digest)
    first = scram.parse_client_first(vector["first"])
    assert first.name == "user"
    exchange = scram.ScramExchange(first, secret, digest, vector["nonce"])
    whole = first.nonce + vector["nonce"]
    assert exchange.challenge == b"r=%b,s=%b,i=4096" % (whole, str(vector["salt"]).encode())
    assert exchange.finish(vector["final"]) == vector["signature"]
    assert scram.parse_secret(secret.format().encode(), digest) == secret


class Client:
    """RFC 5802's other side, written for the test."""

    def __init__(self, name: str, password: str, digest: str = "sha256", gs2: bytes = b"n,,"):
        escaped = name.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={escaped},r=abcdefgh".encode()
        self._gs2 = gs2
        self._password = password.encode()
        self._digest = digest
        self.first = gs2 + self._bare
        self.signature = b""

    def answer(self, challenge: bytes) -> bytes:
        nonce, salt, iterations = (field[2:] for field in challenge.split(b","))
        assert nonce.startswith(b"abcdefgh")
        assert len(nonce) >= 8 + 16
        salted = hashlib.pbkdf2_hmac(
            self._digest, self._password, base64.b64decode(salt), int(iterations)
        )
        client_key = hmac.digest(salted, b"Client Key", self._digest)
        stored = hashlib.new(self._digest, client_key).digest()
        unsigned = b"c=" + base64.b64encode(self._gs2) + b",r=" + nonce
        text = b",".join((self._bare, challenge, unsigned))
        signature = hmac.digest(stored, text, self._digest)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        server_key = hmac.digest(salted, b"Server Key", self._digest)
        self.signature = b"v=" + base64.b64encode(hmac.digest(server_key, text, self._digest))
        return unsigned + b",p=" + base64.b64encode(proof)


MADE = make_password("SCRAM-SHA-256", "clé, =".encode(), 5000)


def server(tmp_path: Path, text: str, **values: str) -> SaslServer:
    path = tmp_path / "users"
    path.write_text(text)
    values = {"auth_failure_delay": "0", **values}
    return SaslServer(open_users(Settings.build(passdb=f"passwd-file:{path}", **values)))


async def ready(tmp_path: Path, text: str, **values: str) -> SaslServer:
    sasl = server(tmp_path, text, **values)
    await sasl._users.prepare()
    return sasl


async def run(sasl: SaslServer, client: Client, mechanism: str = "SCRAM-SHA-256") -> Step:
    exchange = sasl.exchange()
    assert await exchange.start(mechanism) == Challenge(b"")
    step = await exchange.respond(client.first)
    if not isinstance(step, Challenge):
        return step
    step = await exchange.respond(client.answer(step.data))
    if not isinstance(step, Challenge):
        return step
    assert step.data == client.signature
    return await exchange.respond(b"")


async def test_log_in(tmp_path: Path) -> None:
    sasl = await ready(tmp_path, f"a=b,c@x:{MADE}\n")
    step = await run(sasl, Client("A=b,c@x", "clé, ="))
    assert isinstance(step, Success)
    assert (step.user.name, step.mechanism) == ("a=b,c@x", "SCRAM-SHA-256")
    for client in (Client("a=b,c@x", "wrong"), Client("nobody", "clé, =")):
        step = await run(sasl, client)
        assert isinstance(step, Failure)
        assert (step.kind, step.reason) == (FailureKind.CREDENTIALS, "authentication failed")


async def test_plain_passwords_serve_both(tmp_path: Path) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n")
    assert sasl.mechanisms == ("PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1")
    for mechanism, digest in scram.HASHES.items():
        assert isinstance(await run(sasl, Client("u", "pw", digest), mechanism), Success)
        assert isinstance(await run(sasl, Client("u", "no", digest), mechanism), Failure)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        (f"a:{MADE}\nb:{{PLAIN}}x\n", ["SCRAM-SHA-256"]),
        (f"a:{MADE}\nb:{{SHA}}2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n", []),
        (f"a:{MADE}\nb:\nc:*\nd:{{PLAIN}}x::::::nologin\n", ["SCRAM-SHA-256"]),
        (f"a:{MADE}\nguest:::::::nopassword\n", []),
        ("a:{SCRAM-SHA-256}4096,YQ==\n", []),
        ("", []),
    ],
)
async def test_offered_only_where_everybody_can_use_it(
    tmp_path: Path, text: str, offered: list[str]
) -> None:
    sasl = await ready(tmp_path, text)
    assert list(sasl.mechanisms) == ["PLAIN", "LOGIN", *offered]
    step = await sasl.exchange().start("SCRAM-SHA-1")
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.MECHANISM


async def test_not_offered_beside_pam_nor_where_it_is_off(tmp_path: Path) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n", auth_mechanisms="plain scram-sha-256")
    assert sasl.mechanisms == ("PLAIN", "SCRAM-SHA-256")
    path = tmp_path / "users"
    users = open_users(Settings.build(passdb=f"passwd-file:{path}, pam:imap", userdb="system"))
    await users.prepare()
    assert users.mechanisms() == ("PLAIN", "LOGIN")
    users.close()


async def test_a_changed_file_counts_for_the_next_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n")
    monkeypatch.setattr("resel_mta.users.passwd_file._STAT_INTERVAL", 0.0)
    (tmp_path / "users").write_text(f"u:{MADE}\nv:{{SHA}}2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n")
    await sasl._users.prepare()
    assert sasl.mechanisms == ("PLAIN", "LOGIN")


async def salt_of(sasl: SaslServer, name: str) -> tuple[bytes, bytes]:
    exchange = sasl.exchange()
    await exchange.start("SCRAM-SHA-256")
    step = await exchange.respond(b"n,,n=%b,r=abcdefgh" % name.encode())
    assert isinstance(step, Challenge)
    _, salt, iterations = step.data.split(b",")
    return salt, iterations


@pytest.mark.parametrize("stored", [MADE, "{PLAIN}pw"])
async def test_a_stranger_sees_no_difference_between_names(tmp_path: Path, stored: str) -> None:
    sasl = await ready(tmp_path, f"u:{stored}\ngone:{stored}::::::nologin\n")
    real = await salt_of(sasl, "u")
    for name in ("nobody", "gone", "other"):
        salt, iterations = await salt_of(sasl, name)
        assert (len(salt), iterations) == (len(real[0]), real[1])
        assert (salt, iterations) == await salt_of(sasl, name.upper())
        # Also after a restart.
        again = await ready(tmp_path, f"u:{stored}\n")
        assert (salt, iterations) == await salt_of(again, name)
    assert len({(await salt_of(sasl, name))[0] for name in ("u", "nobody", "other")}) == 3


async def test_unknown_users_take_as_long(tmp_path: Path) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n")
    monitored: dict[str, float] = {}
    for name in ("u", "nobody"):
        times = []
        for _ in range(9):
            began = time.perf_counter()
            await salt_of(sasl, name)
            times.append(time.perf_counter() - began)
        monitored[name] = sorted(times)[4]
    assert 0.5 < monitored["nobody"] / monitored["u"] < 2


def test_salts_are_of_the_machine() -> None:
    one, two = ScramSecrets(b"one"), ScramSecrets(b"two")
    assert one.decoy("u", MADE, "SCRAM-SHA-256").salt != two.decoy("u", MADE, "SCRAM-SHA-256").salt


@pytest.mark.parametrize(
    "message",
    [
        b"", b"n", b"n,,", b"n,,n=u", b"n,,r=x,n=u", b"n,,n=u,r=", b"p=tls-unique,,n=u,r=abc",
        b"n,,m=x,n=u,r=abc", b"n,,n=u=20,r=abc", b"n,,n=u=2,r=abc", b"n,b=x,n=u,r=abc",
        b"n,,n=\xff,r=abc", b"n,,n=u,r=a\x00c", b"x,,n=u,r=abc",
    ],
)  # fmt: skip
async def test_malformed_first_message(tmp_path: Path, message: bytes) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n")
    step = await sasl.exchange().start("SCRAM-SHA-256", message)
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.MALFORMED


async def test_the_second_message_belongs_to_the_first(tmp_path: Path) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n")
    for spoil in (
        lambda text: b"",
        lambda text: text.replace(b"c=biws", b"c=eSws"),
        lambda text: text.replace(b"r=abc", b"r=xbc"),
        lambda text: text.rpartition(b",p=")[0],
        lambda text: text + b"!",
    ):
        exchange, client = sasl.exchange(), Client("u", "pw")
        step = await exchange.start("SCRAM-SHA-256", client.first)
        assert isinstance(step, Challenge)
        step = await exchange.respond(spoil(client.answer(step.data)))
        assert isinstance(step, Failure)
        assert step.kind is FailureKind.MALFORMED


async def test_a_proof_of_another_length_is_wrong(tmp_path: Path) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n")
    exchange, client = sasl.exchange(), Client("u", "pw")
    step = await exchange.start("SCRAM-SHA-256", client.first)
    assert isinstance(step, Challenge)
    step = await exchange.respond(client.answer(step.data).rpartition(b",p=")[0] + b",p=YQ==")
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.CREDENTIALS


async def test_for_whom_and_what_follows(tmp_path: Path) -> None:
    sasl = await ready(tmp_path, "u:{PLAIN}pw\n")
    assert isinstance(await run(sasl, Client("u", "pw", gs2=b"y,a=u,")), Success)
    step = await run(sasl, Client("u", "pw", gs2=b"n,a=root,"))
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.CREDENTIALS
    exchange, client = sasl.exchange(), Client("u", "pw")
    step = await exchange.start("SCRAM-SHA-256", client.first)
    assert isinstance(step, Challenge)
    await exchange.respond(client.answer(step.data))
    step = await exchange.respond(b"more")
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.MALFORMED


@given(st.binary(max_size=80))
def test_any_message_is_parsed_or_refused(message: bytes) -> None:
    for text in (message, b"n,," + message, b"n,,n=u,r=" + message):
        try:
            first = scram.parse_client_first(text)
        except scram.ScramError:
            continue
        assert b"," not in first.nonce
        exchange = scram.ScramExchange(first, scram.derive(b"x", b"s", 1, "sha1"), "sha1")
        try:
            assert exchange.finish(message) is None
        except scram.ScramError:
            continue
