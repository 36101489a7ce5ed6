"""The letters of sendmail(1), read as Postfix reads them: options end at the first argument that
is none, and those that have no meaning here are taken and ignored."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from resel_mta.commands.cli import EX_USAGE, Failure

# As the option string of getopt(3): a colon after those that have a value.
_LETTERS = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"
_WITH_VALUE = frozenset(
    letter for letter, after in zip(_LETTERS, _LETTERS[1:] + " ", strict=True) if after == ":"
)
_KNOWN = frozenset(_LETTERS) - {":"}

_NOTIFY = ("SUCCESS", "FAILURE", "DELAY")
_RET = {"full": "FULL", "hdrs": "HDRS"}


class Mode(enum.Enum):
    """What the command does; the value says so in an error."""

    ENQUEUE = "delivery"
    MAILQ = "display queue"
    FLUSH = "flush queue"
    DAEMON = "daemon"
    NEWALIASES = "alias initialization"
    STAND_ALONE = "stand-alone"
    IGNORE = "ignore"


@dataclass(slots=True)
class Options:
    """What was asked for. sender: None unless -f or -r said; "" for the null sender.

    dot_ends: whether a line with a dot alone ends the message. flush_site, flush_id: of -qR, -qI.
    warnings: to be told, and to be gone on after.
    """

    mode: Mode = Mode.ENQUEUE
    config: str | None = None
    sender: str | None = None
    full_name: str | None = None
    recipients: list[str] = field(default_factory=list)
    from_header: bool = False
    dot_ends: bool = True
    rewrite: bool = True
    body: str = ""
    notify: tuple[str, ...] = ()
    ret: str = ""
    envid: str = ""
    verify: bool = False
    verbose: int = 0
    flush_site: str = ""
    flush_id: str = ""
    alias_file: str = ""
    warnings: list[str] = field(default_factory=list)


def parse(program: str, arguments: Sequence[str]) -> Options:
    """program: the name it was called by. Raises Failure(64)."""
    options = Options()
    if program == "mailq":
        options.mode = Mode.MAILQ
    elif program == "newaliases":
        options.mode = Mode.NEWALIASES
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word == "-q":
            _flush(options)
            continue
        _word(options, program, word[1:], rest)
    options.recipients = rest
    _check(options)
    return options


def _word(options: Options, program: str, letters: str, rest: list[str]) -> None:
    """One argument: letters without a value may stand together."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in _KNOWN:
            _usage(f"invalid option -- '{letter}'\nusage: {program} [options]")
        value = ""
        if letter in _WITH_VALUE:
            if not letters and not rest:
                _usage(f"option requires an argument -- '{letter}'\nusage: {program} [options]")
            value, letters = letters or rest.pop(0), ""
        _option(options, letter, value)


def _option(options: Options, letter: str, value: str) -> None:
    match letter:
        case "n":
            _usage("-n option not supported")
        case "B":
            if value not in ("8BITMIME", "7BIT"):
                _usage("-B option needs 8BITMIME or 7BIT")
            options.body = value
        case "C":
            options.config = value
        case "F":
            options.full_name = value
        case "G":
            options.rewrite = False
        case "I":
            options.mode = Mode.NEWALIASES
        case "N" | "R" | "V":
            _notification(options, letter, value)
        case "X":
            _usage(f"unsupported: -X{value[:1]}")
        case "b":
            _mode(options, value)
        case "f" | "r":
            options.sender = value
        case "i":
            options.dot_ends = False
        case "o":
            _old_option(options, value)
        case "q":
            _queue(options, value)
        case "t":
            options.from_header = True
        case "v":
            options.verbose += 1


def _notification(options: Options, letter: str, value: str) -> None:
    if letter == "N":
        words = value.upper().replace(",", " ").split()
        if words == ["NEVER"] or (words and all(word in _NOTIFY for word in words)):
            options.notify = tuple(dict.fromkeys(words))
        else:
            options.warnings.append("bad -N option value -- ignored")
    elif letter == "R":
        options.ret = _RET.get(value.lower(), "")
        if not options.ret:
            options.warnings.append("bad -R option value -- ignored")
    elif len(value) > 100:
        options.warnings.append("too long -V option value -- ignored")
    elif not (value.isascii() and value.isprintable()):
        options.warnings.append("bad syntax in -V option value -- ignored")
    else:
        options.envid = value


def _mode(options: Options, value: str) -> None:
    match value[:1]:
        case "d" | "l":
            options.mode = Mode.DAEMON
        case "h" | "H":
            options.mode = Mode.IGNORE
        case "i":
            options.mode = Mode.NEWALIASES
        case "m":
            options.mode = Mode.ENQUEUE
        case "p":
            options.mode = Mode.MAILQ
        case "s":
            options.mode = Mode.STAND_ALONE
        case "v":
            options.verify = True
        case other:
            _usage(f"unsupported: -b{other}")


def _old_option(options: Options, value: str) -> None:
    if value.startswith("A"):
        if len(value) == 1:
            _usage("-oA requires pathname")
        options.alias_file = value[1:]
    elif value.startswith("i"):
        options.dot_ends = False


def _queue(options: Options, value: str) -> None:
    if value[:1].isdigit():
        _flush(options)
    elif value[:1] in ("R", "I"):
        what = "Rsitename" if value[0] == "R" else "Iqueueid"
        if len(value) == 1:
            _usage(f"specify: -q{what}")
        if value[0] == "R":
            options.flush_site = value[1:]
        else:
            options.flush_id = value[1:]
    else:
        _usage(f"-q{value[:1]} is not implemented")


def _flush(options: Options) -> None:
    if options.mode is Mode.DAEMON:
        options.warnings.append("ignoring -q option in daemon mode")
    else:
        options.mode = Mode.FLUSH


def _check(options: Options) -> None:
    for wanted, letter in (
        (options.from_header, "t"),
        (bool(options.flush_site), "qR"),
        (bool(options.flush_id), "qI"),
    ):
        if wanted and options.mode is not Mode.ENQUEUE:
            _usage(f"-{letter} can be used only in delivery mode")
    if options.verify:
        for wanted, letter in (
            (options.from_header, "t"),
            (bool(options.notify), "N"),
            (bool(options.ret), "R"),
            (options.verbose == 1, "v"),
        ):
            if wanted:
                _usage(f"-{letter} option cannot be used with -bv")
    if options.recipients:
        if options.flush_site or options.flush_id:
            what = "site" if options.flush_site else "queue_id"
            _usage(f"flush {what} requires no recipient")
        if options.mode not in (Mode.ENQUEUE, Mode.IGNORE):
            _usage(f"{options.mode.value} mode requires no recipient")


def _usage(text: str) -> None:
    raise Failure(EX_USAGE, text)


def tell(program: str, options: Options) -> None:
    """Print the warnings."""
    for warning in options.warnings:
        print(f"{program}: warning: {warning}", file=sys.stderr)
