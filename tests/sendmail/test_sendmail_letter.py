"""The envelope on the socket: everything is checked, since anybody can connect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.pickup.letter import Answer, Letter, LetterError

TOKEN = "0123456789abcdef" * 2
CLEAN = st.text(st.characters(min_codepoint=32, blacklist_characters="\x7f", blacklist_categories=["Cs"]))  # fmt: skip
GOOD = {"token": TOKEN, "sender": "a", "recipients": ["b"], "size": 3}


@given(CLEAN, st.lists(CLEAN, min_size=1, max_size=4), st.integers(0, 10**12), CLEAN)
def test_sendmail_letter_round_trip(
    sender: str, recipients: list[str], size: int, name: str
) -> None:
    letter = Letter(TOKEN, sender, tuple(recipients), size, name, notify=("SUCCESS", "DELAY"))
    line = letter.encode()
    assert line.count(b"\n") == 1
    assert Letter.decode(line) == letter


@pytest.mark.parametrize(
    "change",
    [
        {"token": "../../etc/passwd"},
        {"token": TOKEN.upper()},
        {"token": 5},
        {"sender": None},
        {"sender": "a\r\nRCPT TO:<x>"},
        {"sender": "\udcff"},
        {"recipients": []},
        {"recipients": ["a", 5]},
        {"recipients": "abc"},
        {"recipients": ["a\0"]},
        {"size": -1},
        {"size": True},
        {"size": 1.5},
        {"size": "3"},
        {"verify": 1},
        {"body": "BINARYMIME"},
        {"notify": ["SOMETIMES"]},
        {"notify": [[]]},
        {"ret": "full"},
        {"envid": "x" * 500},
        {"uid": 0},
        {"full_name": "a\nX: y"},
    ],
)
def test_sendmail_letter_bad_envelopes(change: dict[str, object]) -> None:
    with pytest.raises(LetterError):
        Letter.decode(json.dumps(GOOD | change).encode())


@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner),
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_sendmail_letter_garbage_is_an_error_of_its_own(data: bytes) -> None:
    try:
        Letter.decode(data)
    except LetterError:
        pass
    try:
        Answer.decode(data)
    except LetterError:
        pass


def test_sendmail_letter_deep_json() -> None:
    with pytest.raises(LetterError):
        Letter.decode(b"[" * 200_000)


def test_sendmail_letter_too_many_recipients() -> None:
    with pytest.raises(LetterError, match="too many"):
        Letter(TOKEN, "a", ("x" * 60,) * 20_000, 0).encode()


def test_sendmail_answer_round_trip() -> None:
    answer = Answer(67, "x", "ID", (("a", "b"),), (("c", "d"),), True)
    assert Answer.decode(answer.encode()) == answer
