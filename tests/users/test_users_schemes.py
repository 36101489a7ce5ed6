"""Password schemes, against Dovecot's own hashes."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.users.libcrypt import crypt
from resel_mta.users.making import SCHEMES as MAKERS
from resel_mta.users.making import make_password
from resel_mta.users.md5_state import compress, cram_md5
from resel_mta.users.schemes import SCHEMES, SchemeError, parse, verify

DOVECOT = [
    "PLAIN", "CLEARTEXT", "CRYPT", "DES-CRYPT", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT",
    "BLF-CRYPT", "SHA", "SHA1", "SHA256", "SHA512", "SSHA", "SSHA256", "SSHA512", "PBKDF2",
    "MD5", "PLAIN-MD5", "LDAP-MD5", "SMD5", "CRAM-MD5", "HMAC-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256",
    "ARGON2I", "ARGON2ID", "PLAIN-MD5.B64", "LDAP-MD5.HEX", "SHA.HEX", "SSHA.HEX", "SSHA512.B64", "PLAIN.B64",
]  # fmt: skip


@pytest.mark.parametrize("scheme", DOVECOT)
def test_dovecots_hash(scheme: str, need: Callable[[str], str]) -> None:
    password = "pâss word" if scheme != "DES-CRYPT" else "pass"
    made = subprocess.run(
        [need("doveadm"), "-O", "pw", "-s", scheme, "-p", password],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"this doveadm does not make {scheme}: {made.stderr.strip()}")
    stored = made.stdout.strip()
    assert verify(stored, password.encode())
    assert not verify(stored, b"no" + password.encode())
    assert not verify(stored, b"")


def test_every_scheme_is_compared_with_dovecot() -> None:
    assert SCHEMES - {name.partition(".")[0] for name in DOVECOT} == {"CLEAR"}


@pytest.mark.parametrize("scheme", MAKERS)
def test_dovecot_takes_ours(scheme: str, need: Callable[[str], str]) -> None:
    password = "pâss word" if scheme != "DES-CRYPT" else "pass"
    try:
        stored = make_password(scheme, password.encode())
    except SchemeError as error:
        pytest.skip(f"{scheme}: {error}")
    assert verify(stored, password.encode())
    assert not verify(stored, b"no")
    for tried, right in ((password, True), ("no", False)):
        checked = subprocess.run(
            [need("doveadm"), "-O", "pw", "-t", stored, "-p", tried],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        assert ("(verified)" in checked.stdout) is right, checked.stderr


@given(st.binary(max_size=80))
def test_cram_md5_is_the_state_of_hmac_md5(password: bytes) -> None:
    # Continued by hand to the end of a text, with hashlib as the judge.
    outer, inner = cram_md5(password)[:16], cram_md5(password)[16:]
    padded = hashlib.md5(password).digest() if len(password) > 64 else password
    padded = padded.ljust(64, b"\0")
    for state, pad in ((outer, 0x5C), (inner, 0x36)):
        block = bytes(x ^ pad for x in padded)
        final = (64 * 8).to_bytes(8, "little")
        assert compress(state, b"\x80" + bytes(55) + final) == hashlib.md5(block).digest()


def test_password_of_any_form_against_scram() -> None:
    # A no-break space and a ligature: SASLprep makes them "a fi".
    stored = make_password("SCRAM-SHA-256", "a\u00a0ﬁ".encode())
    assert verify(stored, b"a fi")
    assert verify(stored, "a\u00a0ﬁ".encode())
    assert not verify(stored, b"a f")


def test_without_scheme_it_is_crypt() -> None:
    stored = crypt(b"pw", b"$6$abcdefgh")
    assert stored is not None
    assert verify(stored.decode(), b"pw")
    assert not verify(stored.decode(), b"pw2")


def test_yescrypt() -> None:
    stored = crypt(b"pw", b"$y$j9T$F5Jx5fExrKuPp53xLKQ..1")
    if stored is None:
        pytest.skip("this libcrypt has no yescrypt")
    assert verify(stored.decode(), b"pw")
    assert not verify(stored.decode(), b"pw\0")


def test_hexadecimal_digest_without_suffix() -> None:
    assert verify("{SHA}b5688dd3ea591885147de8a26205d463b6a9f22f", b"pw123")


@pytest.mark.parametrize(
    "stored",
    [
        "{NOPE}x", "{SHA}***", "{SSHA}tWiN0+pZGIUUfeiiYgXUY7ap8i8=", "{PBKDF2}$1$a$0$00",
        "{PBKDF2}$2$a$1$00", "{ARGON2ID}junk", "{CRAM-MD5}00", "{SCRAM-SHA-256}4096,YQ==,YQ==,YQ==",
        "{SCRAM-SHA-1}0,YQ==,x4jHMQMYzZ0Y3N58VODXMALZPlc=,BOhksZjaRl0DjuKIsgeuQimQNO0=",
        "{SCRAM-SHA-1}4096,*,x,y", "{SMD5}7rAYUylzMQzBy5PZdRSmhw==", "{SHA.rot13}x", "{SHA.hex}zz",
    ],
)  # fmt: skip
def test_what_cannot_be_checked_says_so_without_the_hash(stored: str) -> None:
    with pytest.raises(SchemeError) as caught:
        verify(stored, b"pw")
    assert stored.partition("}")[2] not in str(caught.value)


def test_crypt_of_junk_is_a_wrong_password() -> None:
    assert not verify("{CRYPT}*0", b"pw")
    assert not verify("{CRYPT}$99$x", b"pw")
    assert not verify("", b"")


@given(st.text(max_size=60))
def test_parse_raises_nothing_else(text: str) -> None:
    try:
        scheme, _ = parse(text)
    except SchemeError:
        return
    assert scheme in SCHEMES
