"""resel-queue: what postqueue, postsuper and postcat do.

It asks the daemon over the admin socket; when none runs it takes the queue's lock and works on
the queue itself, as the queue's owner.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.config import Settings, load
from resel_mta.control import ControlClient, ControlError, NotRunning, Row, control_path
from resel_mta.queue import listing
from resel_mta.queue.sqlite import QueueLocked, SQLiteStore
from resel_mta.verbs import QueueVerbs, entry_from_row

PROGRAM = "resel-queue"
LOCK_PATIENCE = 5.0
QUEUES = ("active", "incoming", "deferred", "hold", "corrupt")

# letter → (verb, what postsuper says of one message, its summary)
ACTIONS = {
    "d": ("delete", "removed", "Deleted"),
    "h": ("hold", "placed on hold", "Placed on hold"),
    "H": ("release", "released from hold", "Released from hold"),
    "r": ("requeue", "requeued", "Requeued"),
}

EPILOG = """\
ID is a queue id, "-" (ids from standard input, one a line) or ALL; -d, -h, -H and -r can be
repeated, and a queue's name after them (active, incoming, deferred, hold, corrupt) limits them.

  resel-queue -p | tail -n 1        how many requests there are
  resel-queue -f                    try all deferred mail now
  resel-queue -d ALL deferred       delete all deferred mail
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run(PROGRAM, _main, arguments)


def _parser() -> cli.Parser:
    parser = cli.parser(PROGRAM, "List the mail queue and work on it.", EPILOG, short_help=False)
    what = parser.add_argument_group("listing")
    what.add_argument("-p", action="store_true", help="list the queue, as postqueue -p")
    what.add_argument("-j", action="store_true", help="one JSON object a line, as postqueue -j")
    what.add_argument("-b", metavar="ID", help="show envelope and message, as postcat -q")
    tries = parser.add_argument_group("trying again")
    tries.add_argument("-f", action="store_true", help="try all deferred mail now")
    tries.add_argument("-i", metavar="ID", help="try one message now")
    tries.add_argument("-s", metavar="SITE", help="try all mail for one domain now")
    changes = parser.add_argument_group("changing")
    for letter, text in (
        ("d", "delete"),
        ("h", "put on hold: not delivered until released"),
        ("H", "release from hold"),
        ("r", "requeue: as if it had just arrived, and delivered at once"),
    ):
        changes.add_argument(
            f"-{letter}", dest=f"ids_{letter}", metavar="ID", action="append", default=[], help=text
        )
    changes.add_argument("queue", nargs="*", metavar="QUEUE", help=argparse.SUPPRESS)
    return parser


def _main(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in options.queue:
        if name not in QUEUES:
            parser.error(f"unknown queue '{name}'; queues are {', '.join(QUEUES)}")
    changes = [letter for letter in ACTIONS if getattr(options, f"ids_{letter}")]
    others = [letter for letter in "pjbfis" if getattr(options, letter)]
    if len(others) > 1 or (others and changes):
        parser.error("one of -p -j -b -f -i -s at a time, and not with -d -h -H -r")
    if not others and not changes:
        parser.error("one of -p -j -b -f -i -s -d -h -H -r is needed")
    if options.queue and not changes:
        parser.error("a queue's name goes with -d, -h, -H or -r")
    settings = load(options.config, options.override)
    queue = Queue(settings)
    if options.p:
        return print_queue(queue)
    if options.j:
        return _write(map(listing.as_json, map(entry_from_row, queue.ask("queue.walk"))))
    if options.b:
        return _show(queue, options.b)
    if others:
        return _flush(queue, options)
    return _change(queue, options, changes)


class Queue:
    """The queue of these settings, wherever it is held."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.text("queue_directory")
        self._client = ControlClient(control_path(settings.text("data_directory")))

    def ask(self, verb: str, **args: Any) -> Iterator[Row]:
        """A verb's rows. Raises Failure."""
        try:
            yield from self._client.call(verb, **args)
        except NotRunning:
            yield from self._ask_directly(verb, args)
        except ControlError as error:
            raise Failure(error.exit_code, error.text) from None

    def _ask_directly(self, verb: str, args: dict[str, Any]) -> Iterator[Row]:
        self._become_owner()
        try:
            yield from asyncio.run(self._answer(verb, args))
        except ControlError as error:
            raise Failure(error.exit_code, error.text) from None
        except QueueLocked as error:
            raise Failure(cli.EX_TEMPFAIL, f"{error}, which does not answer") from None

    def _become_owner(self) -> None:
        """Files made on the way must be the daemon's, not root's."""
        try:
            owner = os.stat(self._directory)
        except FileNotFoundError:
            raise Failure(
                cli.EX_UNAVAILABLE, f"queue_directory {self._directory} does not exist yet"
            ) from None
        if os.geteuid() == owner.st_uid:
            return
        if os.geteuid() != 0:
            raise Failure(
                cli.EX_NOPERM, f"{self._directory}: only root and the mail owner may read the queue"
            )
        os.setgroups([owner.st_gid])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)

    async def _answer(self, verb: str, args: dict[str, Any]) -> list[Row]:
        store = await self._open()
        try:
            return [row async for row in QueueVerbs(store, None).table()[verb](args)]
        finally:
            await store.close()

    async def _open(self) -> SQLiteStore:
        """Another command may have it for a moment."""
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                return await SQLiteStore.open(self._directory)
            except QueueLocked:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)


def print_queue(queue: Queue) -> int:
    """``postqueue -p``, which is also ``mailq``."""
    return _write(listing.mailq(map(entry_from_row, queue.ask("queue.walk"))))


def _write(pieces: Iterable[str]) -> int:
    for piece in pieces:
        sys.stdout.write(piece)
    return cli.EX_OK


def _show(queue: Queue, queue_id: str) -> int:
    rows = queue.ask("queue.show", id=queue_id)
    entry = entry_from_row(next(rows))
    blocks = (base64.b64decode(row["data"]) for row in rows)
    for piece in listing.postcat(entry, blocks):
        sys.stdout.buffer.write(piece)
    return cli.EX_OK


def _flush(queue: Queue, options: argparse.Namespace) -> int:
    for _ in queue.ask("queue.flush", id=options.i, site=options.s):
        continue
    return cli.EX_OK


def _change(queue: Queue, options: argparse.Namespace, letters: Sequence[str]) -> int:
    status = cli.EX_OK
    for letter in letters:
        action, said, summary = ACTIONS[letter]
        wanted = _ids(getattr(options, f"ids_{letter}"))
        changed: list[str] = []
        for name in options.queue or [None]:
            for row in queue.ask("queue.change", action=action, ids=wanted, queue=name):
                changed.append(row["id"])
                print(f"{PROGRAM}: {row['id']}: {said}", file=sys.stderr)
        if changed:
            plural = "" if len(changed) == 1 else "s"
            print(f"{PROGRAM}: {summary}: {len(changed)} message{plural}", file=sys.stderr)
        for queue_id in sorted(set(wanted or ()) - set(changed)):
            print(f"{PROGRAM}: warning: {queue_id}: {_not_found(letter)}", file=sys.stderr)
            status = cli.EX_DATAERR
    return status


def _not_found(letter: str) -> str:
    if letter == "H":
        return "no such message on hold"
    return (
        "no such message in the queue" if letter != "h" else "no such message, or on hold already"
    )


def _ids(given: Sequence[str]) -> list[str] | None:
    """None for ALL."""
    if "ALL" in given:
        return None
    ids: list[str] = []
    for each in given:
        if each == "-":
            ids += [word for line in sys.stdin if (word := line.strip())]
        else:
            ids.append(each)
    return ids


if __name__ == "__main__":
    sys.exit(main())
