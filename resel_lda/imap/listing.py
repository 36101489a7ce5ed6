"""LIST and LSUB, with LIST-EXTENDED (RFC 5258), LIST-STATUS (RFC 5819), SPECIAL-USE (RFC 6154)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from resel_lda.imap import folders, text
from resel_lda.imap.errors import Refused
from resel_lda.imap.names import matches_folder
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.session import Session
from resel_lda.mailbox import FolderInfo, MailboxError

_CHILDREN = frozenset(("\\HasChildren", "\\HasNoChildren"))
_SELECT_OPTIONS = (b"SUBSCRIBED", b"REMOTE", b"RECURSIVEMATCH", b"SPECIAL-USE")
# Those that choose folders by what they are.
_CRITERIA = frozenset((b"SUBSCRIBED", b"SPECIAL-USE"))
_MAX_PATTERNS = 64
# No folder's name is as long, and every character of a pattern is compared with every folder.
_MAX_PATTERN = 1_000
# Folders whose names are compared before others get their turn.
_AT_ONCE = 20


@dataclass(slots=True)
class _Request:
    """extended: the client used LIST-EXTENDED's syntax. status: items of RETURN (STATUS …).
    asks_root: LIST "" "". patterns: with the reference before them."""

    asks_root: bool = False
    patterns: list[str] = field(default_factory=list)
    select: set[bytes] = field(default_factory=set)
    returns: set[bytes] = field(default_factory=set)
    status: list[bytes] = field(default_factory=list)
    extended: bool = False


async def list_(session: Session, args: Parser) -> str:
    request = _parse(session, args)
    if request.asks_root and not request.extended:
        _answer_root(session)
        return "List completed."
    if b"HIGHESTMODSEQ" in request.status:
        session.use_condstore()
    held = await session.store.folders()
    for folder, matched, below in await _chosen(session, request, held):
        attributes = _attributes(request, folder, session.rev2)
        extra = b""
        if below:
            words = b" ".join(b'"%b"' % word for word in sorted(request.select & _CRITERIA))
            extra = b' ("CHILDINFO" (%b))' % words
        _answer(session, b"LIST", folder.name, attributes, extra)
        if request.status and matched:
            await _answer_status(session, folder, request.status)
    return "List completed."


def _parse(session: Session, args: Parser) -> _Request:
    request = _Request()
    args.space()
    if args.skip(b"("):
        request.extended = True
        request.select = _select_options(args)
        args.space()
    reference = args.astring()
    args.space()
    if args.skip(b"("):
        request.extended = True
        raw = [args.list_mailbox()]
        while not args.skip(b")"):
            args.space()
            raw.append(args.list_mailbox())
            if len(raw) > _MAX_PATTERNS:
                raise ParseError("Too many mailbox patterns")
    else:
        raw = [args.list_mailbox()]
    # Empty ones mean nothing in the extended form (RFC 5258 §3), and the separator is asked for in
    # the other.
    request.asks_root = raw == [b""]
    for one in raw:
        pattern = _pattern(session, reference, one) if one else ""
        if pattern:
            request.patterns += {pattern, session.names.normal(pattern)}
    if args.skip(b" "):
        request.extended = True
        if args.word() != b"RETURN":
            raise ParseError("Invalid LIST parameter")
        args.space()
        _return_options(args, request)
    args.finish()
    return request


def _pattern(session: Session, reference: bytes, given: bytes) -> str:
    """As it is matched with names; "", which matches none, where it can be none (RFC 9051 §6.3.9)."""
    try:
        pattern = session.names.text(reference) + session.names.text(given)
    except Refused:
        return ""
    return pattern if len(pattern) <= _MAX_PATTERN else ""


def _select_options(args: Parser) -> set[bytes]:
    options: set[bytes] = set()
    while not args.skip(b")"):
        word = args.word()
        if word not in _SELECT_OPTIONS:
            raise ParseError("Unknown LIST selection option")
        options.add(word)
        args.skip(b" ")
    if b"RECURSIVEMATCH" in options and not options & {b"SUBSCRIBED", b"SPECIAL-USE"}:
        raise ParseError("RECURSIVEMATCH can't be the only selection option")
    return options


def _return_options(args: Parser, request: _Request) -> None:
    args.expect(b"(")
    while not args.skip(b")"):
        word = args.word()
        if word == b"STATUS":
            args.space()
            request.status = folders.parse_status_items(args)
        elif word in (b"SUBSCRIBED", b"CHILDREN", b"SPECIAL-USE"):
            request.returns.add(word)
        else:
            raise ParseError("Unknown LIST return option")
        args.skip(b" ")


def _answer_root(session: Session) -> None:
    """LIST "" "" asks for the separator (RFC 3501 §6.3.8)."""
    names = session.names
    separator = text.string(names.separator.encode("ascii"))
    prefix = text.mailbox(names.coded(names.prefix))
    session.untagged(b"LIST (\\Noselect) %b %b" % (separator, prefix or b'""'))


async def _chosen(
    session: Session, request: _Request, held: Sequence[FolderInfo]
) -> list[tuple[FolderInfo, bool, bool]]:
    """(folder, whether it is itself selected, whether one below it is): RFC 5258 §3.5, §4. A folder
    that is not selected itself is told only for one below that is not told."""
    separator = session.names.separator
    matching: set[str] = set()
    for at, folder in enumerate(held):
        shown = session.names.shown(folder.name)
        if any(matches_folder(pattern, shown, separator) for pattern in request.patterns):
            matching.add(folder.name)
        if at % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
    # Folders above one that is selected, and above one of these that is not told.
    above: set[str] = set()
    wanted: set[str] = set()
    for folder in held if b"RECURSIVEMATCH" in request.select else ():
        if _is_selected(request, folder):
            parents = _parents(folder.name)
            above |= parents
            if folder.name not in matching:
                wanted |= parents
    found = []
    for folder in held:
        selected = _is_selected(request, folder)
        if folder.name in matching and (selected or folder.name in wanted):
            found.append((folder, selected, folder.name in above))
    return found


def _parents(name: str) -> set[str]:
    levels = name.split("/")
    return {"/".join(levels[:depth]) for depth in range(1, len(levels))}


def _is_selected(request: _Request, folder: FolderInfo) -> bool:
    if b"SUBSCRIBED" in request.select:
        if not folder.subscribed:
            return False
    elif "\\NonExistent" in folder.attributes and "\\HasChildren" not in folder.attributes:
        return False
    return b"SPECIAL-USE" not in request.select or bool(folder.attributes & folders.SPECIAL_USES)


def _attributes(request: _Request, folder: FolderInfo, rev2: bool) -> list[str]:
    """CHILDREN and SPECIAL-USE are shown whether asked for or not, as Dovecot does for plain
    LIST; in the extended form special uses only when wanted."""
    words = set(folder.attributes)
    if request.extended:
        if not {b"SPECIAL-USE"} & (request.returns | request.select):
            words -= folders.SPECIAL_USES
        if b"CHILDREN" not in request.returns and request.returns:
            words -= _CHILDREN
        if folder.subscribed and b"SUBSCRIBED" in request.returns | request.select:
            words.add("\\Subscribed")
    elif "\\NonExistent" in words and not rev2:
        words.discard("\\NonExistent")
        words.add("\\Noselect")
    return sorted(words)


def _answer(
    session: Session, word: bytes, name: str, attributes: Sequence[str], extra: bytes = b""
) -> None:
    session.untagged(
        b"%b (%b) %b %b%b"
        % (
            word,
            " ".join(attributes).encode("ascii"),
            text.string(session.names.separator.encode("ascii")),
            text.mailbox(session.names.wire(name)),
            extra,
        )
    )


async def _answer_status(session: Session, folder: FolderInfo, items: list[bytes]) -> None:
    if folder.attributes & {"\\Noselect", "\\NonExistent"}:
        return
    try:
        status = await session.store.status(folder.name, folders.needs_sizes(items))
    except MailboxError:
        # It went away meanwhile: RFC 5819 §2 lets the STATUS be left out.
        return
    wire = session.names.wire(folder.name)
    session.untagged(folders.status_response(wire, items, status))


async def lsub(session: Session, args: Parser) -> str:
    """RFC 3501 §6.3.9: with "%", a folder whose subscribed child does not match is \\Noselect."""
    args.space()
    reference = args.astring()
    args.space()
    pattern = _pattern(session, reference, args.list_mailbox())
    args.finish()
    names = session.names
    held = await session.store.folders()
    shown: dict[str, list[str]] = {}
    for folder in held:
        if not folder.subscribed:
            continue
        if matches_folder(pattern, names.shown(folder.name), names.separator):
            shown[folder.name] = []
            continue
        if not pattern.endswith("%"):
            continue
        parent = folder.name
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if matches_folder(pattern, names.shown(parent), names.separator):
                shown.setdefault(parent, ["\\Noselect"])
    for name, attributes in shown.items():
        _answer(session, b"LSUB", name, attributes)
    return "Lsub completed."
