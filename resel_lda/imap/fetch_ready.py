"""FETCH of what the store has ready-made: one template for all messages of a request.

Clients ask for envelopes, structures and the same few header fields of thousands of messages at
each start, so no object is made for a message here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resel_lda.imap.fetch_global import with_global
from resel_lda.imap.fetch_items import Item, Section
from resel_lda.imap.fetch_stored import SOURCES as STORED
from resel_lda.imap.view import View
from resel_lda.mailbox import Mailbox, Marks, MessageInfo

Infos = Sequence[MessageInfo]
Source = Callable[[Mailbox, Sequence[int]], Awaitable[Mapping[int, Any]]]


async def _structures(mailbox: Mailbox, uids: Sequence[int]) -> Mapping[int, Any]:
    return await mailbox.structures(uids)


async def _envelopes(mailbox: Mailbox, uids: Sequence[int]) -> Mapping[int, Any]:
    return await mailbox.envelopes(uids)


async def _sizes(mailbox: Mailbox, uids: Sequence[int]) -> Mapping[int, Any]:
    return await mailbox.sizes(uids)


_SOURCES: dict[bytes, tuple[bytes, Source, int | None]] = {
    b"ENVELOPE": (b"ENVELOPE %b", _envelopes, None),
    b"BODY": (b"BODY %b", _structures, 0),
    b"BODYSTRUCTURE": (b"BODYSTRUCTURE %b", _structures, 1),
    b"RFC822.SIZE": (b"RFC822.SIZE %d", _sizes, None),
    **{name: (word + b" %b", source, None) for name, (word, source) in STORED.items()},
}


@dataclass(slots=True)
class Plan:
    """items: the names of those asked for, in order. template: of one response line.
    sources: where loaded values come from, by item."""

    items: list[bytes] = field(default_factory=list)
    template: bytes = b""
    sources: dict[bytes, tuple[Source, int | None]] = field(default_factory=dict)

    async def lines(self, view: View, sequences: Sequence[int], infos: Infos) -> list[bytes]:
        """Response lines; of messages that are gone there is none."""
        uids = [info.uid for info in infos]
        loaded: dict[Source, Mapping[int, Any]] = {}
        for source, _ in self.sources.values():
            if source not in loaded:
                loaded[source] = await source(view.mailbox, uids)
                if source is _structures:
                    loaded[source] = await with_global(view, loaded[source])
        if any(uid not in values for values in loaded.values() for uid in uids):
            there = [
                (sequence, info)
                for sequence, info in zip(sequences, infos, strict=True)
                if all(info.uid in values for values in loaded.values())
            ]
            sequences = [sequence for sequence, _ in there]
            infos = [info for _, info in there]
            uids = [info.uid for info in infos]
        columns: list[Sequence[Any]] = [sequences]
        for item in self.items:
            columns += self._columns(item, view, infos, uids, loaded)
        template = self.template
        return [template % row for row in zip(*columns, strict=True)]

    def _columns(
        self,
        item: bytes,
        view: View,
        infos: Infos,
        uids: Sequence[int],
        loaded: Mapping[Source, Mapping[int, Any]],
    ) -> list[Sequence[Any]]:
        if item == b"UID":
            return [uids]
        if item == b"FLAGS":
            return [[view.flags(info) for info in infos]]
        if item == b"MODSEQ":
            return [[info.modseq for info in infos]]
        source, index = self.sources[item]
        values = loaded[source]
        if item in _SOURCES:
            if index is None:
                return [[values[uid] for uid in uids]]
            return [[values[uid][index] for uid in uids]]
        octets = [values[uid] for uid in uids]
        # NUL may not be in a literal (RFC 3501 §9, CHAR8).
        octets = [one.replace(b"\0", b"\x80") if b"\0" in one else one for one in octets]
        return [[len(one) for one in octets], octets]


def flag_lines(
    view: View, pairs: Sequence[tuple[int, int]], with_uid: bool, with_modseq: bool = False
) -> tuple[bytes, int]:
    """FLAGS of (sequence number, UID) pairs: response lines, and how many there are. with_modseq:
    MODSEQ before them."""
    marks = view.mailbox.marks_of([uid for _, uid in pairs])
    recent, kinds = view.recent.container(), {one for one in marks if one is not None}
    old = {kind: _flag_items(view, kind, False, with_modseq) for kind in kinds}
    new = {kind: _flag_items(view, kind, True, with_modseq) for kind in kinds}
    if with_uid:
        lines = [
            f"* {number} FETCH (UID {uid} {(new if uid in recent else old)[one]})\r\n"
            for (number, uid), one in zip(pairs, marks, strict=True)
            if one is not None
        ]
    else:
        lines = [
            f"* {number} FETCH ({(new if uid in recent else old)[one]})\r\n"
            for (number, uid), one in zip(pairs, marks, strict=True)
            if one is not None
        ]
    return "".join(lines).encode("ascii"), len(lines)


def _flag_items(view: View, marks: Marks, recent: bool, with_modseq: bool) -> str:
    modseq = f"MODSEQ ({marks.modseq}) " if with_modseq else ""
    return f"{modseq}FLAGS ({view.flag_words(marks.flags, recent).decode('ascii')})"


def plan(items: Sequence[Item], head: bytes) -> Plan | None:
    """head: FETCH or UIDFETCH. None if an item needs more than what is ready-made, or marks messages as read."""
    made = Plan()
    words: list[bytes] = []
    for item in items:
        name = item.name
        if item.sets_seen:
            return None
        if name in (b"UID", b"MODSEQ"):
            words.append(b"MODSEQ (%d)" if name == b"MODSEQ" else b"UID %d")
        elif name == b"FLAGS":
            words.append(b"FLAGS (%b)")
        elif name in _SOURCES:
            word, source, index = _SOURCES[name]
            words.append(word)
            made.sources[name] = (source, index)
        elif item.section is not None and _is_ready(item.section):
            words.append(name.replace(b"%", b"%%") + b" {%d}\r\n%b")
            made.sources[name] = (_fields(item.section), None)
        else:
            return None
        made.items.append(name)
    made.template = b"* %d " + head + b" (" + b" ".join(words) + b")\r\n"
    return made


def _is_ready(section: Section) -> bool:
    return section.header_only and section.partial is None and bool(section.fields)


def _fields(section: Section) -> Source:
    exclude = section.kind.endswith(b"NOT")

    async def load(mailbox: Mailbox, uids: Sequence[int]) -> Mapping[int, Any]:
        return await mailbox.selected_fields(uids, section.fields, exclude)

    return load
