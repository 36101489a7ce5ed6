"""Headers and whole messages as they lie on disk, read with as few calls as can be."""

from __future__ import annotations

import os
import tempfile
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resel_lda.maildir.files import read_all, with_crlf
from resel_lda.maildir.header import header_of, read_header


def opened(data: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        return os.dup(file.fileno())


def header(data: bytes) -> bytes:
    fd = opened(data)
    try:
        return read_header(fd)
    finally:
        os.close(fd)


pieces = st.sampled_from(
    [b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r", b"A: b", b" c", b"x" * 4090, b"y" * 70_000]
)


@given(st.lists(pieces, max_size=8).map(b"".join))
@example(b"")
@example(b"\n\nbody")
@example(b"\r\nbody\n\n")
@example(b"A: b\n\nbody\r\n")
@example(b"A: b\r\n\nbody")
@example(b"A: b\n\r\nbody\n\n")
@example(b"A: " + b"x" * 4092 + b"\n\nbody")
def test_header_is_that_of_the_message(data: bytes) -> None:
    expected = with_crlf(data)
    assert header(data) == header_of(expected)


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"x"]), max_size=20).map(b"".join))
def test_line_ends_become_cr_lf(data: bytes) -> None:
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    assert with_crlf(data) == b"\r\n".join(lines)


@pytest.mark.parametrize(
    "size", [0, 1, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, 100_000, (1 << 20) + 5]
)
def test_all_of_a_file_is_read(size: int) -> None:
    data = os.urandom(size)
    fd = opened(data)
    assert read_all(fd) == data
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_header_without_end_takes_no_square_time() -> None:
    data = b"A: b\n" * (8 << 20)
    started = time.process_time()
    assert len(header(data)) == len(data) + data.count(b"\n")
    assert time.process_time() - started < 20
