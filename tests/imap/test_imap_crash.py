"""kill -9 before every disk operation of REPLACE, CATENATE, SETMETADATA, SUBSCRIBE and POP3's QUIT:
never are old and new both gone, never is there half a message, no UID is used twice, no lock stays."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from crash_steps import mail

STEPS = Path(__file__).with_name("crash_steps.py")
OLD, OTHER, LATER, NEW = (mail(mark).decode() for mark in ("old", "other", "later", "new"))
JOINED = "Subject: new\r\n\r\n" + OTHER.partition("\r\n\r\n")[2]
# A lock that is left delays others by two minutes.
DELAY = 60.0

Found = Mapping[str, Any]


async def steps(root: Path, scenario: str) -> list[tuple[bool, Found]]:
    """(whether it was killed, what was there then), of each step."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(STEPS), str(root), scenario],
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [(line["killed"], line["found"]) for line in lines]
    for _, one in found:
        check(one)
    return found


def check(found: Found) -> None:
    messages, later, uid = found["messages"], found["later"], str(found["next"])
    assert found["same_validity"]
    assert found["left"] == []
    assert found["seconds"] < DELAY
    # UIDs stay with their messages, and the next message has one that none ever had.
    assert later == {**messages, uid: LATER}
    assert int(uid) > max(map(int, messages))


@pytest.mark.parametrize(
    ("scenario", "new"), [("replace", NEW), ("replace_catenate", JOINED)], ids=["plain", "catenate"]
)
async def test_crash_of_replace(tmp_path: Path, scenario: str, new: str) -> None:
    states = [{"1": OLD, "2": OTHER}, {"1": OLD, "2": OTHER, "3": new}, {"2": OTHER, "3": new}]
    found = await steps(tmp_path, scenario)
    assert sum(killed for killed, _ in found) > 10
    for _, one in found:
        assert one["messages"] in states
    # All three were seen, so the kills came where it matters.
    assert all(any(one["messages"] == state for _, one in found) for state in states)
    assert next(one for killed, one in found if not killed)["messages"] == states[2]


async def test_crash_of_catenate(tmp_path: Path) -> None:
    states = [{"1": OLD, "2": OTHER}, {"1": OLD, "2": OTHER, "3": JOINED}]
    found = await steps(tmp_path, "catenate")
    assert sum(killed for killed, _ in found) > 8
    for _, one in found:
        assert one["messages"] in states
    assert next(one for killed, one in found if not killed)["messages"] == states[1]


async def test_crash_of_pop3_quit(tmp_path: Path) -> None:
    states = [{"1": OLD, "2": OTHER}, {"2": OTHER}]
    found = await steps(tmp_path, "pop3")
    assert sum(killed for killed, _ in found) > 2
    for _, one in found:
        assert one["messages"] in states
        assert one["seen"] in ([], [2])
    last = next(one for killed, one in found if not killed)
    assert (last["messages"], last["seen"]) == (states[1], [2])


async def test_crash_of_setmetadata(tmp_path: Path) -> None:
    """Both entries are of one command."""
    found = await steps(tmp_path, "metadata")
    assert all(killed for killed, _ in found)
    for _, one in found:
        assert one["entries"].get("/private/a") == one["entries"].get("/private/b")
    assert any(one["entries"] for _, one in found)


async def test_crash_of_subscribe(tmp_path: Path) -> None:
    states = [["old"], ["new", "old"], ["new"]]
    found = await steps(tmp_path, "subscribe")
    assert sum(killed for killed, _ in found) > 4
    for _, one in found:
        assert one["subscribed"] in states
    assert next(one for killed, one in found if not killed)["subscribed"] == ["new"]
