"""The grammar of main.cf (postconf(5)) and of every text table (postmap(1)): logical lines.

An empty line, or one whose first character other than space is "#", is left out, also in the
midst of a logical line. A line that starts with space continues the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from resel_mta.config.problems import Problem

_SPACE = " \t\r\n\v\f"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One ``name = value``: the value as written, its continuation lines joined.

    first, last: numbers of the physical lines it takes, from 1.
    """

    name: str
    value: str
    file: str
    first: int
    last: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.first}"


def logical_lines(text: str) -> Iterator[tuple[int, int, str]]:
    """(first line, last line, text) of each logical line; trailing space is cut."""
    first = last = 0
    parts: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip(_SPACE)
        if not bare or bare.startswith("#"):
            continue
        if parts and line[0] in _SPACE:
            parts.append(line)
            last = number
            continue
        if parts:
            yield first, last, "".join(parts).rstrip(_SPACE)
        parts = [line]
        first = last = number
    if parts:
        yield first, last, "".join(parts).rstrip(_SPACE)


def parse_main_cf(text: str, file: str) -> tuple[list[Assignment], list[Problem]]:
    """All assignments in order (a later one of the same name wins), and what is not one."""
    assignments: list[Assignment] = []
    problems: list[Problem] = []
    for first, last, line in logical_lines(text):
        name, equals, value = line.partition("=")
        name = name.strip(_SPACE)
        where = f"{file}:{first}"
        if line[0] in _SPACE:
            problems.append(
                Problem(where, "", f'starts with space but continues nothing: "{line.strip()}"')
            )
        elif not equals:
            problems.append(Problem(where, "", f'missing "=" after the parameter name: "{line}"'))
        elif not name or any(c in _SPACE for c in name):
            problems.append(Problem(where, "", f'not a parameter name: "{name}"'))
        else:
            assignments.append(Assignment(name, value.strip(_SPACE), file, first, last))
    return assignments, problems


def split_items(text: str, separators: str = ", \t\r\n") -> list[str]:
    """Postfix's list syntax: items between spaces and commas; ``{ … }`` holds an item together.

    Raises ValueError for a brace that is not closed.
    """
    if "{" not in text:
        if "," in text:
            text = text.replace(",", " ")
        return text.split()
    items: list[str] = []
    start = -1
    depth = 0
    for index, char in enumerate(text):
        if depth == 0 and char in separators:
            if start >= 0:
                items.append(text[start:index])
                start = -1
            continue
        if start < 0:
            start = index
        if char == "{":
            depth += 1
        elif char == "}" and depth:
            depth -= 1
    if depth:
        raise ValueError('a "{" that is not closed by a "}"')
    if start >= 0:
        items.append(text[start:])
    return items


def unbrace(item: str) -> str:
    """The inside of ``{ text }`` without the space around it; other text as it is."""
    if item.startswith("{") and item.endswith("}"):
        return item[1:-1].strip(_SPACE)
    return item
