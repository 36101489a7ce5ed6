"""LIST and LSUB, with LIST-EXTENDED (RFC 5258), LIST-STATUS (RFC 5819), SPECIAL-USE (RFC 6154)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from resel_lda.imap import folders, text
from resel_lda.imap.names import matches_folder
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.session import Session
from resel_lda.mailbox import FolderInfo, MailboxError

_CHILDREN = frozenset(("\\HasChildren", "\\HasNoChildren"))
_SELECT_OPTIONS = (b"SUBSCRIBED", b"REMOTE", b"RECURSIVEMATCH", b"SPECIAL-USE")
_MAX_PATTERNS = 64


@dataclass(slots=True)
class _Request:
    """extended: the client used LIST-EXTENDED's syntax. status: items of RETURN (STATUS …)."""

    reference: str = ""
    patterns: list[str] = field(default_factory=list)
    select: set[bytes] = field(default_factory=set)
    returns: set[bytes] = field(default_factory=set)
    status: list[bytes] = field(default_factory=list)
    extended: bool = False


async def list_(session: Session, args: Parser) -> str:
    request = _parse(session, args)
    if request.patterns == [""] and not request.extended:
        _answer_root(session)
        return "List completed."
    if b"HIGHESTMODSEQ" in request.status:
        session.use_condstore()
    held = await session.store.folders()
    for folder, matched, child_subscribed in _chosen(session, request, held):
        attributes = _attributes(request, folder, session.rev2)
        extra = b""
        if child_subscribed:
            extra = b' ("CHILDINFO" ("SUBSCRIBED"))'
        if matched or extra:
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
    request.reference = session.names.text(args.astring())
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
    for pattern in raw:
        request.patterns.append(session.names.text(pattern))
    if args.skip(b" "):
        request.extended = True
        if args.word() != b"RETURN":
            raise ParseError("Invalid LIST parameter")
        args.space()
        _return_options(args, request)
    args.finish()
    return request


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


def _chosen(
    session: Session, request: _Request, held: Sequence[FolderInfo]
) -> Iterator[tuple[FolderInfo, bool, bool]]:
    """(folder, whether it is itself selected, whether only a child below matches): RFC 5258."""
    patterns = [request.reference + pattern for pattern in request.patterns]
    separator = session.names.separator
    recursive = b"RECURSIVEMATCH" in request.select
    for folder in held:
        shown = session.names.shown(folder.name)
        if not any(matches_folder(pattern, shown, separator) for pattern in patterns):
            continue
        matched = _is_selected(request, folder)
        below = recursive and any(
            other.name.startswith(folder.name + "/") and _is_selected(request, other)
            for other in held
        )
        if matched or below:
            yield folder, matched, below


def _is_selected(request: _Request, folder: FolderInfo) -> bool:
    if b"SUBSCRIBED" in request.select:
        if not folder.subscribed:
            return False
    elif "\\NonExistent" in folder.attributes:
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
        status = await session.store.status(folder.name)
    except MailboxError:
        # It went away meanwhile: RFC 5819 §2 lets the STATUS be left out.
        return
    wire = session.names.wire(folder.name)
    session.untagged(folders.status_response(wire, items, status))


async def lsub(session: Session, args: Parser) -> str:
    """RFC 3501 §6.3.9: with "%", a folder whose subscribed child does not match is \\Noselect."""
    args.space()
    reference = session.names.text(args.astring())
    args.space()
    pattern = reference + session.names.text(args.list_mailbox())
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
