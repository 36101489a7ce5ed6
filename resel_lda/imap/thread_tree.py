"""The threading algorithms of RFC 5256 §3, pure. No recursion: hostile mail nests deeply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

# References of a message beyond this many are passed over, but for its last one.
_MAX_ANCESTORS = 200


class Mail(NamedTuple):
    """number: as it is told. date: seconds. base, reply: of the subject. ancestors: message ids,
    oldest first, space between."""

    number: int
    date: int
    base: str
    reply: bool
    message_id: str
    ancestors: str


class Node:
    """A message of a thread, or a place for one that is not there (mail is None)."""

    __slots__ = ("children", "date", "mail", "parent")

    def __init__(self, mail: Mail | None) -> None:
        self.mail = mail
        self.parent: Node | None = None
        self.children: list[Node] = []
        self.date = mail.date if mail is not None else 0

    def adopt(self, child: Node) -> None:
        if child.parent is not None:
            child.parent.children.remove(child)
        child.parent = self
        self.children.append(child)

    def leave(self) -> None:
        if self.parent is not None:
            self.parent.children.remove(self)
            self.parent = None

    def is_within(self, other: Node) -> bool:
        """Whether it is `other` or below it."""
        node: Node | None = self
        while node is not None:
            if node is other:
                return True
            node = node.parent
        return False


def by_subject(mails: Sequence[Mail]) -> list[Node]:
    """ORDEREDSUBJECT: messages of a subject are children of the oldest one."""
    threads: dict[str, Node] = {}
    for mail in sorted(mails, key=lambda mail: (mail.base, mail.date, mail.number)):
        node = Node(mail)
        if mail.base in threads:
            threads[mail.base].adopt(node)
        else:
            threads[mail.base] = node
    return sorted(threads.values(), key=_order)


def by_references(mails: Sequence[Mail], *, with_subjects: bool) -> list[Node]:
    """REFERENCES; without subjects REFS, whose threads are in the order of their newest message."""
    roots = _prune(_link(mails))
    if with_subjects:
        _sort_all(roots)
        roots = _gather_subjects(roots)
        _sort_all(roots)
    else:
        _sort_all(roots)
        _sort_by_newest(roots)
    return roots


def _order(node: Node) -> tuple[int, int]:
    mail = node.mail
    while mail is None:
        node = node.children[0]
        mail = node.mail
    return node.date, mail.number


def _link(mails: Sequence[Mail]) -> list[Node]:
    """Step 1 and 2: the nodes that have no parent."""
    table: dict[str, Node] = {}
    every: list[Node] = []
    for mail in mails:
        node = table.get(mail.message_id) if mail.message_id else None
        if node is not None and node.mail is None:
            node.mail, node.date = mail, mail.date
        else:
            # Without an id, or with one that another message has: like none else.
            fresh = Node(mail)
            every.append(fresh)
            if mail.message_id and node is None:
                table[mail.message_id] = fresh
            node = fresh
        last = _link_ancestors(mail, table, every)
        if last is not None and last.is_within(node):
            last = None
        if last is None:
            node.leave()
        elif node.parent is not last:
            last.adopt(node)
    return [node for node in every if node.parent is None]


def _link_ancestors(mail: Mail, table: dict[str, Node], every: list[Node]) -> Node | None:
    """The last of them, each linked below the one before where nothing speaks against it."""
    words = mail.ancestors.split()
    if len(words) > _MAX_ANCESTORS:
        words = [*words[: _MAX_ANCESTORS - 1], words[-1]]
    before: Node | None = None
    for word in words:
        node = table.get(word)
        if node is None:
            node = table[word] = Node(None)
            every.append(node)
        if before is not None and node.parent is None and not before.is_within(node):
            before.adopt(node)
        before = node
    return before


def _prune(roots: Iterable[Node]) -> list[Node]:
    """Step 3: places that no message fills go, and their children take their place."""
    kept: list[Node] = []
    order: list[Node] = []
    waiting = list(roots)
    top = set(map(id, waiting))
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting.extend(node.children)
    for node in reversed(order):
        children: list[Node] = []
        for child in node.children:
            if child.mail is not None:
                children.append(child)
            else:
                for one in child.children:
                    one.parent = node
                children += child.children
        node.children = children
    for node in order:
        if id(node) not in top:
            continue
        if node.mail is not None or len(node.children) > 1:
            kept.append(node)
        elif node.children:
            node.children[0].parent = None
            kept.append(node.children[0])
    return kept


def _sort_all(roots: list[Node]) -> None:
    """Steps 4 and 6: siblings by date, from the leaves up; a place that no message fills has the
    date of its first child."""
    order: list[Node] = []
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting.extend(node.children)
    for node in reversed(order):
        if len(node.children) > 1:
            node.children.sort(key=_order)
        if node.mail is None and node.children:
            node.date = node.children[0].date
    roots.sort(key=_order)


def _sort_by_newest(roots: list[Node]) -> None:
    newest: dict[int, tuple[int, int]] = {}
    for root in roots:
        latest = (-1 << 62, 0)
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if node.mail is not None:
                latest = max(latest, (node.date, node.mail.number))
            waiting.extend(node.children)
        newest[id(root)] = latest
    roots.sort(key=lambda root: newest[id(root)])


def _subject(node: Node) -> Mail | None:
    """The message that a thread has its subject from."""
    if node.mail is not None:
        return node.mail
    return node.children[0].mail if node.children else None


def _gather_subjects(roots: list[Node]) -> list[Node]:
    """Step 5: threads of one subject are joined."""
    table: dict[str, Node] = {}
    for node in roots:
        mail = _subject(node)
        if mail is None or not mail.base:
            continue
        other = table.get(mail.base)
        if other is None:
            table[mail.base] = node
            continue
        theirs = _subject(other)
        assert theirs is not None
        if other.mail is not None and (node.mail is None or (theirs.reply and not mail.reply)):
            table[mail.base] = node
    merged: dict[int, Node] = {}
    gone: set[int] = set()
    for node in roots:
        mail = _subject(node)
        other = table.get(mail.base) if mail is not None and mail.base else None
        if mail is None or other is None or other is node:
            continue
        gone.add(id(node))
        _join(node, mail, other, table, merged)
    return [merged.get(id(node), node) for node in roots if id(node) not in gone]


def _join(
    node: Node, mail: Mail, other: Node, table: dict[str, Node], merged: dict[int, Node]
) -> None:
    theirs = _subject(other)
    assert theirs is not None
    if node.mail is None and other.mail is None:
        for child in list(node.children):
            other.adopt(child)
    elif other.mail is None or (mail.reply and not theirs.reply):
        other.adopt(node)
    else:
        # Neither answers the other: both below a place that no message fills.
        place = Node(None)
        place.adopt(other)
        place.adopt(node)
        table[mail.base] = place
        merged[id(other)] = place


def render(roots: Sequence[Node]) -> bytes:
    """``(1)(2 3 (4)(5 6))``."""
    out: list[bytes] = []
    waiting: list[Node | bytes] = []
    for root in roots:
        waiting.append(b"(")
        waiting.append(root)
        waiting.append(b")")
        waiting.reverse()
        _render(waiting, out)
    return b"".join(out)


def _render(waiting: list[Node | bytes], out: list[bytes]) -> None:
    while waiting:
        item = waiting.pop()
        if isinstance(item, bytes):
            out.append(item)
            continue
        if item.mail is not None:
            out.append(b"%d" % item.mail.number)
            if item.children:
                out.append(b" ")
        if len(item.children) == 1 and item.mail is not None:
            waiting.append(item.children[0])
            continue
        for child in reversed(item.children):
            waiting += (b")", child, b"(")
