"""How resel-adm's command lines are read: getopt(3) as doveadm uses it, options before the rest."""

from __future__ import annotations

import getopt
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from resel_mta.commands import cli
from resel_mta.config import Settings, load

PROGRAM = "resel-adm"


class UsageError(Exception):
    """A command line that says too little or too much; text: what is printed."""


class Fatal(Exception):
    """An argument that cannot be used, said as doveadm says it."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.text = text


@dataclass(slots=True)
class Options:
    """letters: options without a value that were given. values: options with one, the last of
    each. words: what follows the options."""

    letters: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Context:
    """What the command line said before the command. formatter: "" for the command's own."""

    config: str | None = None
    overrides: list[str] = field(default_factory=list)
    formatter: str = ""
    verbose: bool = False
    _settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """Read when first needed. Raises ConfigError."""
        if self._settings is None:
            self._settings = load(self.config, self.overrides)
            cli.tell_overrides("resel-adm", self._settings)
        return self._settings


Run = Callable[[Context, Options], int]


@dataclass(frozen=True, slots=True)
class Command:
    """name: "mailbox list". usage: after the name. options: getopt's letters. least, most: how
    many words follow the options. long: options that are words."""

    name: str
    usage: str
    options: str
    run: Run
    least: int = 0
    most: int = 1_000_000
    long: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return f"{PROGRAM} {self.name} {self.usage}".rstrip()

    def read(self, words: Sequence[str]) -> Options:
        """Raises UsageError."""
        try:
            found, rest = getopt.getopt(list(words), self.options, self.long)
        except getopt.GetoptError as error:
            last = self.name.rpartition(" ")[2]
            if "requires argument" in error.msg:
                text = f"{last}: option requires an argument -- '{error.opt}'"
            else:
                text = f"{last}: invalid option -- '{error.opt}'"
            raise UsageError(text) from None
        options = Options(words=rest)
        for letter, value in found:
            if letter.startswith("--"):
                options.letters.add(letter[2:])
            elif f"{letter[1]}:" in self.options:
                options.values[letter[1]] = value
            else:
                options.letters.add(letter[1])
        if not self.least <= len(rest) <= self.most:
            raise UsageError(self.line)
        return options


def fail(text: str, exit_code: int) -> int:
    """A line on standard error, and the exit code."""
    sys.stdout.flush()
    print(text, file=sys.stderr)
    return exit_code


def user_error(user: str, text: str, exit_code: int) -> int:
    """``resel-adm(user): Error: text``."""
    return fail(f"{PROGRAM}({user}): Error: {text}", exit_code)


EX_USAGE = cli.EX_USAGE
#: doveadm's own, for what is not there.
EX_NOTFOUND = 68
