"""Which line of a table answers a key: for people; mail never asks."""

from __future__ import annotations

from resel_mta.config.grammar import logical_lines
from resel_mta.config.live import LiveFile
from resel_mta.config.tables import parse_table

_RULES = frozenset(("regexp", "pcre", "cidr"))


def line_of(file: LiveFile, key: str) -> int:
    """The number of the line whose value `key` gets, 0 if that cannot be told. Blocks."""
    try:
        text = file.text()
    except OSError:
        return 0
    lines = [(first, line) for first, _, line in logical_lines(text)]
    if file.spec.type in _RULES:
        return _rule_line(file, lines, key)
    for first, line in lines:
        if _answers(file, line, key):
            return first
    return 0


def _answers(file: LiveFile, text: str, key: str) -> bool:
    table, _ = parse_table(file.spec, text, "", aliases=file.aliases)
    try:
        return table.get(key) is not None
    except LookupError:
        return False


def _rule_line(file: LiveFile, lines: list[tuple[int, str]], key: str) -> int:
    """The first rule that matches answers: so the shortest beginning of the file that answers at
    all ends with it."""
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high) // 2
        if _answers(file, _closed(lines[: middle + 1]), key):
            high = middle
        else:
            low = middle + 1
    return lines[low][0] if low < len(lines) else 0


def _closed(lines: list[tuple[int, str]]) -> str:
    """These lines with an endif for each if that is open at their end."""
    depth = 0
    for _, line in lines:
        word = line.strip().lower()
        if word == "endif":
            depth -= 1
        elif word.startswith(("if ", "if\t", "if/", "if!")):
            depth += 1
    return "\n".join([line for _, line in lines] + ["endif"] * depth)
