"""Dialogs as data, in dialogs/*.txt.

= name = value      a setting
C: text             said by the client, CR LF added; several in a row are sent at once
B: text             the same with Python's escapes and nothing added
S: text             a line that must come back; "*" stands for anything
L: text             a log line that must be there, in this order
# text              a comment
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DIALOGS = sorted((Path(__file__).parent / "dialogs").glob("*.txt"))


def matches(line: str, pattern: str) -> bool:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), line) is not None


def parse(path: Path) -> tuple[dict[str, str], list[tuple[str, str]], list[str]]:
    """(settings, steps, log lines)."""
    settings: dict[str, str] = {}
    steps: list[tuple[str, str]] = []
    log: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, text = line.partition(" ")
        if kind == "=":
            name, _, value = text.partition(" = ")
            settings[name] = value
        elif kind == "L:":
            log.append(text)
        elif kind in ("C:", "B:", "S:"):
            steps.append((kind, text))
        else:
            assert not line or kind == "#", f"{path.name}: {line}"
    return settings, steps, log


@pytest.mark.parametrize("path", DIALOGS, ids=[path.stem for path in DIALOGS])
async def test_dialog(path: Path, start: Callable[..., Any]) -> None:
    settings, steps, wanted = parse(path)
    server = await start(**settings)
    peer = await server.connect()
    pending = b""
    for number, (kind, text) in enumerate(steps):
        if kind == "C:":
            pending += text.encode() + b"\r\n"
            continue
        if kind == "B:":
            pending += text.encode("latin-1").decode("unicode_escape").encode("latin-1")
            continue
        if pending:
            await peer.send(pending)
            pending = b""
        line = (await peer.reader.readline()).decode("utf-8").rstrip("\r\n")
        assert matches(line, text), f"step {number}: got {line!r}, wanted {text!r}"
    if pending:
        await peer.send(pending)
    await peer.close()
    lines = await server.log()
    position = 0
    for text in wanted:
        found = [n for n in range(position, len(lines)) if matches(lines[n], text)]
        assert found, f"no log line {text!r} in {lines[position:]}"
        position = found[0] + 1


def test_there_are_dialogs() -> None:
    assert len(DIALOGS) > 10
    assert fnmatch.filter([path.name for path in DIALOGS], "*.txt")
