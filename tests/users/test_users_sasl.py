"""PLAIN and LOGIN exchanges."""

from __future__ import annotations

from pathlib import Path

import pytest

from resel_mta.users import Users
from resel_mta.users.passwd_file import PasswdFile
from resel_mta.users.sasl import (
    Aborted,
    Challenge,
    DecodeError,
    Failure,
    FailureKind,
    SaslServer,
    Success,
    decode_response,
)


@pytest.fixture
def server(tmp_path: Path) -> SaslServer:
    path = tmp_path / "users"
    path.write_text("tim:{PLAIN}tanstaaf\nzoé:{PLAIN}clé\n")
    file = PasswdFile(str(path), lambda text: None)
    return SaslServer(Users([file], [file], lambda text: None))


async def test_plain_with_initial_response(server: SaslServer) -> None:
    step = await server.exchange().start("plain", b"\0tim\0tanstaaf")
    assert isinstance(step, Success)
    assert (step.user.name, step.mechanism) == ("tim", "PLAIN")


async def test_plain_without(server: SaslServer) -> None:
    exchange = server.exchange()
    assert await exchange.start("PLAIN") == Challenge(b"")
    assert isinstance(await exchange.respond("\0zoé\0clé".encode()), Success)


async def test_login(server: SaslServer) -> None:
    exchange = server.exchange()
    assert await exchange.start("LOGIN") == Challenge(b"Username:")
    assert await exchange.respond(b"tim") == Challenge(b"Password:")
    assert isinstance(await exchange.respond(b"tanstaaf"), Success)
    exchange = server.exchange()
    assert await exchange.start("LOGIN", b"tim") == Challenge(b"Password:")
    step = await exchange.respond(b"wrong")
    assert isinstance(step, Failure)
    assert (step.kind, step.username) == (FailureKind.CREDENTIALS, "tim")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"tim\0tim\0tanstaaf", None),
        (b"root\0tim\0tanstaaf", FailureKind.CREDENTIALS),
        (b"tim\0tanstaaf", FailureKind.MALFORMED),
        (b"\0tim\0tan\0staaf", FailureKind.MALFORMED),
        (b"\0\xff\0x", FailureKind.MALFORMED),
        (b"\0\0x", FailureKind.CREDENTIALS),
        (b"\0tim\0", FailureKind.CREDENTIALS),
        (b"\0tim\0" + b"x" * 5000, FailureKind.MALFORMED),
        (b"", FailureKind.MALFORMED),
    ],
)
async def test_plain_rules(server: SaslServer, message: bytes, kind: FailureKind | None) -> None:
    step = await server.exchange().start("PLAIN", message)
    if kind is None:
        assert isinstance(step, Success)
    else:
        assert isinstance(step, Failure)
        assert step.kind is kind


async def test_login_with_nul(server: SaslServer) -> None:
    exchange = server.exchange()
    await exchange.start("LOGIN", b"tim")
    assert isinstance(await exchange.respond(b"tanstaaf\0"), Failure)


async def test_abort_and_unknown(server: SaslServer) -> None:
    exchange = server.exchange()
    await exchange.start("PLAIN")
    step = await exchange.respond(None)
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.ABORTED
    step = await server.exchange().start("GSSAPI")
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.MECHANISM


async def test_back_end_down(tmp_path: Path) -> None:
    file = PasswdFile(str(tmp_path / "missing"), lambda text: None)
    server = SaslServer(Users([file], [file], lambda text: None))
    step = await server.exchange().start("PLAIN", b"\0tim\0x")
    assert isinstance(step, Failure)
    assert step.kind is FailureKind.TEMPORARY


def test_decode() -> None:
    assert decode_response(b"dGlt\r\n") == b"tim"
    assert decode_response(b"=", initial=True) == b""
    assert decode_response(b"") == b""
    for junk in (b"=", b"a", b"dG lt", b"\xff"):
        with pytest.raises(DecodeError):
            decode_response(junk)
    with pytest.raises(Aborted):
        decode_response(b"*\r\n")
