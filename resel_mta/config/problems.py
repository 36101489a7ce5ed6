"""What is wrong with a configuration, said so that an administrator can mend it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    where: "/etc/resel-mta/main.cf:12", "command line", "role server", or "" if nothing names a place.
    parameter: the parameter's name, or "".
    text: what is wrong and what is allowed, in one line.
    is_error: it stops a start or a reload; else it is a warning.
    """

    where: str
    parameter: str
    text: str
    is_error: bool = True

    def __str__(self) -> str:
        return self._line("" if self.is_error else "warning: ")

    def plain(self) -> str:
        """For a log that says itself that it is a warning."""
        return self._line("")

    def _line(self, word: str) -> str:
        place = f"{self.where}: " if self.where else ""
        name = f"{self.parameter}: " if self.parameter else ""
        return place + word + name + self.text


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` holds all that is wrong, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def in_file_order(problems: Iterable[Problem], path: str) -> list[Problem]:
    """Those about lines of the file first, line by line; the others after them, as they come."""

    def line(problem: Problem) -> float:
        file, _, number = problem.where.rpartition(":")
        return int(number) if file == path and number.isdigit() else math.inf

    return sorted(problems, key=line)
