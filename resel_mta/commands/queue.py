"""resel-queue: what postqueue, postsuper and postcat do, `why`, and `audit`."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from resel_mta.commands import cli
from resel_mta.commands.queue_access import Queue
from resel_mta.commands.queue_options import PROGRAM, Options, Task, read_options
from resel_mta.config import load
from resel_mta.queue import audit, listing, why
from resel_mta.queue.door import Checked, Entry
from resel_mta.queue.ids import parse_id
from resel_mta.verbs import SAID, entries_from_row

AT_ONCE = 200
# Option → verbs, one after the other.
ACTIONS = {
    "d": ("delete",),
    "e": ("expire",),
    "force-expire": ("expire", "release"),
    "h": ("hold",),
    "H": ("release",),
    "r": ("requeue",),
    "undelete": ("undelete",),
}
# postsuper's summaries.
SUMMARIES = {
    "delete": "Deleted",
    "expire": "Force-expired",
    "hold": "Placed on hold",
    "release": "Released from hold",
    "requeue": "Requeued",
    "undelete": "Restored",
}
NOT_FOUND = {
    "d": "no such message in the queue",
    "e": "no such message in the queue, or expired already",
    "force-expire": "no such message in the queue, or expired already",
    "h": "no such message in the queue, or on hold already",
    "H": "no such message on hold",
    "r": "no such message in the queue",
    "undelete": "no such message in the trash",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run(PROGRAM, _main, arguments)


def _main(arguments: Sequence[str]) -> int:
    options = read_options(arguments)
    settings = load(options.config, options.override)
    cli.tell_overrides(PROGRAM, settings)
    queue = Queue(settings)
    match options.task:
        case Task.LIST:
            return _list(queue, options)
        case Task.SHOW:
            return _show(queue, options)
        case Task.WHY:
            return _why(queue, options)
        case Task.AUDIT:
            return _audit(queue, options)
        case Task.CHECK:
            return _check(queue, options)
        case Task.PURGE:
            return _purge(queue, options)
        case Task.FLUSH:
            return _flush(queue, options)
        case Task.CHANGE:
            return _Change(queue, options).run()


def _list(queue: Queue, options: Options) -> int:
    def entries() -> Iterator[Entry]:
        select = options.selection.as_row()
        for name in options.queues or (None,):
            for row in queue.ask("queue.walk", queue=name, select=select):
                yield from entries_from_row(row)

    if options.json:
        return _write(map(listing.as_json, entries()))
    whole = options.selection.is_everything and not options.queues
    empty = listing.EMPTY if whole else listing.NONE_SELECTED
    return _write(listing.mailq(entries(), empty=empty))


def _write(pieces: Iterable[str]) -> int:
    """Several at a time, for speed."""
    left = iter(pieces)
    while block := "".join(islice(left, AT_ONCE)):
        sys.stdout.write(block)
    return cli.EX_OK


def _show(queue: Queue, options: Options) -> int:
    rows = queue.ask("queue.show", id=options.queue_id)
    (entry,) = entries_from_row(next(rows))
    blocks = (base64.b64decode(row["data"]) for row in rows)
    for piece in listing.postcat(entry, blocks):
        sys.stdout.buffer.write(piece)
    return cli.EX_OK


def _why(queue: Queue, options: Options) -> int:
    (row,) = queue.ask("queue.why", id=options.queue_id)
    if options.json:
        return _write([json.dumps(row, ensure_ascii=False) + "\n"])
    return _write(f"{line}\n" for line in why.tell(why.facts_from_row(row), options.command))


def _audit(queue: Queue, options: Options) -> int:
    """EX_DATAERR where something does not add up."""
    (row,) = queue.ask("queue.audit", since=options.since)
    found = audit.audit_from_row(row)
    if options.json:
        row |= {"difference": found.difference, "balanced": found.is_balanced}
        _write([json.dumps(row) + "\n"])
    else:
        _write(f"{line}\n" for line in audit.report(found))
    return cli.EX_OK if found.is_balanced else cli.EX_DATAERR


def _check(queue: Queue, options: Options) -> int:
    """EX_DATAERR where something was damaged."""
    (row,) = queue.ask("queue.check")
    if options.json:
        _write([json.dumps(row) + "\n"])
    else:
        _write(f"{line}\n" for line in listing.checked(Checked(**row), options.command))
    return cli.EX_DATAERR if row["problems"] else cli.EX_OK


def _purge(queue: Queue, options: Options) -> int:
    (row,) = queue.ask("queue.sweep")
    if options.json:
        _write([json.dumps(row) + "\n"])
    else:
        files = f"{row['files']} temporary file{'' if row['files'] == 1 else 's'}"
        print(f"{PROGRAM}: Removed: {files}, {row['octets']} octets", file=sys.stderr)
    return cli.EX_OK


def _flush(queue: Queue, options: Options) -> int:
    for row in queue.ask("queue.flush", id=options.queue_id, site=options.site):
        if options.json:
            print(json.dumps({"flushed": row["count"]}))
        if options.site and not row["count"]:
            _say(f"No deferred message waits for {options.site}")
    return cli.EX_OK


class _Change:
    """-d, -e, -h, -H, -r and so on, with postsuper's lines on standard error."""

    def __init__(self, queue: Queue, options: Options) -> None:
        self._queue = queue
        self._options = options
        self._status = cli.EX_OK

    def run(self) -> int:
        for letter, given in self._options.changes.items():
            self._change(letter, given)
        return self._status

    def _change(self, letter: str, given: Sequence[str]) -> None:
        options = self._options
        everything = "ALL" in given or "" in given
        ids = None if everything else self._ids(given)
        changed: set[str] = set()
        # What has been done already cannot be seen before it is.
        actions = ACTIONS[letter][:1] if options.dry_run else ACTIONS[letter]
        for action in actions:
            changed.update(self._perform(action, ids))
        if ids is not None and options.selection.is_everything and not options.queues:
            self._missing(letter, given, ids, changed)

    def _perform(self, action: str, ids: list[str] | None) -> list[str]:
        """One verb; the ids of what it changed, or would change."""
        options, said, summary = self._options, SAID[action], SUMMARIES[action]
        request = {
            "action": action,
            # The daemon need not read what can be no id: a line of standard input may be of any size.
            "ids": ids if ids is None else [each for each in ids if parse_id(each) is not None],
            "select": options.selection.as_row(),
            "dry_run": options.dry_run,
        }
        changed: list[str] = []
        entries: list[Entry] = []
        for name in options.queues or (None,):
            for row in self._queue.ask("queue.change", queue=name, **request):
                if options.dry_run:
                    entries += entries_from_row(row)
                    continue
                changed.append(row["id"])
                if options.json:
                    print(json.dumps({"queue_id": row["id"], "action": said}))
                elif ids is not None or options.verbose:
                    _say(f"{row['id']}: {said}")
        if options.dry_run:
            self._would(entries, summary)
            return [entry.queue_id for entry in entries]
        _say(f"{summary}: {_messages(len(changed))}")
        return changed

    def _would(self, entries: list[Entry], summary: str) -> None:
        if self._options.json:
            _write(map(listing.as_json, entries))
        elif entries:
            _write(listing.mailq(entries))
            sys.stdout.flush()
        _say(f"Would be {summary.lower()}: {_messages(len(entries))}; nothing was changed")

    def _ids(self, given: Sequence[str]) -> list[str]:
        ids: list[str] = []
        for each in given:
            ids += [word for line in sys.stdin if (word := line.strip())] if each == "-" else [each]
        return ids

    def _missing(
        self, letter: str, given: Sequence[str], ids: Sequence[str], changed: set[str]
    ) -> None:
        """Ids that named nothing. Among those from standard input that is no failure: mail goes
        while a list of it is being made."""
        for queue_id in dict.fromkeys(ids):
            if queue_id in changed:
                continue
            if parse_id(queue_id) is None:
                _say(f"warning: invalid mail queue id: {queue_id}")
                self._status = cli.EX_DATAERR
            else:
                _say(f"warning: {queue_id}: {NOT_FOUND[letter]}")
                if queue_id in given:
                    self._status = cli.EX_DATAERR


def _say(text: str) -> None:
    print(f"{PROGRAM}: {cli.printable(text)}", file=sys.stderr)


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
