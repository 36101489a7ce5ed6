"""Line ends of stored messages, wherever blocks are cut."""

from __future__ import annotations

import itertools

import pytest

from resel_lda.maildir.files import CrlfCounter


def converted(blocks: list[bytes]) -> tuple[bytes, int]:
    counter = CrlfCounter()
    stored = b"".join(counter.convert(block) for block in blocks)
    return stored + counter.finish(), counter.wire_size


@pytest.mark.parametrize("length", range(7))
def test_every_mixture_of_line_ends_in_every_two_blocks(length: int) -> None:
    for octets in itertools.product((b"a", b"\r", b"\n"), repeat=length):
        message = b"".join(octets)
        stored = message.replace(b"\r\n", b"\n")
        size = len(stored) + stored.count(b"\n")
        for cut in range(length + 1):
            assert converted([message[:cut], message[cut:]]) == (stored, size), (message, cut)


def test_a_message_of_many_lines() -> None:
    stored, size = converted([b"line\r\n" * 1000, b"bare\n", b"\rlast"])
    assert stored == b"line\n" * 1000 + b"bare\n\rlast"
    assert size == 6 * 1000 + 6 + 5
