"""Messages from standard input: their end, their lines, and how much memory they take."""

from __future__ import annotations

import contextlib
import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.content import split_header
from resel_mta.pickup.collect import MEMORY_LIMIT, HeaderTooBig, Hold, TooBig, collect
from resel_mta.receiver import HEADER_LIMIT


class Dribble(io.RawIOBase):
    """A pipe that gives as many octets at a time as `sizes` say."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = io.BytesIO(data)
        self._sizes = sizes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        size = self._sizes.pop(0) if self._sizes else len(view)
        block = self._data.read(min(size, len(view)))
        view[: len(block)] = block
        return len(block)


def read(
    data: bytes, *, dot_ends: bool = True, limit: int = 0, sizes: list[int] | None = None
) -> bytes:
    source = io.BufferedReader(Dribble(data, sizes or []))
    with contextlib.closing(Hold()) as hold:
        collect(source, hold, dot_ends=dot_ends, size_limit=limit)
        return b"".join(hold.blocks())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b""),
        (b"hi\n", b"hi\r\n"),
        (b"hi", b"hi\r\n"),
        (b"Subject: x\n\nhi\n.\nmore\n", b"Subject: x\r\n\r\nhi\r\n"),
        (b"Subject: x\r\n\r\nhi\r\n.\r\nmore", b"Subject: x\r\n\r\nhi\r\n"),
        (b"Subject: x\n\n..\n. \n.x\n.", b"Subject: x\r\n\r\n..\r\n. \r\n.x\r\n"),
        (b".\nSubject: x\n", b""),
        (b"A: b\n.\nx\n", b"A: b\r\n"),
        (b"From a Mon\n>From b\n>>>From c\nA: b\n\nFrom d\n", b"A: b\r\n\r\nFrom d\r\n"),
        # A progress display in a body; the same in a header must not become a field.
        (b"A: b\n\n10%\r20%\rdone\n", b"A: b\r\n\r\n10%\r\n20%\r\ndone\r\n"),
        (b"Subject: x\rBcc: evil@example.org\n\ny\n", b"Subject: x Bcc: evil@example.org\r\n\r\ny\r\n"),
        (b"A: b\r\n\r\nx\r\r\ny\r", b"A: b\r\n\r\nx\r\ny\r\n"),
        (b"A: b\n \tc\n\n", b"A: b\r\n \tc\r\n\r\n"),
        (b"A: b\nno field\nC: d\n", b"A: b\r\nno field\r\nC: d\r\n"),
        (b"\n\nbody\n", b"\r\n\r\nbody\r\n"),
        (b"A: \x00\xff\n\n\x00\xe9\n", b"A: \x00\xff\r\n\r\n\x00\xe9\r\n"),
    ],
)  # fmt: skip
def test_sendmail_collect_examples(data: bytes, expected: bytes) -> None:
    assert read(data) == expected


def test_sendmail_collect_dots_stay_with_minus_i() -> None:
    assert read(b"A: b\n\n.\nmore\n", dot_ends=False) == b"A: b\r\n\r\n.\r\nmore\r\n"


LINES = st.lists(
    st.sampled_from(
        [b".", b"", b"hi", b"A: b", b" c", b"From x", b">From y", b"..", b"a\rb", b"\r", b".\r", b"x" * 70_000]
    ),
    max_size=8,
)  # fmt: skip


def model(data: bytes, dot_ends: bool) -> bytes:
    """The same in whole lines."""
    lines = data.split(b"\n")
    last = lines.pop()
    if last:
        lines.append(last)
    while lines and lines[0].lstrip(b">").startswith(b"From "):
        del lines[0]
    kept: list[bytes] = []
    in_header = True
    for line in lines:
        bare = line.rstrip(b"\r")
        if dot_ends and bare == b".":
            break
        if in_header:
            name = bare.partition(b":")[0].rstrip(b" \t")
            is_field = b":" in bare and bool(name) and all(33 <= c <= 126 for c in name)
            in_header = bool(bare) and (is_field or bool(kept and bare[:1] in b" \t"))
        if in_header:
            kept.append(bare.replace(b"\r", b" "))
        else:
            kept += bare.split(b"\r")
    return b"".join(line + b"\r\n" for line in kept)


@given(LINES, st.booleans(), st.booleans(), st.lists(st.integers(1, 9), max_size=60))
def test_sendmail_collect_as_by_whole_lines(
    lines: list[bytes], ended: bool, dot_ends: bool, sizes: list[int]
) -> None:
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    found = read(data, dot_ends=dot_ends, sizes=sizes)
    assert found == model(data, dot_ends)


@given(st.binary(max_size=300), st.booleans(), st.lists(st.integers(1, 5), max_size=80))
def test_sendmail_collect_promises_whole_lines(
    data: bytes, dot_ends: bool, sizes: list[int]
) -> None:
    """RFC 5321 §2.3.8: no bare CR or LF, wherever the pipe cut the octets."""
    found = read(data, dot_ends=dot_ends, sizes=sizes)
    assert found == read(data, dot_ends=dot_ends)
    assert found.count(b"\r") == found.count(b"\n") == found.count(b"\r\n")
    assert not found or found.endswith(b"\r\n")
    collected = collect(io.BytesIO(data), Hold(), dot_ends=dot_ends, size_limit=0)
    assert collected.header == split_header(found)[0]


def test_sendmail_collect_large_is_not_held_in_memory() -> None:
    line = b"x" * 998 + b"\n"

    class Endless(io.RawIOBase):
        left = 32 * 1024 * 1024

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            view = memoryview(buffer)  # type: ignore[arg-type]
            size = min(len(view), self.left)
            self.left -= size
            view[:size] = (line * (size // len(line) + 1))[:size]
            return size

    tracemalloc.start()
    try:
        with contextlib.closing(Hold()) as hold:
            collect(io.BufferedReader(Endless()), hold, dot_ends=True, size_limit=0)
            assert hold.size > 32 * 1024 * 1024
        assert tracemalloc.get_traced_memory()[1] < 8 * MEMORY_LIMIT
    finally:
        tracemalloc.stop()


def test_sendmail_collect_stops_at_the_limit() -> None:
    with pytest.raises(TooBig):
        read(b"A: b\n\n" + b"x\n" * 1000, limit=1000)
    assert len(read(b"A: b\n\nxx\n", limit=12)) == 12


def test_sendmail_collect_a_header_without_end_is_refused() -> None:
    with pytest.raises(HeaderTooBig):
        read(b"A: b\n" * (HEADER_LIMIT // 5 + 1))


def test_sendmail_collect_needs_no_folder() -> None:
    """In a unit that may write nowhere, a large message is held in memory."""
    with contextlib.closing(Hold(("/nonexistent", "/proc"))) as hold:
        collect(io.BytesIO(b"x\n" * MEMORY_LIMIT), hold, dot_ends=True, size_limit=0)
        assert b"".join(hold.blocks()) == b"x\r\n" * MEMORY_LIMIT
