"""doveadm's ways to print rows of values: table, tab, flow, pager, json. Each as doveadm 2.3's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO, runtime_checkable

_COLUMNS = 80
# Rows that a table looks at before it settles the widths.
_BUFFERED_ROWS = 100


@dataclass(frozen=True, slots=True)
class Header:
    """One column. key: in json and pager; title: elsewhere, "" for the key. hidden: the value
    speaks for itself. right: justified so in a table. expand: takes a table's spare width.
    lines: the value is lines of text."""

    key: str
    title: str = ""
    hidden: bool = False
    right: bool = False
    expand: bool = False
    lines: bool = False

    @property
    def text(self) -> str:
        return self.title or self.key


class CannotPrint(Exception):
    """A value that this way of printing has no form for."""


class Printer(Protocol):
    """Takes rows as they come."""

    def row(self, values: Sequence[str]) -> None: ...

    def finish(self) -> None:
        """No more rows."""
        ...


class _Plain:
    """What the printers that keep nothing have in common."""

    def __init__(self, headers: Sequence[Header], out: TextIO) -> None:
        self.headers = headers
        self.out = out
        self.rows = 0

    def finish(self) -> None:
        """All is written."""


class Tab(_Plain):
    """A line of titles, then a line a row; columns end at tabs."""

    def __init__(self, headers: Sequence[Header], out: TextIO) -> None:
        super().__init__(headers, out)
        out.write("\t".join(header.text for header in headers) + "\n")

    def row(self, values: Sequence[str]) -> None:
        self.out.write("\t".join(values) + "\n")


class Flow(_Plain):
    """``title=value`` beside each other."""

    def row(self, values: Sequence[str]) -> None:
        words = [
            value if header.hidden else f"{header.text}={value}"
            for header, value in zip(self.headers, values, strict=True)
        ]
        self.out.write(" ".join(words) + "\n")


class Pager(_Plain):
    """``title: value`` below each other, a form feed between rows."""

    def row(self, values: Sequence[str]) -> None:
        # doveadm leaves it out before lines of text.
        if self.rows and not self.headers[0].lines:
            self.out.write("\f\n")
        self.rows += 1
        for header, value in zip(self.headers, values, strict=True):
            if header.lines:
                self.out.write(f"{header.text}:\n{value}")
            elif header.hidden:
                self.out.write(f"{value}\n")
            else:
                self.out.write(f"{header.text}: {value}\n")


class Json(_Plain):
    """One array of objects."""

    def row(self, values: Sequence[str]) -> None:
        self.out.write(",{" if self.rows else "[{")
        self.rows += 1
        pairs = zip(self.headers, values, strict=True)
        texts = [f"{_quoted(header.key)}:{_quoted(value)}" for header, value in pairs]
        self.out.write(",".join(texts) + "}")

    def finish(self) -> None:
        self.out.write("]" if self.rows else "[]")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class Table:
    """Aligned columns, as wide as the first rows need and the terminal allows."""

    def __init__(self, headers: Sequence[Header], out: TextIO) -> None:
        """Raises CannotPrint."""
        if any(header.lines for header in headers):
            raise CannotPrint("table formatter doesn't support multi-line values")
        self._headers = headers
        self._out = out
        self._held: list[Sequence[str]] | None = []
        self._widths: list[int] = []

    def row(self, values: Sequence[str]) -> None:
        if self._held is None:
            self._print(values)
            return
        self._held.append(values)
        if len(self._held) > _BUFFERED_ROWS:
            self.finish()

    def finish(self) -> None:
        if self._held is None:
            return
        held, self._held = self._held, None
        self._widths = _widths(self._headers, held, _terminal_width(self._out))
        if not all(header.hidden for header in self._headers):
            self._print([header.text for header in self._headers])
        for values in held:
            self._print(values)

    def _print(self, values: Sequence[str]) -> None:
        cells = [
            value.rjust(width) if header.right else value.ljust(width)
            for header, value, width in zip(self._headers, values, self._widths, strict=True)
        ]
        self._out.write(" ".join(cells) + "\n")


def _widths(headers: Sequence[Header], rows: Sequence[Sequence[str]], columns: int) -> list[int]:
    """Of the columns, reckoned as doveadm does."""
    widths = [len(header.text) for header in headers]
    least = list(widths)
    for row in rows:
        for at, value in enumerate(row):
            least[at] = min(least[at], len(value))
            widths[at] = max(widths[at], len(value))
    total = sum(widths) + len(widths) - 1
    if total > columns:
        _shrink(widths, least, total, columns)
    elif total < columns:
        grows = next((at for at, header in enumerate(headers) if header.expand), -1)
        widths[grows] += (columns - total) // 2
    return widths


def _shrink(widths: list[int], least: Sequence[int], total: int, columns: int) -> None:
    """Take something off each column from the right, once; what does not fit then overflows."""
    for at in reversed(range(len(widths))):
        spare = widths[at] - least[at]
        if total - spare <= columns:
            widths[at] -= total - columns
            return
        if spare > 0:
            widths[at] -= 1 if spare == 1 else spare // 2


def _terminal_width(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


PRINTERS: Mapping[str, Callable[[Sequence[Header], TextIO], Printer]] = {
    "flow": Flow,
    "json": Json,
    "pager": Pager,
    "tab": Tab,
    "table": Table,
}


def open_printer(name: str, headers: Sequence[Header]) -> Printer:
    """name: one of PRINTERS. Prints to standard output, octets as they are. Raises CannotPrint."""
    if isinstance(sys.stdout, _Reconfigurable):
        sys.stdout.reconfigure(errors="surrogateescape")
    return PRINTERS[name](headers, sys.stdout)


@runtime_checkable
class _Reconfigurable(Protocol):
    def reconfigure(self, *, errors: str) -> None: ...
