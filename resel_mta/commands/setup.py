"""resel-mta setup: what `dpkg-reconfigure postfix` asks, and root's address; a diff before writing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from resel_mta.commands import cli
from resel_mta.commands import setup_text as texts
from resel_mta.commands.cli import Failure
from resel_mta.commands.language import Speaker
from resel_mta.commands.mta_client import running
from resel_mta.commands.setup_plan import (
    Answers,
    Change,
    Start,
    alias_file,
    base,
    guess_role,
    is_elsewhere,
    plan,
    present_answers,
    settings_of,
    starting_point,
)
from resel_mta.config import Settings
from resel_mta.config.aliases import read_targets
from resel_mta.config.check import check
from resel_mta.config.edit import sole_editor, write_text
from resel_mta.config.live import live_files
from resel_mta.config.load import config_path, read
from resel_mta.config.problems import Problem
from resel_mta.config.roles import KINDS, ROLES
from resel_mta.disk import Disk
from resel_mta.wire.destination import parse_destination

DESCRIPTION = """\
Asks what `dpkg-reconfigure postfix` asks: kind of machine, system mail name, relay host; and who
reads root's mail. It starts from main.cf, or where there is none yet from Postfix's, shows what it
would change, and keeps every comment and all that it does not ask about. A second run changes
nothing. Nothing is sent, started or stopped."""
EPILOG = """\
Unattended: --yes takes what no option says from the present configuration.
Exit status: 0; 78 if the result holds errors that a start would refuse.
"""
_POSTFIX = "/etc/postfix/main.cf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role", choices=tuple(ROLES), default=argparse.SUPPRESS, help="kind of machine"
    )
    parser.add_argument("--mailname", metavar="NAME", help="system mail name (myorigin)")
    parser.add_argument(
        "--relayhost", metavar="HOST", help="[host], or a domain with MX; empty for none"
    )
    parser.add_argument(
        "--root", metavar="ADDRESS", help="who gets root's mail; empty leaves the aliases alone"
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing, write")
    parser.add_argument("-n", "--dry-run", action="store_true", help="ask nothing, write nothing")
    parser.add_argument(
        "--postfix",
        metavar="FILE",
        default=_POSTFIX,
        help=f"Postfix's main.cf (default {_POSTFIX})",
    )


def setup(options: argparse.Namespace) -> int:
    """The whole conversation; its exit status."""
    if options.override:
        raise Failure(cli.EX_USAGE, "-o changes no file; resel-conf -e does")
    speaker = Speaker(os.environ)
    own = config_path(options.config)
    start = starting_point(own, Path(options.postfix), tuple(ROLES))
    unattended = options.yes or options.dry_run
    if not unattended and not sys.stdin.isatty():
        raise Failure(cli.EX_USAGE, "there is nobody to ask; --yes takes the answers from options")
    _say(
        speaker.say(
            texts.START[start.kind if start else "shipped"], path=start.path if start else own
        )
    )
    ask = _Given(options) if unattended else _Asked(options, speaker)
    answers = ask.answers(start, own)
    changes = plan(start, own, answers)
    for change in changes:
        _say("\n".join(change.diff()))
    if not changes:
        _say(speaker.say(texts.NOTHING))
    if options.dry_run:
        return cli.EX_OK
    if changes and not options.yes and not _confirmed(speaker):
        _say(speaker.say(texts.NOT_WRITTEN))
        return cli.EX_OK
    for change in changes:
        _write(change)
        _say(speaker.say(texts.WRITTEN, path=change.path))
    return _finish(own, speaker, answers)


def _say(text: str) -> None:
    print(text, flush=True)


# -- answers ------------------------------------------------------------------------------------


class _Given:
    """Answers from options, else from the present configuration."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def answers(self, start: Start | None, own: Path) -> Answers:
        """Raises Failure(64) for one that makes no sense."""
        role = self._role(self._options.role or (guess_role(start) if start else next(iter(ROLES))))
        present = present_answers(_present(start, own, role), role)
        return Answers(
            role,
            self._answer("mailname", texts.MAILNAME, present.mailname, _mailname),
            self._answer("relayhost", texts.RELAYHOST, present.relayhost, _relayhost),
            self._answer("root", texts.ROOT, present.root, _root),
        )

    def _role(self, present: str) -> str:
        return present

    def _answer(
        self, name: str, question: tuple[str, str], present: str, check: Callable[[str], str]
    ) -> str:
        given = getattr(self._options, name)
        if given is None:
            # What is there already is not this command's to judge.
            return present
        try:
            return check(given)
        except ValueError as error:
            raise Failure(cli.EX_USAGE, f"--{name}: {error}") from None


class _Asked(_Given):
    """Answers of a person; options are taken as given."""

    def __init__(self, options: argparse.Namespace, speaker: Speaker) -> None:
        super().__init__(options)
        self._speaker = speaker

    def _role(self, present: str) -> str:
        if self._options.role:
            return present
        say = self._speaker.say
        names = list(ROLES)
        _say(say(texts.KIND))
        for number, name in enumerate(names, 1):
            _say(f"  {number}. {name:<10} {say(KINDS[name])}")
        while True:
            answer = _read_line(f"{say(texts.CHOICE)} [{present}]: ") or present
            if answer.isdigit() and 0 < int(answer) <= len(names):
                return names[int(answer) - 1]
            if answer in names:
                return answer
            _say(say(texts.NO_CHOICE))

    def _answer(
        self, name: str, question: tuple[str, str], present: str, check: Callable[[str], str]
    ) -> str:
        if getattr(self._options, name) is not None:
            return super()._answer(name, question, present, check)
        while True:
            answer = _read_line(f"{self._speaker.say(question)} [{present}]: ")
            if not answer:
                return present
            try:
                return check("" if answer == "-" else answer)
            except ValueError as error:
                _say(f"  {error}")


def _read_line(prompt: str) -> str:
    """Raises Failure at the end of input."""
    try:
        return input(prompt).strip()
    except EOFError:
        raise Failure(cli.EX_USAGE, "end of input: nothing was written") from None


def _present(start: Start | None, own: Path, role: str) -> Settings:
    """What the file that will be changed says."""
    text, source = base(start, own, role)
    return settings_of(text, source, role)


def _mailname(text: str) -> str:
    text = text.strip()
    labels = text.split(".")
    plain = all(char.isalnum() or char in "-._" for char in text)
    if not plain or not all(labels) or len(labels) < 2:
        raise ValueError(f'"{text}" is not a full domain such as vm.adm.resel.fr')
    return text


def _relayhost(text: str) -> str:
    _one_line(text)
    words = text.replace(",", " ").split()
    for word in words:
        parse_destination(word)
    return text.strip()


def _root(text: str) -> str:
    _one_line(text)
    if text.strip() and not read_targets(text):
        raise ValueError(f'"{text}" names nobody')
    return text.strip()


def _one_line(text: str) -> None:
    """It becomes one line of a file. Raises ValueError."""
    if not text.isprintable():
        raise ValueError("holds a line break or another control character")


def _confirmed(speaker: Speaker) -> bool:
    answer = _read_line(f"{speaker.say(texts.WRITE)} ").lower()
    return not answer or answer in speaker.say(texts.YES).split()


# -- writing ------------------------------------------------------------------------------------


def _write(change: Change) -> None:
    """Raises Failure."""
    disk = Disk()
    try:
        disk.make_directories(change.path.parent, 0o755)
        with sole_editor(change.path):
            write_text(change.path, change.after, disk)
    except OSError as error:
        status = cli.EX_NOPERM if isinstance(error, PermissionError) else cli.EX_CANTCREAT
        raise Failure(status, f"{change.path}: {error.strerror}") from None


def _finish(own: Path, speaker: Speaker, answers: Answers) -> int:
    """newaliases, the check, and what to do next; the exit status."""
    settings, problems = read(str(own))
    errors = [problem for problem in problems if problem.is_error]
    if not errors:
        errors = _make_aliases_live(settings, speaker)
        problems = [*settings.warnings, *check(settings)]
        errors = errors or [problem for problem in problems if problem.is_error]
    if errors:
        _say(speaker.say(texts.BAD))
    for problem in problems:
        _say(f"  {problem}")
    if errors:
        return cli.EX_CONFIG
    _say(speaker.say(texts.GOOD, path=own, role=settings.role))
    origin = settings.text("myorigin")
    if answers.root not in ("", f"root@{origin}") and is_elsewhere(settings, origin):
        _say(speaker.say(texts.NOT_LOCAL, origin=origin))
    status = running(settings)
    if status is None:
        _say(speaker.say(texts.BEGIN))
    elif status:
        text = texts.RELOAD if status["role"] == settings.role else texts.RESTART
        _say(speaker.say(text, role=status["role"], pid=status["pid"]))
    return cli.EX_OK


def _make_aliases_live(settings: Settings, speaker: Speaker) -> list[Problem]:
    """As newaliases; a daemon that was never started reads them at its start."""
    wanted = alias_file(settings)
    if not os.path.isdir(settings.text("data_directory")):
        return []
    errors: list[Problem] = []
    for _, file in live_files(settings):
        if file.source == wanted:
            try:
                found = file.publish(Disk())
            except OSError as error:
                raise Failure(cli.EX_CANTCREAT, f"{file.live}: {error.strerror}") from None
            errors += [problem for problem in found if problem.is_error]
            if not errors:
                _say(speaker.say(texts.ALIASES))
    return errors
