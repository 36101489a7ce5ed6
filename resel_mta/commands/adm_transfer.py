"""``resel-adm copy`` and ``move``: within one user's mail, and from another user's."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from resel_lda.admin.query import QueryError, parse_query
from resel_mta.commands import cli
from resel_mta.commands.adm_mail import Request, mail_command
from resel_mta.commands.adm_options import Command, Context, Fatal, Options, UsageError, user_error
from resel_mta.commands.adm_run import Mailboxes


def _check(words: Sequence[str]) -> None:
    """Raises Fatal."""
    try:
        parse_query(words)
    except QueryError as error:
        raise Fatal(cli.EX_TEMPFAIL, f"Fatal: {error}") from None


def _within(command: str) -> Callable[[Options], Request]:
    def ask(options: Options) -> Request:
        target, *query = options.words
        _check(query)
        return Request(command, {"target": target, "query": query})

    return ask


def transfer_command(name: str) -> Command:
    """name: "copy" or "move"."""
    usage = "<destination> [user <source user>] <search query>"
    plain = mail_command(name, usage, "", _within(name), least=2)

    def run(context: Context, options: Options) -> int:
        if options.words[1].lower() != "user":
            return plain.run(context, options)
        if len(options.words) < 4 or "A" in options.letters:
            raise UsageError(plain.line)
        target, _, source, *query = options.words
        _check(query)
        owner = options.values.get("u") or getpass.getuser()
        return _Transfer(context, source, owner).run(target, query, name == "move")

    return replace(plain, run=run)


class _Transfer:
    """Messages of one user go to another, one at a time: the two may be different workers'."""

    def __init__(self, context: Context, source: str, owner: str) -> None:
        self._mailboxes = Mailboxes(context.settings)
        self._source = source
        self._owner = owner
        self._status = cli.EX_OK

    def run(self, target: str, query: Sequence[str], move: bool) -> int:
        """The exit code: of the first thing that failed."""
        # Copies nothing, and says whether it could.
        nothing = ["mailbox", target, "not", "all"]
        self._ask(self._owner, "copy", {"target": target, "query": nothing})
        if self._status:
            return self._status
        where = {"fields": ["mailbox", "uid"], "query": list(query)}
        for mailbox, uid in self._ask(self._source, "fetch", where):
            this = ["mailbox", mailbox, "uid", uid]
            if self._copy(this, target) and move:
                self._ask(self._source, "expunge", {"query": this, "purge": True})
        return self._status

    def _copy(self, this: list[str], target: str) -> bool:
        fields = ["flags", "date.received.unixtime", "text"]
        rows = self._ask(self._source, "fetch", {"fields": fields, "query": this})
        before = self._status
        for flags, date, text in rows:
            args = {"mailbox": target, "flags": flags.split(), "date": float(date)}
            self._ask(self._owner, "save", args, text.encode("utf-8", "surrogateescape"))
        return bool(rows) and self._status == before

    def _ask(
        self, user: str, command: str, args: dict[str, Any], content: bytes = b""
    ) -> list[Sequence[str]]:
        rows: list[Sequence[str]] = []

        def problem(text: str, exit_code: int) -> None:
            if exit_code:
                self._status = self._status or exit_code
                user_error(user, text, exit_code)

        self._mailboxes.run(user, command, args, content, rows.append, problem)
        return rows
