"""What a NOTIFY command asks for (RFC 5465 §3, §6, §8), and which folder it means."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field

from resel_lda.imap import fetch
from resel_lda.imap.errors import Refused
from resel_lda.imap.fetch_items import Item
from resel_lda.imap.names import Names
from resel_lda.imap.parser import ParseError, Parser

SELECTED = (b"SELECTED", b"SELECTED-DELAYED")
_OTHER = (b"INBOXES", b"PERSONAL", b"SUBSCRIBED", b"SUBTREE", b"MAILBOXES")
NEW, EXPUNGE, FLAGS = b"MESSAGENEW", b"MESSAGEEXPUNGE", b"FLAGCHANGE"
NAME, SUBSCRIPTION = b"MAILBOXNAME", b"SUBSCRIPTIONCHANGE"
METADATA, SERVER_METADATA = b"MAILBOXMETADATACHANGE", b"SERVERMETADATACHANGE"
# Those of BADEVENT, as the RFC spells them.
_SUPPORTED = (
    "MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange "
    "ServerMetadataChange"
)
_EVENTS = frozenset(word.upper().encode() for word in _SUPPORTED.split())
_MAX_GROUPS, _MAX_NAMES = 64, 1_000


@dataclass(slots=True)
class Group:
    """Folders, and what to tell of them; no events is NONE. items: to fetch of new messages."""

    filter: bytes
    names: Collection[str] = ()
    events: set[bytes] = field(default_factory=set)
    items: list[Item] = field(default_factory=list)

    def holds(self, name: str, subscribed: Collection[str]) -> bool:
        """Of a folder as the store names it. Mail is delivered to INBOX, for INBOXES."""
        if self.filter == b"PERSONAL":
            return True
        if self.filter == b"INBOXES":
            return name == "INBOX"
        if self.filter == b"SUBSCRIBED":
            return name in subscribed
        if self.filter == b"SUBTREE":
            return any(name == one or name.startswith(one + "/") for one in self.names)
        return self.filter == b"MAILBOXES" and name in self.names


@dataclass(slots=True)
class Request:
    """status: a STATUS of each folder first. Without groups: NONE."""

    status: bool = False
    groups: list[Group] = field(default_factory=list)

    @property
    def selected(self) -> Group | None:
        return next((group for group in self.groups if group.filter in SELECTED), None)

    def events(self, name: str, subscribed: Collection[str]) -> set[bytes]:
        """Of all groups that hold the folder (RFC 5465 §6), up to one with NONE."""
        found: set[bytes] = set()
        for group in self.groups:
            if group.holds(name, subscribed):
                if not group.events:
                    break
                found |= group.events
        return found


def parse(args: Parser, names: Names) -> Request:
    """After the command's name. Raises ParseError and Refused."""
    args.space()
    word = args.word()
    if word == b"NONE":
        args.finish()
        return Request()
    if word != b"SET":
        raise ParseError("NOTIFY needs SET or NONE")
    request = Request()
    args.space()
    if args.peek() != b"(":
        if args.word() != b"STATUS":
            raise ParseError("Unknown NOTIFY option")
        request.status = True
        args.space()
    unknown = False
    while True:
        args.expect(b"(")
        group, known = _group(args, names)
        unknown = unknown or not known
        request.groups.append(group)
        if len(request.groups) > _MAX_GROUPS:
            raise ParseError("Too many event groups")
        if not args.skip(b" "):
            break
    args.finish()
    if sum(group.filter in SELECTED for group in request.groups) > 1:
        raise ParseError("Only one of SELECTED and SELECTED-DELAYED can be given, and once")
    if unknown:
        raise Refused("NO", "Unsupported NOTIFY events", f"BADEVENT ({_SUPPORTED})")
    return request


def _group(args: Parser, names: Names) -> tuple[Group, bool]:
    """Up to its parenthesis, and whether all its events are supported."""
    group = Group(args.word())
    if group.filter not in SELECTED and group.filter not in _OTHER:
        raise ParseError("Unknown NOTIFY filter")
    args.space()
    if group.filter in (b"SUBTREE", b"MAILBOXES"):
        group.names = _names(args, names)
        args.space()
    known = True
    if args.skip(b"("):
        known = _events(args, group)
    elif args.word() != b"NONE":
        raise ParseError("NOTIFY needs events or NONE")
    args.expect(b")")
    _check(group)
    return group, known


def _names(args: Parser, names: Names) -> set[str]:
    """Without those that no mailbox can have: they are ignored as those that none has (RFC 5465
    §3.1)."""
    several = args.skip(b"(")
    wires = [args.astring()]
    while several and not args.skip(b")"):
        args.space()
        wires.append(args.astring())
        if len(wires) > _MAX_NAMES:
            raise ParseError("Too many mailboxes")
    held = set()
    for wire in wires:
        with contextlib.suppress(Refused):
            # As it is, and as a folder made with this name is called (RFC 9051 §5.1).
            held |= {names.store_name(wire), names.new_name(wire)}
    return held


def _events(args: Parser, group: Group) -> bool:
    known = True
    while True:
        word = args.word()
        known = known and word in _EVENTS
        group.events.add(word)
        if word == NEW and args.skip(b" ("):
            if group.filter not in SELECTED:
                raise ParseError("Only the selected mailbox can have FETCH items in MessageNew")
            args.pos -= 1
            group.items = fetch.parse_items(args)
        if args.skip(b")"):
            return known
        args.space()


def _check(group: Group) -> None:
    """RFC 5465 §5: what must be asked for together."""
    events = group.events
    if (NEW in events) is not (EXPUNGE in events):
        raise ParseError("MessageNew and MessageExpunge must be together")
    if events & {FLAGS, b"ANNOTATIONCHANGE"} and NEW not in events:
        raise ParseError("FlagChange needs MessageNew and MessageExpunge")
    if group.filter in SELECTED and events & {NAME, SUBSCRIPTION, METADATA, SERVER_METADATA}:
        raise ParseError("Only message events are allowed for the selected mailbox")
