"""The table of resel-adm's commands on mail, with doveadm's arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from resel_lda.admin.fields import UnknownField, UnknownFilter, available, field_values, is_stream
from resel_lda.admin.folders import BIN_FIELDS, STATUS_FIELDS, SUMMABLE
from resel_lda.admin.query import Node, QueryError, names_a_mailbox, names_messages, parse_query
from resel_lda.mailbox import MailboxError
from resel_lda.maildir.flags import canonical_flags
from resel_mta.commands import cli
from resel_mta.commands.adm_mail import Request, mail_command
from resel_mta.commands.adm_options import PROGRAM, Command, Fatal, Options
from resel_mta.commands.adm_print import Header
from resel_mta.commands.adm_transfer import transfer_command

_QUOTA = (
    Header("root", "Quota name"),
    Header("type", "Type"),
    Header("value", "Value", right=True),
    Header("limit", "Limit", right=True),
    Header("percent", "%", right=True),
)


# What `undelete -l` shows.
_KEPT = {
    "mailbox": "mailbox",
    "uid": "uid",
    "date.saved": "expunged",
    "hdr.from": "from",
    "hdr.subject": "subject",
}


def _query(words: Sequence[str]) -> Node:
    """Raises Fatal."""
    try:
        return parse_query(words)
    except QueryError as error:
        raise Fatal(cli.EX_TEMPFAIL, f"Fatal: {error}") from None


# Folders.


def _list(options: Options) -> Request:
    given = options.letters
    args = {"masks": options.words, "mutf7": "7" in given, "subscribed": "s" in given}
    return Request("list", args, "flow", (Header("mailbox", hidden=True),))


def _status(options: Options) -> Request:
    asked = options.words[0].split()
    if not asked:
        raise Fatal(cli.EX_USAGE, "Fatal: No status fields")
    total = "t" in options.letters
    fields: list[str] = []
    for name in asked:
        if name != "all" and name not in (*STATUS_FIELDS, *BIN_FIELDS):
            raise Fatal(cli.EX_USAGE, f"Fatal: Unknown status field: {name}")
        fields += STATUS_FIELDS if name == "all" else [name]
    if total and "all" not in asked and not SUMMABLE.issuperset(fields):
        bad = next(name for name in fields if name not in SUMMABLE)
        raise Fatal(cli.EX_USAGE, f"Fatal: Status field {bad} can't be used with -t")
    shown = [
        name
        for name in (*STATUS_FIELDS, *BIN_FIELDS)
        if name in fields and (not total or name in SUMMABLE)
    ]
    headers = [Header(name) for name in shown]
    if not total:
        headers.insert(0, Header("mailbox", hidden=True))
    args = {"fields": shown, "masks": options.words[1:], "total": total}
    return Request("status", args, "flow", headers)


def _create(options: Options) -> Request:
    return Request("create", {"names": options.words, "subscribe": "s" in options.letters})


def _delete(options: Options) -> Request:
    given = options.letters
    args = {
        "names": options.words,
        "recursive": "r" in given,
        "require_empty": "e" in given,
        "unsubscribe": "s" in given,
    }
    return Request("delete", args)


def _rename(options: Options) -> Request:
    return Request("rename", {"names": options.words, "subscribe": "s" in options.letters})


def _path(options: Options) -> Request:
    args = {"names": options.words, "kind": options.values.get("t", "mailbox")}
    return Request("path", args, "flow", (Header("path", hidden=True),))


def _named(command: str, key: str = "names") -> Callable[[Options], Request]:
    return lambda options: Request(command, {key: options.words})


# Messages.


def _search(options: Options) -> Request:
    _query(options.words)
    headers = (Header("mailbox-guid", hidden=True), Header("uid", hidden=True))
    return Request("search", {"query": options.words}, "flow", headers)


def _fetch(options: Options) -> Request:
    fields = options.words[0].lower().split()
    try:
        field_values(fields)
    except UnknownFilter as error:
        user = options.values.get("u")
        who = f"{PROGRAM}({user}): " if user else ""
        raise Fatal(cli.EX_TEMPFAIL, f"{who}Fatal: {error}") from None
    except UnknownField as error:
        text = f"Available fetch fields: {available()}\nFatal: {error}"
        raise Fatal(cli.EX_TEMPFAIL, text) from None
    _query(options.words[1:])
    headers = [Header(name, lines=is_stream(name)) for name in fields]
    return Request("fetch", {"fields": fields, "query": options.words[1:]}, "pager", headers)


def _expunge(options: Options) -> Request:
    query = _query(options.words)
    text = ""
    if not names_a_mailbox(query):
        text = "search query must contain MAILBOX in all search branches"
    elif not names_messages(query):
        text = (
            "each branch in search query must contain something else besides MAILBOX "
            '(e.g. just add "all" if you want everything)'
        )
    if text:
        raise Fatal(cli.EX_USAGE, f"Fatal: expunge: To avoid accidents, {text}")
    args = {
        "query": options.words,
        "delete_empty": "d" in options.letters,
        "purge": "purge" in options.letters,
    }
    return Request("expunge", args)


def _undelete(options: Options) -> Request:
    _query(options.words)
    if "l" not in options.letters:
        return Request("undelete", {"query": options.words})
    args = {"query": options.words, "show": True, "fields": list(_KEPT)}
    headers = [Header(name, title) for name, title in _KEPT.items()]
    return Request("undelete", args, "table", headers)


def _purge(options: Options) -> Request:
    return Request("purge", {})


def _flags(mode: str) -> Callable[[Options], Request]:
    def ask(options: Options) -> Request:
        flags = options.words[0].split()
        for flag in flags:
            try:
                canonical_flags([flag])
            except MailboxError:
                raise Fatal(cli.EX_TEMPFAIL, f"Fatal: Invalid system flag: {flag}") from None
        _query(options.words[1:])
        return Request("flags", {"mode": mode, "flags": flags, "query": options.words[1:]})

    return ask


def _save(options: Options) -> Request:
    content = Path(options.words[0]).read_bytes() if options.words else sys.stdin.buffer.read()
    return Request("save", {"mailbox": options.values.get("m", "")}, content=content)


def _import(options: Options) -> Request:
    location, parent, *query = options.words
    _query(query)
    args = {
        "location": location,
        "parent": parent,
        "query": query,
        "subscribe": "s" in options.letters,
    }
    return Request("import", args)


def _quota_get(options: Options) -> Request:
    return Request("quota.get", {}, "table", _QUOTA)


def _quota_recalc(options: Options) -> Request:
    return Request("quota.recalc", {})


_SEARCH = "<search query>"
COMMANDS: tuple[Command, ...] = (
    transfer_command("copy"),
    mail_command("expunge", f"[-d] [--purge] {_SEARCH}", "d", _expunge, least=1, long=("purge",)),
    mail_command("fetch", f"<fields> {_SEARCH}", "", _fetch, least=2),
    mail_command("flags add", f"<flags> {_SEARCH}", "", _flags("add"), least=2),
    mail_command("flags remove", f"<flags> {_SEARCH}", "", _flags("remove"), least=2),
    mail_command("flags replace", f"<flags> {_SEARCH}", "", _flags("set"), least=2),
    mail_command("force-resync", "<mailbox mask>", "f", _named("resync", "masks"), least=1),
    mail_command(
        "import",
        f"[-s] <source mail location> <dest parent mailbox> {_SEARCH}",
        "s",
        _import,
        least=3,
    ),
    mail_command("index", "<mailbox mask>", "qn:", _named("resync", "masks"), least=1, most=1),
    mail_command("mailbox create", "[-s] <mailbox> [...]", "s", _create, least=1),
    mail_command("mailbox delete", "[-e] [-r] [-s] <mailbox> [...]", "ersZ", _delete, least=1),
    mail_command("mailbox list", "[-7|-8] [-s] [<mailbox mask> [...]]", "78s", _list),
    mail_command("mailbox path", "[-t <type>] <mailbox> [...]", "t:", _path, least=1),
    mail_command("mailbox rename", "[-s] <old name> <new name>", "s", _rename, least=2, most=2),
    mail_command("mailbox status", "[-t] <fields> <mailbox> [...]", "t", _status, least=2),
    mail_command("mailbox subscribe", "<mailbox> [...]", "", _named("subscribe"), least=1),
    mail_command("mailbox unsubscribe", "<mailbox> [...]", "", _named("unsubscribe"), least=1),
    transfer_command("move"),
    mail_command("purge", "", "", _purge, most=0),
    mail_command("quota get", "", "", _quota_get, most=0),
    mail_command("quota recalc", "", "", _quota_recalc, most=0),
    mail_command("save", "[-m mailbox] [<file>]", "m:", _save, most=1),
    mail_command("search", _SEARCH, "", _search, least=1),
    mail_command("undelete", f"[-l] {_SEARCH}", "l", _undelete, least=1),
)
