"""What the mailbox benchmark reads out of answers."""

from __future__ import annotations

import pytest

from benchmarks.imap import exists, expect
from benchmarks.load import BenchmarkError


@pytest.mark.parametrize(
    ("answer", "messages"),
    [
        (b"* FLAGS ()\r\n* 7 EXISTS\r\n* 0 RECENT\r\nt1 OK done\r\n", 7),
        (b"* 7 EXISTS\r\n* 8 EXISTS\r\nt1 OK done\r\n", 8),
        (b"t1 OK 9 EXISTS\r\n", 0),
    ],
)
def test_bench_imap_last_exists_counts(answer: bytes, messages: int) -> None:
    assert exists(answer) == messages


def test_bench_imap_mail_shown_late_is_no_result() -> None:
    expect(3, 3)
    with pytest.raises(BenchmarkError, match="2 messages shown, 3 are there"):
        expect(2, 3)
