"""What the mailbox benchmark reads out of answers, and that it tells wrong ones from right ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks import imap_report
from benchmarks.imap import Plan, measure
from benchmarks.imap_lmtp import BareLoop, in_threads
from benchmarks.imap_mail import corpus
from benchmarks.imap_rows import (
    MEMORY,
    Outcome,
    Times,
    exists,
    expect,
    fetched,
    literals,
    numbers,
)
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


def test_bench_imap_counts_what_was_fetched() -> None:
    lines = b"* 1 FETCH (FLAGS (\\Seen))\r\n* 2 FETCH (UID 5 FLAGS ())\r\n* 3 FETCH (UID 6)\r\n"
    assert fetched(lines + b"t1 OK FETCH (FLAGS ()\r\n", b"FLAGS (") == 2
    mails = b"* 1 FETCH (BODY[] {8}\r\n{3}\r\nab\n)\r\n* 2 FETCH (BODY[] {0}\r\n)\r\n"
    assert literals(mails) == (2, 8)


def test_bench_imap_numbers_of_the_untagged_line() -> None:
    assert numbers(b"* SEARCH\r\nt1 OK 3 found\r\n") == []
    assert numbers(b"* THREAD (2)(3 1 (4)(7))\r\nt1 OK done\r\n") == [2, 3, 1, 4, 7]
    with pytest.raises(BenchmarkError):
        numbers(b"t1 OK 3 found\r\n")


def test_bench_imap_corpus_says_what_it_holds(tmp_path: Path) -> None:
    made = corpus(tmp_path / "corpus", 60, 2000)
    mails = [path.read_bytes() for path in sorted(made.cur.iterdir())]
    assert len(mails) == made.count == 60
    assert made.octets == sum(len(mail.replace(b"\n", b"\r\n")) for mail in mails)
    assert made.found
    for number, mail in enumerate(mails, 1):
        subject = next(line for line in mail.splitlines() if line.startswith(b"Subject:"))
        assert (b"facture" in subject) == (number in made.found)


def test_bench_imap_rows_by_name() -> None:
    times = Times(only="cold")
    with times.row("SORT cold"), times.row("SORT warm"):
        pass
    assert list(times.rows) == ["SORT cold"]
    assert times.wants(("SORT warm", "SORT cold"))
    assert not times.wants(("SORT warm",))


def test_bench_imap_bare_loop_delivers_each_once(tmp_path: Path) -> None:
    loop = BareLoop(tmp_path / "bare")
    in_threads(7, [lambda: loop.deliver(b"mail")] * 3)
    assert [path.read_bytes() for path in (tmp_path / "bare/new").iterdir()] == [b"mail"] * 7
    assert not list((tmp_path / "bare/tmp").iterdir())


def test_bench_imap_a_failed_delivery_is_no_result() -> None:
    def fail() -> None:
        raise BenchmarkError("refused")

    with pytest.raises(BenchmarkError, match="refused"):
        in_threads(3, [fail, lambda: None])


def test_bench_imap_pictures_of_what_was_measured() -> None:
    theirs = Times({"SORT cold": [4.0, 2.0, 9.0], "LMTP 200 mails, 1 connection": [400.0]})
    ours = Times({"SORT cold": [2.0], "LMTP 200 mails, 1 connection": [200.0], MEMORY: [50.0]})
    outcome = Outcome({"Dovecot": theirs, "resel-mta": ours})
    assert outcome.ratio("SORT cold") == 2.0
    assert outcome.ratio(MEMORY) is None
    drawn = imap_report.pictures(outcome, 1000)
    assert sorted(drawn) == ["imap-1000", "imap-memory", "lmtp"]
    assert ">500 /s<" in drawn["lmtp"].replace("Dovecot ", "")
    assert ">2.0 ×<" in drawn["imap-1000"]
    alone = imap_report.pictures(Outcome({"resel-mta": ours}), 1000)
    assert "resel-mta 2.0 ms" in alone["imap-1000"]


def test_bench_imap_a_row_of_ours_alone() -> None:
    plan = Plan(1, 20, 1500, only="SEARCH UNSEEN", without=("dovecot",))
    # The server's account must be able to pass to it.
    with tempfile.TemporaryDirectory(prefix="resel-") as name:
        Path(name).chmod(0o755)
        outcome = measure(Path(name), plan, lambda text: None)
    assert outcome.rows() == ["SEARCH UNSEEN FLAGGED"]
    assert list(outcome.times) == ["resel-mta"]
    assert outcome.median("resel-mta", "SEARCH UNSEEN FLAGGED")
