"""The words of resel-queue: what is asked for, checked as far as that goes without the queue."""

from __future__ import annotations

import argparse
import enum
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.queue.dispatch import host_of
from resel_mta.queue.ids import parse_id
from resel_mta.queue.selection import Selection, parse_age, parse_size

PROGRAM = "resel-queue"
QUEUES = ("active", "incoming", "deferred", "hold", "corrupt", "trash")
CHANGES = ("d", "e", "force-expire", "h", "H", "r", "undelete")
# Not user@host.
_SITE = re.compile(r"[^\s@]+")

USAGE = """\
resel-queue -p | -j [QUEUE...] [selection]
       resel-queue -d | -e | --force-expire | -h | -H | -r | --undelete  ID | - | ALL
                   [QUEUE...] [selection] [--dry-run] [-j]
       resel-queue -f | -i ID | -s SITE
       resel-queue why ID [-j]
       resel-queue audit [--since AGE | DATE] [-j]
       resel-queue check | purge [-j]
       resel-queue -b ID"""

EPILOG = """\
Everybody may list the queue and have it tried again (authorized_mailq_users,
authorized_flush_users), while the daemon runs; the rest is for root and the mail owner.

ID is a queue id, "-" (ids from standard input, one a line) or ALL; with a selection, ALL may be
left out. QUEUE (active, incoming, deferred, hold, corrupt, trash) limits it; several changes at
once are done in the order -d -e --force-expire -h -H -r --undelete. -e returns mail to its sender
with the reason why it is still here (what is on hold: when it is released); --force-expire also
releases it, and is postsuper's -f, a letter that means postqueue's here. Deleted mail stays in the queue "trash" for
queue_trash_time (7d; 0: not at all), or less when the disk gets full; -d ALL trash empties it.

why tells, in plain words, why a message is still here, when it is tried next, who else waits for
that host, and what to type. audit counts recipients: what came in has to be what went out and what
is there; it exits 65 and lists what is missing if not (queue_ledger_time: 30d back).
check is postsuper's -s: it looks at all that is stored, sets aside what is damaged (-p corrupt, and
the folder corrupt of queue_directory), and exits 65 if anything was. purge is postsuper's -p: it
removes temporary files that a crash has left, as each start does.

A message is selected if all conditions hold. An ADDRESS is whole (user@host), a part (@host or
user@), a bare word for either, "<>" for mail without a sender, or a pattern with * and ?. Where
one of several recipients fits, the whole message is meant; --to, --host and --error have to fit
the same one.

  resel-queue -p | tail -n 1                        how many requests there are
  resel-queue why 4F2A91B3C7                        why that message is still here
  resel-queue -p --host mx.example.org              what waits for that host
  resel-queue -d --from www-data --older 2d --dry-run   what would be deleted
  resel-queue audit --since 1d                      whether any mail got lost since yesterday
  resel-queue -f                                    try all deferred mail now
"""


class Task(enum.Enum):
    """What is to be done."""

    LIST = "list"
    SHOW = "show"
    FLUSH = "flush"
    CHANGE = "change"
    WHY = "why"
    AUDIT = "audit"
    CHECK = "check"
    PURGE = "purge"


@dataclass(frozen=True, slots=True)
class Options:
    """since: of AUDIT, seconds since the epoch. queue_id: of SHOW, WHY, and of FLUSH for one message. site: of FLUSH for one domain.
    changes: letter → ids as given. queues: only these; empty: all."""

    task: Task
    config: str | None
    override: Sequence[str]
    json: bool = False
    verbose: bool = False
    dry_run: bool = False
    queue_id: str | None = None
    site: str | None = None
    since: float = 0.0
    changes: dict[str, list[str]] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)

    @property
    def command(self) -> str:
        """How this program is called for the same queue."""
        given = f" -c {self.config}" if self.config else ""
        return PROGRAM + given + "".join(f" -o {each}" for each in self.override)


def read_options(arguments: Sequence[str]) -> Options:
    """Raises Failure, or exits, with EX_USAGE where they make no sense."""
    parser = _parser()
    _check_empty(arguments)
    given = parser.parse_args(_join_size(arguments))
    try:
        selection = _selection(given)
        since = parse_since(given.since, time.time()) if given.since is not None else 0.0
    except ValueError as error:
        raise Failure(cli.EX_USAGE, str(error)) from None
    changes = {letter: ids for letter in CHANGES if (ids := getattr(given, f"ids_{letter}"))}
    _take_ids(changes, given.queue)
    task, words = _task(given, changes)
    _check(given, task, words, selection)
    for letter, ids in changes.items():
        if "" in ids and selection.is_everything:
            raise _wrong(
                f"{_option(letter)} needs an ID, -, ALL, or a selection such as --to ADDRESS"
            )
    return Options(
        task=task,
        config=given.config,
        override=given.override,
        json=given.j,
        verbose=given.v,
        dry_run=given.dry_run,
        queue_id=given.queue[1] if task is Task.WHY else given.b or given.i,
        site=given.s,
        since=since,
        changes=changes,
        queues=tuple(dict.fromkeys(words)),
        selection=selection,
    )


def _take_ids(changes: dict[str, list[str]], words: list[str]) -> None:
    """An id may also stand behind other options: -d --dry-run ID."""
    lacking = [ids for ids in changes.values() if "" in ids]
    found = [word for word in words if word in ("-", "ALL") or parse_id(word) is not None]
    if len(lacking) == 1 and found:
        lacking[0].remove("")
        lacking[0] += found
        words[:] = [word for word in words if word not in found]


def _check_empty(arguments: Sequence[str]) -> None:
    """ "-d $ID" without the ID must not become "-d" of all that is selected. Raises Failure."""
    for before, word in zip(("", *arguments), arguments, strict=False):
        name, equals, value = word.partition("=")
        if not word or (equals and not value and name.startswith("--") and name != "--override"):
            place = name or (f"what follows {before}" if before else "the first word")
            raise _wrong(f"{place} is empty: a variable of the shell that is not set?")


def _option(letter: str) -> str:
    return f"-{letter}" if len(letter) == 1 else f"--{letter}"


def _wrong(text: str) -> Failure:
    return Failure(cli.EX_USAGE, f"{text} (see --help)")


def _check(
    given: argparse.Namespace, task: Task, words: Sequence[str], selection: Selection
) -> None:
    """What does not go together. Raises Failure."""
    if words and given.f:
        raise _wrong(
            "-f tries all deferred mail, and takes no other word; -i ID tries one message, "
            "--force-expire ID returns it to its sender (postsuper's -f)"
        )
    for name in words:
        if name not in QUEUES:
            raise _wrong(f"unknown queue '{name}'; queues are {', '.join(QUEUES)}")
    if words and task not in (Task.LIST, Task.CHANGE):
        raise _wrong("a queue's name goes with -p, -j, -d, -e, -h, -H or -r")
    if not selection.is_everything and task not in (Task.LIST, Task.CHANGE):
        raise _wrong("--from, --to and so on go with -p, -j, -d, -e, -h, -H or -r")
    if given.s and (not host_of(given.s) or not _SITE.fullmatch(given.s)):
        raise _wrong(
            f"-s takes a domain or a next hop, such as example.org or [mx.example.org]: '{given.s}' "
            "is neither"
        )
    if given.since is not None and task is not Task.AUDIT:
        raise _wrong("--since goes with audit")
    if given.dry_run and task is not Task.CHANGE:
        raise _wrong("--dry-run goes with -d, -e, -h, -H or -r")


def _task(given: argparse.Namespace, changes: dict[str, list[str]]) -> tuple[Task, list[str]]:
    """What to do, and the words that are left."""
    words: list[str] = given.queue
    others = [letter for letter in "pbfis" if getattr(given, letter)]
    if words and words[0] == "why":
        if others or changes or len(words) != 2:
            raise _wrong("why takes one queue id, and no other letter than -j")
        return Task.WHY, []
    if words and words[0] == "audit":
        if others or changes or len(words) != 1:
            raise _wrong("audit takes no other words than --since and -j")
        return Task.AUDIT, []
    if words and words[0] in ("check", "purge"):
        if others or changes or len(words) != 1:
            raise _wrong(f"{words[0]} takes no other word than -j")
        return Task(words[0]), []
    if len(others) > 1 or (others and changes):
        raise _wrong("one of -p -b -f -i -s at a time, and not with -d -e -h -H -r")
    if changes:
        return Task.CHANGE, words
    if not others and not given.j:
        raise _wrong(
            "one of -p -j -b -f -i -s -d -e -h -H -r --undelete, why, audit, check or purge is needed"
        )
    if others in ([], ["p"]):
        return Task.LIST, words
    if others == ["b"]:
        if given.j:
            raise _wrong("-b shows the message as it is, not with -j")
        return Task.SHOW, words
    return Task.FLUSH, words


def _parser() -> cli.Parser:
    parser = cli.parser(PROGRAM, "List the mail queue and work on it.", EPILOG, short_help=False)
    parser.usage = USAGE
    what = parser.add_argument_group("listing")
    what.add_argument("-p", action="store_true", help="list the queue, as postqueue -p")
    what.add_argument(
        "-j",
        action="store_true",
        help="one JSON object a line: alone as postqueue -j; with a change, one per message",
    )
    what.add_argument("-b", metavar="ID", help="show envelope and message, as postcat -q")
    tries = parser.add_argument_group("trying again")
    tries.add_argument("-f", action="store_true", help="try all deferred mail now")
    tries.add_argument("-i", metavar="ID", help="try one message now")
    tries.add_argument("-s", metavar="SITE", help="try all mail for one domain or next hop now")
    changes = parser.add_argument_group("changing")
    for letter, text in (
        ("d", "delete; see --undelete"),
        ("e", "give up: return to the sender, without another attempt"),
        ("force-expire", "the same, also what is on hold"),
        ("h", "put on hold: not delivered until released"),
        ("H", "release from hold"),
        ("r", "requeue: as if it had just arrived, and delivered at once"),
        ("undelete", "bring deleted mail back"),
    ):
        changes.add_argument(
            _option(letter),
            dest=f"ids_{letter}",
            metavar="ID",
            action="append",
            nargs="?",
            const="",
            default=[],
            help=text,
        )
    changes.add_argument("-n", "--dry-run", action="store_true", help="only show what would change")
    changes.add_argument("-v", action="store_true", help="name each message also with ALL")
    _add_selection(parser)
    parser.add_argument_group("audit").add_argument(
        "--since",
        metavar="WHEN",
        help="2h, 3d, 1w ago, or a date: 2026-11-24, '2026-11-24 18:30' (default: all there is)",
    )
    parser.add_argument("queue", nargs="*", metavar="QUEUE", help=argparse.SUPPRESS)
    return parser


def _add_selection(parser: cli.Parser) -> None:
    select = parser.add_argument_group("selection")
    for name, metavar, text in (
        ("from", "ADDRESS", "the envelope sender"),
        ("to", "ADDRESS", "a recipient, also as it was before aliases"),
        ("host", "HOST", "the host or domain that it goes to, or that answered last"),
        ("subject", "TEXT", "words of the Subject"),
        ("error", "TEXT", "words of the reason why it is still here"),
        ("older", "AGE", "arrived at least so long ago: 30m, 2h, 3d, 1w"),
        ("size", "SIZE", "100k (at least), -1M (at most), 100k-1M"),
    ):
        select.add_argument(f"--{name}", dest=f"select_{name}", metavar=metavar, help=text)


def parse_since(text: str, now: float) -> float:
    """A moment: an age, or a local date with or without a time of day. Raises ValueError."""
    try:
        if text[-1:].isalpha():
            when = now - parse_age(text)
        else:
            when = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"--since '{text}' is neither an age such as 2h or 3d nor a date such as 2026-11-24"
        ) from None
    if when > now:
        raise ValueError(f"--since '{text}' is in the future")
    return when


def _join_size(arguments: Sequence[str]) -> list[str]:
    """ "--size -1M" as one word: to argparse the value looks like an option."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] == "--size":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _selection(given: argparse.Namespace) -> Selection:
    """Raises ValueError."""
    smallest, largest = parse_size(given.select_size) if given.select_size else (None, None)
    return Selection(
        sender=given.select_from,
        recipient=given.select_to,
        host=given.select_host,
        subject=given.select_subject,
        error=given.select_error,
        older=parse_age(given.select_older) if given.select_older is not None else None,
        smallest=smallest,
        largest=largest,
    )
