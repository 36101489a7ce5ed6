"""End of data, dots and line ends, against a reference that goes octet by octet."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resel_mta.wire.data import DataDecoder, DotStuffer, LineNormalizer, dot_stuff

# Text in which line ends, dots and their halves are as likely as anything else.
hostile = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\0", b"\xff", b"\r\n.", b"\n.\n", b"\n.\r\n"]
    ),
    max_size=30,
).map(b"".join)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in blocks of these sizes, the rest as one."""
    blocks = []
    for size in sizes:
        blocks.append(data[:size])
        data = data[size:]
    return [*blocks, data]


def naive_decode(data: bytes) -> tuple[bytes, bytes, bool, bool, int] | None:
    """(content, rest, bare CR, bare LF, size) line by line, or None while it has no end."""
    out = []
    size = 0
    bare_cr = bare_lf = False
    after_pair = True
    while True:
        end = data.find(b"\n")
        if end < 0:
            return None
        line, data = data[:end], data[end + 1 :]
        pair = line.endswith(b"\r")
        line = line[:-1] if pair else line
        if line == b"." and pair and after_pair:
            return b"".join(out), data, bare_cr, bare_lf, size
        size += len(line) + 1 + pair
        bare_cr |= b"\r" in line
        bare_lf |= not pair
        after_pair = pair
        out.append((line[1:] if line[:1] == b"." and line != b"." else line) + b"\r\n")


@settings(max_examples=400, deadline=None)
@given(hostile, hostile, st.lists(st.integers(0, 9), max_size=40))
def test_decoder_agrees_with_reference_for_every_chunking(
    text: bytes, after: bytes, sizes: list[int]
) -> None:
    data = text + b"\r\n.\r\n" + after
    expected = naive_decode(data)
    assert expected is not None
    decoder = DataDecoder()
    content = b""
    blocks = cut(data, sizes)
    while not decoder.done:
        content += decoder.feed(blocks.pop(0))
    content += decoder.finish()
    rest = decoder.rest + b"".join(blocks)
    assert (content, rest, decoder.bare_cr, decoder.bare_lf, decoder.size) == expected


@given(hostile, st.lists(st.integers(0, 9), max_size=40))
def test_decoder_never_ends_early(text: bytes, sizes: list[int]) -> None:
    if naive_decode(text) is not None:
        return
    decoder = DataDecoder()
    for block in cut(text, sizes):
        decoder.feed(block)
        assert not decoder.done


@pytest.mark.parametrize(
    "data",
    [
        b"a\n.\n",
        b"a\r\n.\n",
        b"a\n.\r\n",
        b"a\r.\r",
        b"a\r.\r\n",
        b"a\r\n.\r",
        b"a\r\n.\r\r\n",
        b"a\r\n. \r\n",
        b"a\r\n..\r\n",
        b"\n.\r\nb",
        b"a\r\n\x00.\r\n",
    ],
)
def test_smuggled_ends_do_not_end_the_data(data: bytes) -> None:
    decoder = DataDecoder()
    content = decoder.feed(data)
    assert not decoder.done
    content += decoder.feed(b"z\r\n.\r\n")
    assert decoder.done
    assert b"z" in content


def test_text_after_a_dot_is_content() -> None:
    decoder = DataDecoder()
    assert decoder.feed(b".hidden\r\n.\r\nNOOP\r\n") == b"hidden\r\n"
    assert decoder.rest == b"NOOP\r\n"


def test_empty_message() -> None:
    decoder = DataDecoder()
    assert decoder.feed(b".\r\nQUIT\r\n") == b""
    assert (decoder.done, decoder.rest, decoder.size) == (True, b"QUIT\r\n", 0)


@given(hostile, st.lists(st.integers(0, 9), max_size=40))
def test_chunk_normalizer(text: bytes, sizes: list[int]) -> None:
    normalizer = LineNormalizer()
    content = b"".join(normalizer.feed(block) for block in cut(text, sizes)) + normalizer.finish()
    whole = naive_normalize(text)
    assert content == whole
    assert normalizer.bare_cr == (b"\r" in text.replace(b"\r\n", b""))
    assert normalizer.bare_lf == (b"\n" in text.replace(b"\r\n", b""))
    assert normalizer.size == len(text)


def naive_normalize(text: bytes) -> bytes:
    """Octet by octet: LF gets its CR, and the last line its end."""
    out = bytearray()
    for octet in text:
        if octet == 10 and out[-1:] != b"\r":
            out += b"\r"
        out.append(octet)
    if out and not out.endswith(b"\n"):
        out += b"\r\n"
    return bytes(out)


@given(hostile, st.lists(st.integers(0, 9), max_size=40))
def test_stuffing_and_decoding_are_inverse(text: bytes, sizes: list[int]) -> None:
    clean = text.replace(b"\r", b"").replace(b"\n", b"\r\n")
    if clean and not clean.endswith(b"\n"):
        clean += b"\r\n"
    stuffer = DotStuffer()
    wire = b"".join(stuffer.feed(block) for block in cut(clean, sizes)) + stuffer.finish()
    assert wire == dot_stuff(clean) + b".\r\n"
    decoder = DataDecoder()
    assert decoder.feed(wire) == clean
    assert decoder.done
    assert decoder.rest == b""


def test_stuffer_ends_an_unended_line() -> None:
    stuffer = DotStuffer()
    assert stuffer.feed(b"a") + stuffer.finish() == b"a\r\n.\r\n"
