"""pflogsumm's report of our log beside its report of Postfix's, for the same traffic."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_traffic import both_logs

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can start Postfix")
#: How many octets a message may differ by: the names in Received, the length of a queue id.
PER_MESSAGE = 10
#: And where it was forwarded by an alias: Postfix adds a Received and a Delivered-To field of its own.
PER_FORWARDED = 250
Report = dict[str, list[str]]


@pytest.fixture(scope="module")
def reports(need: Callable[[str], str]) -> Iterator[tuple[Report, Report]]:
    """(of Postfix's log, of ours)."""
    pflogsumm, postfix = need("pflogsumm"), need("postfix")
    directory = Path(tempfile.mkdtemp(prefix="resel-log-"))
    directory.chmod(0o755)
    try:
        with both_logs(directory, postfix) as (theirs, ours):
            yield report(pflogsumm, theirs), report(pflogsumm, ours)
    finally:
        shutil.rmtree(directory)


def report(pflogsumm: str, log: Path) -> Report:
    """Section title to its lines."""
    words = [pflogsumm, "--smtpd-stats", "--rej-add-from", str(log)]
    text = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    sections: Report = {}
    lines = text.splitlines()
    title = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-{5,}", following):
            title = line.strip()
            sections[title] = []
        elif line.endswith(": none"):
            sections[line.removesuffix(": none")] = []
        elif line.strip() and not re.fullmatch(r"[\s-]+", line):
            sections.setdefault(title, []).append(line.rstrip())
    return sections


def test_maillog_pflogsumm_totals(reports: tuple[Report, Report]) -> None:
    theirs, ours = (
        [line for line in each["Grand Totals"] if not re.search("bytes|forwarded|time", line)]
        for each in reports
    )
    assert ours == theirs
    assert "     13   received" in ours
    assert "     16   delivered" in ours
    assert "      2   deferred  (3  deferrals)" in ours
    assert "      3   bounced" in ours
    assert "      4   rejected (20%)" in ours


def test_maillog_pflogsumm_aliases_are_no_forwarded_messages(
    reports: tuple[Report, Report],
) -> None:
    """Postfix makes a second message of one that goes to an alias; here it is expanded at once."""
    theirs, ours = ("\n".join(each["Grand Totals"]) for each in reports)
    assert "3   forwarded" in theirs
    assert "0   forwarded" in ours


@pytest.mark.parametrize(
    "title",
    [
        "Per-Hour Traffic Summary",
        "Senders by message count",
        "Recipients by message count",
        "message deferral detail",
        "message bounce detail (by relay)",
        "message reject detail",
        "message reject warning detail",
        "message hold detail",
        "message discard detail",
        "smtp delivery failures",
        "Fatal Errors",
        "Panics",
    ],
)
def test_maillog_pflogsumm_section_is_the_same(reports: tuple[Report, Report], title: str) -> None:
    # Equal counts come in any order.
    theirs, ours = (sorted(each[title]) for each in reports)
    assert ours == theirs


def test_maillog_pflogsumm_connections(reports: tuple[Report, Report]) -> None:
    """Of each client. How long they took is not compared, nor whether Postfix finds the clock late."""
    title = "Host/Domain Summary: SMTPD Connections"
    theirs, ours = ([line.split()[::4] for line in each[title][1:]] for each in reports)
    assert ours == theirs == [["3", "127.0.0.1"], ["1", "127.0.0.2"]]
    assert reports[1]["Warnings"] == []


@pytest.mark.parametrize(
    ("title", "count"),
    [("Host/Domain Summary: Message Delivery", 3), ("Host/Domain Summary: Messages Received", 3)],
)
def test_maillog_pflogsumm_domains(reports: tuple[Report, Report], title: str, count: int) -> None:
    """Messages and deferrals by domain; delays and sizes apart."""
    theirs, ours = (
        [[*line.split()[:1], *line.split()[2:3], line.split()[-1]] for line in each[title][1:]]
        for each in reports
    )
    assert sorted(ours) == sorted(theirs)
    assert len(ours) == count


@pytest.mark.parametrize("who", ["Senders", "Recipients"])
def test_maillog_pflogsumm_sizes_by_user(reports: tuple[Report, Report], who: str) -> None:
    counts = numbers(reports[0][f"{who} by message count"])
    theirs, ours = (numbers(each[f"{who} by message size"]) for each in reports)
    assert ours.keys() == theirs.keys()
    per_message = PER_MESSAGE if who == "Senders" else PER_FORWARDED
    for user, count in counts.items():
        assert abs(ours[user] - theirs[user]) <= count * per_message, user


def numbers(lines: list[str]) -> dict[str, int]:
    return {line.split()[1]: int(line.split()[0]) for line in lines}
