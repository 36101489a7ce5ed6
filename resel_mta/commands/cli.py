"""What every command has in common: options, exit codes, and errors in one line each."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from resel_mta import __version__
from resel_mta.config import ConfigError, Settings
from resel_mta.mail import TempFail
from resel_mta.privileges import account_name

# sysexits(3)
EX_OK = 0
EX_USAGE = 64
EX_DATAERR = 65
EX_NOUSER = 67
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_OSERR = 71
EX_CANTCREAT = 73
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78


class Failure(Exception):
    """A command that cannot do what it was asked. text: one line or several, for a person."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.text = text


class Parser(argparse.ArgumentParser):
    """argparse with EX_USAGE for what it cannot parse."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: fatal: {printable(message)}\n")


def parser(program: str, description: str, epilog: str = "", *, short_help: bool = True) -> Parser:
    """A parser with -c, -o, --version and --help. short_help: whether -h means --help too."""
    made = Parser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=short_help,
    )
    if not short_help:
        made.add_argument("--help", action="help", help="show this help and exit")
    made.add_argument(
        "-c",
        dest="config",
        metavar="FILE",
        help="main.cf, or the directory that holds it (default: $RESEL_CONFIG, "
        "then /etc/resel-mta/main.cf)",
    )
    made.add_argument(
        "-o",
        dest="override",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="overrides a parameter of main.cf; repeatable",
    )
    made.add_argument("--version", action="version", version=f"{program} {__version__}")
    return made


def printable(text: str) -> str:
    """text with ? for what could move a terminal's cursor or is no character: it may be an
    argument, or come from a message."""
    return "".join(c if c.isprintable() else "?" for c in text)


def tell_overrides(program: str, settings: Settings) -> None:
    """What is odd about the -o options: those of main.cf are told by `check`, these by nobody else."""
    for problem in settings.warnings:
        if problem.where == "command line":
            print(f"{program}: {problem}", file=sys.stderr)


def _cure() -> str:
    """What helps against a permission that is lacking."""
    if os.geteuid() == 0:
        return ""
    if os.getuid() == 0:
        # Files of the queue are used as its owner.
        return f"; it has to belong to {account_name(os.geteuid())} (chown)"
    return "; ask as root"


def lookup_failed(error: TempFail) -> Failure:
    """What a person is told who asked for users while nobody can say who they are."""
    reason = error.__cause__
    if isinstance(reason, PermissionError):
        return Failure(EX_NOPERM, f"{cause(reason)}{_cure()}")
    if isinstance(reason, OSError):
        return Failure(EX_TEMPFAIL, cause(reason))
    return Failure(EX_TEMPFAIL, error.reply.text)


def _open_standard_files() -> None:
    """Whoever calls us may have closed them: no other file may get their numbers, and what is said
    has to go somewhere."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w", closefd=False))


def run(
    program: str,
    body: Callable[[Sequence[str]], int],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a command's body; every failure becomes lines on standard error and an exit status."""
    _open_standard_files()
    try:
        status = body(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        for problem in error.problems:
            word = "fatal: " if problem.is_error else ""
            print(f"{program}: {word}{problem}", file=sys.stderr)
        return EX_CONFIG
    except Failure as failure:
        for line in failure.text.split("\n"):
            print(f"{program}: fatal: {printable(line)}", file=sys.stderr)
        return failure.exit_code
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EX_OK
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        denied = isinstance(error, PermissionError)
        cure = _cure() if denied else ""
        print(f"{program}: fatal: {cause(error)}{cure}", file=sys.stderr)
        return EX_NOPERM if denied else EX_OSERR
    except Exception as error:
        print(f"{program}: fatal: {cause(error)}", file=sys.stderr)
        return EX_SOFTWARE


def cause(error: Exception) -> str:
    """Why a program ends, in one line."""
    if isinstance(error, ConfigError):
        return "; ".join(problem.plain() for problem in error.problems)
    if isinstance(error, Failure):
        return "; ".join(error.text.split("\n"))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    # A bug. Where it is says more than a traceback to whoever reports it.
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected error at {place}: {what}"
